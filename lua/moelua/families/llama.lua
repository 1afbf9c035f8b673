-- llama.lua: Llama (Touvron et al. 2023; transformers' LlamaForCausalLM): dense SwiGLU layers.

local options = require("moelua.options")
local parts = require("moelua.family_parts")

local llama = {
  model_type = "llama", architecture = "LlamaForCausalLM", order = 1,
  defaults = { vocab_size = 32000, max_position_embeddings = 2048, rms_norm_eps = 1e-6,
    rope_theta = 10000.0, attention_bias = false, mlp_bias = false },
  names = parts.names,
  gguf = { arch = "llama", permuted = true, keys = parts.gguf_keys },
}

function llama.read(hf)
  return options.merge(parts.read(hf), { ffn = parts.dense(hf.intermediate_size),
    attention_bias = hf.attention_bias and "all" or "none", mlp_bias = hf.mlp_bias })
end

function llama.write(config)
  local reason = parts.other_kind(config, "dense") or parts.other_norm(config, "none")
  if reason then return nil, reason end
  return { attention_bias = config.attention_bias == "all", mlp_bias = config.mlp_bias }
end

return llama
