-- mixture.lua: the mixture-of-experts layer.

local core = require("moelua.core")
local feed_forward = require("moelua.feed_forward")
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local router = require("moelua.router")

local need = layer_options.need

--- A mixture layer: y, info = layer(x) with x [.. x dim]. Options: dim, hidden (of an expert),
--- experts, router = { kind, k, gate, balance, z_loss }, see router.lua; seed, std.
--- info: loss (a tensor to add to the training loss, or nil), load (share of routed slots per
--- expert), entropy (mean entropy of softmax(logits), nats), dropped (share of slots; dropless: 0).
--- `stats = false` leaves the figures out.
local MoE = layer_class("MoE")
MoE.parts = { "router", "experts" }

function MoE:init(opts)
  opts = layer_options.check("nn.MoE", opts, { dim = need, hidden = need, experts = need,
    shared = { "integer", 0 }, router = "table" })
  if opts.shared ~= 0 then
    core.raise("nn.MoE: shared = %s: this layer has routed experts only\n" ..
      "hint: leave shared out, or set it to 0", tostring(opts.shared))
  end
  self.router = router.Router(opts.router or {}, { dim = opts.dim, experts = opts.experts,
    init = layer_options.inside(opts, "router", {}) })
  self.experts = feed_forward.Experts(layer_options.inside(opts, "experts",
    { experts = opts.experts, dim = opts.dim, hidden = opts.hidden }))
end

function MoE:forward(x, how)
  local shape, dim = core.shape(x), self.router.dim
  if shape[#shape] ~= dim then
    core.raise("nn.MoE: the last dimension of x must be dim = %d: x is [%s]", dim,
      table.concat(shape, " x "))
  end
  local gates, experts, info = self.router:route(x, how)
  return self.experts(x:reshape(-1, dim), gates, experts):reshape(table.unpack(shape)), info
end

return MoE
