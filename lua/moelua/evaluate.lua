-- evaluate.lua: bits per token on the held-out splits, and where the tokens were routed.
--
-- For byte tokens that is bits per byte, which compares across models.

local core = require("moelua.core")
local options = require("moelua.options")

local declared = {
  split = { { "validation", "test", "train" }, "validation" },
  batch = { "integer", 32 },
  windows = "integer",        -- at most this many per corpus, evenly spaced; all when left out
  context = "integer",
}

local function names_of(corpora)
  local names = {}
  for name, corpus in pairs(corpora) do
    if type(corpus) ~= "table" or not corpus.handle then
      core.raise("evaluate: '%s' must be a corpus, not %s", name, type(corpus))
    end
    names[#names + 1] = name
  end
  if #names == 0 then core.raise("evaluate: no corpus given") end
  table.sort(names)
  return names
end

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

local function count_targets(y)
  local flat, n = y:reshape(-1), 0
  for _, id in ipairs(flat:totable()) do n = n + (id >= 0 and 1 or 0) end
  return n
end

-- One corpus: mean nats per token, tokens, routing.
local function measure(model, corpus, opts)
  local context = opts.context or model.config.context
  local total = corpus:windows(opts.split, context, opts.windows)
  local nats, tokens, routing = 0, 0, {}
  for first = 1, total, opts.batch do
    local scope = core.scope()
    local n = math.min(opts.batch, total - first + 1)
    local x, y = corpus:window_batch(opts.split, context, opts.windows, first, n)
    local last = first + n > total
    local counted = last and count_targets(y) or n * context
    local _, info = core.no_grad(model.loss, model, x, y)
    nats = nats + info.nll:item() * counted
    tokens = tokens + counted
    add_routing(routing, info.layers, model.config.layers, counted)
    scope:close()
  end
  if tokens == 0 then
    core.raise("evaluate: the %s split of corpus '%s' has no window of %d tokens", opts.split,
      corpus.name or "?", context)
  end
  return nats / tokens, tokens, divide(routing, tokens)
end

--- moe.evaluate(model, { name = corpus, ... }, { split = "test" }) ->
--- { metric = { name = bits per token }, mean, tokens = { name = n }, routing = { name = rows } }
--- where rows[layer][expert] is the share of routed slots (false for dense layers). A corpus alone
--- goes by its own name.
return function(model, corpora, given)
  local opts = options.check("moe.evaluate", given, declared)
  if opts.batch < 1 then core.raise("evaluate: batch must be at least 1, not %d", opts.batch) end
  if corpora.handle then corpora = { [corpora.name or "data"] = corpora } end
  local result = { metric = {}, tokens = {}, routing = {}, split = opts.split }
  local sum, names = 0, names_of(corpora)
  for _, name in ipairs(names) do
    local nats, tokens, routing = measure(model, corpora[name], opts)
    result.metric[name], result.tokens[name] = nats / math.log(2), tokens
    result.routing[name] = routing
    sum = sum + result.metric[name]
  end
  result.mean = sum / #names
  return result
end
