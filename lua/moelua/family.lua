-- family.lua: models as Hugging Face directories: config.json (hf_config.lua), the weights under
-- the names that others know, the tokenizer. A dense SwiGLU model is written as Llama, a top-k
-- mixture of such experts in every layer as Mixtral, all else in the same layout with "model_type":
-- "moelua" and the list `ffn` of our configuration.

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local expect = require("moelua.expect")
local folders = require("moelua.folder")
local hf_config = require("moelua.hf_config")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local tokenizer = require("moelua.tokenizer")
local writer = require("moelua.checkpoint_writer")
local json, system = core.json, core.system

local family = {}

-- ---- names ------------------------------------------------------------------------------------

local top_names = {
  embedding = "model.embed_tokens.weight", norm = "model.norm.weight", head = "lm_head.weight",
}
local layer_names = {
  ["attention_norm"] = "input_layernorm", ["ffn_norm"] = "post_attention_layernorm",
  ["attention.q"] = "self_attn.q_proj", ["attention.k"] = "self_attn.k_proj",
  ["attention.v"] = "self_attn.v_proj", ["attention.o"] = "self_attn.o_proj",
  ["ffn.w1"] = "mlp.gate_proj", ["ffn.w3"] = "mlp.up_proj", ["ffn.w2"] = "mlp.down_proj",
  ["ffn.router"] = "block_sparse_moe.gate", ["ffn.router.noise"] = "block_sparse_moe.gate_noise",
  ["ffn.shared.w1"] = "mlp.shared_experts.gate_proj",           -- as DeepSeek-V2 has it
  ["ffn.shared.w3"] = "mlp.shared_experts.up_proj",
  ["ffn.shared.w2"] = "mlp.shared_experts.down_proj",
  ["ffn.shared_gate"] = "mlp.shared_expert_gate",               -- Qwen2-MoE
  ["ffn.controller"] = "mlp.controller",
}
-- Those that are no weights of matrices.
local bare_names = {
  ["ffn.router.bias"] = "block_sparse_moe.gate.e_score_correction_bias",        -- DeepSeek-V3
  ["ffn.router.table"] = "block_sparse_moe.gate.table",
  ["ffn.temperature"] = "mlp.temperature",
}

--- The name in a checkpoint of one of our parameters or buffers. For a stack of experts, the name
--- of expert `e` (from 0).
function family.file_name(name, e)
  if top_names[name] then return top_names[name] end
  local layer, rest = name:match("^layers%.(%d+)%.(.*)$")
  local matrix = rest:match("^ffn%.experts%.(w%d)$")
  if matrix then
    return ("model.layers.%s.block_sparse_moe.experts.%d.%s.weight"):format(layer, e, matrix)
  end
  if bare_names[rest] then return ("model.layers.%s.%s"):format(layer, bare_names[rest]) end
  return ("model.layers.%s.%s.weight"):format(layer, layer_names[rest])
end

local function is_stack(name) return name:match("%.ffn%.experts%.w%d$") ~= nil end

-- Calls visit(file name, tensor) for every tensor of the checkpoint; stacks are taken apart.
local function each_tensor(m, visit)
  for _, entry in ipairs(nn.saved(m)) do
    local name, tensor = entry[1], entry[2]
    if is_stack(name) then
      for e = 1, tensor:size(1) do
        visit(family.file_name(name, e - 1), tensor:detach():select(1, e))
      end
    else
      visit(family.file_name(name), tensor:detach())
    end
  end
end

-- ---- saving -----------------------------------------------------------------------------------

-- Where a model is written before it replaces what is in its folder.
local STAGING = "/.moelua-model"

local torch_types = { bf16 = "bfloat16", f16 = "float16" }

-- Writes all files of a model; the folder is made.
local function write_files(m, folder, opts)
  local tensors = {}
  each_tensor(m, function(name, tensor) tensors[name] = tensor end)
  local ok, message, code = checkpoint.save(folder, tensors, { format = "pt" }, opts)
  if ok and m.tokenizer then ok, message, code = m.tokenizer:save(folder) end
  if not ok then return nil, message, code end
  local out = hf_config.to_json(m.config)
  out.torch_dtype = torch_types[opts.dtype or m.embedding:dtype()] or "float32"
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

-- What a tensor of ours can be read from: integers are indices.
local floats = { F64 = true, F32 = true, F16 = true, BF16 = true }
local stored_as = { f32 = floats, bf16 = floats, f16 = floats, i32 = { I32 = true } }

