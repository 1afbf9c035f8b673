-- mixtral.lua: Mixtral (Jiang et al. 2024; MixtralForCausalLM): the same mixture in every layer,
-- gates over the k selected experts, no biases.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local mixtral = {
  model_type = "mixtral", architecture = "MixtralForCausalLM", order = 2, windowed = true,
  defaults = { vocab_size = 32000, num_key_value_heads = 8, max_position_embeddings = 131072,
    rms_norm_eps = 1e-5, rope_theta = 1e6, num_local_experts = 8, num_experts_per_tok = 2,
    router_aux_loss_coef = 0.001, router_jitter_noise = 0.0 },
  names = options.merge(parts.names, {
    ["ffn.router"] = "block_sparse_moe.gate.weight",
    ["ffn.experts.w1"] = "block_sparse_moe.experts.%d.w1.weight",
    ["ffn.experts.w3"] = "block_sparse_moe.experts.%d.w3.weight",
    ["ffn.experts.w2"] = "block_sparse_moe.experts.%d.w2.weight",
  }),
  aliases = { ["mlp.gate.weight"] = "ffn.router" },
  fused = parts.fused,
  gguf = { arch = "llama", permuted = true, keys = options.merge(parts.gguf_keys, {
    num_local_experts = "expert_count", num_experts_per_tok = "expert_used_count" }) },
}

function mixtral.read(hf)
  local jitter = hf.router_jitter_noise
  return options.merge(parts.read(hf), { ffn = parts.mixture(hf, { hidden = hf.intermediate_size,
    experts = hf.num_local_experts, balance = parts.switch_loss(hf),
    jitter = jitter ~= 0 and jitter or nil }) })
end

function mixtral.write(config)
  local layer = config.ffn[1]
  local reason = parts.other_kind(config, "moe") or parts.other_norm(config, "none")
  if layer.shared then reason = "there are shared experts" end
  if reason then return nil, reason end
  return { num_local_experts = layer.experts, num_experts_per_tok = layer.router.k,
    router_aux_loss_coef = parts.balance_coef(layer),
    router_jitter_noise = layer.router.jitter or 0.0, output_router_logits = false,
    sliding_window = core.json.null }
end

return mixtral
