-- router.lua: which experts a token goes to, with what weight, and the losses that keep the load
-- even. Here is what all routers share; what makes a kind is in its file, routers/KIND.lua:
--
--   options                             declared options beside the common ones below; false
--                                       instead of a declaration: this kind has no such option
--   check(opts, experts)                refuses what cannot be; may fill in what follows (optional)
--   weight = false                      for a kind without logits
--   parameters, buffers                 names of tensors beside `weight` that are trained, or only
--                                       kept; init(router, where) makes them
--   route(router, logits, how, x)       -> gates f32, experts i32 [T x s] and perhaps
--                                       { loss = tensor, scores = probabilities [T x N] };
--                                       x is [B x S x dim], logits f32 [B S x N]
--   slots(opts, experts)                experts that a token uses on average
--   traits(opts, train)                 see router.traits
--
-- Expert -1: the slot is not used. Routers compute in f32.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local options = require("moelua.options")
local weight = require("moelua.parameter")

local router = {}

local kinds = { "topk" }

local declared = {
  kind = { kinds, "topk" },
  -- coef * N * sum of u_e p_e, p_e the mean probability of expert e, u_e its mean gate ("btx",
  -- Sukhbaatar et al. 2024) or the share of tokens that go to it ("switch", Fedus et al. 2022).
  balance = "table",              -- { form = "btx" | "switch", coef = 0.01 }
  z_loss = { "number", 0 },       -- coefficient of mean(logsumexp^2), ST-MoE eq. 5
}
local declared_balance = { form = { { "btx", "switch" }, "btx" }, coef = { "number", 0.01 } }

-- The module of a kind, whose name has been checked.
local function kind_of(name) return require("moelua.routers." .. name) end

-- The options of a kind: the common ones, with its own in their place.
local function declared_by(kind)
  local list = options.merge(declared, kind.options)
  for name, rule in pairs(list) do
    if rule == false then list[name] = nil end
  end
  return list
end

--- The options of a router of `experts` experts (nil: not known yet), complete and checked.
--- Options that are complete already stay as they are.
---@param given table?
---@param experts integer?
---@return table opts
function router.options(given, experts)
  expect(given == nil or type(given) == "table", "router", "options", "a table", given)
  expect(experts == nil or math.type(experts) == "integer", "router", "experts", "an integer",
    experts)
  local name = options.check("router", { kind = given and given.kind }, { kind = declared.kind })
  local kind = kind_of(name.kind)
  local opts = options.check("router", given, declared_by(kind))
  if opts.balance then
    opts.balance = options.check("router.balance", opts.balance, declared_balance)
  end
  if kind.check then kind.check(opts, experts) end
  return opts
end

local function check_complete(where, opts)
  expect(type(opts) == "table" and type(opts.kind) == "string", where, "opts",
    "what router.options returns", opts)
end

--- How many experts a token uses, on average over a batch: what its compute is counted by.
---@param opts table as router.options returns them
---@param experts integer
---@return number
function router.slots(opts, experts)
  check_complete("router.slots", opts)
  return kind_of(opts.kind).slots(opts, experts)
end

--- How many matrices [experts x dim] a token is multiplied with to be routed.
---@param opts table as router.options returns them
---@return integer
function router.matrices(opts)
  check_complete("router.matrices", opts)
  local kind = kind_of(opts.kind)
  return (kind.weight == false and 0 or 1) + #(kind.parameters or {})
end

--- On what else the routing of a token depends: causal (not on later positions), coupled ("no";
--- "sequence": on other positions of its sequence; "batch": on other sequences). train: in
--- training, not in evaluation.
---@param opts table as router.options returns them
---@param train boolean?
---@return { causal: boolean, coupled: "no"|"batch"|"sequence" } traits
function router.traits(opts, train)
  check_complete("router.traits", opts)
  return kind_of(opts.kind).traits(opts, train or false)
end

--- A router of a mixture layer. given: its options, see `declared` above and the files in routers/.
--- where: dim, experts, and init (see parameter.lua).
local Router = class("Router")
router.Router = Router
Router.stays_f32 = true         -- also in a model of 16 bits

function Router:init(given, where)
  expect(type(where) == "table", "router.Router", "where", "{ dim = ..., experts = ... }", where)
  expect(math.type(where.dim) == "integer" and math.type(where.experts) == "integer",
    "router.Router", "where", "{ dim = ..., experts = ... }", where)
  self.opts = router.options(given, where.experts)
  self.kind = kind_of(self.opts.kind)
  self.count, self.dim = where.experts, where.dim
  local init = options.merge(where.init or { std = 0.02 }, { dtype = "f32" })
  self.name = (init.name or "router."):sub(1, -2)
  if self.kind.weight ~= false then
    self.weight = weight(init, "weight", where.experts, where.dim)
  end
  if self.kind.init then self.kind.init(self, options.merge(where, { init = init })) end
