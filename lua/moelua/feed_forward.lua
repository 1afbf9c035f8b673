-- feed_forward.lua: the feed-forward layer, and banks of experts, each of which is one.

local core = require("moelua.core")
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local weight = require("moelua.parameter")

local feed_forward = {}
local need = layer_options.need

--- Dense SwiGLU feed-forward (Shazeer 2020): W2 (silu(W1 x) * W3 x); w1, w3 [hidden x dim],
--- w2 [dim x hidden].
local FeedForward = layer_class("FeedForward")
feed_forward.FeedForward = FeedForward
FeedForward.own = { "w1", "w3", "w2" }

function FeedForward:init(opts)
  opts = layer_options.check("nn.FeedForward", opts, { dim = need, hidden = need })
  self.w1 = weight(opts, "w1", opts.hidden, opts.dim)
  self.w3 = weight(opts, "w3", opts.hidden, opts.dim)
  self.w2 = weight(opts.residual, "w2", opts.dim, opts.hidden)
end

function FeedForward:forward(x)
  return x:linear(self.w1):swiglu(x:linear(self.w3)):linear(self.w2)
end

--- A bank of SwiGLU experts: w1, w3 [E x hidden x dim], w2 [E x dim x hidden].
local Experts = layer_class("Experts")
feed_forward.Experts = Experts
Experts.own = { "w1", "w3", "w2" }

function Experts:init(opts)
  opts = layer_options.check("nn.Experts", opts, { experts = need, dim = need, hidden = need })
  local E = opts.experts
  self.w1 = weight(opts, "w1", E, opts.hidden, opts.dim)
  self.w3 = weight(opts, "w3", E, opts.hidden, opts.dim)
  self.w2 = weight(opts.residual, "w2", E, opts.dim, opts.hidden)
end

-- x [T x dim], gates and experts [T x k] -> [T x dim]
function Experts:forward(x, gates, experts)
  return core.moe_ffn(x, gates, experts, self.w1, self.w3, self.w2)
end

return feed_forward
