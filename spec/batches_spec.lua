-- Training batches: every part of one mixes the corpora evenly.
local Batches = require("moelua.batches")
local corpora = require("moelua.corpora")
local models = require("spec.models")

local texts = {}
for i, name in ipairs({ "a", "b", "c" }) do
  texts[name] = models.corpus(i % 2 == 0 and "code" or "prose", nil, 4)
end

local function batches(data, more)
  local how = { batch = 4, context = 16, seed = 1, vocab = 256,
    labels = corpora.labels("here", models.tiny().config) }
  for k, v in pairs(more or {}) do how[k] = v end
  return Batches(data, how)
end

local function drawn(name, first, n)
  local x, y = texts[name]:batch({ batch = n, context = 16, stream = "batches." .. name,
    draw = first })
  return x:totable(), y:totable()
end

describe("a training batch", function()
  it("has a row of each corpus in turn, over all batches", function()
    local b, labels = batches(texts), {}
    local want = { a = drawn("a", 0, 3), b = drawn("b", 0, 3), c = drawn("c", 0, 2) }
    local rows = {}
    for _ = 1, 2 do
      local batch, cursor = b:next()
      b.cursor = cursor
      table.move(batch.labels:totable(), 1, 4, #labels + 1, labels)
      table.move(batch.x:totable(), 1, 4, #rows + 1, rows)
    end
    assert.same({ 0, 1, 2, 0, 1, 2, 0, 1 }, labels)
    assert.same({ want.a[1], want.b[1], want.c[1], want.a[2] }, table.move(rows, 1, 4, 1, {}))
    assert.same({ sequences = 8, draws = { a = 3, b = 3, c = 2 } }, b.cursor)
  end)

  it("has targets in the same order, also when it has many rows", function()
    local batch = batches(texts, { batch = 150 }):next()
    local _, want = drawn("b", 0, 50)
    local y, labels = batch.y:totable(), batch.labels:totable()
    for i = 1, 50 do
      assert.same(want[i], y[3 * i - 1])
      assert.equal(1, labels[3 * i - 1])
    end
    assert.same({ 150, 16 }, batch.x:shape())
  end)

  it("is that of the corpus when there is one", function()
    local batch = batches({ a = texts.a }):next()
    assert.same(drawn("a", 0, 4), batch.x:totable())
    assert.same({ 0, 0, 0, 0 }, batch.labels:totable())
  end)

  it("stays the next one until its cursor is set", function()
    local b = batches(texts)
    local first, cursor = b:next()
    assert.equal(first.x:bytes(), (b:next()).x:bytes())
    b.cursor = cursor
    assert.not_equal(first.x:bytes(), (b:next()).x:bytes())
  end)

  it("takes from each corpus what is apart, when groups are asked for", function()
    local b = batches(texts, { batch = 6, group = 6 })
    for _ = 1, 20 do
      local batch, cursor = b:next()
      for _, name in ipairs(b.names) do
        local x = texts[name]:batch({ batch = 2, context = 16, stream = "batches." .. name,
          draw = b.cursor.draws[name] or 0, apart = 2 })
        local place = b.labels[name] + 1
        assert.same(x:totable(), { batch.x:totable()[place], batch.x:totable()[place + 3] })
      end
      b.cursor = cursor
    end
    assert.is_true(b.cursor.draws.a > 40)       -- some were too near
    assert.equal(120, b.cursor.sequences)
  end)
end)
