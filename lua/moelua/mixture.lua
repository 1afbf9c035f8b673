-- mixture.lua: the mixture-of-experts layer: routed experts, and shared ones that every token uses.
--
--   y = shared(x) + sum over the chosen experts e of gate_e(x) expert_e(x)
--
-- Shared experts (DeepSeekMoE, Dai et al. 2024) run as one dense layer of their joint width, which
-- is the sum of them; with `gate` times sigmoid(g x) (Qwen2-MoE).
-- Fine-grained experts: with segments = m each of N standard experts is cut into m of hidden / m.
-- Of these m N, K_s are shared, and instead of K standard ones m K - K_s of the others are routed
-- to, so that parameters and compute stay the same. Complete options say what comes of it.

local core = require("moelua.core")
local feed_forward = require("moelua.feed_forward")
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local limits = require("moelua.limits")
local options = require("moelua.options")
local router = require("moelua.router")
local weight = require("moelua.parameter")
local raise = core.raise

local mixture = {}

--- Options of a mixture layer in a model's configuration.
mixture.declared = {
  hidden = layer_options.need,                -- of an expert
  experts = "integer",                        -- routed ones; with segments all standard ones
  activation = feed_forward.declared.activation,
  shared = "integer|table",                   -- how many, or { experts, hidden, gate }
  segments = "integer",                       -- cut each standard expert into so many
  router = "table",                           -- see router.lua
}
local declared_shared = { experts = layer_options.need, hidden = "integer",
  gate = { "boolean", false } }

-- ---- configuration ----------------------------------------------------------------------------

-- Options of the shared experts, whose width is that of a routed one by default; nil for none.
local function shared_options(where, given, hidden)
  if given == nil or given == 0 then return nil end
  if type(given) ~= "table" then given = { experts = given } end
  where = where .. ": shared"
  local shared = options.check(where, given, declared_shared)
  shared.hidden = shared.hidden or hidden
  limits.check(where, shared, { "experts", "hidden" })
  return shared
end

-- The width of what an expert is cut into.
local function segment_width(where, opts)
  local hidden, m = opts.hidden, opts.segments
  if hidden % m ~= 0 then
    raise("%s: experts of hidden = %d cannot be cut into %d segments", where, hidden, m)
  end
  return hidden // m
end

-- Of the segments of all standard experts and of the k of a token, those that are routed.
local function share_out(where, opts)
  local m, shared = opts.segments, opts.shared and opts.shared.experts or 0
  local routing = router.options(opts.router)
  if not routing.k then
    raise("%s: segments go with a router that chooses k experts, not with '%s'\n" ..
      "hint: give the experts and hidden that come of it", where, routing.kind)
  end
  local k = m * routing.k - shared
  if k < 1 then
    raise("%s: %d segments of k = %d are %d experts of a token, and %d are shared: none is " ..
      "left to route to", where, m, routing.k, m * routing.k, shared)
  end
  opts.experts, opts.router = m * opts.experts - shared, options.merge(routing, { k = k })
  limits.check(where, opts, { "experts" })
end

-- Every domain has one expert.
local function expert_count(where, opts)
  local domains = opts.router and opts.router.domains
  return opts.experts or type(domains) == "table" and #domains
    or raise("%s: a mixture of experts needs experts = N", where)
end

-- Checked options of a mixture become complete ones.
local function complete(where, opts)
  opts.experts = expert_count(where, opts)
  limits.check(where, opts, { "hidden", "experts", "segments" })
  if opts.segments then opts.hidden = segment_width(where, opts) end
  opts.shared = shared_options(where, opts.shared, opts.hidden)
  if opts.segments then share_out(where, opts) end
  opts.segments, opts.router = nil, router.options(opts.router, opts.experts)
  return opts
end

--- The options of a mixture layer, complete: plain data. What is complete stays as it is.
function mixture.options(where, given)
  return complete(where, options.check(where, given, mixture.declared))
end

--- What a mixture layer holds, what a token uses of it on average, and its multiply-adds per token.
function mixture.size(opts, dim)
  local expert, shared = feed_forward.parameters(opts, dim), opts.shared
  local always = router.matrices(opts.router) * 1.0 * opts.experts * dim
  if shared then
    always = always + shared.experts * feed_forward.parameters(
      { hidden = shared.hidden, activation = opts.activation }, dim) + (shared.gate and dim or 0)
  end
  local active = always + router.slots(opts.router, opts.experts) * expert
  return { parameters = always + opts.experts * expert, active = active, macs = active }
end

-- ---- the layer --------------------------------------------------------------------------------

--- A mixture layer: y, info = layer(x, how) with x [.. x dim], as a rule [B x S x dim]. Options:
--- dim, hidden (of an expert), experts, activation; router = { kind = "topk", "switch",
--- "noisy_topk", "gshard", "sample", "soft", "expert_choice", "base", "hash" or "domain", ... },
--- see router.Router; shared = K or { experts = K, hidden, gate }: experts that all tokens use;
--- segments = m: each of the experts cut into m, see mixture.lua; seed, std. `how` is explained in
--- how.lua.
--- info: loss (a tensor to add to the training loss, or nil; `rest` is what of it is no balance
--- loss, `balance` what that is made from), counts (slots per expert), load (the same as shares),
--- experts (i32 [T x s], -1 for a slot that is not used), entropy (mean entropy of softmax(logits),
--- nats), dropped (share of the slots that were beyond a capacity). Padding is left out.
--- `stats = false` leaves the figures out.
local MoE = layer_class("MoE")
mixture.MoE, mixture.layer = MoE, MoE
MoE.own = { "shared_gate" }
MoE.parts = { "router", "experts", "shared" }
MoE.stays_f32 = true

local function make_shared(self, opts)
  local shared = opts.shared
  self.shared = feed_forward.FeedForward(layer_options.inside(opts, "shared", { dim = opts.dim,
    hidden = shared.experts * shared.hidden, activation = opts.activation }))
  if shared.gate then
    self.shared_gate = weight(options.merge(opts, { dtype = "f32" }), "shared_gate", 1, opts.dim)
  end
end

function MoE:init(given)
  local opts = layer_options.check("nn.MoE", given,
    options.merge(mixture.declared, { dim = layer_options.need }))
  complete("nn.MoE", opts)
  self.dim = opts.dim
  self.router = router.Router(opts.router, { dim = opts.dim, experts = opts.experts,
    init = layer_options.inside(opts, "router", {}) })
  self.experts = feed_forward.Experts(layer_options.inside(opts, "experts",
    { experts = opts.experts, dim = opts.dim, hidden = opts.hidden,
      activation = opts.activation }))
  if opts.shared then make_shared(self, opts) end
end

-- What the shared experts make of x [T x dim].
local function shared_output(self, x)
  local y = self.shared(x)
  return self.shared_gate and y * x:linear(self.shared_gate):sigmoid() or y
end

function MoE:forward(x, how)
  local shape, dim = core.shape(x), self.dim
  if shape[#shape] ~= dim then
    raise("nn.MoE: the last dimension of x must be dim = %d: x is [%s]", dim,
      table.concat(shape, " x "))
  end
  local flat = x:reshape(-1, dim)
  local gates, experts, info = self.router:route(x, how)
  local y = self.experts(flat, gates, experts)
  if self.shared then y = shared_output(self, flat) + y end
  return y:reshape(table.unpack(shape)), info
end

return mixture
