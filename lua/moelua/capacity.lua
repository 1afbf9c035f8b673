-- capacity.lua: how many slots an expert takes, and what becomes of those beyond.
--
-- Papers and programs count alike by no two formulas; S is the number of tokens in the batch (or
-- sequence), N that of the experts, k that of the experts of a token, cf the capacity factor:
--
--   flaxformer   round(cf S / N), at least 4            half to even; does not know k
--   v-moe        ceil(cf S / N), up to a multiple of 4  does not know k
--   gshard       floor(cf ceil(S / N))                  cf = 2 is the paper's 2 ceil(S / N)
--   megatron     ceil(cf k S / N)                       DeepSpeed, too
--   llm-random   floor(cf k S / N)
--   st-moe       floor(cf S / N), at least 4            does not know k

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")

local capacity = {}

-- 1.1 * 100 / 10 is 11.000000000000002: what counts is the number that was meant.
local function exact(x) return tonumber(("%.12g"):format(x)) end

local function floor(x) return math.floor(exact(x)) end
local function ceil(x) return math.ceil(exact(x)) end

local function round(x)
  x = exact(x)
  local up = math.floor(x + 0.5)
  return up - x == 0.5 and up % 2 == 1 and up - 1 or up
end

local formulas = {
  flaxformer = function(cf, S, N) return math.max(round(cf * S / N), 4) end,
  ["v-moe"] = function(cf, S, N) return 4 * ceil(ceil(cf * S / N) / 4) end,
  gshard = function(cf, S, N) return floor(cf * ceil(S / N)) end,
  megatron = function(cf, S, N, k) return ceil(cf * k * S / N) end,
  ["llm-random"] = function(cf, S, N, k) return floor(cf * k * S / N) end,
  ["st-moe"] = function(cf, S, N) return math.max(floor(cf * S / N), 4) end,
}

local declared = {
  factor = { "number", 1.25 },          -- in training
  evaluation = "number",                -- outside; without, nothing is dropped there
  formula = { { "flaxformer", "v-moe", "gshard", "megatron", "llm-random", "st-moe" },
    "megatron" },
  -- Who comes first: earlier tokens; all first choices, then all second ones; larger gates.
  policy = { { "position", "choice", "probability" }, "position" },
  renormalise = { "boolean", false },   -- divide the gates of what is left by their sum
  scope = { { "batch", "sequence" }, "batch" },     -- what shares the room of an expert
}

--- The option `capacity` of a router, complete and checked: factor, evaluation, formula, policy,
--- renormalise, scope.
function capacity.options(given)
  local opts = options.check("router.capacity", given, declared)
  for _, name in ipairs({ "factor", "evaluation" }) do
    local factor = opts[name]
    if factor and not (factor > 0 and factor < math.huge) then
      core.raise("router.capacity: %s must be above 0 and finite, not %s", name, factor)
    end
  end
  return opts
end

--- The factor that holds in training or outside, nil when nothing is dropped there.
function capacity.factor(opts, train)
  if not opts then return nil end
  expect(type(opts) == "table", "capacity.factor", "opts", "what capacity.options returns", opts)
  if train then return opts.factor end
  return opts.evaluation
end

--- The traits of a router (see router.traits) when slots beyond the capacity are dropped: whether
--- one is left depends on the others that it competes with, and on later ones unless the earlier
--- token goes first.
function capacity.traits(opts, traits, train)
  if not capacity.factor(opts, train) then return traits end
  local coupled = opts.scope == "batch" and "batch" or "sequence"
  return options.merge(traits, { causal = traits.causal and opts.policy == "position",
    coupled = traits.coupled == "batch" and "batch" or coupled })
end

--- How many slots each of `experts` experts takes from `tokens` tokens with k experts each.
---@param formula string
---@param factor number
---@param tokens integer
---@param experts integer
---@param k integer
---@return integer
function capacity.limit(formula, factor, tokens, experts, k)
  local of = formulas[formula]
  expect(of, "capacity.limit", "formula", "one of capacity.lua", formula)
  for _, given in ipairs({ { "tokens", tokens }, { "experts", experts }, { "k", k } }) do
    expect(math.type(given[2]) == "integer", "capacity.limit", given[1], "an integer", given[2])
  end
  return of(factor, tokens, experts, k)
end

-- The gates of the slots that are left (1 in `left`, else 0), divided by their sum.
local function renormalised(gates, left)
  gates = gates * left
  return gates / (gates:sum(-1, true) + 1e-20)
end

-- 1 for the slots that fit, else 0. Those of tokens that do not count take no room from others, and
-- all of them are left.
local function slots_left(opts, gates, experts, limit, segments, mask)
  local wanted = mask and experts:keep_slots(mask) or experts
  local _, left = gates:capacity_route(wanted, limit, opts.policy, segments)
  return mask and left + (1 - mask:reshape(-1, 1)) or left
end

--- Leaves as many slots of a routing as fit: gates and experts [T x s] of B sequences -> the same,
--- with expert -1 where a slot is beyond the capacity of its expert. how: train, as in
--- capacity.factor, and mask, f32 [T]: what it has 0 for is not in competition.
---@param opts table? as capacity.options returns them
---@param gates moelua.Tensor
---@param experts moelua.Tensor
---@param count integer of experts
---@param B integer
---@param how { train: boolean?, mask: moelua.Tensor? }
---@return moelua.Tensor gates
---@return moelua.Tensor experts
function capacity.apply(opts, gates, experts, count, B, how)
  local factor = capacity.factor(opts, how.train)
  if not factor then return gates, experts end
  local T, s = core.size(experts, 1), core.size(experts, 2)
  local segments = opts.scope == "sequence" and B or 1
  local limit = capacity.limit(opts.formula, factor, T // segments, count, s)
  local mask = how.mask and how.mask:reshape(-1)
  local left = slots_left(opts, gates, experts, limit, segments, mask)
  return opts.renormalise and renormalised(gates, left) or gates, experts:keep_slots(left)
end

return capacity
