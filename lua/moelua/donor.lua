-- donor.lua: a model as something to take tensors from: in memory, or open on the disk.
--
--   donor.config, donor.title       its configuration, and what messages call it
--   donor.names                     of its tensors, as model:parameters() has them
--   donor.has(name)  donor.shape(name)
--   donor.tensor(name)              the numbers, f32 (integers as they are); no part of a graph
--   donor.rows(name, ids)           of a matrix: rows ids, i32, as embedding gives them
--   donor.source(name)              where they lie in a file, see assembly.lua; nil in memory
--   donor.tokenizer()               the tokenizer, or nil

local core = require("moelua.core")
local family = require("moelua.family")
local model = require("moelua.model")
local nn = require("moelua.nn")
local parts = require("moelua.parts")
local run = require("moelua.run")
local raise = core.raise

local donor = {}

-- "model 2 (runs/x/model)"
local function title(i, path)
  return ("model%s%s"):format(i and " " .. i or "", path and (" (%s)"):format(path) or "")
end

local function in_memory(what, m, i)
  nn.check_f32(what, m)
  local map, names = {}, {}
  for j, entry in ipairs(nn.saved(m)) do names[j], map[entry[1]] = entry[1], entry[2] end
  return { config = m.config, names = names, title = title(i, m.path), model = m,
    has = function(name) return map[name] ~= nil end,
    shape = function(name) return map[name]:shape() end,
    tensor = function(name) return map[name]:detach() end,
    rows = function(name, ids) return map[name]:detach():embedding(ids) end,
    source = function() return nil end,
    tokenizer = function() return m.tokenizer end }
end

--- The donor of a model or of a path; `what` is the function that was called, i the number of the
--- model in its list, if it is one of several.
function donor.of(what, m, i)
  if type(m) == "string" then m = run.check(family.load(m)) end
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
