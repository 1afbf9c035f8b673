-- family.lua: models in files: saved as Hugging Face directories, in the family (hf_config.lua)
-- that says exactly what they are, with the tokenizer; loaded from what pretrained.lua opens.

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local expect = require("moelua.expect")
local folders = require("moelua.folder")
local hf_config = require("moelua.hf_config")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local pretrained = require("moelua.pretrained")
local writer = require("moelua.checkpoint_writer")
local json, system = core.json, core.system

local family = {}

local function is_stack(name) return name:match("%.ffn%.experts%.w%d$") ~= nil end

-- Calls visit(file name, tensor) for every tensor of the checkpoint; stacks are taken apart.
local function each_tensor(m, names, visit)
  for _, entry in ipairs(nn.saved(m)) do
    local name, tensor = entry[1], entry[2]
    if is_stack(name) then
      for e = 1, tensor:size(1) do
        visit(pretrained.file_name(names, name, e - 1), tensor:detach():select(1, e))
      end
    else
      visit(pretrained.file_name(names, name), tensor:detach())
    end
  end
end

-- ---- saving -----------------------------------------------------------------------------------

-- Where a model is written before it replaces what is in its folder.
local STAGING = "/.moelua-model"

-- What others generate with; carried along as it is.
local GENERATION = "/generation_config.json"

local torch_types = { bf16 = "bfloat16", f16 = "float16" }

-- The tokens that begin and end texts, which other programs look for in config.json: those of the
-- tokenizer, unless the model came with some.
local function add_roles(out, tokenizer)
  for _, role in ipairs({ "bos", "eos" }) do
    local field = role .. "_token_id"
    if tokenizer[role] and (out[field] == nil or out[field] == json.null) then
      out[field] = tokenizer[role]
    end
  end
end

-- Writes all files of a model; the folder is made.
local function write_files(m, folder, opts)
  local tensors, out, kind = {}, hf_config.to_json(m.config)
  each_tensor(m, kind, function(name, tensor) tensors[name] = tensor end)
  local ok, message, code = checkpoint.save(folder, tensors, { format = "pt" }, opts)
  if ok and m.tokenizer then ok, message, code = m.tokenizer:save(folder) end
  if ok and m.generation_config then
    ok, message, code = system.write(folder .. GENERATION, m.generation_config)
  end
  if not ok then return nil, message, code end
  out.torch_dtype = torch_types[opts.dtype or m.embedding:dtype()] or "float32"
  if m.tokenizer then add_roles(out, m.tokenizer) end
  return system.write(folder .. "/config.json", json.encode(out, { indent = 2 }) .. "\n")
end

