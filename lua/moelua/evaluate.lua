-- evaluate.lua: bits per byte on the held-out splits, and where the tokens were routed.
--
-- Bits per byte compare across tokenizers: what all predicted tokens cost, by the bytes of text
-- that they stand for. A token that ends a document costs something and stands for nothing. A model
-- that mixes sequences is evaluated as it was trained, on groups of unrelated text (groups.lua);
-- with the same `group` every other model reads the same windows.

local core = require("moelua.core")
local corpora = require("moelua.corpora")
local expect = require("moelua.expect")
local groups = require("moelua.groups")
local options = require("moelua.options")
local routing = require("moelua.routing")
local rows = require("moelua.rows")
local raise = core.raise

local declared = {
  split = { { "validation", "test", "train" }, "validation" },
  batch = { "integer", 32 },  -- sequences of a forward pass
  windows = "integer",        -- at most this many per corpus, evenly spaced; all when left out
  context = "integer",
  group = "integer",          -- sequences of unrelated text in a row; default: what the model mixes
  seed = { "integer", 1 },    -- of routers that draw
  step = "integer",           -- of the training that is going on, for what depends on it
}

-- ---- sums -------------------------------------------------------------------------------------

local function new_sum() return { nats = 0, tokens = 0, bytes = 0, routing = {} } end

-- Adds `count` predicted tokens y of a corpus, at a mean cost in nats.
local function add_cost(job, name, nll, y, count)
  local sum = job.sums[name]
  sum.nats, sum.tokens = sum.nats + nll:item() * count, sum.tokens + count
  sum.bytes = sum.bytes + job.texts[name]:bytes(y)
end

-- What the layers are told with forward pass `number`, whose rows are of these domains.
local function told(job, number, labels)
  return { train = false, seed = job.opts.seed, step = job.opts.step, micro = number,
    labels = core.tensor(labels, "i32") }
end

-- Adds what the model makes of ids x and targets y of one corpus, all of which count.
local function add_batch(job, name, x, y)
  local labels = {}
  for i = 1, x:size(1) do labels[i] = job.labels[name] end
  local _, info = core.no_grad(job.model.loss, job.model, x, y, told(job, job.passes, labels))
  local count = y:count()
  add_cost(job, name, info.nll, y, count)
  routing.add(job.sums[name].routing, info.layers, job.model.config.layers, count)
  job.passes = job.passes + 1
end

-- ---- windows one after the other --------------------------------------------------------------

-- How many targets of a window are there; behind the end of the split they are -1.
local function filled(window)
  local n = 0
  for _, id in ipairs(window:totable()) do n = n + (id >= 0 and 1 or 0) end
  return n
end

-- The last window of a split may be short. It goes in by itself, without its padding, which would
-- be routed like any other token.
local function add_last_batch(job, name, x, y)
  local n, context = x:size(1), x:size(2)
  local rest = filled(y:select(1, n))
  if rest == context then return add_batch(job, name, x, y) end
  if n > 1 then add_batch(job, name, x:narrow(1, 1, n - 1), y:narrow(1, 1, n - 1)) end
  add_batch(job, name, x:narrow(1, n, 1):narrow(2, 1, rest),
    y:narrow(1, n, 1):narrow(2, 1, rest))
end

local function measure(job, name)
  local opts, corpus = job.opts, job.texts[name]
  local total = corpus:windows(opts.split, job.context, opts.windows)
  local function one_batch(first)
    local _ <close> = core.scope()
    local n = math.min(opts.batch, total - first + 1)
    local x, y = corpus:window_batch(opts.split, job.context, opts.windows, first, n)
    local add = first + n > total and add_last_batch or add_batch
    add(job, name, x, y)
  end
  for first = 1, total, opts.batch do one_batch(first) end
end

-- ---- windows in groups ------------------------------------------------------------------------

