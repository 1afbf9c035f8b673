-- kv_cache.lua: the keys and values of the tokens that a model has read, so that each is computed
-- once.
--
--   local cache = require("moelua.kv_cache")(model.config, { batch = 1, room = 64 })
--   model:logits(ids, nil, cache);  model:logits({ next }, nil, cache)
--
-- A cache holds several sequences of different lengths: per layer k, v [batch x room x KV x D]. It
-- also knows the last token of each, which a hash of two tokens asks for.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local options = require("moelua.options")

local Cache = class("KvCache")

local declared = {
  batch = { "integer", 1 },             -- sequences
  room = { "integer", required = true },        -- tokens that each has room for
  dtype = { { "f32", "bf16", "f16" }, "f32" },
}

local function new_layers(self)
  local layers, config = {}, self.config
  for i = 1, config.layers do
    layers[i] = {}
    for _, name in ipairs({ "k", "v" }) do
      layers[i][name] = core.zeros(self.batch, self.room, config.kv_heads, config.head_dim,
        { dtype = self.dtype })
    end
  end
  return layers
end

--- config: of the model. given: batch, room, dtype, see above.
function Cache:init(config, given)
  expect(type(config) == "table" and config.kv_heads, "KvCache", "config", "model.config", config)
  local opts = options.check("KvCache", given, declared)
  self.config, self.batch, self.room, self.dtype = config, opts.batch, opts.room, opts.dtype
  self.lengths, self.last = {}, {}
  for b = 1, self.batch do self.lengths[b], self.last[b] = 0, -1 end
  self.layers = new_layers(self)
end

--- Makes room for `tokens` tokens in each sequence, and some more up to `most`.
function Cache:reserve(tokens, most)
  local old = self.room
  if tokens <= old then return end
  self.room = math.max(tokens, math.min(2 * old, most))
  local layers = new_layers(self)
  for i, layer in ipairs(self.layers) do
    for name, tensor in pairs(layer) do
      local _ <close> = core.scope()
      layers[i][name]:narrow(2, 1, old):copy_(tensor)
      tensor:free()
    end
  end
  self.layers = layers
end

--- Forgets sequence b, whose place the sequence `last` takes unless that is b itself.
function Cache:remove(b, last)
  local used = self.lengths[last]
  self.lengths[b], self.last[b] = used, self.last[last]
  self.lengths[last], self.last[last] = 0, -1
  if b == last then return end
  local _ <close> = core.scope()
  for _, layer in ipairs(self.layers) do
    for _, tensor in pairs(layer) do
      tensor:select(1, b):narrow(1, 1, used):copy_(tensor:select(1, last):narrow(1, 1, used))
    end
  end
end

-- One step: T new tokens for `count` sequences from number `first` on.
local Step = class("KvStep")

local function numbers(list) return core.tensor(list, "i32") end

function Step:init(cache, first, count, T)
  local starts, lengths, rows, before = {}, {}, {}, {}
  self.fresh, self.longest = true, 0
  for b = 1, count do
    local used = cache.lengths[first + b - 1]
    if used + T > cache.room then
      core.raise("the cache has room for %d tokens, not for %d", cache.room, used + T)
    end
    self.fresh = self.fresh and used == 0
    self.longest = math.max(self.longest, used + T)
    starts[b], lengths[b], before[b] = used, used + T, { cache.last[first + b - 1] }
    for t = 0, T - 1 do rows[#rows + 1] = (b - 1) * cache.room + used + t end
  end
  self.cache, self.first, self.count = cache, first, count
  self.starts, self.lengths, self.rows = numbers(starts), numbers(lengths), numbers(rows)
  self.T, self.before = T, numbers(before)
end

--- Remembers the new keys and values of a layer, and returns what its attention reads: keys, values
--- and how many of them each sequence has (nil: all).
function Step:remember(layer, k, v)
  local place, config = self.cache.layers[layer], self.cache.config
  local function with(new, whole)
    local ours = whole:narrow(1, self.first, self.count)
    ours:reshape(self.count * self.cache.room, config.kv_heads, config.head_dim)
      :put_rows_(self.rows, new)
    return ours
  end
  local keys, values = with(k, place.k), with(v, place.v)
  if self.fresh then return k, v end
  return keys, values, self.lengths
end

--- After the last layer: the tokens ids i32 [count x T] count as read.
function Step:finish(ids)
  local cache = self.cache
  for i, id in ipairs(ids:select(2, -1):totable()) do
    local b = self.first + i - 1
    cache.lengths[b], cache.last[b] = cache.lengths[b] + self.T, id
  end
end

--- Begins a step of T tokens for `count` sequences, from number `first` (1) on.
function Cache:step(count, T, first)
  first = first or 1
  if first + count - 1 > self.batch then
    core.raise("the cache holds %d sequences, not %d", self.batch, first + count - 1)
  end
  return Step(self, first, count, T)
end

--- The same cache, of which steps see only sequence number `b`.
function Cache:only(b)
  return { step = function(_, count, T) return self:step(count, T, b) end }
end

return Cache
