-- family_parts.lua: what the families of models (families/NAME.lua) have in common: fields of
-- config.json, names of tensors, keys of GGUF. A family takes what fits and adds its own.

local core = require("moelua.core")
local limits = require("moelua.limits")
local options = require("moelua.options")
local json = core.json

local parts = {}

-- ---- names ------------------------------------------------------------------------------------

--- Our name of a parameter -> that in the file; those of a layer without "layers.N." here and
--- "model.layers.N." there.
parts.names = {
  ["embedding"] = "model.embed_tokens.weight", ["norm"] = "model.norm.weight",
  ["head"] = "lm_head.weight",
  ["attention_norm"] = "input_layernorm.weight",
  ["ffn_norm"] = "post_attention_layernorm.weight",
  ["attention.q"] = "self_attn.q_proj.weight", ["attention.q_bias"] = "self_attn.q_proj.bias",
  ["attention.k"] = "self_attn.k_proj.weight", ["attention.k_bias"] = "self_attn.k_proj.bias",
  ["attention.v"] = "self_attn.v_proj.weight", ["attention.v_bias"] = "self_attn.v_proj.bias",
  ["attention.o"] = "self_attn.o_proj.weight", ["attention.o_bias"] = "self_attn.o_proj.bias",
  ["attention.q_norm"] = "self_attn.q_norm.weight",
  ["attention.k_norm"] = "self_attn.k_norm.weight",
  ["ffn.w1"] = "mlp.gate_proj.weight", ["ffn.w1_bias"] = "mlp.gate_proj.bias",
  ["ffn.w3"] = "mlp.up_proj.weight", ["ffn.w3_bias"] = "mlp.up_proj.bias",
  ["ffn.w2"] = "mlp.down_proj.weight", ["ffn.w2_bias"] = "mlp.down_proj.bias",
}

--- The same with experts as most families name them; %d is the number of one.
parts.mixture_names = options.merge(parts.names, {
  ["ffn.router"] = "mlp.gate.weight",
  ["ffn.experts.w1"] = "mlp.experts.%d.gate_proj.weight",
  ["ffn.experts.w3"] = "mlp.experts.%d.up_proj.weight",
  ["ffn.experts.w2"] = "mlp.experts.%d.down_proj.weight",
})

--- Names in newer files (transformers 5) -> which of our stacks of experts lie in there, along the
--- rows of each expert.
parts.fused = {
  ["mlp.experts.gate_up_proj"] = { "ffn.experts.w1", "ffn.experts.w3" },
  ["mlp.experts.down_proj"] = { "ffn.experts.w2" },
}

--- Fields of config.json -> keys of GGUF, behind the architecture's name and a dot.
parts.gguf_keys = {
  vocab_size = "vocab_size", hidden_size = "embedding_length", num_hidden_layers = "block_count",
  intermediate_size = "feed_forward_length", num_attention_heads = "attention.head_count",
  num_key_value_heads = "attention.head_count_kv", head_dim = "attention.key_length",
  max_position_embeddings = "context_length",
  rms_norm_eps = "attention.layer_norm_rms_epsilon", rope_theta = "rope.freq_base",
}

-- ---- reading ----------------------------------------------------------------------------------

--- Options of model.new that every family has in the same fields.
---@param hf table config.json without nulls, absent fields filled in
---@return table
function parts.read(hf)
  return {
    dim = hf.hidden_size, layers = hf.num_hidden_layers, heads = hf.num_attention_heads,
    kv_heads = hf.num_key_value_heads, head_dim = hf.head_dim, vocab = hf.vocab_size,
    context = hf.max_position_embeddings, rope_theta = hf.rope_theta,
    rope_scaling = hf.rope_scaling, norm_eps = hf.rms_norm_eps, std = hf.initializer_range,
    tied = hf.tie_word_embeddings == true,
  }
end

--- A dense layer of this width, nil when the field is missing.
function parts.dense(hidden) return { kind = "dense", hidden = hidden } end

--- A mixture of `experts` experts of width `hidden`. What only training needs comes from our own
--- settings in the file; without them, `balance` is the loss of the family.
---@param hf table
---@param given table hidden, experts, gate, shared, balance, jitter
---@return table
function parts.mixture(hf, given)
  local own = hf.moelua and hf.moelua.router or {}
  return { kind = "moe", hidden = given.hidden, experts = given.experts, shared = given.shared,
    router = { k = hf.num_experts_per_tok, gate = given.gate,
      balance = own.balance or given.balance, z_loss = own.z_loss,
      jitter = own.jitter or given.jitter, capacity = own.capacity } }
end

--- The layers of Qwen's mixtures: one of decoder_sparse_step layers, but none of mlp_only_layers,
--- is `mixture`, the others are dense.
---@param hf table
---@param mixture table
---@return table[]
function parts.sparse_layers(hf, mixture)
  local dense, list = {}, {}
  for _, number in ipairs(hf.mlp_only_layers) do
    if math.type(number) ~= "integer" then
      core.raise("mlp_only_layers must list integers, not %s", core.describe(number))
    end
    dense[number] = true
  end
  for i = 1, limits.count("num_hidden_layers", hf.num_hidden_layers, "layers") do
    local sparse = hf.decoder_sparse_step > 0 and i % hf.decoder_sparse_step == 0
    list[i] = sparse and not dense[i - 1] and mixture or parts.dense(hf.intermediate_size)
  end
  return list
