-- train.lua: the training loop. Next-token loss, AdamW, a schedule, a log, states to resume from.
--
-- A resumed run is the uninterrupted one: parameters, moments and buffers are saved as they are,
-- the batches follow from how many windows were drawn from each corpus, and random numbers inside
-- the model from seed, step and micro-batch. A step changes nothing that lasts until `apply`, which
-- no interrupt can cut in two: at any moment the job is what it was after some whole number of
-- steps, and can be saved.

local core = require("moelua.core")
local Batches = require("moelua.batches")
local corpora = require("moelua.corpora")
local diverged = require("moelua.diverged")
local error_text = require("moelua.error_text")
local evaluate = require("moelua.evaluate")
local expect = require("moelua.expect")
local family = require("moelua.family")
local flops = require("moelua.flops")
local groups = require("moelua.groups")
local nn = require("moelua.nn")
local Optimizer = require("moelua.optimizer")
local precision = require("moelua.precision")
local progress = require("moelua.progress")
local routing = require("moelua.routing")
local run = require("moelua.run")
local schedule = require("moelua.schedule")
local train_options = require("moelua.train_options")
local train_step = require("moelua.train_step")
local raise, system = core.raise, core.system

-- ---- states -----------------------------------------------------------------------------------

local function save_state(job)
  diverged.check_weights(job)
  job.run:save_state(job.step, job.optimizer:state(), { step = job.step,
    cursor = job.batches.cursor, seconds = job.seconds, recent = job.recent,
    validated = job.validated })
end

-- Goes on from the newest state, if there is one.
local function restore(job)
  local file, facts = job.run:load_state()
  if not file then return end
  local _ <close> = core.scope()        -- a tensor of the file would keep it on the disk
  job.optimizer:restore(function(name) return run.check(file:tensor(name)) end, facts.step)
  file:close()
  job.step, job.batches.cursor, job.seconds = facts.step, facts.cursor, facts.seconds
  job.recent, job.validated = facts.recent, facts.validated
  -- A state that does not tell is of a run on bytes.
  job.recent.bytes = job.recent.bytes or job.recent.count * job.tokens_per_step
end

-- ---- the loop ---------------------------------------------------------------------------------

