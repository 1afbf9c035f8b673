-- router.lua: which experts a token goes to, with what weight, and the losses that keep the load
-- even. Here is what all routers share:
--
--   l = W (x * jitter)                      logits, in f32 whatever the precision
--   gates, experts = route(l)               what makes a kind, in its file routers/KIND.lua
--   loss = balance + z-loss + the kind's own
--   experts = capacity(experts)             see capacity.lua
--   gates = scale * gates
--
-- Expert -1: the slot is not used. A file of a kind returns a table of
--
--   options                          its declared options beside the common ones below; false in
--                                    place of a declaration: this kind has no such option
--   check(opts, experts)             refuses what cannot be; may fill in what follows
--   remedy(opts)                     where every gate is 1 whatever the logits are, and no loss of
--                                    the kind's own reaches the router: what to do about it
--   for_layer(opts, is_first)        -> the options of a layer, where they depend on its place
--   weight = false                   for a kind without logits
--   init_scale                       the weight begins with so many times its std
--   parameters, buffers              names of tensors beside `weight` that are trained, or only
--                                    kept; init(router, where) makes them
--   route(router, logits, how, x)    -> gates f32, experts i32 [T x s] and perhaps
--                                    { loss = tensor, scores = probabilities [T x N] };
--                                    x is [B x S x dim], logits f32 [B S x N], how that of how.lua
--   after_step(router)               after each step of the optimizer
--   slots(opts, experts)             experts that a token uses on average
--   traits(opts, train)              as router.traits, before anything is dropped
--
-- of which options, route, slots and traits are always there.

local core = require("moelua.core")
local balance = require("moelua.balance")
local capacity = require("moelua.capacity")
local class = require("moelua.class")
local expect = require("moelua.expect")
local check_how = require("moelua.how").check
local join_rows = require("moelua.rows").join
local options = require("moelua.options")
local weight = require("moelua.parameter")

local router = {}

--- The names of all kinds.
router.kinds = { "topk", "switch", "noisy_topk", "gshard", "sample", "soft", "expert_choice",
  "base", "hash", "domain" }

local declared = {
  kind = { router.kinds, "topk" },
  balance = "table|boolean",      -- { form, coef, ... }, see balance.lua; false: none
  z_loss = { "number", 0 },       -- coefficient of mean(logsumexp(l)^2), ST-MoE eq. 5
  jitter = "number",              -- eps: the router's input times U(1 - eps, 1 + eps) in training
  capacity = "table|boolean",     -- { factor, ... }, see capacity.lua; without: dropless
  scale = "number",               -- factor of all gates (DeepSeek-V3: 2.5)
}

-- ---- options ------------------------------------------------------------------------------------

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

local function check_range(opts, name, least, below)
  local value = opts[name]
  if value and not (value >= least and value < below) then
    core.raise("router: %s must be at least %s and %s, not %s", name, least,
      below == math.huge and "finite" or "below " .. below, value)
  end
end

--- The options of a router of `experts` experts (nil: not known yet), complete and checked.
--- Options that are complete already stay as they are.
---@param given table?
---@param experts integer?
---@return table opts
function router.options(given, experts)
  expect(experts == nil or math.type(experts) == "integer", "router", "experts", "an integer",
    experts)
  local name = type(given) == "table" and given.kind or nil
  local kind = kind_of(options.check("router", { kind = name }, { kind = declared.kind }).kind)
  local opts = options.check("router", given, declared_by(kind))
  check_range(opts, "z_loss", 0, math.huge)
  check_range(opts, "jitter", 0, 1)
  check_range(opts, "scale", 0, math.huge)
  opts.balance = opts.balance and balance.options(opts.balance, experts)
  opts.capacity = opts.capacity and capacity.options(opts.capacity)
  if kind.check then kind.check(opts, experts) end
  return opts
end

local function check_complete(where, opts)
  expect(type(opts) == "table" and type(opts.kind) == "string", where, "opts",
    "what router.options returns", opts)
end

--- The options of one layer's router: those of a whole model, where the kind treats the first
--- mixture layer in a way of its own.
---@param opts table as router.options returns them
---@param is_first boolean of the mixture layers of the model
---@return table opts
function router.for_layer(opts, is_first)
  check_complete("router.for_layer", opts)
  local kind = kind_of(opts.kind)
  return kind.for_layer and kind.for_layer(opts, is_first) or opts
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