end

--- The balance loss of transformers: that of Switch over the tokens of all layers.
function parts.switch_loss(hf)
  local coef = hf.router_aux_loss_coef
  return coef > 0 and { form = "switch", coef = coef, reduce = "pooled" } or nil
end

--- Whether the gates of the chosen experts are made to sum to 1.
function parts.gate(hf) return hf.norm_topk_prob and "selected" or "all" end

--- What a model is told that has a field with a value that we would compute differently.
---@param hf table
---@param name string of the field
---@param value any the one that is supported
---@return string? obstacle
function parts.only(hf, name, value)
  if hf[name] == nil or hf[name] == value then return nil end
  local function text(v) return type(v) == "string" and ("'%s'"):format(v) or core.describe(v) end
  return ("%s is %s, which is not supported\nhint: %s is"):format(name, text(hf[name]), text(value))
end

-- ---- writing ----------------------------------------------------------------------------------

-- Numbers that others expect as floats are written so.
local function scaling_fields(config)
  local scaling = config.rope_scaling
  if not scaling then return json.null end
  local out = {}
  for name, value in pairs(scaling) do
    local integer = name == "original_max_position_embeddings"
    out[name] = type(value) == "number" and not integer and value + 0.0 or value
  end
  -- What dynamic scaling starts from is the context itself.
  if scaling.rope_type == "dynamic" and
    scaling.original_max_position_embeddings == config.context then
    out.original_max_position_embeddings = nil
  end
  return out
end

--- The fields of config.json that every family has. All are written: defaults differ.
---@param config table
---@return table
function parts.write(config)
  return {
    vocab_size = config.vocab, hidden_size = config.dim, num_hidden_layers = config.layers,
    intermediate_size = config.ffn[1].hidden, num_attention_heads = config.heads,
    num_key_value_heads = config.kv_heads, head_dim = config.head_dim, hidden_act = "silu",
    max_position_embeddings = config.context, initializer_range = config.std,
    rms_norm_eps = config.norm_eps, rope_theta = config.rope_theta + 0.0,
    rope_scaling = scaling_fields(config),
    tie_word_embeddings = config.tied, attention_dropout = 0.0, use_cache = true,
    bos_token_id = json.null, eos_token_id = json.null, torch_dtype = "float32",
    moelua = { seed = config.seed, recompute = config.recompute, freeze = config.freeze },
  }
end

--- The options of the first layer of this kind and its number; nil without one.
---@param config table
---@param kind string
---@return table? layer
---@return integer? number
function parts.first(config, kind)
  for i, layer in ipairs(config.ffn) do
    if layer.kind == kind then return layer, i end
  end
end

-- Stands for the mixture of a model that has none.
local function no_mixture(dense)
  return { hidden = dense.hidden, experts = 1, router = { k = 1 } }
end

--- The first mixture and the first dense layer of a model that may have both, and how many layers
--- come before the first mixture; fields that describe what is not there get numbers of the other.
---@return table mixture
---@return table dense
---@return integer before
function parts.both(config)
  local mixture, number = parts.first(config, "moe")
  local dense = parts.first(config, "dense") or mixture or config.ffn[1]
  return mixture or no_mixture(dense), dense, number and number - 1 or config.layers
end

--- The numbers, from 0, of all layers of this kind.
---@return integer[]
function parts.numbers(config, kind)
  local list = {}
  for i, layer in ipairs(config.ffn) do
    if layer.kind == kind then list[#list + 1] = i - 1 end
  end
  return list
end

--- The reason why a family of layers of this kind alone cannot say what a model is; nil when its
--- layers are all of that kind.
---@param config table
---@param kind string
---@return string? reason
function parts.other_kind(config, kind)
  for i, layer in ipairs(config.ffn) do
    if layer.kind ~= kind then
      return ("layer %d is of kind \"%s\", not \"%s\""):format(i, layer.kind, kind)
    end
  end
end

--- The reason of a family whose queries and keys are normed like this.
function parts.other_norm(config, qk_norm)
  if config.qk_norm == qk_norm then return nil end
  return ("qk_norm is \"%s\", not \"%s\""):format(config.qk_norm, qk_norm)
end

--- The reason of a family whose heads are hidden_size / num_attention_heads wide, by definition.
function parts.odd_heads(config)
  if config.head_dim * config.heads == config.dim then return nil end
  return ("heads of %d are not dim / heads = %d / %d wide"):format(config.head_dim, config.dim,
    config.heads)
end

--- The coefficient of a router's balance loss.
function parts.balance_coef(layer)
  local balance = layer.router.balance
  return balance and balance.coef or 0.0
end

return parts
