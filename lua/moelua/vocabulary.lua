-- vocabulary.lua: one vocabulary for models that have different ones, and where the rows of its
-- embeddings come from.
--
--   local union = vocabulary.union({ { tokenizer = a, vocab = 32000 },
--     { tokenizer = b, vocab = 32064 } })
--   union.tokenizer, union.size
--   local sources = vocabulary.sources(union, { embedding of a, embedding of b })
--
-- The united vocabulary is the base's, each token with its id, then the tokens that it lacks in the
-- order of the models, their added tokens last. A model's ids that its embedding has no row for do
-- not count. Every model gets an embedding of the united size; row t of model m is
--
--   its own row of the token, if it has one; else
--   the row of the only model that has the token; else
--   the base's row; else
--   the mean of the rows of those that have it; and zeros when nobody does.
--
-- All but the means are gathers: `rows` and `from` of a source, as assembly.lua takes them. The
-- means are the only rows that are computed. Rows behind the last token, which round the size up,
-- are the mean of all rows of their model: zeros would be likelier than most tokens at an output
-- layer.

local core = require("moelua.core")
local expect = require("moelua.expect")
local merged_tokenizer = require("moelua.merged_tokenizer")
local options = require("moelua.options")
local raise = core.raise

local vocabulary = {}

local declared = {
  base = { "integer", 1 },
  lends = { "boolean", true },
  kind = { "string|table", "union" },     -- "union", "base", or { model = i }
  pad_to_multiple_of = "integer",
}

-- ---- whose tokens -----------------------------------------------------------------------------

local function check_models(models)
  expect(type(models) == "table" and #models > 0, "vocabulary.union", "models",
    "a list of { tokenizer, vocab }", models)
  for i, model in ipairs(models) do
    if type(model) ~= "table" or type(model.tokenizer) ~= "table" then
      raise("vocabulary.union: models[%d] has no tokenizer", i)
    end
    if math.type(model.vocab) ~= "integer" or model.vocab < 1 then
      raise("vocabulary.union: models[%d].vocab must be the rows of its embedding, not %s", i,
        core.describe(model.vocab))
    end
  end
end