end

local function append(list, router_, prefix, names)
  for _, name in ipairs(names or {}) do
    list[#list + 1] = { prefix .. "." .. name, router_[name], router_, name }
  end
  return list
end

--- The weight by the name of the router itself, layers.0.ffn.router, as checkpoints have it; then
--- what else its kind trains, as layers.0.ffn.router.noise.
function Router:parameters(prefix)
  prefix = (prefix or "router."):sub(1, -2)
  local list = self.weight and { { prefix, self.weight, self, "weight" } } or {}
  return append(list, self, prefix, self.kind.parameters)
end

--- What is kept without being trained, as layers.0.ffn.router.bias.
function Router:buffers(prefix)
  return append({}, self, (prefix or "router."):sub(1, -2), self.kind.buffers)
end

--- Random numbers for one use, as "jitter": core.rand ("rand") or core.randn ("randn") of that
--- shape. When how tells the step or a seed they come from a stream that is named after router,
--- step, micro-batch and use, so that they are the same after a resume and in any order of layers;
--- otherwise from moe.manual_seed. Those of a token do not depend on how many tokens follow.
---@param law "rand"|"randn"
---@param use string
---@param how table
---@param ... integer sizes, the tokens first
---@return moelua.Tensor
function Router:noise(law, use, how, ...)
  expect(law == "rand" or law == "randn", "noise", "law", "\"rand\" or \"randn\"", law)
  expect(type(use) == "string", "noise", "use", "a name", use)
  expect(type(how) == "table", "noise", "how", "a table", how)
  if not (how.step or how.seed) then return core[law](...) end
  local sizes = { ... }
  sizes[#sizes + 1] = { seed = how.seed or 1, stream = ("router.%s.%d.%d.%s"):format(self.name,
    how.step or 0, how.micro or 0, use) }
  return core[law](table.unpack(sizes))
end

local function add(a, b) return a and a + b or b end

-- Log-sum-exp per token [T x 1]: x - log_softmax(x) is the same in every column.
local function log_sum_exp(logits) return (logits - logits:log_softmax(-1)):narrow(2, 1, 1) end

local function auxiliary_loss(opts, logits, gates, experts)
  local loss
  if opts.balance and opts.balance.coef ~= 0 then
    local u, p = logits:softmax(-1):routing_shares(gates, experts, opts.balance.form)
    loss = (u * p):sum() * (opts.balance.coef * p:size(2))
  end
  if logits and opts.z_loss ~= 0 then
    local z = log_sum_exp(logits)
    loss = add(loss, (z * z):mean() * opts.z_loss)
  end
  return loss
end

local function statistics(info, logits, experts, count)
  local counts = experts:bincount(count)
  info.load = (counts / math.max(counts:sum():item(), 1)):totable()
  local l = logits and logits:detach()
  info.entropy = l and -(l:softmax(-1) * l:log_softmax(-1)):sum(-1):mean():item() or 0
  info.dropped = 0
end

-- x [.. x dim] as [B x S x dim]; rows without an order in sequences are one sequence.
local function by_sequence(x, dim)
  local shape, B = core.shape(x), 1
  if shape[#shape] ~= dim then
    core.raise("router: the last dimension of x must be dim = %d: x is [%s]", dim,
      table.concat(shape, " x "))
  end
  for i = 1, #shape - 2 do B = B * shape[i] end
  return x:reshape(B, #shape > 1 and shape[#shape - 1] or 1, dim)
end

--- x [.. x dim], as a rule [B x S x dim] -> gates f32 [T x s], experts i32 [T x s] counted from 0,
--- -1 where a slot is not used, and info: loss (a tensor, or nil), and unless how.stats is false
--- load, entropy and dropped, see nn.MoE.
function Router:route(x, how)
  expect(how == nil or type(how) == "table", "forward", "how", "a table", how)
  how, x = how or {}, by_sequence(x, self.dim)
  local logits = self.weight
    and core.linear(x:reshape(-1, self.dim), self.weight, nil, "f32") or nil
  local gates, experts, extra = self.kind.route(self, logits, how, x)
  local info = { loss = add(extra and extra.loss, auxiliary_loss(self.opts, logits, gates,
    experts)) }
  if how.stats ~= false then statistics(info, logits, experts, self.count) end
  return gates, experts, info
end

return router
