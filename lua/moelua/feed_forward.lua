-- feed_forward.lua: the dense feed-forward layer, and banks of experts, each of which is one.
--
-- With activation "swiglu" (Shazeer 2020) it is W2 (silu(W1 x) * W3 x), with "relu", "gelu" and
-- "silu" W2 a(W1 x), without W3.

local core = require("moelua.core")
local expect = require("moelua.expect")
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local limits = require("moelua.limits")
local options = require("moelua.options")
local weight = require("moelua.parameter")

local feed_forward = {}
local need = layer_options.need

--- Options of a dense layer in a model's configuration.
feed_forward.declared = {
  hidden = need, activation = { { "swiglu", "relu", "gelu", "silu" }, "swiglu" },
}
local activation = feed_forward.declared.activation

--- The options of a dense layer, complete.
function feed_forward.options(where, given)
  local opts = options.check(where, given, feed_forward.declared)
  limits.check(where, opts, { "hidden" })
  return opts
end

--- Numbers in one FFN of this width; a float, for they may be beyond integers.
function feed_forward.parameters(opts, dim)
  return (opts.activation == "swiglu" and 3.0 or 2.0) * dim * opts.hidden
end

--- What a dense layer holds, what a token uses of it, and its multiply-adds per token.
function feed_forward.size(opts, dim)
  expect(type(opts) == "table" and opts.hidden, "feed_forward.size", "opts", "complete", opts)
  local parameters = feed_forward.parameters(opts, dim)
  return { parameters = parameters, active = parameters, macs = parameters }
end

-- The matrices of one FFN, or of a bank of so many experts.
local function make_matrices(self, opts, experts)
  local function matrix(init, name, rows, columns)
    if experts then return weight(init, name, experts, rows, columns) end
    return weight(init, name, rows, columns)
  end
  self.activation = opts.activation
  self.w1 = matrix(opts, "w1", opts.hidden, opts.dim)
  if opts.activation == "swiglu" then self.w3 = matrix(opts, "w3", opts.hidden, opts.dim) end
  self.w2 = matrix(opts.residual, "w2", opts.dim, opts.hidden)
end

--- Dense feed-forward: W2 (silu(W1 x) * W3 x) with activation "swiglu", the default, and W2 a(W1 x)
--- with "relu", "gelu" or "silu"; w1, w3 [hidden x dim], w2 [dim x hidden]. Options: dim, hidden,
--- activation, bias (of each matrix); seed, std.
local FeedForward = layer_class("FeedForward")
feed_forward.FeedForward, feed_forward.layer = FeedForward, FeedForward
FeedForward.own = { "w1", "w3", "w2", "w1_bias", "w3_bias", "w2_bias" }

function FeedForward:init(opts)
  opts = layer_options.check("nn.FeedForward", opts, { dim = need, hidden = need,
    activation = activation, bias = { "boolean", false } })
  make_matrices(self, opts)
  for _, name in ipairs(opts.bias and { "w1", "w3", "w2" } or {}) do
    local matrix = self[name]
    self[name .. "_bias"] = matrix and core.zeros(matrix:size(1)):requires_grad()
  end
end

function FeedForward:forward(x)
  local up = x:linear(self.w1, self.w1_bias)
  up = self.w3 and up:swiglu(x:linear(self.w3, self.w3_bias)) or core[self.activation](up)
  return up:linear(self.w2, self.w2_bias)
end

--- A bank of experts, each a feed-forward layer: w1, w3 [E x hidden x dim], w2 [E x dim x hidden].
--- Options: experts, dim, hidden, activation as in nn.FeedForward; seed, std.
local Experts = layer_class("Experts", { "w1", "w3", "w2" })
feed_forward.Experts = Experts
Experts.own = { "w1", "w3", "w2" }

function Experts:init(opts)
  opts = layer_options.check("nn.Experts", opts, { experts = need, dim = need, hidden = need,
    activation = activation })
  make_matrices(self, opts, opts.experts)
end

--- x [T x dim], gates f32 and experts i32 [T x s] -> [T x dim]; expert -1 is a slot without one.
function Experts:forward(x, gates, experts)
  return core.moe_ffn(x, gates, experts, self.w1, self.w3, self.w2, self.activation)
end

return feed_forward
