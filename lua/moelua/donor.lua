-- donor.lua: a model as something to take tensors from: in memory, or open on the disk.
--
--   donor.config, donor.title       its configuration, and what messages call it
--   donor.names                     of its tensors, as model:parameters() has them
--   donor.has(name)
--   donor.shape(name, e)            of a stack of experts with e, from 1, that of one
--   donor.tensor(name, e)           the numbers, f32 (integers as they are); no part of a graph
--   donor.rows(name, ids)           of a matrix: rows ids, i32, as embedding gives them
--   donor.source(name, e)           where they lie in a file, see assembly.lua; nil in memory
--   donor.dtype                     of its matrices on the disk, as "BF16"; "F32" in memory
--   donor.tokenizer()               the tokenizer, or nil
--   donor.generation_config         generation_config.json, or nil

local core = require("moelua.core")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local parts = require("moelua.parts")
local pretrained = require("moelua.pretrained")
local join_rows = require("moelua.rows").join
local run = require("moelua.run")
local raise = core.raise

local donor = {}

-- "model 2 (runs/x/model)"
local function title(i, path)
  return ("model%s%s"):format(i and " " .. i or "", path and (" (%s)"):format(path) or "")
end

local function is_stack(name) return name:find("%.ffn%.experts%.w%d$") ~= nil end

-- ---- in memory --------------------------------------------------------------------------------

local function in_memory(what, m, i)
  nn.check_f32(what, m)
  local map, names = {}, {}
  for j, entry in ipairs(nn.saved(m)) do names[j], map[entry[1]] = entry[1], entry[2] end
  local function tensor(name, e)
    local whole = map[name]:detach()
    return e and whole:select(1, e) or whole
  end
  return { config = m.config, names = names, title = title(i, m.path), dtype = "F32",
    has = function(name) return map[name] ~= nil end,
    shape = function(name, e) return tensor(name, e):shape() end,
    tensor = tensor,
    rows = function(name, ids) return tensor(name):embedding(ids) end,
    source = function() return nil end,
    tokenizer = function() return m.tokenizer end, generation_config = m.generation_config }
end

-- ---- on the disk ------------------------------------------------------------------------------

-- The names of the tensors of a model, from one like it that is as small as can be.
local function names_of(config)
  local small, names = { dim = 2, heads = 1, kv_heads = 1, head_dim = 2, vocab = 1, ffn = {} }, {}
  for i, layer in ipairs(config.ffn) do small.ffn[i] = options.merge(layer, { hidden = 1 }) end
  local m = model.Model(options.merge(config, small), "f32")
  for i, entry in ipairs(nn.saved(m)) do names[i] = entry[1] end
  return names
end

local FLOATS = { F32 = true, F16 = true, BF16 = true }

-- The number type to write what comes from this file in: its own, or of what is quantised BF16.
local function dtype_of(P)
  local stored = run.check(P.file:info(P:name("embedding"))).dtype
  return FLOATS[stored] and stored or "BF16"
end

local function generation_of(path)
  return (core.system.read(path .. "/generation_config.json"))
end

-- One that lies in files, of which only headers are read now.
local function on_disk(path, i)
  local P = run.check(pretrained.open(path))
  local config = P.config
  local function stored(name, e) return P:name(name, e and e - 1 or nil) end
  local function info(name, e) return run.check(P.file:info(stored(name, e))) end
  local function count(name)
    return config.ffn[tonumber(name:match("^layers%.(%d+)")) + 1].experts
  end
  local tensor
  function tensor(name, e)
    if e or not is_stack(name) then return run.check(P.file:tensor(stored(name, e))) end
    local list = {}
    for k = 1, count(name) do list[k] = tensor(name, k) end
    return join_rows(list):reshape(#list, table.unpack(info(name, 1).shape))
  end
  local function shape(name, e)
    if e or not is_stack(name) then return info(name, e).shape end
    return { count(name), table.unpack(info(name, 1).shape) }
  end
  return { config = config, names = names_of(config), title = title(i, path), dtype = dtype_of(P),
    has = function(name)
      local known = stored(name, is_stack(name) and 1 or nil)
      return known ~= nil and P.file:info(known) ~= nil
    end,
    shape = shape, tensor = tensor,
    rows = function(name, ids)
      local kept = info(name).dtype
      local native = (kept == "BF16" or kept == "F16") and kept:lower() or nil
      return run.check(P.file:tensor(stored(name), native)):embedding(ids)
    end,
    source = function(name, e) return run.check(P.file:source(stored(name, e))) end,
    tokenizer = function() return (P:tokenizer()) end, generation_config = generation_of(path),
    close = function() P:close() end }
end

-- ---- which ------------------------------------------------------------------------------------

--- The donor of a model or of a path; `what` is the function that was called, i the number of the
--- model in its list, if it is one of several.
function donor.of(what, m, i)
  if type(m) == "string" then return on_disk(m, i) end
  if getmetatable(m) ~= model.Model then
    raise("%s: %s must be a model, not %s", what,
      i and ("number %d of the list"):format(i) or "the first argument", core.describe(m))
  end
  return in_memory(what, m, i)
end

--- Those of a list of models and paths.
function donor.list(what, models)
  if type(models) ~= "table" or getmetatable(models) == model.Model then
    raise("%s: a list of models is expected, not %s\nhint: %s({ a, b })", what,
      core.describe(models), what)
  end
  if #models == 0 then raise("%s: no models given", what) end
  local list = {}
  for i, m in ipairs(models) do list[i] = donor.of(what, m, i) end
  return list
end

--- A donor as hidden_states.lua and router_init.lua take models.
function donor.model(d)
  return { config = d.config, tokenizer = d.tokenizer,
    part_of = function(name) return parts.copy(d, name) end }
end

return donor
