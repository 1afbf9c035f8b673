-- train.lua: the training loop. Next-token loss, AdamW, a schedule, a log, states to resume from.
--
-- A resumed run is the uninterrupted one: parameters and moments are saved as they are, and the
-- batches follow from how many windows were drawn from each corpus.

local core = require("moelua.core")
local evaluate = require("moelua.evaluate")
local flops = require("moelua.flops")
local nn = require("moelua.nn")
local options = require("moelua.options")
local progress = require("moelua.progress")
local run = require("moelua.run")
local schedule = require("moelua.schedule")
local raise, system = core.raise, core.system

local declared = {
  data = { "table", required = true },        -- a corpus, or { name = corpus, ... } mixed evenly
  steps = { "integer", required = true },
  batch = { "integer", 32 },                  -- sequences a step
  context = "integer",                        -- tokens a sequence; default: the model's
  lr = { "number", 3e-3 },
  schedule = { schedule.kinds, "cosine" },
  warmup = "integer",                         -- steps; default: a twentieth
  floor = { "number", 0.1 },                  -- share of lr that is left at the end
  decay = { "number", 0.2 },                  -- wsd: share of the steps that decay
  beta1 = { "number", 0.9 }, beta2 = { "number", 0.95 }, eps = { "number", 1e-8 },
  weight_decay = { "number", 0.1 },           -- on matrices; norms and biases have none
  clip = { "number", 1.0 },                   -- largest global gradient norm; 0 = none
  seed = { "integer", 1 },
  out = "string",                             -- run folder: log, states, model
  fresh = { "boolean", false },
  log_every = { "integer", 10 }, save_every = { "integer", 100 },
  eval_every = { "integer", 0 }, eval_windows = { "integer", 64 },
  name = { "string", "train" },
  quiet = { "boolean", false },
  save_model = { "boolean", true },
}

-- ---- data -----------------------------------------------------------------------------------------

local function as_corpora(data)
  if data.handle then return { [data.name or "data"] = data } end
  return data
end

