-- router.lua: which experts a token goes to, with what weight, and the losses that keep the load
-- even. The router computes in f32. Kinds: "topk".

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local options = require("moelua.options")
local weight = require("moelua.parameter")

local router = {}
local raise = core.raise

local Router = class("Router")
router.Router = Router

local declared = {
  kind = { { "topk" }, "topk" },
  k = { "integer", 2 },
  gate = { { "selected", "all", "sigmoid" }, "selected" },  -- BTX, Mixtral; Switch; DeepSeek-V3
  -- coef * N * sum of u_e p_e, p_e the mean probability of expert e, u_e its mean gate ("btx",
  -- Sukhbaatar et al. 2024) or the share of tokens that go to it ("switch", Fedus et al. 2022).
  balance = "table",              -- { form = "btx" | "switch", coef = 0.01 }
  z_loss = { "number", 0 },       -- coefficient of mean(logsumexp^2), ST-MoE eq. 5
}
local declared_balance = { form = { { "btx", "switch" }, "btx" }, coef = { "number", 0.01 } }

--- The options of a router of `experts` experts (nil: not known yet), complete and checked.
function router.options(given, experts)
  local opts = options.check("router", given, declared)
  if opts.balance then opts.balance = options.check("router.balance", opts.balance,
    declared_balance) end
  expect(experts == nil or math.type(experts) == "integer", "router", "experts", "an integer",
    experts)
  if opts.k < 1 or experts and opts.k > experts then
    raise("router: k must be 1 to the number of experts: %d of %s", opts.k, experts or "any number")
  end
  return opts
end

--- A router of a mixture layer. given: kind, k, gate, balance, z_loss, see `declared` above.
--- where: dim, experts, and init (see parameter.lua).
function Router:init(given, where)
  expect(type(where) == "table", "router.Router", "where", "{ dim = ..., experts = ... }", where)
  expect(math.type(where.dim) == "integer" and math.type(where.experts) == "integer",
    "router.Router", "where", "{ dim = ..., experts = ... }", where)
  self.opts = router.options(given, where.experts)
  self.count = where.experts
  local init = options.merge(where.init or { std = 0.02 }, { dtype = "f32" })
  self.weight = weight(init, "weight", where.experts, where.dim)
end

--- One parameter, by the name of the router itself: layers.0.ffn.router, as checkpoints have it.
function Router:parameters(prefix)
  return { { (prefix or ""):sub(1, -2), self.weight, self, "weight" } }
end

local function add(a, b) return a and a + b or b end

-- Log-sum-exp per token [T x 1]: x - log_softmax(x) is the same in every column.
local function log_sum_exp(logits) return (logits - logits:log_softmax(-1)):narrow(2, 1, 1) end

local function auxiliary_loss(opts, logits, gates, experts)
  local loss
  if opts.balance and opts.balance.coef ~= 0 then
    loss = logits:load_balance(gates, experts, opts.balance.form) * opts.balance.coef
  end
  if opts.z_loss ~= 0 then
    local z = log_sum_exp(logits)
    loss = add(loss, (z * z):mean() * opts.z_loss)
  end
  return loss
end

local function statistics(info, logits, experts, count)
  local slots = experts:count()
  info.load = (experts:bincount(count) / slots):totable()
  local l = logits:detach()
  info.entropy = -(l:softmax(-1) * l:log_softmax(-1)):sum(-1):mean():item()
  info.dropped = 0
end

--- x [T x dim] -> gates f32 [T x k], experts i32 [T x k] counted from 0, and info: loss (a tensor,
--- or nil), and unless how.stats is false load, entropy and dropped, see nn.MoE.
function Router:route(x, how)
  expect(how == nil or type(how) == "table", "forward", "how", "a table", how)
  local logits = core.linear(x, self.weight, nil, "f32")
  local gates, experts = logits:topk_route(self.opts.k, self.opts.gate)
  local info = { loss = auxiliary_loss(self.opts, logits, gates, experts) }
  if not how or how.stats ~= false then statistics(info, logits, experts, self.count) end
  return gates, experts, info
end

return router
