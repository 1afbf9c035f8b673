-- hf_config.lua: config.json of a Hugging Face directory, read and written. What it describes is
-- our configuration of a model, see model.check_config.

local core = require("moelua.core")
local ffn = require("moelua.ffn")
local model = require("moelua.model")
local options = require("moelua.options")
local json = core.json

local hf_config = {}

-- ---- writing ----------------------------------------------------------------------------------

-- Settings of a router that only training needs.
local function router_settings(layer)
  local routing = layer.router
  local capacity = routing.capacity
  return { balance = routing.balance, z_loss = routing.z_loss, jitter = routing.jitter,
    capacity = capacity and not capacity.evaluation and capacity or nil }
end

-- Whether two descriptions are the same; keys come in order.
local function same(a, b) return json.encode(a) == json.encode(b) end

local function all_as_first(config)
  for _, layer in ipairs(config.ffn) do
    if not same(layer, config.ffn[1]) then return false end
  end
  return true
end

-- What Mixtral can say: the same mixture in every layer, gates over the k selected experts, and
-- nothing beyond that but what only training needs.
local function is_mixtral(config)
  local first = config.ffn[1]
  if first.kind ~= "moe" or not all_as_first(config) then return false end
  local plain = options.merge(router_settings(first), { k = first.router.k })
  return same(first, ffn.options("config.json", { kind = "moe", hidden = first.hidden,
    experts = first.experts, router = plain }))
end

-- What Llama can say: the same dense layer everywhere.
local function is_llama(config)
  local first = config.ffn[1]
  return first.kind == "dense" and first.activation == "swiglu" and all_as_first(config)
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
    moelua = { seed = config.seed, recompute = config.recompute },
  }
end

--- config.json of a model, as a table.
function hf_config.to_json(config)
  local out = common_fields(config)
  if is_llama(config) then
    out.model_type, out.architectures = "llama", { "LlamaForCausalLM" }
    out.attention_bias, out.mlp_bias = false, false
  elseif is_mixtral(config) then
    local first = config.ffn[1]
    local routing = first.router
    out.model_type, out.architectures = "mixtral", { "MixtralForCausalLM" }
    out.num_local_experts, out.num_experts_per_tok = first.experts, routing.k
    out.router_aux_loss_coef = routing.balance and routing.balance.coef or 0.0
    out.router_jitter_noise, out.output_router_logits = routing.jitter or 0.0, false
    out.sliding_window = json.null
    out.moelua.router = router_settings(first)
  else
    out.model_type, out.architectures = "moelua", { "MoeluaForCausalLM" }
    out.ffn, out.hidden_act = config.ffn, nil           -- each layer has its own activation
  end
  return out
end

-- ---- reading ----------------------------------------------------------------------------------

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
  { "router_aux_loss_coef", "number" }, { "router_jitter_noise", "number" },
  { "sliding_window", "number" },
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
  local coef, jitter = hf.router_aux_loss_coef or 0, hf.router_jitter_noise or 0
  local balance = own.balance or
    coef > 0 and { form = "switch", coef = coef, reduce = "pooled" } or nil
  return { kind = "moe", hidden = hf.intermediate_size, experts = hf.num_local_experts or 8,
    router = { k = hf.num_experts_per_tok or 2, balance = balance, z_loss = own.z_loss,
      jitter = own.jitter or jitter ~= 0 and jitter or nil, capacity = own.capacity } }
end

local known = { llama = true, mistral = true, mixtral = true, moelua = true }

-- Absent fields have the defaults of their hf_config.
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
    seed = hf.moelua and hf.moelua.seed, recompute = hf.moelua and hf.moelua.recompute,
    ffn = read_ffn(hf),
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
function hf_config.from_json(hf)
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

return hf_config