local function sorted_names(corpora)
  local names = {}
  for name in pairs(corpora) do names[#names + 1] = name end
  table.sort(names)
  if #names == 0 then raise("moe.train: data is empty") end
  return names
end

-- How many sequences of this step come from each corpus: sequence g of the whole run belongs to
-- corpus g mod count, so that every corpus gets its even share over time.
local function shares(count, first, batch)
  local share = {}
  for i = 1, count do share[i] = 0 end
  for g = first, first + batch - 1 do share[g % count + 1] = share[g % count + 1] + 1 end
  return share
end

-- The batch of the next step; moves the cursor.
local function next_batch(job, cursor)
  local xs, ys = {}, {}
  local share = shares(#job.names, cursor.sequences, job.opts.batch)
  for i, name in ipairs(job.names) do
    if share[i] > 0 then
      local x, y, draw = job.corpora[name]:batch({ split = "train", batch = share[i],
        context = job.context, seed = job.opts.seed, stream = "batches." .. name,
        draw = cursor.draws[name] or 0 })
      xs[#xs + 1], ys[#ys + 1] = x, y
      cursor.draws[name] = draw
    end
  end
  cursor.sequences = cursor.sequences + job.opts.batch
  if #xs == 1 then return xs[1], ys[1] end
  return core.concat(xs, 1), core.concat(ys, 1)
end

-- ---- optimizer --------------------------------------------------------------------------------------

local function new_moments(params)
  local m, v = {}, {}
  for i, entry in ipairs(params) do
    m[i], v[i] = core.zeros(entry[2]:shape()), core.zeros(entry[2]:shape())
  end
  return m, v
end

local function update(job, step)
  local opts = job.opts
  local norm = core.grad_norm(job.tensors)
  local lr = schedule.rate({ kind = opts.schedule, lr = opts.lr, warmup = opts.warmup,
    floor = opts.floor, decay = opts.decay }, step, opts.steps)
  local args = { step = step, lr = lr, beta1 = opts.beta1, beta2 = opts.beta2, eps = opts.eps,
    clip = opts.clip > 0 and norm > opts.clip and opts.clip / norm or 1 }
  for i, p in ipairs(job.tensors) do
    args.weight_decay = p:dim() > 1 and opts.weight_decay or 0
    if p:grad() then
      core.adamw_step(p, job.m[i], job.v[i], args)
      p:zero_grad()
    end
  end
  return norm, lr
end

-- ---- states -----------------------------------------------------------------------------------------

local function save_state(job, step)
  local tensors = {}
  for i, entry in ipairs(job.params) do
    tensors["w." .. entry[1]] = entry[2]
    tensors["m." .. entry[1]], tensors["v." .. entry[1]] = job.m[i], job.v[i]
  end
  job.run:save_state(step, tensors, { step = step, cursor = job.cursor, seconds = job.seconds })
end

local function restore(job)
  local file, facts = job.run:load_state()
  if not file then return 0 end
  core.no_grad(function()
    for i, entry in ipairs(job.params) do
      entry[2]:copy_(run.check(file:tensor("w." .. entry[1])))
      job.m[i]:copy_(run.check(file:tensor("m." .. entry[1])))
      job.v[i]:copy_(run.check(file:tensor("v." .. entry[1])))
    end
  end)
  job.cursor, job.seconds = facts.cursor, facts.seconds
  job.run:rewind_log(facts.step)
  return facts.step
end

-- ---- the loop ---------------------------------------------------------------------------------------

local function diverged(job, step, loss)
  error({ code = "diverged", message = ("%s: the loss became %s at step %d; the step was " ..
    "not applied\nhint: try a lower rate (lr is %g) or a smaller clip"):format(job.opts.name,
    loss ~= loss and "NaN" or "infinite", step, job.opts.lr) }, 0)
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

local function one_step(job, step)
  local logged = step % job.opts.log_every == 0 or step == job.opts.steps
  local x, y = next_batch(job, job.cursor)
  local loss, info = job.model:loss(x, y, { stats = logged })
  local value, nll = loss:item(), info.nll:item()
  if value ~= value or math.abs(value) == math.huge then diverged(job, step, value) end
  loss:backward()
  local norm, lr = update(job, step)
  if norm ~= norm then diverged(job, step, norm) end
  return { step = step, loss = value, bits = nll / math.log(2), lr = lr, grad_norm = norm,
    routing = logged and routing_figures(info.layers, job.model.config.layers) or nil }, logged
end

local function log_step(job, entry)
  entry.tokens = entry.step * job.opts.batch * job.context
  entry.flops = entry.tokens * job.flops_per_token
  entry.seconds = job.seconds
  if job.run then job.run:log(entry) end
  job.curve[#job.curve + 1] = { entry.tokens, entry.bits }
end

local function validate(job, step)
  local opts = job.opts
  if opts.eval_every <= 0 or step % opts.eval_every ~= 0 then return end
  local report = evaluate(job.model, job.corpora, { windows = opts.eval_windows,
    context = job.context })
  if job.run then job.run:log({ step = step, validation = report.metric, mean = report.mean }) end
end

local function summary(job)
  local tokens = job.opts.steps * job.opts.batch * job.context
  return { steps = job.opts.steps, tokens = tokens, flops = tokens * job.flops_per_token,
    seconds = job.seconds, curve = job.curve }
end

local function loop(job, first)
  local line = progress.new({ name = job.opts.name, total = job.opts.steps, start = first,
    quiet = job.opts.quiet })
  for step = first + 1, job.opts.steps do
    local began, scope = system.clock(), core.scope()
    local entry, logged = one_step(job, step)
    scope:close()
    job.seconds = job.seconds + system.clock() - began
    if logged then log_step(job, entry) end
    line:update(step, { loss = entry.loss, tokens = step * job.opts.batch * job.context })
    validate(job, step)
    if job.run and step % job.opts.save_every == 0 and step < job.opts.steps then
      save_state(job, step)
    end
  end
  line:done()
end

-- Everything the result depends on, as config.json of the run folder.
local function request(job)
  local kept = { model = job.model.config, parameters = (job.model:count()), data = {} }
  for name, value in pairs(job.opts) do
    if type(value) ~= "table" and not ({ out = 1, fresh = 1, quiet = 1, name = 1 })[name] then
      kept[name] = value
    end
  end
  for _, name in ipairs(job.names) do
    kept.data[name] = job.corpora[name]:metadata().sources or job.corpora[name]:tokens("train")
  end
  return kept
end

local function new_job(model, given)
  local opts = options.check("moe.train", given, declared)
  for _, name in ipairs({ "steps", "batch", "log_every", "save_every" }) do
    if opts[name] < 1 then raise("moe.train: %s must be at least 1, not %d", name, opts[name]) end
  end
  opts.warmup = opts.warmup or opts.steps // 20
  local job = { model = model, opts = opts, corpora = as_corpora(opts.data), seconds = 0,
    curve = {}, cursor = { sequences = 0, draws = {} } }
  job.names = sorted_names(job.corpora)
  job.context = opts.context or model.config.context
  job.flops_per_token = flops.per_token(model.config, job.context)
  job.params, job.tensors = model:parameters(), nn.tensors(model)
  job.m, job.v = new_moments(job.params)
  for _, name in ipairs(job.names) do
    local vocab = job.corpora[name]:vocab()
    if vocab > model.config.vocab then
      raise("moe.train: corpus '%s' has a vocabulary of %d, the model of %d", name, vocab,
        model.config.vocab)
    end
  end
  return job
end

-- A finished run needs no training: its model takes the place of the given parameters.
local function adopt(job)
  local trained = run.check(require("moelua.family").load(job.opts.out .. "/model"))
  local list = trained:parameters()
  core.no_grad(function()
    for i, entry in ipairs(job.params) do entry[2]:copy_(list[i][2]) end
  end)
  job.model.path = trained.path
end

--- Trains the model in place; returns { steps, tokens, flops, seconds, curve }. See `declared` for
-- the options. With `out` the run can be continued, and its model is saved in out/model.
return function(model, given)
  local job = new_job(model, given)
  local opts, first = job.opts, 0
  if not opts.out then
    loop(job, first)
    return summary(job)
  end
  job.run = run.open(opts.out, request(job), { fresh = opts.fresh })
  local done = run.finished(opts.out)
  if done then
    if opts.save_model then adopt(job) end
    job.run:close()
    return done
  end
  first = restore(job)
  for _, entry in ipairs(run.read_log(opts.out)) do
    if entry.tokens then job.curve[#job.curve + 1] = { entry.tokens, entry.bits } end
  end
  local ok, message = pcall(loop, job, first)
  if ok and opts.save_model then run.check(model:save(opts.out .. "/model")) end
  if ok then job.run:finish(summary(job)) end
  job.run:close()
  if not ok then error(message, 0) end
  return summary(job)
end
