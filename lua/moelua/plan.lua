-- plan.lua: a recipe with --dry-run. A plan stands where the study stands (study.lua) and takes the
-- same calls; it records what each would cost, returns stand-ins, and prints all of it at the end.
-- Models are real, in memory: their parameters are counted, and a few steps of each are timed.
-- Nothing is written.

local core = require("moelua.core")
local class = require("moelua.class")
local Comparison = require("moelua.comparison")
local corpora = require("moelua.corpora")
local domains = require("moelua.domains")
local flops = require("moelua.flops")
local machine = require("moelua.machine")
local options = require("moelua.options")
local plan_text = require("moelua.plan_text")
local run = require("moelua.run")
local states = require("moelua.states")
local train_options = require("moelua.train_options")
local trial = require("moelua.trial")
local system, json = core.system, core.json

local FLOAT = 4
local STATE = 3 * FLOAT                 -- a state holds each parameter and its two moments
local STATES = states.KEEP + 1          -- those that are kept while the next is written
local FORWARD = 1 / 3                   -- of a training step
local REPORT = 40000                    -- bytes of results and report
local SMALL = 12000                     -- bytes of what a folder has beside its weights

local Plan = class("Plan")

--- `config` is what the run folder must have been made for, nil when it is bound to nothing.
function Plan:init(opt, parts, config)
  self.opt, self.parts, self.split = opt, parts, opt.split or "test"
  self.stages, self.evaluations, self.models_kept = {}, { models = 0, seconds = 0 }, 0
  self.memory, self.workers = { process = machine.memory_used(), workers = 0, worker = 0 }, 0
  self.base = self.memory.process                 -- an interpreter without models
  local sources = domains.sources(opt.domain or {})
  if config and not opt.fresh then run.compare(opt.out, config) end
  local began = system.clock()
  self.domains = domains.survey(sources, not opt.fresh and opt.out .. "/data" or nil,
    opt.max_bytes, opt.context, parts.tokenizer)
  self.preparing = system.clock() - began
  self.names = corpora.names(self.domains, "%s")
end

--- As Study:need.
function Plan:need(holds, fmt, ...)
  if not holds then run.refuse("%s: " .. fmt, self.parts.recipe, ...) end
end

-- ---- stages -----------------------------------------------------------------------------------

-- The step that a stage would go on from.
local function steps_done(self, name, steps)
  local folder = self.opt.out .. "/" .. name
  if self.opt.fresh then return 0 end
  if run.finished(folder) then return steps end
  return math.min(states.newest_step(folder) or 0, steps)
end

