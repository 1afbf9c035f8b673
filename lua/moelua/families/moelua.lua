-- moelua.lua: what no other family can say: kinds and numbers of experts that differ from layer to
-- layer, other routers, mixtures of tokens. The layout is that of the others; the field `ffn` lists
-- the options of each layer (ffn.lua), and attention has our options.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local moelua = {
  model_type = "moelua", architecture = "MoeluaForCausalLM", order = 100,
  defaults = { vocab_size = 32000, max_position_embeddings = 2048, rms_norm_eps = 1e-6,
    rope_theta = 10000.0 },
  names = options.merge(parts.names, {
    ["ffn.router"] = "block_sparse_moe.gate.weight",
    ["ffn.router.noise"] = "block_sparse_moe.gate_noise.weight",
    ["ffn.router.bias"] = "block_sparse_moe.gate.e_score_correction_bias",      -- DeepSeek-V3
    ["ffn.router.table"] = "block_sparse_moe.gate.table",
    ["ffn.experts.w1"] = "block_sparse_moe.experts.%d.w1.weight",
    ["ffn.experts.w3"] = "block_sparse_moe.experts.%d.w3.weight",
    ["ffn.experts.w2"] = "block_sparse_moe.experts.%d.w2.weight",
    ["ffn.shared.w1"] = "mlp.shared_experts.gate_proj.weight",                  -- DeepSeek-V2
    ["ffn.shared.w3"] = "mlp.shared_experts.up_proj.weight",
    ["ffn.shared.w2"] = "mlp.shared_experts.down_proj.weight",
    ["ffn.shared_gate"] = "mlp.shared_expert_gate.weight",                      -- Qwen2-MoE
    ["ffn.controller"] = "mlp.controller.weight",
    ["ffn.temperature"] = "mlp.temperature",
  }),
}

function moelua.read(hf)
  return options.merge(parts.read(hf), { ffn = hf.ffn, attention_bias = hf.attention_bias,
    mlp_bias = hf.mlp_bias, qk_norm = hf.qk_norm, clip_qkv = hf.clip_qkv })
end

-- Each layer has an activation of its own.
function moelua.write(config)
  return { ffn = config.ffn, hidden_act = core.json.null, attention_bias = config.attention_bias,
    mlp_bias = config.mlp_bias, qk_norm = config.qk_norm, clip_qkv = config.clip_qkv }
end

return moelua
