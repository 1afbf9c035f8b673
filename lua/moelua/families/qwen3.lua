-- qwen3.lua: Qwen3 (Yang et al. 2025; Qwen3ForCausalLM): Llama with queries and keys normed head by
-- head.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local qwen3 = {
  model_type = "qwen3", architecture = "Qwen3ForCausalLM", order = 4, windowed = true,
  defaults = { vocab_size = 151936, num_key_value_heads = 32, head_dim = 128,
    max_position_embeddings = 32768, rms_norm_eps = 1e-6, rope_theta = 10000.0,
    attention_bias = false },
  names = parts.names,
  gguf = { arch = "qwen3", keys = parts.gguf_keys, fixed = { attention_bias = false } },
}

function qwen3.read(hf)
  return options.merge(parts.read(hf), { ffn = parts.dense(hf.intermediate_size),
    qk_norm = "head", attention_bias = hf.attention_bias and "all" or "none" })
end

function qwen3.write(config)
  local reason = parts.other_kind(config, "dense") or parts.other_norm(config, "head")
  if reason then return nil, reason end
  return { attention_bias = config.attention_bias == "all", use_sliding_window = false,
    sliding_window = core.json.null }
end

return qwen3
