-- family.lua: models as Hugging Face directories. A dense model is written as Llama, a top-k
-- mixture in every layer as Mixtral, any other pattern in the same layout with
-- "model_type": "moelua".

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local expect = require("moelua.expect")
local folders = require("moelua.folder")
local model = require("moelua.model")
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
  ["ffn.router"] = "block_sparse_moe.gate",
}

--- The name in a checkpoint of one of our parameters. For a stack of experts, the name of expert
--- `e` (from 0).
function family.file_name(name, e)
  if top_names[name] then return top_names[name] end
  local layer, rest = name:match("^layers%.(%d+)%.(.*)$")
  local matrix = rest:match("^ffn%.experts%.(w%d)$")
  if matrix then
    return ("model.layers.%s.block_sparse_moe.experts.%d.%s.weight"):format(layer, e, matrix)
  end
  return ("model.layers.%s.%s.weight"):format(layer, layer_names[rest])
end

local function is_stack(name) return name:match("%.ffn%.experts%.w%d$") ~= nil end

-- Calls visit(file name, tensor) for every tensor of the checkpoint; stacks are taken apart.
local function each_tensor(m, visit)
  for _, entry in ipairs(m:parameters()) do
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

-- ---- configurations ---------------------------------------------------------------------------

-- Settings of a router that only training needs.
local function router_settings(ffn)
  return { balance = ffn.router.balance, z_loss = ffn.router.z_loss }
end

-- What Mixtral can say: the same mixture in every layer, gates over the selected experts.
local function is_mixtral(config)
  local first = config.ffn[1]
  local settings = first.router and json.encode(router_settings(first))
  for _, ffn in ipairs(config.ffn) do
    if ffn.kind ~= "moe" or ffn.hidden ~= first.hidden or ffn.experts ~= first.experts or
      ffn.router.k ~= first.router.k or ffn.router.gate ~= "selected" or
      json.encode(router_settings(ffn)) ~= settings then return false end
  end
  return true
end

local function is_llama(config)
  for _, ffn in ipairs(config.ffn) do
    if ffn.kind ~= "dense" or ffn.hidden ~= config.ffn[1].hidden then return false end
  end
  return true
end

-- Every field is written: the defaults of the families differ.
local function common_fields(config)
  return {
    vocab_size = config.vocab, hidden_size = config.dim, num_hidden_layers = config.layers,
    intermediate_size = config.ffn[1].hidden, num_attention_heads = config.heads,
    num_key_value_heads = config.kv_heads, head_dim = config.head_dim, hidden_act = "silu",
    max_position_embeddings = config.context, initializer_range = config.std,
    rms_norm_eps = config.norm_eps, rope_theta = config.rope_theta + 0.0, rope_scaling = json.null,
    tie_word_embeddings = config.tied, attention_dropout = 0.0, use_cache = true,
    bos_token_id = json.null, eos_token_id = json.null, torch_dtype = "float32",
    moelua = { seed = config.seed },
  }
end

--- config.json of a model, as a table.
function family.to_json(config)
  local out = common_fields(config)
  if is_llama(config) then
    out.model_type, out.architectures = "llama", { "LlamaForCausalLM" }
    out.attention_bias, out.mlp_bias = false, false
  elseif is_mixtral(config) then
    local ffn = config.ffn[1]
    out.model_type, out.architectures = "mixtral", { "MixtralForCausalLM" }
    out.num_local_experts, out.num_experts_per_tok = ffn.experts, ffn.router.k
    out.router_aux_loss_coef = ffn.router.balance and ffn.router.balance.coef or 0.0
    out.router_jitter_noise, out.output_router_logits = 0.0, false
    out.sliding_window = json.null
    out.moelua.router = router_settings(ffn)
  else
    out.model_type, out.architectures = "moelua", { "MoeluaForCausalLM" }
    out.ffn = config.ffn
  end
  return out
end

