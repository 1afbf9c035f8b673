-- mistral.lua: Mistral (Jiang et al. 2023; MistralForCausalLM): Llama without biases, whose
-- attention may see a window of the last positions alone. Our context is the window then: up to
-- there both are the same.

local core = require("moelua.core")
local options = require("moelua.options")
local parts = require("moelua.family_parts")

local mistral = {
  model_type = "mistral", architecture = "MistralForCausalLM", windowed = true,
  defaults = { vocab_size = 32000, num_key_value_heads = 8, max_position_embeddings = 131072,
    rms_norm_eps = 1e-6, rope_theta = 10000.0 },
  names = parts.names,
  gguf = { arch = "llama", permuted = true, keys = parts.gguf_keys },
}

function mistral.read(hf)
  return options.merge(parts.read(hf), { ffn = parts.dense(hf.intermediate_size) })
end

function mistral.write(config)
  local reason = parts.other_kind(config, "dense") or parts.other_norm(config, "none")
  if reason then return nil, reason end
  return { sliding_window = core.json.null }
end

return mistral