-- Moves the files into place. A folder without config.json is no model: the old one goes first, the
-- new one comes last, and in between nobody reads a mixture of two models. The index of shards
-- comes after them. All names are made before the first file is touched, so that a lack of memory
-- cannot end this half-way.
local function publish(staging, folder)
  local config, moves, new = folder .. "/config.json", {}, {}
  for _, name in ipairs(folders.names(staging)) do
    new[name] = true
    if name ~= "config.json" then
      moves[#moves + 1] = { staging .. "/" .. name, folder .. "/" .. name }
    end
  end
  table.sort(moves, function(a, b)
    local x, y = a[1]:find("%.json$") ~= nil, b[1]:find("%.json$") ~= nil
    if x == y then return a[1] < b[1] end
    return y
  end)
  local stale, new_config = writer.stale(folder, new), staging .. "/config.json"
  local ok, message, code = system.remove_tree(config)
  for i = 1, #moves do
    if ok then ok, message, code = system.rename(moves[i][1], moves[i][2]) end
  end
  for i = 1, #stale do
    if ok then ok, message, code = system.remove_tree(stale[i]) end
  end
  if ok then return system.rename(new_config, config) end
  return nil, message, code
end

-- Names the place where the file would have appeared.
local function without_staging(message)
  local first, last = message:find(STAGING, 1, true)
  return first and message:sub(1, first - 1) .. message:sub(last + 1) or message
end

--- What model:save(folder, opts) does, see model.lua. A model that was there before stays until all
--- of the new one is written.
function family.save(m, folder, opts)
  local named = type(folder) == "string" and folder ~= ""
  expect(named, "save", "folder", "the path of a folder", folder)
  local staging = folder .. STAGING
  system.remove_tree(staging)
  local done, ok, message, code = pcall(write_files, m, staging, opts or {})
  if done and ok then
    done, ok, message, code = pcall(core.uninterrupted, publish, staging, folder)
  end
  system.remove_tree(staging)
  if not done then error(ok, 0) end
  if not ok then return nil, without_staging(message), code end
  m.path = folder
  return true
end

-- ---- loading ----------------------------------------------------------------------------------

local function same_shape(a, b)
  if #a ~= #b then return false end
  for i = 1, #a do if a[i] ~= b[i] then return false end end
  return true
end

local function shape_text(shape) return "[" .. table.concat(shape, " x ") .. "]" end

-- What no weight can be: integers are indices. Quantised types are weights.
local integers = { BOOL = true, I8 = true, U8 = true, I16 = true, U16 = true, I32 = true,
  U32 = true, I64 = true, U64 = true }

local function can_be(dtype, stored)
  if dtype == "i32" then return stored == "I32" end
  return not integers[stored]
end

-- The complaint about the first tensor that is missing, misshapen or not ours; nil when all fit.
local function complain(m, P)
  local _ <close> = core.scope()
  local wanted, message, file = {}, nil, P.file
  each_tensor(m, P.family, function(name, tensor)
    wanted[name] = true
    local info = file:info(name)
    if message then return end
    if not info then
      message = ("tensor '%s' is missing"):format(name)
    elseif not same_shape(info.shape, tensor:shape()) then
      message = ("tensor '%s' has shape %s, expected %s"):format(name, shape_text(info.shape),
        shape_text(tensor:shape()))
    elseif not can_be(tensor:dtype(), info.dtype) then
      message = ("tensor '%s' holds %s, which no weight can be"):format(name, info.dtype)
    end
  end)
  for _, name in ipairs(file:names()) do
    local harmless = name:match("rotary_emb%.inv_freq$") or
      name == "lm_head.weight" and m.config.tied
    if not wanted[name] and not harmless and not message then
      message = ("tensor '%s' has no place in this model"):format(name)
    end
  end
  return message
end

local in_16_bits = { bf16 = true, f16 = true }

-- One stored tensor is in memory at a time, and not even that where it lies as it is wanted.
local function copy_stored(file, name, tensor)
  local _ <close> = core.scope()
  local stored, message, code = file:tensor(name, tensor:dtype())
  if stored then tensor:copy_(stored) end
  return message, code
end

-- The tensor becomes what the file has, if that could be read.
local function replace(layer, field, stored, message, code)
  if not stored then return message, code end
  local blank = layer[field]
  layer[field] = stored
  blank:free()
end

-- The experts of a stack lie apart in most files; in some they are stacked as they are here.
local function fill_stack(P, name, layer, field)
  local dtype, names = layer[field]:dtype(), {}
  for e = 1, layer[field]:size(1) do names[e] = P:name(name, e - 1) end
  local source = in_16_bits[dtype] and P.file:stack(names)
  if source then return replace(layer, field, core.checkpoint.read(source, dtype)) end
  local stack = layer[field]:detach()
  for e, stored in ipairs(names) do
    local message, code = copy_stored(P.file, stored, stack:select(1, e))
    if message then return message, code end
  end
end

-- Nothing, or a message and its code. A matrix in 16 bits is the file's own, where it is mapped and
-- of that type: nothing is read before it is needed.
local function fill(m, P)
  for _, entry in ipairs(nn.saved(m)) do
    local name, tensor, layer, field = table.unpack(entry)
    local message, code
    if is_stack(name) then
      message, code = fill_stack(P, name, layer, field)
    elseif in_16_bits[tensor:dtype()] then
      message, code = replace(layer, field, P.file:tensor(P:name(name), tensor:dtype()))
    else
      message, code = copy_stored(P.file, P:name(name), tensor:detach())
    end
    if message then return message, code end
  end
end

-- A configuration that asks for more than its files can hold is refused before anything is made of
-- it; a weight in a block of a quantised file has at least a quarter of a byte. The table of a hash
-- is the only large buffer.
local function too_large(config, file)
  local bytes = 0
  for _, name in ipairs(file:names()) do bytes = bytes + file:info(name).bytes end
  local numbers = model.parameters(config)
  for _, layer in ipairs(config.ffn) do
    local routing = layer.router or {}
    if routing.by == "balanced" then numbers = numbers + routing.vocab * 1.0 * routing.k end
  end
  if numbers > 4 * bytes then
    return ("config.json describes %.3g parameters, the tensors have %d bytes")
      :format(numbers, bytes)
  end
end

-- The model of what was opened, or nil, message, code.
local function build(P, dtype)
  local message = too_large(P.config, P.file)
  if message then return nil, message, "format" end
  local ok, m, code = core.attempt(model.Model, P.config, dtype)
  if not ok then return nil, m, code end
  message, code = complain(m, P), "format"
  if not message then message, code = fill(m, P) end
  if message then return nil, message, code end
  return m
end

--- A model from a Hugging Face directory or a .gguf file; nil, message, code when there is none or
--- it does not fit. Weights become f32, or opts.dtype: "bf16" or "f16" give a model for inference,
--- see Model:to. model.tokenizer is set when there is one that we read; model.no_tokenizer says
--- what is wrong with one that we cannot.
---@param path string
---@param opts table?
---@return moelua.Model? model
---@return string? message
---@return string? code
function family.load(path, opts)
  local named = type(path) == "string" and path ~= ""
  expect(named, "load", "folder", "the path of a model", path)
  opts = options.check("load", opts, { dtype = { { "f32", "bf16", "f16" }, "f32" } })
  local P, message, code = pretrained.open(path)
  if not P then return nil, message, code end
  local m
  m, message, code = build(P, opts.dtype)
  P:close()
  if not m then return nil, ("%s: %s"):format(path, message), code end
  m.path = path
  m.tokenizer, message, code = P:tokenizer()
  if code ~= "missing" then m.no_tokenizer = message end
  m.generation_config = system.read(path .. GENERATION)
  return m
end

return family
