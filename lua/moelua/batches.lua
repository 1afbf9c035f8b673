-- batches.lua: training batches from several corpora, each with its even share over time.
--
-- Row g of the whole run belongs to corpus g mod count, so that every part of a batch mixes the
-- corpora evenly. The cursor is all there is to remember: how many rows were taken, and how many
-- windows of each corpus. From it every later batch follows. Cursors are never changed, only
-- replaced.

local core = require("moelua.core")
local class = require("moelua.class")
local corpora = require("moelua.corpora")
local rows = require("moelua.rows")
local raise = core.raise

local Batches = class("Batches")

--- data: a corpus, or { name = corpus }. how: batch, context, seed, vocab, tokenizer and labels of
--- the model (see corpora.labels), and group (see groups.lua): no two of so many rows in a row then
--- share a document.
function Batches:init(data, how)
  self.corpora = corpora.named(data, "moe.train: data")
  self.names, self.how = corpora.names(self.corpora, "moe.train: data.%s"), how
  if #self.names == 0 then raise("moe.train: data is empty") end
  self.labels = how.labels(self.names)
  self.cursor = { sequences = 0, draws = {} }
  corpora.check_tokens("moe.train", self.corpora, self.names, how)
end

-- The name of the corpus of each row of the next batch, and how many rows are of each.
local function order(self)
  local names, share, count = {}, {}, #self.names
  for g = self.cursor.sequences, self.cursor.sequences + self.how.batch - 1 do
    local name = self.names[g % count + 1]
    names[#names + 1], share[name] = name, (share[name] or 0) + 1
  end
  return names, share
end

-- Ids and targets of that many windows of a corpus, and the number of the draw behind them. Of any
-- `group` rows in a row the corpus has at most its share, which are successive draws.
local function draw(self, name, n)
  local how = self.how
  return self.corpora[name]:batch({ split = "train", batch = n, context = how.context,
    seed = how.seed, stream = "batches." .. name, draw = self.cursor.draws[name] or 0,
    apart = ((how.group or 1) - 1) // #self.names + 1 })
end

-- The rows of tensors by corpus in the order of the batch.
local function mix(names, tensors)
  if not next(tensors, next(tensors)) then return tensors[names[1]] end
  local list, taken = {}, {}
  for i, name in ipairs(names) do
    taken[name] = (taken[name] or 0) + 1
    list[i] = tensors[name]:narrow(1, taken[name], 1)
  end
  return rows.join(list)
end

local function labels_of(self, names)
  local list = {}
  for i, name in ipairs(names) do list[i] = self.labels[name] end
  return core.tensor(list, "i32")
end

--- The next batch: x and y, ids and targets i32 [batch x context], labels, which domain each row is
--- of, i32 [batch], and bytes, how many the targets stand for; and the cursor behind it. It stays
--- the next one until that is set.
---@return { x: moelua.Tensor, y: moelua.Tensor, labels: moelua.Tensor, bytes: integer } batch
---@return table cursor
function Batches:next()
  local names, share = order(self)
  local xs, ys, draws, bytes = {}, {}, {}, 0
  for _, name in ipairs(self.names) do
    draws[name] = self.cursor.draws[name] or 0
    if share[name] then
      xs[name], ys[name], draws[name] = draw(self, name, share[name])
      bytes = bytes + self.corpora[name]:bytes(ys[name])
    end
  end
  return { x = mix(names, xs), y = mix(names, ys), labels = labels_of(self, names), bytes = bytes },
    { sequences = self.cursor.sequences + self.how.batch, draws = draws }
end

return Batches
