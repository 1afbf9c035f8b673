-- flops.lua: the one place where compute is counted. Benchmarks, results and plans call it.
--
-- Training FLOPs per token = 6 (parameters used, without embedding) + 6 dim vocab (head)
--   + 12 layers heads head_dim context / 2 (causal attention); forward alone is a third of that.
-- A mixture layer uses k experts, the shared ones and its router; see `size` of each kind of layer.

local expect = require("moelua.expect")
local ffn = require("moelua.ffn")

local flops = {}

--- Training FLOPs of one token in a feed-forward layer, on average: of the matrices that it meets.
---@param opts table options of a layer, as in a model's config
---@param dim integer
---@return number
function flops.ffn(opts, dim)
  expect(type(opts) == "table" and opts.kind, "flops.ffn", "ffn", "one of model.config.ffn", opts)
  expect(math.type(dim) == "integer", "flops.ffn", "dim", "an integer", dim)
  return 6.0 * ffn.size(ffn.options("flops.ffn", opts), dim).macs
end

--- The width of a dense layer that takes as much compute as a layer with these options.
---@param opts table options of a layer
---@param dim integer
---@return integer
function flops.dense_width(opts, dim)
  local whole = flops.ffn(opts, dim)
  local one = flops.ffn({ kind = "dense", hidden = 1, activation = opts.activation }, dim)
  return math.max(1, math.floor(whole / one + 0.5))
end

--- Training FLOPs of one token in causal attention without its projections: scores and mixing over
--- half of the context.
---@param width integer heads times head_dim
---@param context integer
---@return number
function flops.attention(width, context)
  expect(math.type(width) == "integer", "flops.attention", "width", "an integer", width)
  expect(type(context) == "number", "flops.attention", "context", "a number", context)
  return 12.0 * width * context / 2
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
  local total = 6.0 * config.dim * config.vocab
  for _, layer in ipairs(config.ffn) do
    total = total + 6.0 * config.dim * (2 * wide + 2 * narrow) + flops.ffn(layer, config.dim) +
      flops.attention(wide, context)
  end
  return total
end

return flops