-- A null means what a missing field means.
local function without_nulls(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do
    if v ~= json.null then out[k] = without_nulls(v) end
  end
  return out
end

-- Fields that are looked at here; the others are model.check_config's to check.
local field_types = {
  { "hidden_act", "string" }, { "max_position_embeddings", "number" }, { "moelua", "table" },
  { "rope_parameters", "table" }, { "rope_scaling", "table" },
  { "router_aux_loss_coef", "number" }, { "sliding_window", "number" },
}

local spoken = { number = "a number", string = "a string", table = "an object" }

local function check_type(name, value, wanted)
  if value ~= nil and type(value) ~= wanted then
    core.raise("%s must be %s, not a %s", name, spoken[wanted], type(value))
  end
end

local function check_fields(hf)
  for _, field in ipairs(field_types) do check_type(field[1], hf[field[1]], field[2]) end
  for _, name in ipairs({ "rope_scaling", "rope_parameters" }) do
    local scaling = hf[name] or {}
    check_type(name .. ".rope_type", scaling.rope_type, "string")
    check_type(name .. ".type", scaling.type, "string")
  end
  if hf.moelua then check_type("moelua.router", hf.moelua.router, "table") end
end

-- What we would compute differently is refused, not ignored.
local function unsupported(hf)
  local scaling = hf.rope_scaling or hf.rope_parameters
  local kind = scaling and (scaling.rope_type or scaling.type)
  if kind and kind ~= "default" then return ("rope_scaling of type '%s'"):format(kind) end
  for _, bias in ipairs({ "attention_bias", "mlp_bias" }) do
    if hf[bias] then return bias end
  end
  if hf.hidden_act and hf.hidden_act ~= "silu" then
    return ("hidden_act '%s'"):format(hf.hidden_act)
  end
  local window = hf.sliding_window
  if window and window < (hf.max_position_embeddings or math.huge) then
    return ("sliding_window %s"):format(window)
  end
end

local function read_ffn(hf)
  if hf.model_type == "moelua" then return hf.ffn end
  if hf.model_type ~= "mixtral" then return { kind = "dense", hidden = hf.intermediate_size } end
  local own = hf.moelua and hf.moelua.router or {}
  local coef = hf.router_aux_loss_coef or 0
  local balance = own.balance or coef > 0 and { form = "switch", coef = coef } or nil
  return { kind = "moe", hidden = hf.intermediate_size, experts = hf.num_local_experts or 8,
    router = { k = hf.num_experts_per_tok or 2, balance = balance, z_loss = own.z_loss } }
end

local known = { llama = true, mistral = true, mixtral = true, moelua = true }

-- Absent fields have the defaults of their family.
local function convert(hf)
  check_fields(hf)
  local mixtral = hf.model_type == "mixtral"
  local obstacle = unsupported(hf)
  if obstacle then return nil, obstacle .. " is not supported" end
  return model.check_config({
    dim = hf.hidden_size, layers = hf.num_hidden_layers, heads = hf.num_attention_heads,
    kv_heads = hf.num_key_value_heads or (mixtral and 8 or nil),
    head_dim = hf.head_dim, vocab = hf.vocab_size or 32000,
    context = hf.max_position_embeddings or (mixtral and 131072 or 2048),
    rope_theta = hf.rope_theta or hf.rope_parameters and hf.rope_parameters.rope_theta or
      (mixtral and 1e6 or 10000),
    norm_eps = hf.rms_norm_eps or (mixtral and 1e-5 or 1e-6),
    tied = hf.tie_word_embeddings == true, std = hf.initializer_range,
    seed = hf.moelua and hf.moelua.seed, ffn = read_ffn(hf),
  })
end

-- Where config.json has another name for an option of model.new.
local field_names = { dim = "hidden_size", layers = "num_hidden_layers",
  heads = "num_attention_heads", kv_heads = "num_key_value_heads", vocab = "vocab_size",
  context = "max_position_embeddings", norm_eps = "rms_norm_eps", tied = "tie_word_embeddings",
  std = "initializer_range", hidden = "intermediate_size" }

-- A complaint about an option, as one about the field of config.json that it was read from.
local function about_field(message)
  local name, rest = message:match("^[%w_.]+: option '([%w_]+)' (.*)$")
  if not name then return message end
  return ("'%s' %s"):format(field_names[name] or name, rest)
end

--- Our configuration from a config.json that was read; nil, message, code when we cannot.
function family.from_json(hf)
  if type(hf) ~= "table" or #hf > 0 then return nil, "config.json: no JSON object", "format" end
  hf = without_nulls(hf)
  if hf.model_type == nil then return nil, "config.json: 'model_type' is missing", "format" end
  if type(hf.model_type) == "table" then
    return nil, "config.json: model_type must be a string, not a table", "format"
  end
  if not known[hf.model_type] then
    return nil, ("model_type '%s' is not supported\nhint: llama, mistral, mixtral and moelua are")
      :format(tostring(hf.model_type)), "unsupported"
  end
  local ok, config, obstacle = core.attempt(convert, hf)
  if not ok then return nil, "config.json: " .. about_field(config), obstacle end
  if not config then return nil, obstacle, "unsupported" end
  return config
end

-- ---- saving -----------------------------------------------------------------------------------

-- Where a model is written before it replaces what is in its folder.
local STAGING = "/.moelua-model"

-- Writes all files of a model; the folder is made.
local function write_files(m, folder, opts)
  local tensors = {}
  each_tensor(m, function(name, tensor) tensors[name] = tensor end)
  local ok, message, code = checkpoint.save(folder, tensors, { format = "pt" }, opts)
  if ok and m.tokenizer then ok, message, code = m.tokenizer:save(folder) end
  if not ok then return nil, message, code end
  local out = family.to_json(m.config)
  if opts.dtype then out.torch_dtype = ({ bf16 = "bfloat16", f16 = "float16" })[opts.dtype] or
    "float32" end
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

local weight_types = { F64 = true, F32 = true, F16 = true, BF16 = true }

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
    elseif not weight_types[info.dtype] then
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

-- Nothing, or a message and its code.
local function fill(m, file)
  local message, code
  each_tensor(m, function(name, tensor)
    if message then return end
    local _ <close> = core.scope()
    local stored
    stored, message, code = file:tensor(name)
    if stored then tensor:copy_(stored) end
  end)
  return message, code
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
  config, message, code = family.from_json(hf)
  if not config then return nil, ("%s: %s"):format(folder, message), code end
  return config
end

-- A configuration that asks for more than its files can hold is refused before anything is made of
-- it; a weight has at least two bytes.
local function too_large(config, file)
  local bytes = 0
  for _, name in ipairs(file:names()) do bytes = bytes + file:info(name).bytes end
  local parameters = model.parameters(config)
  if parameters > bytes then
    return ("config.json describes %.3g parameters, the tensors have %d bytes")
      :format(parameters, bytes)
  end
end

--- A model from a Hugging Face directory; nil, message, code when there is none or it does not fit.
--- Weights are converted to f32. model.tokenizer is set when the directory has one that we read.
---@param folder string
---@return moelua.Model? model
---@return string? message
---@return string? code
function family.load(folder)
  expect(type(folder) == "string", "load", "folder", "the path of a model", folder)
  local config, message, code = read_config(folder)
  if not config then return nil, message, code end
  local file
  file, message, code = checkpoint.open(folder)
  if not file then return nil, message, code end
  local ok, m
  message = too_large(config, file)
  if not message then ok, m, code = core.attempt(model.Model, config, true) end
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
