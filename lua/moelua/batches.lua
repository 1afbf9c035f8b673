-- batches.lua: training batches from several corpora, each with its even share over time.
--
-- The cursor is all there is to remember: how many sequences were taken, and how many windows of
-- each corpus. From it every later batch follows. Cursors are never changed, only replaced.

local core = require("moelua.core")
local class = require("moelua.class")
local corpora = require("moelua.corpora")
local raise = core.raise

local Batches = class("Batches")

--- data: a corpus, or { name = corpus }. how: batch, context, seed, vocab (of the model).
function Batches:init(data, how)
  self.corpora = corpora.named(data, "moe.train: data")
  self.names, self.how = corpora.names(self.corpora, "moe.train: data.%s"), how
  if #self.names == 0 then raise("moe.train: data is empty") end
  self.cursor = { sequences = 0, draws = {} }
  for _, name in ipairs(self.names) do
    local vocab = self.corpora[name]:vocab()
    if vocab > how.vocab then
      raise("moe.train: corpus '%s' has a vocabulary of %d, the model of %d", name, vocab,
        how.vocab)
    end
  end
end

-- How many sequences of the next batch come from each corpus: sequence g of the whole run belongs
-- to corpus g mod count.
local function shares(self)
  local share, count = {}, #self.names
  for i = 1, count do share[i] = 0 end
  for g = self.cursor.sequences, self.cursor.sequences + self.how.batch - 1 do
    share[g % count + 1] = share[g % count + 1] + 1
  end
  return share
end

--- The next batch: ids and targets, i32 [batch x context], and the cursor behind it. It stays the
--- next one until that cursor is set.
function Batches:next()
  local xs, ys, how, draws = {}, {}, self.how, {}
  for i, n in ipairs(shares(self)) do
    local name = self.names[i]
    draws[name] = self.cursor.draws[name] or 0
    if n > 0 then
      xs[#xs + 1], ys[#ys + 1], draws[name] = self.corpora[name]:batch({ split = "train",
        batch = n, context = how.context, seed = how.seed, stream = "batches." .. name,
        draw = draws[name] })
    end
  end
  local cursor = { sequences = self.cursor.sequences + how.batch, draws = draws }
  if #xs == 1 then return xs[1], ys[1], cursor end
  return core.concat(xs, 1), core.concat(ys, 1), cursor
end

return Batches
