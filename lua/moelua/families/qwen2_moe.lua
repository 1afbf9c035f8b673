-- qwen2_moe.lua: Qwen2-MoE (Yang et al. 2024; Qwen2MoeForCausalLM): mixtures with a gated shared
-- expert, dense layers anywhere between them, biases on queries, keys and values.

local options = require("moelua.options")
local parts = require("moelua.family_parts")
local json = require("moelua.core").json

local qwen2_moe = {
  model_type = "qwen2_moe", architecture = "Qwen2MoeForCausalLM", order = 7, windowed = true,
  defaults = { vocab_size = 151936, num_key_value_heads = 16, max_position_embeddings = 32768,
    rms_norm_eps = 1e-6, rope_theta = 10000.0, qkv_bias = true, decoder_sparse_step = 1,
    mlp_only_layers = {}, num_experts = 60, num_experts_per_tok = 4, moe_intermediate_size = 1408,
    shared_expert_intermediate_size = 5632, router_aux_loss_coef = 0.001, norm_topk_prob = false },
  names = options.merge(parts.mixture_names, {
    ["ffn.shared.w1"] = "mlp.shared_expert.gate_proj.weight",
    ["ffn.shared.w3"] = "mlp.shared_expert.up_proj.weight",
    ["ffn.shared.w2"] = "mlp.shared_expert.down_proj.weight",
    ["ffn.shared_gate"] = "mlp.shared_expert_gate.weight",
  }),
  fused = parts.fused,
  gguf = { arch = "qwen2moe", keys = options.merge(parts.gguf_keys, {
    num_experts = "expert_count", num_experts_per_tok = "expert_used_count",
    moe_intermediate_size = "expert_feed_forward_length",
    shared_expert_intermediate_size = "expert_shared_feed_forward_length" }),
    fixed = { norm_topk_prob = false, qkv_bias = true, mlp_only_layers = json.array({}),
      decoder_sparse_step = 1, tie_word_embeddings = false } },
}

function qwen2_moe.read(hf)
  local mixture = parts.mixture(hf, { hidden = hf.moe_intermediate_size,
    experts = hf.num_experts, gate = parts.gate(hf), balance = parts.switch_loss(hf),
    shared = { experts = 1, hidden = hf.shared_expert_intermediate_size, gate = true } })
  return options.merge(parts.read(hf), { ffn = parts.sparse_layers(hf, mixture),
    attention_bias = hf.qkv_bias and "qkv" or "none" })
end

function qwen2_moe.write(config)
  local reason = parts.other_norm(config, "none") or parts.odd_heads(config)
  if reason then return nil, reason end
  local layer, dense = parts.both(config)
  return { qkv_bias = config.attention_bias == "qkv", intermediate_size = dense.hidden,
    decoder_sparse_step = 1, mlp_only_layers = json.array(parts.numbers(config, "dense")),
    num_experts = layer.experts, num_experts_per_tok = layer.router.k,
    moe_intermediate_size = layer.hidden,
    shared_expert_intermediate_size = layer.shared and layer.shared.hidden or 1,
    norm_topk_prob = layer.router.gate == "selected", output_router_logits = false,
    router_aux_loss_coef = parts.balance_coef(layer), use_sliding_window = false,
    sliding_window = json.null }
end

return qwen2_moe
