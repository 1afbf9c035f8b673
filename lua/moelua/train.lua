-- train.lua: the training loop. Next-token loss, AdamW, a schedule, a log, states to resume from.
--
-- A resumed run is the uninterrupted one: parameters and moments are saved as they are, and the
-- batches follow from how many windows were drawn from each corpus.

local core = require("moelua.core")
local Batches = require("moelua.batches")
local diverged = require("moelua.diverged")
local evaluate = require("moelua.evaluate")
local family = require("moelua.family")
local flops = require("moelua.flops")
local nn = require("moelua.nn")
local Optimizer = require("moelua.optimizer")
local progress = require("moelua.progress")
local run = require("moelua.run")
local schedule = require("moelua.schedule")
local train_options = require("moelua.train_options")
local raise, system = core.raise, core.system

-- ---- states -----------------------------------------------------------------------------------

local function save_state(job, step)
  job.run:save_state(step, job.optimizer:state(), { step = step, cursor = job.batches.cursor,
    seconds = job.seconds, recent = job.recent })
  job.saved = step
end

-- Goes on from the newest state; returns its step.
local function restore(job)
  local file, facts = job.run:load_state()
  if not file then
    job.run:rewind_log(0)
    return 0
  end
  job.optimizer:restore(function(name) return run.check(file:tensor(name)) end, facts.step)
  job.batches.cursor, job.seconds, job.recent = facts.cursor, facts.seconds, facts.recent
  job.run:rewind_log(facts.step)
  job.saved = facts.step
  return facts.step
end

-- ---- the loop ---------------------------------------------------------------------------------

local function is_finite(value) return value - value == 0 end

local function stop_diverged(job, step, what, value, ids)
  local message = "%s: the %s became %s at step %d, first in %s; the step was not applied\n" ..
    "hint: try a lower rate (lr is %g) or a smaller clip%s"
  run.fail(message:format(job.opts.name, what, value ~= value and "NaN" or "infinite", step,
    diverged.place(job.model, ids, what), job.opts.lr,
    job.saved and ("; the state of step %d is saved"):format(job.saved) or ""), "diverged")
end

-- The loss of a batch. A router refuses logits that are NaN before there is a loss.
local function forward(job, step, x, y, logged)
  local ok, loss, info = pcall(job.model.loss, job.model, x, y, { stats = logged })
  if not ok and tostring(loss):find("is NaN$") then stop_diverged(job, step, "loss", 0 / 0, x) end
  if not ok then error(loss, 0) end
  local value = loss:item()
  if not is_finite(value) then stop_diverged(job, step, "loss", value, x) end
  return loss, value, info
end

