-- flops.lua: the one place where compute is counted. Benchmarks, results and plans call it.
--
-- Training FLOPs per token = 6 (parameters used, without embedding) + 6 dim vocab (head)
--   + 12 layers heads head_dim context / 2 (causal attention); forward alone is a third of that.
-- A mixture layer uses k experts and its router.

local expect = require("moelua.expect")

local flops = {}

local function ffn_weights(ffn, dim)
  local expert = 3 * dim * ffn.hidden
  if ffn.kind == "dense" then return expert end
  return ffn.router.k * expert + ffn.experts * dim
end

--- Training FLOPs of one token at the given context length (default: the model's). Norms and
--- lookups are not counted.
---@param config table of a model
---@param context integer?
---@return number
function flops.per_token(config, context)
  expect(type(config) == "table" and type(config.ffn) == "table", "flops.per_token", "config",
    "model.config", config)
  context = context or config.context
  expect(type(context) == "number", "flops.per_token", "context", "a number", context)
  local wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
  local weights = 0
  for _, ffn in ipairs(config.ffn) do
    weights = weights + config.dim * (2 * wide + 2 * narrow) + ffn_weights(ffn, config.dim)
  end
  local attention = 12 * config.layers * wide * context / 2
  return 6.0 * (weights + config.dim * config.vocab) + attention
end

return flops