--- On what else the output of a token depends, in training or in evaluation. causal: not on later
--- positions of its sequence. coupled: "no"; "sequence", on the other positions; "batch", on other
--- sequences as well.
---@param opts table as router.options returns them
---@param train boolean?
---@return { causal: boolean, coupled: "no"|"sequence"|"batch" } traits
function router.traits(opts, train)
  check_complete("router.traits", opts)
  local kind = kind_of(opts.kind)
  return capacity.traits(opts.capacity, kind.traits(opts, train or false), train or false)
end

local function reaches(coef) return coef ~= nil and coef ~= 0 end

-- Does a loss that all kinds share reach the router?
local function has_loss(opts)
  local even = opts.balance
  return reaches(opts.z_loss) or even and (reaches(even.coef) or reaches(even.expert_coef))
end

-- What to do about a token's only gate that is always 1; nil where gates depend on the logits.
local function remedy(opts)
  local kind = kind_of(opts.kind)
  if opts.capacity and opts.capacity.renormalise and kind.slots(opts, math.huge) == 1 then
    return "capacity = { renormalise = false }"
  end
  return kind.remedy and kind.remedy(opts)
end

--- Raises when a router of these options has nothing to learn from: its gates are constant and no
--- loss reaches it. For the start of a training; such a model can still be used.
---@param opts table as router.options returns them
function router.check_trainable(opts)
  check_complete("router.check_trainable", opts)
  local hint = remedy(opts)
  if not hint or has_loss(opts) then return end
  core.raise("router: the only gate of a token is 1 whatever the logits are: the router gets no " ..
    "gradient and cannot learn\nhint: %s; or a balance loss or z_loss, which reach it", hint)
end

-- ---- the router ---------------------------------------------------------------------------------

--- A router of a mixture layer. where: dim, experts, and init (see parameter.lua). given: its kind,
--- with the options of that kind, and of all kinds
---   balance   { form, coef, scope, reduce }, a loss for an even load, see balance.lua; false: none
---   z_loss    coefficient of the mean of logsumexp(l)^2
---   jitter    eps: in training the router sees x times U(1 - eps, 1 + eps)
---   capacity  { factor, evaluation, formula, policy, renormalise, scope }, see capacity.lua;
---             without it no slot is ever dropped
---   scale     factor of all gates
--- where they make sense. The kinds, each explained in routers/KIND.lua, with the settings of its
--- paper as defaults:
---   topk           the k largest logits; gate = "selected", "all" or "sigmoid"; bias = { rate };
---                  skip
---   switch         the largest logit, gate p, capacity 1.25
---   noisy_topk     top-k with learned noise; k, variant, noise, importance, load
---   gshard         top-2, the second by chance; second, threshold, evaluation
---   sample         one expert, drawn; temperature, first, inference
---   soft           all experts, by softmax
---   expert_choice  experts choose tokens; factor, over
---   base           one expert, all equally loaded in training
---   hash           by token id; k, by, seed, vocab
---   domain         by the label of the text; domains
local Router = class.userdata("Router", { "weight", "noise", "bias", "table", "counts" })
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
  init.std = init.std * (self.kind.init_scale or 1)
  self.name = (init.name or "router."):sub(1, -2)
  if self.kind.weight ~= false then
    self.weight = weight(init, "weight", where.experts, where.dim)
  end
  if self.kind.init then self.kind.init(self, options.merge(where, { init = init })) end
end

