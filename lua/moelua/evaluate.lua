-- evaluate.lua: bits per token on the held-out splits, and where the tokens were routed.
--
-- For byte tokens that is bits per byte, which compares across models.

local core = require("moelua.core")
local corpora = require("moelua.corpora")
local expect = require("moelua.expect")
local options = require("moelua.options")

local declared = {
  split = { { "validation", "test", "train" }, "validation" },
  batch = { "integer", 32 },
  windows = "integer",        -- at most this many per corpus, evenly spaced; all when left out
  context = "integer",
}

-- Adds the loads of the mixture layers, weighted by tokens.
local function add_routing(sum, infos, layers, weight)
  for i = 1, layers do
    local load = infos[i] and infos[i].load
    if load then
      sum[i] = sum[i] or {}
      for e, share in ipairs(load) do sum[i][e] = (sum[i][e] or 0) + share * weight end
    else
      sum[i] = false
    end
  end
end

local function divide(sum, tokens)
  for _, row in ipairs(sum) do
    for e in ipairs(row or {}) do row[e] = row[e] / tokens end
  end
  return sum
end

-- Adds what the model makes of ids x and targets y, all of which count.
local function add_batch(sum, model, x, y)
  local _, info = core.no_grad(model.loss, model, x, y)
  local count = y:count()
  sum.nats, sum.tokens = sum.nats + info.nll:item() * count, sum.tokens + count
  add_routing(sum.routing, info.layers, model.config.layers, count)
end

-- How many targets of a window are there; behind the end of the split they are -1.
local function filled(window)
  local n = 0
  for _, id in ipairs(window:totable()) do n = n + (id >= 0 and 1 or 0) end
  return n
end

-- The last window of a split may be short. It goes in by itself, without its padding, which would
-- be routed like any other token.
local function add_last_batch(sum, model, x, y)
  local n, context = x:size(1), x:size(2)
  local rest = filled(y:select(1, n))
  if rest == context then return add_batch(sum, model, x, y) end
  if n > 1 then add_batch(sum, model, x:narrow(1, 1, n - 1), y:narrow(1, 1, n - 1)) end
  add_batch(sum, model, x:narrow(1, n, 1):narrow(2, 1, rest), y:narrow(1, n, 1):narrow(2, 1, rest))
end

-- One corpus: mean nats per token, tokens, routing.
local function measure(model, corpus, opts)
  local context = opts.context or model.config.context
  local total = corpus:windows(opts.split, context, opts.windows)
  local sum = { nats = 0, tokens = 0, routing = {} }
  local function one_batch(first)
    local _ <close> = core.scope()
    local n = math.min(opts.batch, total - first + 1)
    local x, y = corpus:window_batch(opts.split, context, opts.windows, first, n)
    local add = first + n > total and add_last_batch or add_batch
    add(sum, model, x, y)
  end
  for first = 1, total, opts.batch do one_batch(first) end
  if sum.tokens == 0 then
    core.raise("evaluate: the %s split of corpus '%s' has no window of %d tokens", opts.split,
      corpus.name or "?", context)
  end
  return sum.nats / sum.tokens, sum.tokens, divide(sum.routing, sum.tokens)
end

--- Bits per token of each corpus, the mean over all tokens of its windows, which do not overlap:
---   moe.evaluate(model, { name = corpus, ... }, { split = "test" }) ->
---   { metric = { name = bits per token }, mean, tokens = { name = n }, routing = { name = rows } }
--- `mean` is that of the corpora, each with the same weight, and rows[layer][expert] the share of
--- routed slots (false for dense layers). A corpus alone goes by its own name. Options: split
--- ("validation" unless given), batch, windows (at most so many of each corpus, evenly spaced; all
--- when left out), context (the model's when left out).
---@param model moelua.Model
---@param texts moelua.Corpus|table<string, moelua.Corpus>
---@param given table?
---@return { metric: table, mean: number, tokens: table, routing: table, split: string }
return function(model, texts, given)
  local opts = options.check("moe.evaluate", given, declared)
  expect(type(model) == "table" and type(model.loss) == "function", "evaluate", "model", "a model",
    model)
  for _, name in ipairs({ "batch", "windows", "context" }) do
    if opts[name] and opts[name] < 1 then
      core.raise("evaluate: %s must be at least 1, not %d", name, opts[name])
    end
  end
  texts = corpora.named(texts, "evaluate")
  local names = corpora.names(texts, "evaluate: '%s'")
  if #names == 0 then core.raise("evaluate: no corpus given") end
  for _, name in ipairs(names) do
    local vocab, known = texts[name]:vocab(), model.config.vocab
    if vocab > known then
      core.raise("evaluate: corpus '%s' has a vocabulary of %d, the model of %d", name, vocab,
        known)
    end
  end
  local result, sum = { metric = {}, tokens = {}, routing = {}, split = opts.split }, 0
  for _, name in ipairs(names) do
    local nats, tokens, routing = measure(model, texts[name], opts)
    result.metric[name], result.tokens[name] = nats / math.log(2), tokens
    result.routing[name] = routing
    sum = sum + result.metric[name]
  end
  result.mean = sum / #names
  return result
end