local function check_place(name, i, models)
  if math.type(i) ~= "integer" or i < 1 or i > #models then
    raise("vocabulary.union: %s is %s: there are %d models", name, core.describe(i), #models)
  end
  return i
end

-- Which tokenizer to take as it is; nil for the union.
local function chosen(opts, models)
  local kind = opts.kind
  check_place("base", opts.base, models)
  if kind == "base" then return opts.base end
  if type(kind) == "table" then return check_place("kind.model", kind.model, models) end
  if kind == "union" then return nil end
  raise("vocabulary.union: kind is %q%s", kind,
    options.hint(kind, { "union", "base", "{ model = i }" }))
end

-- token -> id of a model, as far as its embedding goes.
local function ids_of(model)
  local ids, tok = {}, model.tokenizer
  for id = 0, math.min(tok.vocab, model.vocab) - 1 do
    local token = tok:token(id)
    if token then ids[token] = id end
  end
  return ids
end

-- ---- where rows come from ---------------------------------------------------------------------

-- Which models have the token: how many, and the first of them.
local function owners(ids, token)
  local count, first = 0, nil
  for m = 1, #ids do
    if ids[m][token] then count, first = count + 1, first or m end
  end
  return count, first
end

-- Where models without the token get its row: the number of another source, 0 for none. Tokens
-- whose rows are a mean are appended to `means`.
local function donor(plan, token)
  local count, first = owners(plan.ids, token)
  if count == 0 then return 0 end
  if plan.lends and plan.ids[plan.base][token] then return plan.base end
  if count == 1 then return first end
  plan.means[#plan.means + 1] = { token = token, count = count }
  return #plan.ids + 1
end

-- Of all tokens of the united tokenizer, by id from 1: the donor, and the computed row that is one,
-- or -1.
local function donors(plan, tok, size)
  local from, mean = {}, {}
  for id = 0, size - 1 do
    local token = tok:token(id)
    local had = #plan.means
    from[id + 1] = token and donor(plan, token) or 0
    mean[id + 1] = #plan.means > had and had or -1
  end
  return from, mean
end

-- The gather of one model: its own rows, or -1, and who gives the others.
local function gather(plan, m, union, from, mean)
  local own, rows, sources = plan.ids[m], {}, {}
  for i = 1, union.tokens do
    local token = union.tokenizer:token(i - 1)
    local id = token and own[token]
    rows[i], sources[i] = id or -1, id and 0 or from[i]
  end
  local computed = table.move(mean, 1, union.tokens, 1, {})
  for i = union.tokens + 1, union.size do
    rows[i], sources[i], computed[i] = -1, #plan.ids + 1, #plan.means + m - 1
  end
  return { rows = core.tensor(rows, "i32"), from = core.tensor(sources, "i32"),
    computed = core.tensor(computed, "i32") }
end

-- What the computed rows are made of: for each model its row of each token, or -1, and one over how
-- many models have that.
local function means_of(plan)
  if #plan.means == 0 then return nil end
  local weights, rows = {}, {}
  for k, mean in ipairs(plan.means) do weights[k] = { 1 / mean.count } end
  for m, ids in ipairs(plan.ids) do
    local list = {}
    for k, mean in ipairs(plan.means) do list[k] = ids[mean.token] or -1 end
    rows[m] = list
  end
  return { rows = rows, weights = weights }
end

local MOST_MULTIPLE = 65536     -- every row behind the last token costs memory and is never used

local function padded(tokens, multiple)
  if not multiple then return tokens end
  if multiple < 1 or multiple > MOST_MULTIPLE then
    raise("vocabulary.union: pad_to_multiple_of must be from 1 to %d: %d", MOST_MULTIPLE, multiple)
  end
  return (tokens + multiple - 1) // multiple * multiple
end

---@class moelua.Union
---@field tokenizer moelua.Tokenizer
---@field size integer rows of the united embeddings
---@field tokens integer those that are ids of the tokenizer; the others round the size up
---@field rows { rows: moelua.Tensor, from: moelua.Tensor, computed: moelua.Tensor }[] by model, i32
---  [size]: from[i] is 0 where row i is the model's own rows[i] or, when that is -1, zeros; else
---  the model whose own row it is, and behind the last model row computed[i] of the computed ones
---@field computed integer how many rows no model holds

--- The vocabulary of several models, and the gathers that bring their embeddings to it. Options:
---   base    whose ids are kept and whose rows go first; 1 when left out
---   lends   false: the base's rows do not go first, models that lack a token get the mean of those
---           that have it
---   kind    "union" (default), "base" for the base's tokenizer as it is, { model = i } for that of
---           another model
---   pad_to_multiple_of   rounds the size up
--- A tokenizer that lacks no token of the others stays the object it is, with its files.
---@param models { tokenizer: moelua.Tokenizer, vocab: integer }[] vocab: rows of the embedding
---@param given { base: integer?, lends: boolean?, kind: string|table|nil,
---  pad_to_multiple_of: integer? }?
---@return moelua.Union
function vocabulary.union(models, given)
  check_models(models)
  local opts = options.check("vocabulary.union", given, declared)
  local i, plan = chosen(opts, models), { ids = {}, means = {}, base = opts.base,
    lends = opts.lends }
  for m, model in ipairs(models) do plan.ids[m] = ids_of(model) end
  local tok = i and models[i].tokenizer or merged_tokenizer(models, opts.base)
  local union = { tokenizer = tok, tokens = tok.vocab, size = padded(tok.vocab,
    opts.pad_to_multiple_of), rows = {} }
  local from, mean = donors(plan, tok, union.tokens)
  for m in ipairs(models) do union.rows[m] = gather(plan, m, union, from, mean) end
  union.means, union.padded = means_of(plan), union.size > union.tokens
  union.computed = #plan.means + (union.padded and #models or 0)
  return union
end

-- ---- the computed rows ------------------------------------------------------------------------

local MOST = 4096       -- rows that are read at once

local function with(source, fields)
  local result = {}
  for key, value in pairs(source) do result[key] = value end
  for key, value in pairs(fields) do result[key] = value end
  return result
end

local function shape_of(source)
  return source.shape or source.tensor and source.tensor:shape()
    or source.file:info(source.name).shape
end

-- The sum of rows first .. last of the means over the models that have them, by their weights.
local function mean_rows(means, sources, dim, first, last)
  local n, sum = last - first + 1, nil
  for m, source in ipairs(sources) do
    local rows = table.move(means.rows[m], first, last, 1, {})
    local own = core.checkpoint.read(with(source, { rows = core.tensor(rows, "i32"),
      shape = { n, dim } }))
    sum = sum and sum + own or own
  end
  return sum * core.tensor(table.move(means.weights, first, last, 1, {}))
end

-- The mean of all rows of an embedding, f32 [1 x dim].
local function mean_of_all(source, rows, dim)
  local sum = core.zeros(1, dim)
  for first = 0, rows - 1, MOST do
    local _ <close> = core.scope()
    local n = math.min(MOST, rows - first)
    local part = core.checkpoint.read(with(source,
      { first = (source.first or 0) + first * dim, shape = { n, dim } }))
    core.no_grad(sum.copy_, sum, sum + part:sum(1):reshape(1, dim))
  end
  return sum * (1 / rows)
end

-- All computed rows, f32 [computed x dim]: the means, then those for padding.
local function computed(union, sources, dim)
  local result, at = core.zeros(union.computed, dim), 1
  local function put(rows)
    core.no_grad(function() result:narrow(1, at, rows:size(1)):copy_(rows) end)
    at = at + rows:size(1)
  end
  local count = union.means and #union.means.weights or 0
  for first = 1, count, MOST do
    local _ <close> = core.scope()
    put(mean_rows(union.means, sources, dim, first, math.min(first + MOST - 1, count)))
  end
  for _, source in ipairs(union.padded and sources or {}) do
    local _ <close> = core.scope()
    put(mean_of_all(source, shape_of(source)[1], dim))
  end
  return result
end

local function check_sources(union, sources)
  expect(type(sources) == "table", "vocabulary.sources", "sources", "a list of sources", sources)
  if #sources ~= #union.rows then
    raise("vocabulary.sources: %d sources for %d models", #sources, #union.rows)
  end
  local dim = shape_of(sources[1])[2]
  for i, source in ipairs(sources) do
    local shape = shape_of(source)
    if #shape ~= 2 or shape[2] ~= dim or source.rows then
      raise("vocabulary.sources: sources[%d] is %s[%s]: rows of %s are needed", i,
        source.rows and "a gather of " or "", table.concat(shape, " x "), dim)
    end
  end
  return dim
end

--- The embeddings of all models in the united vocabulary, [size x dim] each, as sources.
---@param union moelua.Union
---@param sources table[] one of each model in the order of the union, [vocab x dim]
---@return table[]
function vocabulary.sources(union, sources)
  local dim, others, result = check_sources(union, sources), {}, {}
  local shape = { union.size, dim }
  for m, source in ipairs(sources) do
    others[m] = with(source, { shape = shape, rows = union.rows[m].rows })
  end
  local rows = union.computed > 0 and core.no_grad(computed, union, sources, dim)
  for m in ipairs(sources) do
    local all = table.move(others, 1, #others, 1, {})
    if rows then
      all[#all + 1] = { tensor = rows, shape = shape, rows = union.rows[m].computed }
    end
    result[m] = with(others[m], { from = union.rows[m].from, others = all })
  end
  return result
end

--- Whether models have one vocabulary: equal tokenizers, and as many rows. Nothing of this is
--- needed then.
---@param models { tokenizer: moelua.Tokenizer, vocab: integer }[]
---@return boolean
function vocabulary.same(models)
  check_models(models)
  local hash = models[1].tokenizer:hash()
  for i = 2, #models do
    local equal = models[i].vocab == models[1].vocab and models[i].tokenizer:hash() == hash
    if not equal then return false end
  end
  return true
end

return vocabulary
