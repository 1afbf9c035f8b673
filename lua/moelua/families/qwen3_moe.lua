-- qwen3_moe.lua: Qwen3-MoE (Yang et al. 2025; Qwen3MoeForCausalLM): mixtures without shared
-- experts, dense layers anywhere between them, queries and keys normed head by head.

local options = require("moelua.options")
local parts = require("moelua.family_parts")
local json = require("moelua.core").json

local qwen3_moe = {
  model_type = "qwen3_moe", architecture = "Qwen3MoeForCausalLM", order = 5, windowed = true,
  defaults = { vocab_size = 151936, num_key_value_heads = 4, max_position_embeddings = 32768,
    rms_norm_eps = 1e-6, rope_theta = 10000.0, attention_bias = false, decoder_sparse_step = 1,
    mlp_only_layers = {}, num_experts = 128, num_experts_per_tok = 8, moe_intermediate_size = 768,
    router_aux_loss_coef = 0.001, norm_topk_prob = false },
  synonyms = { num_local_experts = "num_experts" },
  names = parts.mixture_names,
  fused = parts.fused,
  gguf = { arch = "qwen3moe", keys = options.merge(parts.gguf_keys, {
    num_experts = "expert_count", num_experts_per_tok = "expert_used_count",
    moe_intermediate_size = "expert_feed_forward_length" }),
    fixed = { norm_topk_prob = true, attention_bias = false, mlp_only_layers = json.array({}),
      decoder_sparse_step = 1 } },
}

function qwen3_moe.read(hf)
  local mixture = parts.mixture(hf, { hidden = hf.moe_intermediate_size,
    experts = hf.num_experts, gate = parts.gate(hf), balance = parts.switch_loss(hf) })
  return options.merge(parts.read(hf), { ffn = parts.sparse_layers(hf, mixture),
    qk_norm = "head", attention_bias = hf.attention_bias and "all" or "none" })
end

function qwen3_moe.write(config)
  local reason = parts.other_norm(config, "head")
  if reason then return nil, reason end
  local layer, dense = parts.both(config)
  return { attention_bias = config.attention_bias == "all", intermediate_size = dense.hidden,
    mlp_only_layers = json.array(parts.numbers(config, "dense")), decoder_sparse_step = 1,
    num_experts = layer.experts, num_experts_per_tok = layer.router.k,
    moe_intermediate_size = layer.hidden, norm_topk_prob = layer.router.gate == "selected",
    output_router_logits = false, router_aux_loss_coef = parts.balance_coef(layer),
    use_sliding_window = false, sliding_window = json.null }
end

return qwen3_moe
