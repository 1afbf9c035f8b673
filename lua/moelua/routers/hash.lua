-- hash.lua: experts by the token itself, with nothing to learn (Roller et al. 2021, "Hash layers
-- for large sparse models").
--
--   expert j of k = hash_j(id),   gate 1
--
-- Each of k hashes chooses among its own N / k experts (MultiHash: their outputs add up to that of
-- one feed-forward layer cut into k slices). The hash of a token id is
--   by = "random"     drawn at random, once and for all
--   by = "balanced"   a table, from the most frequent id on: each to the expert with the least load
--                     so far. It is a buffer of the router, `table` [vocab x k];
--                     moe.balance_hash(model, corpus) fills it, before which all ids count as
--                     equally frequent
--   by = "bigram"     drawn for the id and the one before it: of 256 bytes no expert would get more
--                     than a few, of pairs it gets many
-- Always of the input token, never of the one to be predicted.

local core = require("moelua.core")
local expect = require("moelua.expect")

local hash = { weight = false, buffers = { "table" } }

hash.options = {
  k = { "integer", 1 },
  by = { { "random", "balanced", "bigram" }, "random" },
  seed = { "integer", 1 },
  vocab = "integer",                    -- for "balanced": how many ids there are
  balance = false, z_loss = false, jitter = false, capacity = false,
}

function hash.check(opts, experts)
  if opts.k < 1 or experts and experts % opts.k ~= 0 then
    core.raise("router: k hashes need as many experts each: k = %d, %s experts", opts.k,
      experts or "any number of")
  end
  if opts.by == "balanced" and not (opts.vocab and opts.vocab > 0) then
    core.raise("router: a balanced hash needs the size of the vocabulary\nhint: vocab = 256 for " ..
      "bytes, tokenizer:vocab() or corpus:vocab()")
  end
end

function hash.init(router)
  local opts = router.opts
  if opts.by ~= "balanced" then return end
  router.table = core.zeros(opts.vocab):balanced_table(router.count, opts.k, opts.seed)
end

local function check_ids(ids, x)
  local B, S = x:size(1), x:size(2)
  if not ids then
    core.raise("router: a hash needs the token ids\nhint: layer(x, { ids = ids }), i32 " ..
      "[%d x %d]; a model sets them itself", B, S)
  end
  local shape = core.shape(ids)
  if #shape ~= 2 or shape[1] ~= B or shape[2] ~= S then
    core.raise("router: ids must be [%d x %d], one for each token, not [%s]", B, S,
      table.concat(shape, " x "))
  end
end

local experts_by = {}

function experts_by.random(router, ids)
  return ids:hash_route(router.count, router.opts.k, 1, router.opts.seed)
end

function experts_by.balanced(router, ids) return ids:table_route(router.table) end

function experts_by.bigram(router, ids, before)
  return ids:hash_route(router.count, router.opts.k, 2, router.opts.seed, before)
end

function hash.route(router, _, how, x)
  check_ids(how.ids, x)
  local experts = experts_by[router.opts.by](router, how.ids, how.before)
  return core.ones(experts:shape()), experts
end

function hash.slots(opts) return opts.k end

-- The id before a token belongs to what is known of the token.
function hash.traits() return { causal = true, coupled = "no" } end

-- ---- frequencies --------------------------------------------------------------------------------

local WINDOW = 4096

--- How often each id occurs in the training text of a corpus: f32 [vocab].
---@param corpus moelua.Corpus
---@param vocab integer
---@return moelua.Tensor counts
function hash.frequencies(corpus, vocab)
  expect(type(corpus) == "table" and corpus.windows, "hash.frequencies", "corpus", "a corpus",
    corpus)
  expect(math.type(vocab) == "integer", "hash.frequencies", "vocab", "an integer", vocab)
  local counts = core.zeros(vocab)
  for first = 1, corpus:windows("train", WINDOW) do
    local _, ids = corpus:window_batch("train", WINDOW, nil, first, 1)
    counts = counts + ids:bincount(vocab)
  end
  return counts
end

-- The routers of a model or layer that have a table.
local function balanced_routers(model)
  local list, kind = {}, type(model)
  expect((kind == "table" or kind == "userdata") and model.buffers, "balance_hash", "model",
    "a model or layer", model)
  for _, entry in ipairs(model:buffers()) do
    if entry[4] == "table" and entry[3].opts.kind == "hash" then list[#list + 1] = entry[3] end
  end
  if #list > 0 then return list end
  core.raise("balance_hash: there is no balanced hash\n" ..
    "hint: router = { kind = \"hash\", by = \"balanced\" }")
end

--- Fills the tables of all balanced hashes of a model, or layer, by how often the ids occur in a
--- text, or by such counts, f32 [vocab]: for before training, because the experts of an id change.
---@param model table
---@param text moelua.Corpus|moelua.Tensor
function hash.balance(model, text)
  local routers = balanced_routers(model)
  local counts = type(text) == "table" and hash.frequencies(text, routers[1].opts.vocab) or text
  core.no_grad(function()
    for _, router in ipairs(routers) do
      router.table:copy_(core.balanced_table(counts, router.count, router.opts.k,
        router.opts.seed))
    end
  end)
end

return hash