-- The complaint about the first tensor that is missing, misshapen or not ours; nil when all fit.
local function complain(m, file)
  local wanted, message = {}, nil
  each_tensor(m, function(name, tensor)
    wanted[name] = true
    local info = file:info(name)
    if message then return end
    if not info then
      message = ("tensor '%s' is missing"):format(name)
    elseif not same_shape(info.shape, tensor:shape()) then
      message = ("tensor '%s' has shape %s, expected %s"):format(name, shape_text(info.shape),
        shape_text(tensor:shape()))
    elseif not stored_as[tensor:dtype()][info.dtype] then
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

local function copy_stored(file, name, tensor)
  local _ <close> = core.scope()
  local stored, message, code = file:tensor(name, tensor:dtype())
  if stored then tensor:copy_(stored) end
  return message, code
end

local function copy_stack(file, name, stack)
  for e = 1, stack:size(1) do
    local message, code = copy_stored(file, family.file_name(name, e - 1), stack:select(1, e))
    if message then return message, code end
  end
end

-- Nothing, or a message and its code. A matrix in 16 bits is the file's own, where it is mapped and
-- of that type: nothing is read before it is needed. The experts of a stack lie apart in a file.
local function fill(m, file)
  for _, entry in ipairs(nn.saved(m)) do
    local name, tensor, layer, field = table.unpack(entry)
    local message, code
    if is_stack(name) then
      message, code = copy_stack(file, name, tensor:detach())
    elseif in_16_bits[tensor:dtype()] then
      layer[field], message, code = file:tensor(family.file_name(name), tensor:dtype())
    else
      message, code = copy_stored(file, family.file_name(name), tensor:detach())
    end
    if message then return message, code end
  end
end

local function read_config(folder)
  local text, message, code = system.read(folder .. "/config.json")
  if code == "missing" then
    return nil, ("load: %s is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected"):format(folder), code
  end
  if not text then return nil, message, code end
  local hf
  hf, message, code = json.decode(text)
  if hf == nil then return nil, ("%s/config.json: %s"):format(folder, message), code end
  local config
  config, message, code = hf_config.from_json(hf)
  if not config then return nil, ("%s: %s"):format(folder, message), code end
  return config
end

-- A configuration that asks for more than its files can hold is refused before anything is made of
-- it; a weight has at least two bytes. The table of a hash is the only large buffer.
local function too_large(config, file)
  local bytes = 0
  for _, name in ipairs(file:names()) do bytes = bytes + file:info(name).bytes end
  local numbers = model.parameters(config)
  for _, layer in ipairs(config.ffn) do
    local routing = layer.router or {}
    if routing.by == "balanced" then numbers = numbers + routing.vocab * 1.0 * routing.k end
  end
  if numbers > bytes then
    return ("config.json describes %.3g parameters, the tensors have %d bytes")
      :format(numbers, bytes)
  end
end

--- A model from a Hugging Face directory; nil, message, code when there is none or it does not fit.
--- Weights become f32, or opts.dtype: "bf16" or "f16" give a model for inference, see Model:to.
--- model.tokenizer is set when the directory has one that we read.
---@param folder string
---@param opts table?
---@return moelua.Model? model
---@return string? message
---@return string? code
function family.load(folder, opts)
  expect(type(folder) == "string", "load", "folder", "the path of a model", folder)
  opts = options.check("load", opts, { dtype = { { "f32", "bf16", "f16" }, "f32" } })
  local config, message, code = read_config(folder)
  if not config then return nil, message, code end
  local file
  file, message, code = checkpoint.open(folder)
  if not file then return nil, message, code end
  local ok, m
  message = too_large(config, file)
  if not message then ok, m, code = core.attempt(model.Model, config, opts.dtype) end
  if not ok then file:close() end
  if message then return nil, ("%s: %s"):format(folder, message), "format" end
  if not ok then return nil, ("%s: %s"):format(folder, m), code end
  message, code = complain(m, file), "format"
  if not message then message, code = fill(m, file) end
  file:close()
  if message then return nil, ("%s: %s"):format(folder, message), code end
  m.path = folder
  if system.exists(folder .. "/tokenizer.json") then
    m.tokenizer = tokenizer.open(folder .. "/tokenizer.json")
  end
  return m
end

return family
