-- comparison.lua: arms of a study that are compared over several seeds.
--
--   local arms = study:compare { steps = 400, tuning_steps = 100, rates = { 2e-3, 4e-3, 8e-3 },
--     training = { batch = 32 } }
--   arms:add("dense", function(seed) return moe.model.new { ..., seed = seed } end)
--   arms:add("switch", function(seed) return moe.model.new { ..., seed = seed } end)
--   arms:beats("switch", "dense")                    -- a claim about bits per byte
--   arms:lower("cv", "switch", "switch, no balance") -- a claim about the routing
--   arms:reach("dense")                              -- how soon each has the loss of "dense"
--
-- Every arm is trained once per seed. Arms are paired by seed: the same text in the same order, the
-- same windows to evaluate on; so claims are about differences per seed, with their t-interval.
-- All arms get the training FLOPs of the first one: `steps` are its steps, those of the others
-- follow. Each has a learning rate of its own: the best of the same short runs on the validation
-- split, with a seed that is used for nothing else; what they cost is shown.
--
-- Stages are run folders: ARM/rate-0.002 for each rate, ARM/seed-1 for each seed. An arm whose
-- model sees later text is listed apart: its loss is no prediction, and ranks nowhere.

local core = require("moelua.core")
local class = require("moelua.class")
local cost_of = require("moelua.cost")
local expect = require("moelua.expect")
local flops = require("moelua.flops")
local options = require("moelua.options")
local run = require("moelua.run")
local statistics = require("moelua.statistics")
local raise = core.raise

local Comparison = class("Comparison")

local declared = {
  steps = { "integer", required = true },   -- of the first arm
  rates = { "table", required = true },     -- peak learning rates, from which each arm gets one
  tuning_steps = "integer",                 -- of the run for each rate; default: a quarter
  training = { "table", {} },               -- options of moe.train that all runs share
  points = { "integer", 0 },                -- validations in each run, for reach()
}

local TUNING_SEED = 1000          -- beyond the seed of the study: apart from those of the arms
local CONVERTED = "-converted"    -- the stage of a model that was converted on the way

