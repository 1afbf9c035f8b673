-- olmoe.lua: OLMoE (Muennighoff et al. 2024; OlmoeForCausalLM): the same mixture in every layer,
-- queries and keys normed as whole vectors.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local olmoe = {
  model_type = "olmoe", architecture = "OlmoeForCausalLM", order = 3,
  defaults = { vocab_size = 50304, max_position_embeddings = 4096, rms_norm_eps = 1e-5,
    rope_theta = 10000.0, attention_bias = false, num_experts = 64, num_experts_per_tok = 8,
    router_aux_loss_coef = 0.01, norm_topk_prob = false },
  types = { clip_qkv = "number" },
  synonyms = { num_local_experts = "num_experts" },
  names = parts.mixture_names,
  fused = parts.fused,
  gguf = { arch = "olmoe", keys = options.merge(parts.gguf_keys, { num_experts = "expert_count",
    num_experts_per_tok = "expert_used_count" }),
    fixed = { norm_topk_prob = false, attention_bias = false, clip_qkv = core.json.null } },
}

function olmoe.read(hf)
  return options.merge(parts.read(hf), { qk_norm = "whole", clip_qkv = hf.clip_qkv,
    attention_bias = hf.attention_bias and "all" or "none",
    ffn = parts.mixture(hf, { hidden = hf.intermediate_size, experts = hf.num_experts,
      gate = parts.gate(hf), balance = parts.switch_loss(hf) }) })
end

function olmoe.write(config)
  local layer = config.ffn[1]
  local reason = parts.other_kind(config, "moe") or parts.other_norm(config, "whole") or
    parts.odd_heads(config)
  if reason then return nil, reason end
  return { attention_bias = config.attention_bias == "all",
    clip_qkv = config.clip_qkv or core.json.null, num_experts = layer.experts,
    num_experts_per_tok = layer.router.k, norm_topk_prob = layer.router.gate == "selected",
    router_aux_loss_coef = parts.balance_coef(layer), output_router_logits = false }
end

return olmoe