-- What the log and the summary get to know.
local function record(job, entry)
  if job.run then job.run:log(entry) end
  job.entries[#job.entries + 1] = entry
end

-- One batch tells little: the log and the curve show the mean since the last entry.
local function log_step(job, entry)
  local recent = job.recent
  local tokens_per_byte = recent.count * job.tokens_per_step / math.max(recent.bytes, 1)
  entry.bits = recent.sum / recent.count / math.log(2) * tokens_per_byte
  job.recent = { sum = 0.0, count = 0, bytes = 0 }
  entry.tokens = entry.step * job.tokens_per_step
  entry.flops = entry.tokens * job.flops_per_token
  entry.seconds = job.seconds
  record(job, entry)
end

-- The update, and everything that has to agree with it. `done` is what the step has found out.
local function apply(job, done)
  job.optimizer:step(done.entry.lr, done.entry.grad_norm)
  job.step, job.batches.cursor = done.entry.step, done.cursor
  job.recent = { sum = job.recent.sum + done.nll, count = job.recent.count + 1,
    bytes = job.recent.bytes + done.bytes }
  job.seconds = job.seconds + system.clock() - done.began
  if done.logged then log_step(job, done.entry) end
end

-- One batch and one update. Its tensors are gone when it returns; what it returns is plain data.
local function one_step(job)
  local began, step = system.clock(), job.step + 1
  local _ <close> = core.scope()
  local batch, cursor = job.batches:next()
  batch.logged = step % job.opts.log_every == 0 or step == job.opts.steps
  local done = train_step.gradient(job, batch)
  local entry = { step = step, loss = done.loss, grad_norm = done.norm, routing = done.routing,
    lr = schedule.rate(job.rates, step, job.opts.steps) }
  core.uninterrupted(apply, job, { entry = entry, cursor = cursor, nll = done.nll,
    bytes = batch.bytes, began = began, logged = batch.logged })
  return entry
end

-- Once for each step that is due, also when an interrupt came before it was done.
local function validate(job)
  local opts = job.opts
  local due = opts.eval_every > 0 and job.step > 0 and job.step % opts.eval_every == 0
  if not due or job.validated == job.step then return end
  diverged.check_weights(job)
  local ok, report = pcall(evaluate, job.model, job.batches.corpora,
    { windows = opts.eval_windows, context = job.context, group = job.batches.how.group,
      seed = opts.seed, step = job.step })
  local value = ok and report.mean or not ok and diverged.refused(report)
  if not value then error(report, 0) end
  diverged.check_validation(job, value)
  core.uninterrupted(function()
    record(job, { step = job.step, validation = report.metric, mean = report.mean,
      statistics = routing.logged(report.statistics) })
    job.validated = job.step
  end)
end

-- The coefficient of variation of the experts' load: its mean over logged steps and layers, and the
-- largest; the mean share of dropped slots. nil when there are no mixture layers.
local function routing_of(entries)
  local cv, dropped, count, most = 0.0, 0.0, 0, 0.0
  for _, entry in ipairs(entries) do
    for _, layer in ipairs(entry.routing or {}) do
      cv, dropped, count = cv + layer.cv, dropped + layer.dropped, count + 1
      most = math.max(most, layer.cv)
    end
  end
  return count > 0 and { cv = cv / count, cv_max = most, dropped = dropped / count } or nil
end

local function summary(job)
  local tokens, curve, validation = job.opts.steps * job.tokens_per_step, {}, {}
  for _, entry in ipairs(job.entries) do
    if entry.tokens then curve[#curve + 1] = { entry.tokens, entry.bits } end
    if entry.validation then validation[#validation + 1] = { entry.step, entry.mean } end
  end
  return { steps = job.opts.steps, tokens = tokens, flops = tokens * job.flops_per_token,
    seconds = job.seconds, curve = curve, validation = validation,
    routing = routing_of(job.entries) }
end

local function loop(job)
  local opts = job.opts
  local line <close> = progress.new({ name = opts.name, total = opts.steps, start = job.step,
    quiet = opts.quiet })
  job.optimizer:zero_grad()     -- whatever was left behind does not belong to the first batch
  validate(job)
  while job.step < opts.steps do
    local entry = one_step(job)
    line:update(job.step, { loss = entry.loss, tokens = job.step * job.tokens_per_step })
    validate(job)
    if job.run and job.step % opts.save_every == 0 and job.step < opts.steps then
      save_state(job)
    end
  end
  diverged.check_weights(job)
  line:done()
end

-- Keeps what an interrupted run has done.
local function keep(job)
  if job.step > (job.run.saved or 0) then save_state(job) end
  if job.run.saved then
    error_text.saved(("saved step %d of %s"):format(job.run.saved, job.opts.name), job.opts.out)
  end
end

-- ---- the run folder ---------------------------------------------------------------------------

-- The folder that a model was last trained in, and its parameters when that began.
local beginnings = setmetatable({}, { __mode = "k" })

-- Which parameters the run begins with. A model that was trained in this folder before, in this
-- process, has others by now and still means the same run, as long as the folder has what to go
-- on from.
local function start_of(job)
  local model, out = job.model, job.opts.out
  local before = beginnings[model]
  local same = before and before.folder == out and not job.opts.fresh and run.can_continue(out)
  local start = same and before.start or nn.fingerprint(model)
  beginnings[model] = { folder = out, start = start }
  return start
end

-- Everything the result depends on, as config.json of the run folder.
local function request(job)
  local kept = { model = job.model.config, parameters = (job.model:count()), start = start_of(job),
    data = {} }
  for name, value in pairs(job.opts) do
    if type(value) ~= "table" and not train_options.incidental[name] then kept[name] = value end
  end
  for name, corpus in pairs(job.batches.corpora) do kept.data[name] = run.identity(corpus) end
  return kept
end

local function new_optimizer(model, opts)
  local own = {}
  for name in pairs(Optimizer.options) do own[name] = opts[name] end
  return Optimizer(model, own)
end

-- What cannot be validated on is told at once, not when the first validation is due.
local function check_validation(batches, opts, context)
  if opts.eval_every <= 0 then return end
  for _, name in ipairs(batches.names) do
    run.check(batches.corpora[name]:check(context, { "validation" }))
  end
  if batches.how.group then
    groups.plan("moe.train", batches.corpora, batches.names, { split = "validation",
      context = context, windows = opts.eval_windows, group = batches.how.group })
  end
end

-- How many rows in a row share no document, see groups.lua; nil when any may.
local function group_of(model, opts)
  local rows = opts.batch // opts.accumulate
  local group = groups.size("moe.train", model, opts.group, rows, true)
  if group and rows % group ~= 0 then
    raise("moe.train: micro-batches of %d sequences do not divide into groups of %d\n" ..
      "hint: batch / accumulate must be a multiple of the group", rows, group)
  end
  return group
end

local function new_job(model, given)
  local opts = train_options.check("moe.train", given)
  train_options.check_routers(model.config)
  local context = opts.context or model.config.context
  local batches = Batches(opts.data, { batch = opts.batch, context = context, seed = opts.seed,
    vocab = model.config.vocab, tokenizer = model.tokenizer, group = group_of(model, opts),
    labels = corpora.labels("moe.train", model.config) })
  check_validation(batches, opts, context)
  return { model = model, opts = opts, context = context, step = 0, seconds = 0, entries = {},
    recent = { sum = 0.0, count = 0, bytes = 0 },
    tokens_per_step = opts.batch * context,
    flops_per_token = flops.per_token(model.config, context),
    rates = { kind = opts.schedule, lr = opts.lr, warmup = opts.warmup, floor = opts.floor,
      decay = opts.decay },
    batches = batches, optimizer = new_optimizer(model, opts) }
end

-- A finished run needs no training: its model takes the place of the given parameters.
local function adopt(job)
  if not job.opts.save_model then
    raise("moe.train: %s is finished, and its model was not kept\n" ..
      "hint: --fresh trains it again", job.opts.out)
  end
  local trained = run.check(family.load(job.opts.out .. "/model"))
  local list = nn.saved(trained)
  core.no_grad(function()
    for i, entry in ipairs(nn.saved(job.model)) do entry[2]:copy_(list[i][2]) end
  end)
  job.model.path = trained.path
end

-- From where the job stands to the end of the run.
local function complete(job)
  loop(job)
  if job.opts.save_model then job.run:check(job.model:save(job.opts.out .. "/model")) end
  core.uninterrupted(job.run.finish, job.run, summary(job))
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
  restore(job)
  job.entries = run.read_log(opts.out)
  local ok, message = pcall(complete, job)
  if not ok and message == "interrupted!" and not run.finished(opts.out) then keep(job) end
  if not ok then error(message, 0) end
  return summary(job)
end

local function train_in_memory(job)
  loop(job)
  return summary(job)
end

--- Trains the model in place to predict the next token. Options: data (a corpus, or
--- { name = corpus, ... } with even shares), steps, batch (sequences a step), accumulate (equal
--- micro-batches that a step goes through, one after the other: the same gradient in less memory),
--- group (so many sequences in a row share no document; when left out, those that the model mixes),
--- context (tokens), lr (peak), schedule, warmup, floor, decay, beta1, beta2, eps, weight_decay,
--- clip, precision (of products: weights and moments stay f32), seed, out, fresh, log_every,
--- save_every, eval_every, eval_windows, name, quiet, save_model; see train_options.lua.
--- With `out`, a run folder, the same call again goes on where the last one stopped, bit for bit,
--- and the model is saved in out/model; an interrupt saves the state of the last complete step.
--- Raises { message, code = "diverged" } when loss, gradient or weights are no longer finite.
--- The curve has { tokens, bits per byte } for each logged step, validation { step, mean } for
--- each evaluation, routing the coefficient of variation of the experts' load over logged steps and
--- mixture layers (mean and largest) and the mean share of dropped slots.
---@param model moelua.Model
---@param given table
---@return { steps: integer, tokens: integer, flops: number, seconds: number, curve: number[][],
---  validation: number[][], routing: { cv: number, cv_max: number, dropped: number }? }
return function(model, given)
  expect(type(model) == "table" and type(model.config) == "table", "moe.train", "model", "a model",
    model)
  nn.check_f32("moe.train", model)
  local job = new_job(model, given)
  model.path = nil                      -- what was saved is not this model any more
  local work = job.opts.out and train_in_folder or train_in_memory
  local ok, result = pcall(precision, job.opts.precision, work, job)
  job.optimizer:zero_grad()             -- half a step's gradients are nobody's
  if not ok then error(result, 0) end
  return result
end
