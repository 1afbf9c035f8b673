-- qwen2.lua: Qwen2 (Yang et al. 2024; Qwen2ForCausalLM): Llama with biases on queries, keys and
-- values.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local qwen2 = {
  model_type = "qwen2", architecture = "Qwen2ForCausalLM", order = 6, windowed = true,
  defaults = { vocab_size = 151936, num_key_value_heads = 32, max_position_embeddings = 32768,
    rms_norm_eps = 1e-6, rope_theta = 10000.0 },
  names = parts.names,
  gguf = { arch = "qwen2", keys = parts.gguf_keys },
}

function qwen2.read(hf)
  return options.merge(parts.read(hf), { ffn = parts.dense(hf.intermediate_size),
    attention_bias = "qkv" })
end

function qwen2.write(config)
  local reason = parts.other_kind(config, "dense") or parts.other_norm(config, "none") or
    parts.odd_heads(config)
  if reason then return nil, reason end
  return { use_sliding_window = false, sliding_window = core.json.null }
end

return qwen2
