-- flops.lua: the one place where compute is counted. Benchmarks, results and plans call it.
--
-- Training FLOPs per token = 6 (parameters used, without embedding) + 6 dim vocab (head)
--   + 12 layers heads head_dim context / 2 (causal attention); forward alone is a third of that.
-- A mixture layer uses k experts, the shared ones and its router; see `size` of each kind of layer.
-- A matrix that is frozen (freeze.lua) has no gradient: 4 per parameter are left of the 6.

local expect = require("moelua.expect")
local ffn = require("moelua.ffn")
local freeze = require("moelua.freeze")
local router = require("moelua.router")

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

-- Appends the matrices of an FFN with `units` hidden units as { name, multiply-adds per token }.
local function append(list, prefix, layer, dim, units)
  for _, name in ipairs({ "w1", "w2", layer.activation == "swiglu" and "w3" or nil }) do
    list[#list + 1] = { prefix .. name, dim * units }
  end
end

-- The matrices of a block in that form; those of mixtures of tokens are never counted as frozen.
local function matrices_of(config, layer, prefix)
  local dim, list, shared = config.dim, {}, layer.shared
  for _, name in ipairs({ "q", "k", "v", "o" }) do
    local heads = (name == "k" or name == "v") and config.kv_heads or config.heads
    list[#list + 1] = { prefix .. "attention." .. name, dim * heads * config.head_dim }
  end
  if layer.kind == "dense" then
    append(list, prefix .. "ffn.", layer, dim, layer.hidden)
  elseif layer.kind == "moe" then
    append(list, prefix .. "ffn.experts.", layer, dim,
      router.slots(layer.router, layer.experts) * layer.hidden)
    list[#list + 1] = { prefix .. "ffn.router",
      router.matrices(layer.router) * layer.experts * dim }
    if shared then
      append(list, prefix .. "ffn.shared.", layer, dim, shared.experts * shared.hidden)
    end
  end
  return list
end

-- Multiply-adds of a token in matrices that are frozen.
local function frozen_macs(config)
  if not config.freeze then return 0 end
  local head = config.tied and "embedding" or "head"
  local sum = freeze.holds(config.freeze, head) and config.dim * config.vocab or 0
  for i, layer in ipairs(config.ffn) do
    for _, matrix in ipairs(matrices_of(config, layer, ("layers.%d."):format(i - 1))) do
      if freeze.holds(config.freeze, matrix[1]) then sum = sum + matrix[2] end
    end
  end
  return sum
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
  local total = 6.0 * config.dim * config.vocab - 2.0 * frozen_macs(config)
  for _, layer in ipairs(config.ffn) do
    total = total + 6.0 * config.dim * (2 * wide + 2 * narrow) + flops.ffn(layer, config.dim) +
      flops.attention(wide, context)
  end
  return total
end

return flops