function Comparison:init(study, given)
  local opts = options.check("study:compare", given, declared)
  expect(#opts.rates > 0, "study:compare", "rates", "a list of learning rates", opts.rates)
  self.study, self.opts, self.arms, self.by_name = study, opts, {}, {}
  self.rates = study.opt.lr and { study.opt.lr } or opts.rates
  self.tuning_share = (opts.tuning_steps or math.max(1, opts.steps // 4)) / opts.steps
  self.training = options.merge({ data = study.domains, batch = study.opt.batch or 32 },
    opts.training)
  self.seeds = {}
  for i = 1, study.opt.seeds or 3 do self.seeds[i] = study.opt.seed + i - 1 end
end

-- ---- training ---------------------------------------------------------------------------------

-- The steps in which a model spends `share` of the FLOPs of a run.
local function steps_of(self, model, share)
  local context = self.training.context or self.study.opt.context or model.config.context
  local per_step = self.training.batch * context * flops.per_token(model.config, context)
  self.budget = self.budget or self.opts.steps * per_step
  return math.max(1, math.floor(share * self.budget / per_step + 0.5))
end

-- Trains a model for `share` of a run; returns what that cost.
local function train(self, stage, model, seed, lr, share, points)
  local steps = steps_of(self, model, share)
  return self.study:stage(stage, model, options.merge(self.training, { steps = steps, lr = lr,
    seed = seed, eval_every = points > 0 and math.max(1, steps // points) or 0 }))
end

-- What a run and its continuation cost together, and the loss curve of both.
local function continued(cost, more)
  local curve = table.move(cost.curve, 1, #cost.curve, 1, {})
  for _, point in ipairs(more.curve) do curve[#curve + 1] = { point[1] + cost.tokens, point[2] } end
  local both = options.merge(more, cost_of.sum(cost, more))
  return options.merge(both, { steps = cost.steps + more.steps, curve = curve })
end

-- One model of an arm; `share` of a whole run. Returns it and its cost. One that is converted on
-- the way goes on with other text than it began with.
local function train_one(self, arm, stage, seed, lr, share, points)
  local model = arm.make(seed)
  local convert = arm.options.convert
  local cost = train(self, stage, model, seed, lr, share * (convert and arm.options.at or 1),
    points)
  if not convert then return model, cost end
  model = convert(model)
  local more = train(self, stage .. CONVERTED, model, seed + TUNING_SEED, lr,
    share * (1 - arm.options.at), points)
  return model, continued(cost, more)
end

-- The validation loss of a short run with a rate, infinite when it diverges; and its cost.
local function try_rate(self, arm, lr)
  local ok, model, cost = pcall(train_one, self, arm, ("%s/rate-%g"):format(arm.folder, lr),
    self.study.opt.seed + TUNING_SEED, lr, self.tuning_share, 1)
  if ok then return cost.validation[#cost.validation][2], cost end
  if type(model) ~= "table" or model.code ~= "diverged" then error(model, 0) end
  return math.huge, nil
end

-- The rate of an arm, and what each promised if there are several.
local function tune(self, arm)
  arm.rate, arm.tuning = self.rates[1], cost_of.sum()
  if #self.rates == 1 then return end
  local best = math.huge
  arm.rates = {}
  for i, lr in ipairs(self.rates) do
    local loss, cost = try_rate(self, arm, lr)
    arm.rates[i] = { rate = lr, validation = loss < math.huge and loss or "diverged" }
    if cost then arm.tuning = cost_of.sum(arm.tuning, cost) end
    if loss < best then arm.rate, best = lr, loss end
  end
  if best == math.huge then
    run.fail(("%s: '%s' diverged with every rate\nhint: --lr X, a lower one"):format(
      self.study.parts.recipe, arm.name), "diverged")
  end
  self.study:say("%s: rate %g", arm.name, arm.rate)
end

-- ---- figures ----------------------------------------------------------------------------------

local ROUTING = { "max_over_mean", "cv", "dropped", "dead", "mutual_information", "entropy" }

-- Means over the mixture layers, each with the same weight; empty for a dense model.
local function routing_figures(layers)
  local sums, count = {}, 0
  for _, layer in ipairs(layers or {}) do
    if layer then
      count = count + 1
      for _, name in ipairs(ROUTING) do sums[name] = (sums[name] or 0) + (layer[name] or 0) end
    end
  end
  for name, sum in pairs(sums) do sums[name] = sum / count end
  return sums
end

-- What one seed of an arm shows.
local function record(self, arm, seed, model, cost)
  local result = self.study:measure(("%s, seed %d"):format(arm.name, seed), model,
    { group = self.training.group })
  arm.parameters, arm.active = model:count()
  arm.causal, arm.coupled = result.causal ~= false, result.coupled
  local entry = routing_figures(result.statistics)
  arm.seeds[#arm.seeds + 1] = options.merge(entry, { seed = seed, metric = result.metric,
    mean = result.mean, tokens = cost.tokens, flops = cost.flops, seconds = cost.seconds,
    steps = cost.steps, validation = cost.validation,
    training_cv = cost.routing and cost.routing.cv_max,
    training_dropped = cost.routing and cost.routing.dropped })
  arm.result = arm.result or result
end

-- One figure of an arm, seed by seed.
local function values(arm, name)
  local list = {}
  for i, entry in ipairs(arm.seeds) do list[i] = entry[name] end
  return list
end

-- Means over the seeds in the fields that every arm of a study has, and the intervals.
local function summarise(self, arm)
  arm.metric = {}
  for _, domain in ipairs(self.study.names) do
    local list = {}
    for i, entry in ipairs(arm.seeds) do list[i] = entry.metric[domain] end
    arm.metric[domain] = statistics.mean(list)
  end
  local mean = statistics.interval(values(arm, "mean"))
  arm.mean, arm.interval = mean.mean, mean.half
  local before = arm.options and arm.options.before or {}
  for _, name in ipairs { "tokens", "flops", "seconds" } do
    arm[name] = statistics.mean(values(arm, name)) + (before[name] or 0)
  end
  for _, name in ipairs { "training_cv", "training_dropped", table.unpack(ROUTING) } do
    local list = values(arm, name)
    if #list == #arm.seeds then arm[name] = statistics.interval(list) end
  end
end

-- ---- arms -------------------------------------------------------------------------------------

-- "top-2, no balance" as the name of a folder.
local function folder_name(name)
  return (name:lower():gsub("[^%w.]+", "-"):gsub("^%-", ""):gsub("%-$", ""))
end

local function new_arm(self, name, fields)
  expect(type(name) == "string", "add", "name", "the name of an arm", name)
  local folder = folder_name(name)
  for _, other in ipairs(self.arms) do
    if other.folder == folder then raise("add: there is an arm '%s' already", other.name) end
  end
  local arm = options.merge({ name = name, folder = folder, seeds = {} }, fields)
  self.arms[#self.arms + 1], self.by_name[name] = arm, arm
  return arm
end

local function stage_of(arm, seed) return ("%s/seed-%d"):format(arm.folder, seed) end

-- The model of an arm as it was trained for a seed.
local function trained(self, arm, seed)
  if not arm.make then raise("compare: '%s' was not trained, but derived", arm.name) end
  local convert = arm.options.convert
  return self.study:trained(stage_of(arm, seed) .. (convert and CONVERTED or ""), function()
    local model = arm.make(seed)
    return convert and convert(model) or model
  end)
end

-- What is written to results.json and shown; the rest of an arm is how it came to be.
local SHOWN = { "name", "seeds", "rate", "rates", "tuning", "metric", "mean", "interval", "tokens",
  "flops", "seconds", "parameters", "active", "causal", "coupled", "training_cv",
  "training_dropped", table.unpack(ROUTING) }

local function publish(self, arm)
  summarise(self, arm)
  arm.entry = {}
  for _, field in ipairs(SHOWN) do arm.entry[field] = arm[field] end
  self.study:enter(arm.entry, arm.causal)
  return arm.result
end

--- Tunes and trains an arm and evaluates its models. `make(seed)` returns a new model. Options:
--- convert = function(model) -> model, which is called after the share `at` of each run (0.9) and
--- whose result is trained for the rest; before = what it cost to make what `make` begins with,
--- which counts for the table alone. Returns the evaluation of the first seed's model.
function Comparison:add(name, make, given)
  expect(type(make) == "function", "add", "make", "a function of the seed", make)
  local opts = options.check("add", given, { convert = "function", at = { "number", 0.9 },
    before = "table" })
  local arm = new_arm(self, name, { make = make, options = opts, races = not opts.convert })
  tune(self, arm)
  for _, seed in ipairs(self.seeds) do
    local model, cost = train_one(self, arm, stage_of(arm, seed), seed, arm.rate, 1,
      self.opts.points)
    if seed == self.seeds[1] then self.study:curve(name, cost.curve) end
    record(self, arm, seed, model, cost)
  end
  return publish(self, arm)
end

--- An arm that is trained no further: change(model) makes each of its models from one of the arm
--- `base`.
function Comparison:derive(name, base, change)
  local from = self:find(base)
  local arm = new_arm(self, name, { rate = from.rate, tuning = from.tuning })
  for i, seed in ipairs(self.seeds) do
    record(self, arm, seed, change(trained(self, from, seed)), from.seeds[i])
  end
  return publish(self, arm)
end

--- The model of an arm for the first seed, as it was trained.
function Comparison:model(name) return trained(self, self:find(name), self.seeds[1]) end

function Comparison:find(name)
  return self.by_name[name] or raise("compare: there is no arm '%s'", tostring(name))
end

-- ---- claims -----------------------------------------------------------------------------------

local function seeds_text(n) return n == 1 and "1 seed" or ("%d seeds"):format(n) end

-- Claims that a figure of arm `a` is below that of `b`.
local function claim_below(self, text, figure, unit, a, b)
  local list, other = values(self:find(a), figure), values(self:find(b), figure)
  if #list < #self.seeds or #other < #self.seeds then
    raise("compare: '%s' was not measured for both '%s' and '%s'", figure, a, b)
  end
  local difference = statistics.paired(list, other)
  self.study:claim(text:format(a, b), statistics.below_zero(difference), "%s%s (%s)",
    statistics.text(difference, "%+.3f"), unit, seeds_text(#self.seeds))
end

--- Claims that an arm has fewer bits per byte than another, by the differences per seed. Against an
--- arm that sees later text nothing is resolved.
function Comparison:beats(a, b)
  for _, name in ipairs { a, b } do
    if not self:find(name).causal then
      return self.study:claim(("%s beats %s"):format(a, b), nil,
        "'%s' sees later text: its loss is not compared", name)
    end
  end
  claim_below(self, "%s beats %s", "mean", " bits per byte", a, b)
end

local figure_names = { cv = "coefficient of variation of the load", entropy = "router entropy",
  max_over_mean = "largest load over the mean",
  dropped = "share of dropped slots", dead = "share of dead experts",
  mutual_information = "mutual information of experts and domains" }

--- Claims that a figure of the routing on held-out text is lower in arm `a` than in `b`.
function Comparison:lower(figure, a, b)
  expect(figure_names[figure], "lower", "figure", "one of the figures of an arm", figure)
  claim_below(self, "%s has a lower " .. figure_names[figure] .. " than %s", figure, "", a, b)
end

--- Claims that in training the load of an arm was exactly even in every step that was logged.
function Comparison:balanced(name)
  local most = 0
  for _, cv in ipairs(values(self:find(name), "training_cv")) do most = math.max(most, cv) end
  self.study:claim(("%s is exactly balanced in training"):format(name), most < 1e-6,
    "coefficient of variation of the load at most %.2g", most)
end

-- ---- how soon ---------------------------------------------------------------------------------

-- The step at which a run first had the loss, between two measurements on the line between them;
-- nil when it never had.
local function crossing(curve, target)
  for i, point in ipairs(curve) do
    if point[2] <= target then
      local before = curve[i - 1]
      if not before then return point[1] end
      local part = (before[2] - target) / (before[2] - point[2])
      return before[1] + part * (point[1] - before[1])
    end
  end
end

-- What one seed of an arm needed to come to the last loss of the reference, as shares of what the
-- reference needed: { steps, flops, seconds }, nil when it never came there.
local function ratios(entry, reference)
  local last = reference.validation[#reference.validation]
  local step = crossing(entry.validation, last[2])
  if not step then return nil end
  local ratio, result = step / last[1], {}
  for _, field in ipairs { "steps", "flops", "seconds" } do
    result[field] = ratio * (entry[field] / entry.steps) / (reference[field] / reference.steps)
  end
  return result
end

--- Shows how soon each arm had the final validation loss of the arm `name`: steps, FLOPs and time
--- as shares of what that needed. Needs `points` in study:compare.
function Comparison:reach(name)
  local reference = self:find(name)
  for _, arm in ipairs(self.arms) do
    local list = { steps = {}, flops = {}, seconds = {} }
    local races = arm.races and arm.causal
    for i, entry in ipairs(races and arm.seeds or {}) do
      local found = ratios(entry, reference.seeds[i])
      for field, numbers in pairs(found and list or {}) do numbers[#numbers + 1] = found[field] end
    end
    local reach = { seeds = #list.steps, reference = name }
    for field, numbers in pairs(list) do
      if #numbers > 0 then reach[field] = statistics.interval(numbers) end
    end
    arm.entry.reach = races and reach or nil
  end
end

return Comparison