-- Bytes of the states of a stage when it has most of them.
local function state_bytes(stage, save_every)
  return STATE * stage.parameters * math.min(STATES, math.max(0, stage.steps - 1) // save_every)
end

-- Adds a stage as far as it is left to do; returns it, and what all of it costs. What is tried is a
-- micro-batch: that is what has to fit into memory.
local function add_stage(self, name, model, opts, text)
  train_options.check_routers(model.config)
  local context = opts.context or model.config.context
  local step = trial.step(model, opts.batch // opts.accumulate, context, opts.precision)
  local seconds, tokens = opts.accumulate * step.seconds, opts.batch * context
  local per_step = tokens * flops.per_token(model.config, context)
  local left = opts.steps - steps_done(self, name, opts.steps)
  local parameters, active = model:count()
  local stage = { name = name, text = text, steps = opts.steps, left = left,
    parameters = parameters, active = active, tokens = left * tokens, flops = left * per_step,
    seconds = left * seconds, memory = FLOAT * parameters + step.memory }
  stage.disk = left > 0 and FLOAT * parameters + SMALL or 0
  stage.states = left > 0 and state_bytes(stage, opts.save_every) or 0
  self.stages[#self.stages + 1] = stage
  return stage, { tokens = opts.steps * tokens, flops = opts.steps * per_step,
    seconds = opts.steps * seconds, steps = opts.steps, curve = {},
    validation = { { opts.steps, 0.0 } } }
end

-- The options as the stage would get them, checked.
local function complete(self, where, name, given)
  return train_options.check(where, options.merge(given, { name = name,
    out = self.opt.out .. "/" .. name, context = given.context or self.opt.context,
    save_every = given.save_every or self.opt.save_every,
    precision = given.precision or self.opt.precision }))
end

-- Seconds to evaluate a model on so many windows of each domain (nil: all there are).
local function seconds_of(self, model, split, windows, batch)
  local context, tokens = self.opt.context or model.config.context, 0
  for _, name in ipairs(self.names) do
    tokens = tokens + context * self.domains[name].handle:windows(split, context, windows)
  end
  local step = trial.step(model, batch, context, core.precision())
  return FORWARD * tokens * step.seconds / (batch * context)
end

--- Records a stage; the model stays as it is. Returns its estimated cost.
function Plan:stage(name, model, given)
  local opts = complete(self, "moe.train", name, given)
  local text = corpora.names(corpora.named(opts.data, "moe.train: data"), "moe.train: data.%s")
  local stage, cost = add_stage(self, name, model, opts, text)
  if opts.eval_every > 0 and stage.left > 0 then
    local seconds = seconds_of(self, model, "validation", opts.eval_windows, opts.batch)
    self.evaluations.seconds = self.evaluations.seconds + stage.left // opts.eval_every * seconds
  end
  return cost
end
Plan.train = Plan.stage

--- The model that a stage would have made: one like it.
function Plan.trained(_, _, make) return make() end

-- What is left of stages that share the processors, at most `workers` at a time.
local function together(stages, workers)
  local cpus = system.cpus()
  local share = math.min(math.max(1, cpus // workers), cpus / workers) / cpus
  local sum, longest = 0, 0
  for _, stage in ipairs(stages) do
    sum, longest = sum + stage.seconds, math.max(longest, stage.seconds)
  end
  return math.max(sum / (workers * share), longest / share)
end

--- Records a stage for each domain. The model itself stands for the experts; the costs are in the
--- order of the names, as those of Study:branch.
function Plan:branch(model, given)
  local stages, experts, costs = {}, {}, {}
  local training = options.merge(given, { data = self.domains })
  training.workers = nil
  for i, name in ipairs(self.names) do
    local opts = complete(self, "branch", "branches/" .. name, training)
    local stage
    stage, costs[i] = add_stage(self, "branches/" .. name, model, opts, { name })
    experts[i] = model
    if stage.left > 0 then stages[#stages + 1] = stage end
  end
  if #stages == 0 then return experts, costs end
  local workers = math.min(given.workers or 2 * system.cpus(), #stages)
  self.branches = { stages = stages, workers = workers, seconds = together(stages, workers),
    seed_disk = FLOAT * stages[1].parameters + SMALL }
  self.memory.workers, self.memory.worker = workers, self.base + stages[1].memory
  return experts, costs
end

--- Counts what the evaluation of a model would take; returns one that found nothing.
function Plan:measure(_, model)
  local all, batch = self.evaluations, self.opt.batch or 32
  all.models = all.models + 1
  all.seconds = all.seconds + seconds_of(self, model, self.split, self.opt.eval_windows, batch)
  local traits = model:traits(false)
  local result = { metric = {}, mean = 0.0, tokens = {}, routing = {}, statistics = {},
    causal = traits.causal, coupled = traits.coupled == "batch" }
  for _, name in ipairs(self.names) do result.metric[name], result.tokens[name] = 0.0, 0 end
  return result
end

--- As Study:arm.
function Plan:arm(name, model) return self:measure(name, model) end

--- As Study:compare: the arms are counted, and nothing is claimed about them.
function Plan:compare(given)
  local comparison = Comparison(self, given)
  for _, name in ipairs { "beats", "lower", "balanced", "reach" } do
    comparison[name] = function() end
  end
  return comparison
end

--- Counts a model that would be kept in the run folder.
function Plan:keep(model)
  self.models_kept = self.models_kept + FLOAT * model:count() + SMALL
end

-- Nothing has been measured that could be shown or claimed.
local function nothing() end
for _, name in ipairs { "say", "curve", "routing", "claim", "better", "best_on_own_domain",
    "enter" } do
  Plan[name] = nothing
end

-- ---- sums -------------------------------------------------------------------------------------

local function total(self, key)
  local sum = 0
  for _, stage in ipairs(self.stages) do sum = sum + stage[key] end
  return sum
end

local function time_of(self)
  local training = total(self, "seconds")
  if self.branches then
    for _, stage in ipairs(self.branches.stages) do training = training - stage.seconds end
    training = training + self.branches.seconds
  end
  local evaluation = self.evaluations.seconds
  return { training = training, evaluation = evaluation, preparing = self.preparing,
    total = training + evaluation + self.preparing }
end

local function disk_of(self)
  local kept, passing = total(self, "disk") + self.models_kept + REPORT, 0
  for _, name in ipairs(self.names) do kept = kept + self.domains[name].survey.new_bytes end
  if self.branches then
    kept = kept + self.branches.seed_disk
    for i = 1, self.branches.workers do passing = passing + self.branches.stages[i].states end
  end
  for _, stage in ipairs(self.stages) do passing = math.max(passing, stage.states) end
  return { kept = kept, most = kept + passing, free = machine.disk_free(self.opt.out) }
end

-- The worker of a branch is a process beside this one.
local function memory_of(self)
  local memory = self.memory
  memory.process = math.max(memory.process, machine.memory_used())
  memory.total = memory.process + memory.workers * memory.worker
  memory.available = machine.memory_available()
  return memory
end

local function data_of(self)
  local list = {}
  for i, name in ipairs(self.names) do
    local corpus = self.domains[name]
    list[i] = { name = name, files = #corpus.files, from = plan_text.common_folder(corpus.files),
      bytes = corpus.survey.source_bytes, tokens = corpus.handle:tokens("train") +
        corpus.handle:tokens("validation") + corpus.handle:tokens("test") }
  end
  return list
end

local function warnings_of(plan)
  local list = {}
  local function compare(what, needed, there)
    if there and needed > there then
      list[#list + 1] = ("%s are needed, %s are there"):format(plan_text.bytes(needed) .. " of " ..
        what, plan_text.bytes(there))
    end
  end
  compare("memory", plan.memory.total, plan.memory.available)
  compare("disk", plan.disk.most, plan.disk.free)
  return list
end

--- The plan as plain data, which --json prints.
function Plan:facts()
  local facts = { recipe = self.opt.name or self.parts.recipe, title = self.parts.title,
    out = self.opt.out, dry_run = true, stages = self.stages, data = data_of(self),
    parameters = 0, tokens = total(self, "tokens"), flops = total(self, "flops"),
    seconds = time_of(self), memory = memory_of(self), disk = disk_of(self),
    evaluations = self.evaluations.models }
  for _, stage in ipairs(self.stages) do
    facts.parameters = math.max(facts.parameters, stage.parameters)
  end
  facts.warnings = json.array(warnings_of(facts))
  return facts
end

--- Prints the plan.
function Plan:finish()
  local facts = self:facts()
  print(self.opt.json and json.encode(facts) or plan_text.format(facts))
end

return Plan