-- Ids and targets of some groups, the domain of each row, and where the rows of a corpus begin that
-- are next to each other: { name, first, count }.
local function read_groups(job, list)
  local xs, ys, labels, parts = {}, {}, {}, {}
  for _, group in ipairs(list) do
    for _, part in ipairs(group) do
      parts[#parts + 1] = { name = part.name, first = #xs + 1, count = #part.windows }
      for _, window in ipairs(part.windows) do
        labels[#labels + 1] = job.labels[part.name]
        xs[#xs + 1], ys[#ys + 1] = job.texts[part.name]:window_batch(job.opts.split, job.context,
          job.opts.windows, window, 1)
      end
    end
  end
  return rows.join(xs), rows.join(ys), labels, parts
end

-- Adds the part of a forward pass that is of one corpus.
local function add_part(job, part, hidden, y, infos)
  local config, count = job.model.config, part.count * job.context
  local own, targets = hidden:narrow(1, part.first, part.count), y:narrow(1, part.first, part.count)
  local nll = own:reshape(-1, config.dim):head_cross_entropy(
    (job.model.head or job.model.embedding):to("f32"), targets:reshape(-1))
  add_cost(job, part.name, nll, targets, count)
  routing.add(job.sums[part.name].routing, infos, config.layers, count, function(info)
    local first = (part.first - 1) * job.context + 1
    return info.experts:narrow(1, first, count):bincount(#info.load):totable()
  end)
end

local function one_pass(job, list)
  local _ <close> = core.scope()
  local x, y, labels, parts = read_groups(job, list)
  local hidden, infos = job.model:forward(x, told(job, job.passes, labels))
  for _, part in ipairs(parts) do add_part(job, part, hidden, y, infos) end
  job.passes = job.passes + 1
end

-- As many groups at once as a batch holds, but one if the model would mix them.
local function measure_groups(job)
  local list, left_out = groups.plan("evaluate", job.texts, job.names, { split = job.opts.split,
    context = job.context, windows = job.opts.windows, group = job.group })
  local at_once = groups.is_whole(job.model) and 1 or math.max(1, job.opts.batch // job.group)
  for first = 1, #list, at_once do
    core.no_grad(one_pass, job, table.move(list, first, math.min(first + at_once - 1, #list), 1,
      {}))
  end
  return left_out
end

-- ---- the result -------------------------------------------------------------------------------

local function check_sizes(opts)
  for _, name in ipairs({ "batch", "windows", "context" }) do
    if opts[name] and opts[name] < 1 then
      raise("evaluate: %s must be at least 1, not %d", name, opts[name])
    end
  end
end

local function new_job(model, texts, opts)
  check_sizes(opts)
  local job = { model = model, texts = corpora.named(texts, "evaluate"), opts = opts, sums = {},
    context = opts.context or model.config.context, passes = 0 }
  job.names = corpora.names(job.texts, "evaluate: '%s'")
  if #job.names == 0 then raise("evaluate: no corpus given") end
  corpora.check_tokens("evaluate", job.texts, job.names,
    { vocab = model.config.vocab, tokenizer = model.tokenizer })
  job.labels = corpora.labels("evaluate", model.config)(job.names)
  job.group = groups.size("evaluate", model, opts.group,
    opts.group or opts.batch, false)
  for _, name in ipairs(job.names) do job.sums[name] = new_sum() end
  return job
end

-- The share of each expert, by layer.
local function shares_of(sum)
  local list = {}
  for i, layer in ipairs(sum.routing) do list[i] = layer and routing.shares(layer.counts) end
  return list
end

local function result_of(job, left_out)
  local traits = job.model:traits(false)
  local result = { metric = {}, nats = {}, tokens = {}, bytes = {}, routing = {},
    split = job.opts.split,
    causal = traits.causal, coupled = traits.coupled == "batch", group = job.group,
    left_out = left_out }
  local sums, bits = {}, 0
  for i, name in ipairs(job.names) do
    local sum = job.sums[name]
    if sum.bytes == 0 then
      raise("evaluate: the %s split of corpus '%s' has no window of %d tokens", job.opts.split,
        job.texts[name].name or "?", job.context)
    end
    result.metric[name], result.nats[name] = sum.nats / sum.bytes / math.log(2),
      sum.nats / sum.tokens
    result.tokens[name], result.bytes[name] = sum.tokens, sum.bytes
    result.routing[name], sums[i] = shares_of(sum), sum.routing
    bits = bits + result.metric[name]
  end
  result.mean, result.statistics = bits / #job.names, routing.statistics(sums)
  return result
end

--- Bits per byte of each corpus, over all tokens of its windows, which do not overlap:
---   moe.evaluate(model, { name = corpus, ... }, { split = "test" }) ->
---   { metric = { name = bits per byte }, mean, nats = { name = per token }, tokens = { name = n },
---     bytes = { name = of these tokens }, routing = { name = rows },
---     statistics = { figures or false }, causal, coupled, group, left_out = { name = n } }
--- `mean` is that of the corpora, each with the same weight, and rows[layer][expert] the share of
--- routed slots (false for layers without a router). statistics, by layer and as if all corpora had
--- equally many tokens, has load, max_over_mean, cv, entropy, dropped, dead and mutual_information,
--- see routing.lua. causal is false when the model looks at later tokens, coupled true when it
--- looks at other sequences: such figures do not compare with those of models that generate text.
--- A corpus alone goes by its own name. Options: split ("validation" unless given), batch, windows
--- (at most so many of each corpus, evenly spaced; all when left out), context (the model's when
--- left out), seed, step (both for routers that draw or that change with training), and group.
--- A model that mixes sequences, and any with `group`, reads whole windows in groups that mix all
--- corpora, see groups.lua; left_out has the windows that made no group.
---@param model moelua.Model
---@param texts moelua.Corpus|table<string, moelua.Corpus>
---@param given table?
---@return { metric: table, mean: number, nats: table, tokens: table, bytes: table,
---  routing: table, statistics: table, split: string, causal: boolean, coupled: boolean,
---  group: integer?, left_out: table? }
return function(model, texts, given)
  local opts = options.check("moe.evaluate", given, declared)
  expect(type(model) == "table" and type(model.loss) == "function", "evaluate", "model", "a model",
    model)
  local job, left_out = new_job(model, texts, opts), nil
  if job.group then
    left_out = measure_groups(job)
  else
    for _, name in ipairs(job.names) do measure(job, name) end
  end
  return result_of(job, left_out)
end