-- Those of the named tensors that this router has.
local function append(list, owner, prefix, names)
  for _, name in ipairs(names or {}) do
    if owner[name] then list[#list + 1] = { prefix .. "." .. name, owner[name], owner, name } end
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

--- On what else an output depends, see router.traits.
function Router:traits(train) return router.traits(self.opts, train) end

--- What follows a step of the optimizer: a bias moves.
function Router:after_step()
  if self.kind.after_step then self.kind.after_step(self) end
end

-- The numbers of equally long sequences, one after the other.
local function draw_apart(self, law, use, draws, tokens, ...)
  local parts = {}
  for b, own in ipairs(draws) do parts[b] = self:draw(law, use, own, tokens // #draws, ...) end
  return join_rows(parts)
end

--- Random numbers for one use, as "jitter": core.rand ("rand") or core.randn ("randn") of that
--- shape. When how tells the step or a seed they come from a stream that is named after router,
--- step, micro-batch and use, so that they are the same after a resume and in any order of layers;
--- otherwise from moe.manual_seed. Those of a token do not depend on how many tokens follow. With
--- how.draws each sequence has numbers of its own, whatever others there are.
---@param law "rand"|"randn"
---@param use string
---@param how table
---@param ... integer sizes, the tokens first
---@return moelua.Tensor
function Router:draw(law, use, how, ...)
  expect(law == "rand" or law == "randn", "draw", "law", "\"rand\" or \"randn\"", law)
  expect(type(use) == "string", "draw", "use", "a name", use)
  expect(type(how) == "table", "draw", "how", "a table", how)
  if how.draws then return draw_apart(self, law, use, how.draws, ...) end
  if not (how.step or how.seed) then return core[law](...) end
  local sizes = { ... }
  sizes[#sizes + 1] = { seed = how.seed or 1, stream = ("router.%s.%d.%d.%s"):format(self.name,
    how.step or 0, how.micro or 0, use) }
  return core[law](table.unpack(sizes))
end

-- ---- routing ------------------------------------------------------------------------------------

-- x [.. x dim] as [B x S x dim], and B; rows without an order in sequences are one sequence.
local function by_sequence(x, dim)
  local shape, B = core.shape(x), 1
  if shape[#shape] ~= dim then
    core.raise("router: the last dimension of x must be dim = %d: x is [%s]", dim,
      table.concat(shape, " x "))
  end
  if #shape == 3 then return x, shape[1] end
  for i = 1, #shape - 2 do B = B * shape[i] end
  return x:reshape(B, #shape > 1 and shape[#shape - 1] or 1, dim), B
end

-- Multiplicative noise on what the router sees, and only there (Fedus et al. 2021, section 2.4).
local function jittered(self, x, how)
  local eps = self.opts.jitter or 0
  if eps == 0 or not how.train then return x end
  return x * (self:draw("rand", "jitter", how, table.unpack(x:shape())) * (2 * eps) + (1 - eps))
end

local function logits_of(self, x, how)
  if not self.weight then return nil end
  return core.linear(jittered(self, x, how):reshape(-1, self.dim), self.weight, nil, "f32")
end

local function add(a, b) return a and b and a + b or a or b end

-- The losses of a routing, before anything is dropped: loss, of which `rest` is all but the balance
-- loss, and the shares that this one is made from.
local function losses(opts, logits, gates, experts, extra, how, B)
  local rest, even, shares = extra.loss, nil, nil
  if reaches(opts.z_loss) then
    rest = add(rest, balance.z_loss(logits, how.mask) * opts.z_loss)
  end
  if opts.balance then
    even, shares = balance.loss(opts.balance, extra.scores or logits:softmax(-1), gates, experts,
      { segments = B, mask = how.mask, shares = how.shares })
  end
  return { loss = add(rest, even), rest = rest, balance = shares }
end

-- How often each expert is used by tokens that count.
local function counts(experts, count, mask)
  return (mask and experts:keep_slots(mask) or experts):bincount(count)
end

-- Mean entropy of softmax(l), over the tokens that count.
local function entropy(logits, mask)
  local l = logits:detach()
  local h = -(l:softmax(-1) * l:log_softmax(-1)):sum(-1)
  if not mask then return h:sum():item() / math.max(h:count(), 1) end
  return (h * mask):sum():item() / math.max(mask:sum():item(), 1)
end

-- What is told about a routing: chosen as the router said, experts as the capacity left them.
local function statistics(info, self, logits, chosen, experts, how)
  local _ <close> = core.scope()
  local mask = how.mask and how.mask:reshape(-1)
  local used = counts(experts, self.count, mask)
  local slots = used:sum():item()
  local wanted = chosen == experts and slots or counts(chosen, self.count, mask):sum():item()
  info.experts = experts
  info.counts = used:to("i32"):totable()
  info.load = (used / math.max(slots, 1)):totable()
  info.dropped = 1 - slots / math.max(wanted, 1)
  info.entropy = logits and entropy(logits, mask) or 0
end

--- x [.. x dim], as a rule [B x S x dim] -> gates f32 [T x s], experts i32 [T x s] counted from 0,
--- -1 where a slot is not used, and info: unless how.losses is false, loss (a tensor, or nil; of
--- which `rest` is all but the balance loss, and `balance` the shares which that is made from), and
--- unless how.stats is false load, counts, experts, entropy and dropped, see nn.MoE.
function Router:route(x, how)
  check_how("forward", how)
  how = how or {}
  local opts, info, B = self.opts, {}
  x, B = by_sequence(x, self.dim)
  local logits = logits_of(self, x, how)
  local gates, chosen, extra = self.kind.route(self, logits, how, x)
  if how.losses ~= false then
    info = losses(opts, logits, gates, chosen, extra or {}, how, B)
  end
  local left, experts = capacity.apply(opts.capacity, gates, chosen, self.count, B, how)
  if how.stats ~= false then statistics(info, self, logits, chosen, experts, how) end
  return opts.scale and left * opts.scale or left, experts, info
end

return router