-- Load figures of the mixture layers for the log: the largest share over the mean, per layer.
local function routing_figures(infos, layers)
  local list
  for i = 1, layers do
    local info = infos[i]
    if info and info.load then
      list = list or {}
      local most = 0
      for _, share in ipairs(info.load) do most = math.max(most, share * #info.load) end
      list[#list + 1] = { layer = i, max_over_mean = most, entropy = info.entropy }
    end
  end
  return list
end

-- One batch and one update. Its tensors are gone when it returns; what it returns is plain data.
local function one_step(job, step, logged)
  local _ <close> = core.scope()
  local x, y = job.batches:next()
  local loss, value, info = forward(job, step, x, y, logged)
  loss:backward()
  local norm = job.optimizer:norm()
  if not is_finite(norm) then stop_diverged(job, step, "gradient", norm, x) end
  local lr = schedule.rate(job.rates, step, job.opts.steps)
  job.optimizer:step(lr, norm)
  job.recent.sum, job.recent.count = job.recent.sum + info.nll:item(), job.recent.count + 1
  return { step = step, loss = value, lr = lr, grad_norm = norm,
    routing = logged and routing_figures(info.layers, job.model.config.layers) or nil }
end

-- One batch tells little: the log and the curve show the mean since the last entry.
local function log_step(job, entry)
  entry.bits = job.recent.sum / job.recent.count / math.log(2)
  job.recent = { sum = 0.0, count = 0 }
  entry.tokens = entry.step * job.tokens_per_step
  entry.flops = entry.tokens * job.flops_per_token
  entry.seconds = job.seconds
  if job.run then job.run:log(entry) end
  job.curve[#job.curve + 1] = { entry.tokens, entry.bits }
end

local function validate(job, step)
  local opts = job.opts
  if opts.eval_every <= 0 or step % opts.eval_every ~= 0 then return end
  local report = evaluate(job.model, job.batches.corpora, { windows = opts.eval_windows,
    context = job.context })
  if job.run then job.run:log({ step = step, validation = report.metric, mean = report.mean }) end
end

local function summary(job)
  local tokens = job.opts.steps * job.tokens_per_step
  return { steps = job.opts.steps, tokens = tokens, flops = tokens * job.flops_per_token,
    seconds = job.seconds, curve = job.curve }
end

local function loop(job, first)
  local opts = job.opts
  local line <close> = progress.new({ name = opts.name, total = opts.steps, start = first,
    quiet = opts.quiet })
  for step = first + 1, opts.steps do
    local logged = step % opts.log_every == 0 or step == opts.steps
    local began = system.clock()
    local entry = one_step(job, step, logged)
    job.seconds = job.seconds + system.clock() - began
    if logged then log_step(job, entry) end
    line:update(step, { loss = entry.loss, tokens = step * job.tokens_per_step })
    validate(job, step)
    if job.run and step % opts.save_every == 0 and step < opts.steps then save_state(job, step) end
  end
  line:done()
end

-- Which parameters the run begins with. A model that was trained in this folder before, in this
-- process, has others by now and still means the same run, as long as the folder has what to go
-- on from.
local function start_of(job)
  local model, out = job.model, job.opts.out
  local begun = model.begun and model.begun.folder == out and not job.opts.fresh and
    run.can_continue(out) and model.begun.start
  local start = begun or nn.fingerprint(model)
  model.begun = { folder = out, start = start }
  return start
end

-- Options that change nothing about the result.
local incidental = { out = true, fresh = true, quiet = true, name = true }

-- Everything the result depends on, as config.json of the run folder.
local function request(job)
  local kept = { model = job.model.config, parameters = (job.model:count()), start = start_of(job),
    data = {} }
  for name, value in pairs(job.opts) do
    if type(value) ~= "table" and not incidental[name] then kept[name] = value end
  end
  for name, corpus in pairs(job.batches.corpora) do kept.data[name] = run.identity(corpus) end
  return kept
end

local function new_optimizer(model, opts)
  local own = {}
  for name in pairs(Optimizer.options) do own[name] = opts[name] end
  return Optimizer(model, own)
end

local function new_job(model, given)
  local opts = train_options.check("moe.train", given)
  local context = opts.context or model.config.context
  return { model = model, opts = opts, context = context, seconds = 0, curve = {},
    recent = { sum = 0.0, count = 0 },
    tokens_per_step = opts.batch * context,
    flops_per_token = flops.per_token(model.config, context),
    rates = { kind = opts.schedule, lr = opts.lr, warmup = opts.warmup, floor = opts.floor,
      decay = opts.decay },
    batches = Batches(opts.data, { batch = opts.batch, context = context, seed = opts.seed,
      vocab = model.config.vocab }),
    optimizer = new_optimizer(model, opts) }
end

-- A finished run needs no training: its model takes the place of the given parameters.
local function adopt(job)
  if not job.opts.save_model then
    raise("moe.train: %s is finished, and its model was not kept\n" ..
      "hint: --fresh trains it again", job.opts.out)
  end
  local trained = run.check(family.load(job.opts.out .. "/model"))
  local list = trained:parameters()
  core.no_grad(function()
    for i, entry in ipairs(job.model:parameters()) do entry[2]:copy_(list[i][2]) end
  end)
  job.model.path = trained.path
end

local function old_curve(folder)
  local curve = {}
  for _, entry in ipairs(run.read_log(folder)) do
    if entry.tokens then curve[#curve + 1] = { entry.tokens, entry.bits } end
  end
  return curve
end

local function train_in_folder(job)
  local opts = job.opts
  local folder <close> = run.open(opts.out, request(job), { fresh = opts.fresh })
  job.run = folder
  local done = run.finished(opts.out)
  if done then
    adopt(job)
    return done
  end
  local first = restore(job)
  job.curve = old_curve(opts.out)
  loop(job, first)
  if opts.save_model then run.check(job.model:save(opts.out .. "/model")) end
  folder:finish(summary(job))
  return summary(job)
end

--- Trains the model in place to predict the next token. Options: data (a corpus, or
--- { name = corpus, ... } with even shares), steps, batch (sequences), context (tokens), lr (peak),
--- schedule, warmup, floor, decay, beta1, beta2, eps, weight_decay, clip, seed, out, fresh,
--- log_every, save_every, eval_every, eval_windows, name, quiet, save_model; see train_options.lua.
--- With `out`, a run folder, the same call again goes on where the last one stopped, bit for bit,
--- and the model is saved in out/model. Raises { message, code = "diverged" } when loss or gradient
--- are no longer finite. The curve has { tokens, bits per token } for each logged step.
---@param model moelua.Model
---@param given table
---@return { steps: integer, tokens: integer, flops: number, seconds: number, curve: number[][] }
return function(model, given)
  local job = new_job(model, given)
  model.path = nil                      -- what was saved is not this model any more
  if job.opts.out then return train_in_folder(job) end
  loop(job, 0)
  return summary(job)
end
