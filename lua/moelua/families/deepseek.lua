-- deepseek.lua: DeepSeekMoE (Dai et al. 2024; deepseek-moe-16b, whose code comes with its
-- checkpoint): Llama's attention, dense layers first, then mixtures with shared experts.

local core = require("moelua.core")
local limits = require("moelua.limits")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local null = core.json.null

local deepseek = {
  model_type = "deepseek", architecture = "DeepseekForCausalLM", order = 8,
  defaults = { vocab_size = 102400, max_position_embeddings = 2048, rms_norm_eps = 1e-6,
    rope_theta = 10000.0, attention_bias = false, moe_intermediate_size = 1407,
    moe_layer_freq = 1, first_k_dense_replace = 0, norm_topk_prob = false,
    scoring_func = "softmax", aux_loss_alpha = 0.001, seq_aux = true },
  types = { n_routed_experts = "integer", n_shared_experts = "integer",
    num_experts_per_tok = "integer" },
  names = options.merge(parts.mixture_names, {
    ["ffn.shared.w1"] = "mlp.shared_experts.gate_proj.weight",
    ["ffn.shared.w3"] = "mlp.shared_experts.up_proj.weight",
    ["ffn.shared.w2"] = "mlp.shared_experts.down_proj.weight",
  }),
  fused = parts.fused,
  gguf = { arch = "deepseek", permuted = true, keys = options.merge(parts.gguf_keys, {
    n_routed_experts = "expert_count", num_experts_per_tok = "expert_used_count",
    moe_intermediate_size = "expert_feed_forward_length",
    n_shared_experts = "expert_shared_count",
    first_k_dense_replace = "leading_dense_block_count" }),
    fixed = { norm_topk_prob = false, moe_layer_freq = 1, attention_bias = false } },
}

local function balance_of(hf)
  local coef = hf.aux_loss_alpha
  return coef > 0 and { form = "deepseek", coef = coef,
    scope = hf.seq_aux and "sequence" or "batch" } or nil
end

-- A single expert of a token keeps its probability: only several are made to sum to 1.
local function gate_of(hf)
  return hf.norm_topk_prob and (hf.num_experts_per_tok or 0) > 1 and "selected" or "all"
end

local function layers_of(hf)
  local dense, list = parts.dense(hf.intermediate_size), {}
  local mixture = hf.n_routed_experts and parts.mixture(hf, { hidden = hf.moe_intermediate_size,
    experts = hf.n_routed_experts, gate = gate_of(hf), balance = balance_of(hf),
    shared = hf.n_shared_experts and { experts = hf.n_shared_experts } })
  for i = 1, limits.count("num_hidden_layers", hf.num_hidden_layers, "layers") do
    local sparse = i > hf.first_k_dense_replace and (i - 1) % hf.moe_layer_freq == 0
    list[i] = mixture and sparse and mixture or dense
  end
  return list
end

function deepseek.read(hf)
  local obstacle = parts.only(hf, "scoring_func", "softmax")
  if obstacle then return nil, obstacle end
  if hf.moe_layer_freq < 1 then
    core.raise("moe_layer_freq must be at least 1, not %d", hf.moe_layer_freq)
  end
  return options.merge(parts.read(hf), { ffn = layers_of(hf),
    attention_bias = hf.attention_bias and "all" or "none" })
end

-- Mixtures are the layers whose number, from 0, divides by this one.
local function frequency(config)
  local list = parts.numbers(config, "moe")
  if list[2] then return list[2] - list[1] end
  local last = config.layers - 1
  return list[1] == last and 1 or list[1] == 0 and config.layers or list[1] or 1
end

-- Where the code of the model is: transformers has none of its own.
local code = "deepseek-ai/deepseek-moe-16b-base--"
local auto_map = { AutoConfig = code .. "configuration_deepseek.DeepseekConfig",
  AutoModel = code .. "modeling_deepseek.DeepseekModel",
  AutoModelForCausalLM = code .. "modeling_deepseek.DeepseekForCausalLM" }

function deepseek.write(config)
  local reason = parts.other_norm(config, "none") or parts.odd_heads(config)
  if reason then return nil, reason end
  local layer, dense, number = parts.both(config)
  local balance = layer.router.balance
  return { attention_bias = config.attention_bias == "all", auto_map = auto_map,
    intermediate_size = dense.hidden, moe_intermediate_size = layer.hidden,
    n_routed_experts = layer.experts, num_experts_per_tok = layer.router.k,
    n_shared_experts = layer.shared and layer.shared.experts or null,
    first_k_dense_replace = number, moe_layer_freq = frequency(config),
    norm_topk_prob = layer.router.gate == "selected", scoring_func = "softmax",
    aux_loss_alpha = parts.balance_coef(layer),
    seq_aux = balance and balance.scope == "sequence" or false }
end

return deepseek
