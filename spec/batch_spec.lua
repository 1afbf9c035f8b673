-- Which windows training draws and evaluation reads.
local helper = require("spec.helper")
local core = require("moelua.core")
local data = require("moelua.data")

-- Throws unless f raises exactly this message, with the line of this file in front.
local function misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal(message, (got:gsub("^[^\n]*batch_spec%.lua:%d+: ", "")))
  assert.matches("batch_spec%.lua:%d+: ", got)
end

local splits = { test = 0, validation = 1, train = 2 }

-- A corpus whose train split is the numbers 0, 1, 2 ..., so that a token tells where it stands.
local function counting(tokens, documents)
  local folder = helper.tmpdir()
  local ids, docs, split, at = {}, { ("<i8"):pack(0) }, {}, 0
  documents = documents or { { tokens, "train" } }
  local next_id = { train = 0, validation = 0, test = 0 }
  for _, document in ipairs(documents) do
    for _ = 1, document[1] do
      ids[#ids + 1] = ("<I4"):pack(next_id[document[2]])
      next_id[document[2]] = next_id[document[2]] + 1
    end
    at = at + document[1]
    docs[#docs + 1] = ("<i8"):pack(at)
    split[#split + 1] = string.char(splits[document[2]])
  end
  local path = folder .. "/count.tokens"
  assert(core.checkpoint.save(path, {
    ids = { dtype = "U32", shape = { #ids }, data = table.concat(ids) },
    docs = { dtype = "I64", shape = { #docs }, data = table.concat(docs) },
    split = { dtype = "U8", shape = { #split }, data = table.concat(split) },
  }, { vocab = "1000000", name = "count" }))
  return assert(data.open(path))
end

local function starts(x)
  local list = {}
  for i, row in ipairs(x:totable()) do list[i] = row[1] end
  return list
end

-- The starts of windows of draws first .. first+n-1, one at a time.
local function draws(corpus, first, n, more)
  local list = {}
  for k = first, first + n - 1 do
    local opt = { batch = 1, context = 10, draw = k }
    for key, value in pairs(more or {}) do opt[key] = value end
    list[#list + 1] = corpus:batch(opt):totable()[1][1]
  end
  return list
end

describe("batch", function()
  it("gives consecutive tokens, and the same shifted by one", function()
    local corpus = counting(nil,
      { { 7, "train" }, { 50, "test" }, { 3, "train" }, { 90, "train" } })
    local x, y = corpus:batch { batch = 4, context = 20 }
    assert.same({ 4, 20 }, x:shape())
    assert.equal("i32", x:dtype())
    x, y = x:totable(), y:totable()
    for row = 1, 4 do
      for column = 1, 20 do
        assert.equal(x[row][1] + column - 1, x[row][column])
        assert.equal(x[row][column] + 1, y[row][column])
      end
    end
  end)

  it("draws every window once per epoch, behind a phase of its own", function()
    local corpus = counting(1009)
    local windows = corpus:epoch("train", 10)
    assert.equal(99, windows)
    local phases = {}
    for epoch = 0, 7 do
      local opt = { batch = windows, context = 10, draw = epoch * windows }
      local list = starts((corpus:batch(opt)))
      local sorted = table.move(list, 1, #list, 1, {})
      table.sort(sorted)
      for i = 2, #sorted do assert.equal(sorted[1] + 10 * (i - 1), sorted[i]) end
      assert.is_true(sorted[1] >= 0 and sorted[1] < 10)
      assert.not_same(sorted, list)
      phases[sorted[1]] = true
    end
    local different = 0
    for _ in pairs(phases) do different = different + 1 end
    assert.is_true(different >= 3)
  end)

  it("orders epochs differently", function()
    local corpus = counting(1009)
    local function order(epoch)
      local list = starts((corpus:batch { batch = 99, context = 10, draw = epoch * 99 }))
      local first = math.min(table.unpack(list))
      for i = 1, 99 do list[i] = list[i] - first end
      return list
    end
    local same, a, b = 0, order(0), order(1)
    for i = 1, 99 do same = same + (a[i] == b[i] and 1 or 0) end
    assert.is_true(same < 10)
  end)

  it("never overlaps with itself, at the end of an epoch neither", function()
    local corpus = counting(1009)
    local draw = 0
    for _ = 1, 40 do
      local x, _, next_draw = corpus:batch { batch = 7, context = 10, draw = draw }
      local list = starts(x)
      table.sort(list)
      for i = 2, 7 do assert.is_true(list[i] - list[i - 1] >= 10) end
      draw = next_draw
    end
    -- 14 batches fit into the 99 windows of an epoch: the last window is skipped.
    assert.equal(2 * 99 + 12 * 7, draw)
    local _, _, next_draw = corpus:batch { batch = 7, context = 10, draw = 93 }
    assert.equal(106, next_draw)
    _, _, next_draw = corpus:batch { batch = 7, context = 10, draw = 92 }
    assert.equal(99, next_draw)
  end)

  it("depends on seed, stream and draw alone", function()
    local corpus = counting(1009)
    local function tokens(more)
      local opt = { batch = 8, context = 10, seed = 3, stream = "a", draw = 16 }
      for key, value in pairs(more or {}) do opt[key] = value end
      return starts((corpus:batch(opt)))
    end
    local want = tokens()
    corpus:batch { batch = 5, context = 10 }
    assert.same(want, tokens())
    assert.same(want, draws(corpus, 16, 8, { seed = 3, stream = "a" }))
    assert.not_same(want, tokens { seed = 4 })
    assert.not_same(want, tokens { stream = "b" })
    assert.not_same(want, tokens { draw = 24 })
    -- Fixed for good: a run must continue with the draws it began with.
    assert.same({ 530, 400, 300, 160, 570, 620, 20, 790 }, want)
  end)

  it("works with the smallest split that it takes", function()
    local corpus = counting(11)
    local x, y, next_draw = corpus:batch { batch = 1, context = 10, draw = 5 }
    assert.same({ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 }, x:totable()[1])
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, y:totable()[1])
    assert.equal(6, next_draw)
    local seen = {}
    corpus = counting(20)
    for _, start in ipairs(draws(corpus, 0, 80)) do seen[start] = true end
    for start = 0, 9 do assert.is_true(seen[start]) end
    assert.is_nil(seen[10])
  end)

  it("is drawn apart where members must share no document", function()
    -- Documents of 5 to 64 tokens: windows of 11 touch one, two or three of them.
    local documents, ends, at = {}, {}, 0
    for i = 1, 40 do
      documents[i] = { 5 + core.uniform(1, "sizes", i, 60), "train" }
      at = at + documents[i][1]
      ends[i] = at
    end
    local corpus = counting(nil, documents)
    local function document_of(token)
      for i, last in ipairs(ends) do
        if token < last then return i end
      end
    end
    local function near(a, b)
      return document_of(a) <= document_of(b + 10) and document_of(b) <= document_of(a + 10)
    end
    local draw, skipped = 0, 0
    for _ = 1, 30 do
      local x, y, next_draw = corpus:batch { batch = 12, context = 10, draw = draw, apart = 4 }
      local list = starts(x)
      for i = 1, 12 do
        assert.equal(list[i] + 10, y:totable()[i][10])
        for k = math.max(1, i - 3), i - 1 do assert.is_false(near(list[k], list[i])) end
      end
      skipped = skipped + next_draw - draw - 12
      draw = next_draw
    end
    assert.is_true(skipped > 0)
    assert.is_true(skipped < 12 * 30)
  end)

  it("keeps neighbours apart: one predicts the token that the other begins with", function()
    -- Two documents that end where windows do: the token between belongs to the second.
    local corpus = counting(nil, { { 100, "train" }, { 101, "train" }, { 100, "train" } })
    for seed = 1, 20 do
      local list = starts((corpus:batch { batch = 2, context = 10, apart = 2, seed = seed }))
      table.sort(list)
      assert.is_true(list[2] - list[1] > 10)
      assert.not_equal(list[1] // 100, (list[2] + 10) // 100)
    end
  end)

  it("takes the same windows as ever when members may be near", function()
    local corpus = counting(1009)
    local opt = { batch = 8, context = 10, seed = 3, stream = "a", draw = 16, apart = 1 }
    assert.same({ 530, 400, 300, 160, 570, 620, 20, 790 }, starts((corpus:batch(opt))))
  end)

  it("is refused where too few windows are apart", function()
    local corpus = counting(nil, { { 100, "train" }, { 5, "train" }, { 200, "train" } })
    corpus:batch { batch = 4, context = 10, apart = 2 }
    misuse(function() corpus:batch { batch = 6, context = 10, apart = 3 } end,
      "batch: split \"train\" has 2 windows of 10 tokens that share no document: a group " ..
      "needs 3\n" ..
      "hint: give the corpus more documents, or use smaller groups")
    -- Enough for one pair, but the short document has a single window.
    local uneven = counting(nil, { { 400, "train" }, { 30, "train" } })
    misuse(function() uneven:batch { batch = 20, context = 10, apart = 2 } end,
      "batch: split \"train\": no batch of 20 windows of 10 tokens was found in which no 2 " ..
      "successive ones share a document\n" ..
      "hint: give the corpus more documents, or use smaller groups or batches")
    misuse(function() corpus:batch { batch = 2, context = 10, apart = 0 } end,
      "batch: apart must be a whole number from 1 on: got 0")
  end)

  it("says what is wrong", function()
    local corpus = counting(nil, { { 60, "train" }, { 10, "test" } })
    local function wrong(opt, message)
      misuse(function() corpus:batch(opt) end, message)
    end
    wrong({ batch = 1, context = 10, split = "test" },
      "batch: split \"test\" has 10 tokens: a context of 10 needs 11\n" ..
      "hint: give the corpus more text, or use a shorter context")
    wrong({ batch = 6, context = 10 },
      "batch: split \"train\" has 5 windows of 10 tokens: a batch of 6 would overlap\n" ..
      "hint: give the corpus more text, or use a smaller batch or context")
    wrong({ batch = 0, context = 10 }, "batch: batch must be a whole number from 1 on: got 0")
    wrong({ batch = 1, context = 10, draw = -1 },
      "batch: draw must be a whole number from 0 on: got -1")
    wrong({ batch = 1, context = 10, draw = math.maxinteger },
      "batch: draw is too large: 9223372036854775807")
    wrong({ context = 10 }, "batch: option 'batch' is missing: integer expected")
    wrong({ batch = 1, contxt = 10 },
      "batch: unknown option 'contxt'\nhint: did you mean 'context'?")
    wrong({ batch = 1, context = 10, split = "trian" },
      "batch: option 'split' is 'trian': unknown\nhint: did you mean 'train'?")
    wrong({ batch = 1 << 40, context = 1 << 40 }, "batch: split \"train\" has 60 tokens: a " ..
      "context of 1099511627776 needs 1099511627777\n" ..
      "hint: give the corpus more text, or use a shorter context")
  end)

  it("can be asked beforehand", function()
    local corpus = counting(nil, { { 60, "train" }, { 10, "test" }, { 11, "validation" } })
    assert.is_true(corpus:check(9))
    assert.is_true(corpus:check(10, { "train", "validation" }))
    local ok, message, code = corpus:check(10)
    assert.is_nil(ok)
    assert.equal("corpus \"count\": split \"test\" has 10 tokens: a context of 10 needs 11\n" ..
      "hint: give the corpus more text, or use a shorter context", message)
    assert.equal("format", code)
    misuse(function() corpus:check() end, "check: context must be an integer, not nil")
  end)
end)

describe("evaluation windows", function()
  it("cover the split in order, the last one in part", function()
    local corpus = counting(nil, { { 20, "test" }, { 5, "train" }, { 14, "test" } })
    assert.equal(4, corpus:windows("test", 10))
    local x, y = corpus:window_batch("test", 10, nil, 1, 4)
    x, y = x:totable(), y:totable()
    local seen = {}
    for row = 1, 4 do
      for column = 1, 10 do
        local target = y[row][column]
        if target >= 0 then
          assert.equal(target - 1, x[row][column])
          seen[#seen + 1] = target
        else
          assert.same({ -1, 0 }, { target, x[row][column] })
        end
      end
    end
    assert.equal(33, #seen)
    for i = 1, 33 do assert.equal(i, seen[i]) end
    assert.same({ 31, 32, 33, -1, -1, -1, -1, -1, -1, -1 }, y[4])
  end)

  it("are the same in batches of any size", function()
    local corpus = counting(334)
    local all = corpus:window_batch("train", 10, nil, 1, 34):totable()
    for first = 1, 34, 5 do
      local n = math.min(5, 35 - first)
      local part = corpus:window_batch("train", 10, nil, first, n):totable()
      for i = 1, n do assert.same(all[first + i - 1], part[i]) end
    end
  end)

  it("are whole and evenly spaced when limited", function()
    local corpus = counting(1005)
    assert.equal(101, corpus:windows("train", 10))
    assert.equal(4, corpus:windows("train", 10, 4))
    local x, y = corpus:window_batch("train", 10, 4, 1, 4)
    assert.same({ 0, 250, 500, 750 }, starts(x))
    assert.equal(760, y:totable()[4][10])
    assert.equal(100, corpus:windows("train", 10, 100))
    assert.same({ 990 }, starts((corpus:window_batch("train", 10, 100, 100, 1))))
    assert.equal(101, corpus:windows("train", 10, 101))
    assert.equal(101, corpus:windows("train", 10, 1000))
  end)

  it("exist for short splits as well", function()
    local corpus = counting(nil, { { 3, "test" }, { 1, "train" } })
    assert.equal(1, corpus:windows("test", 5))
    local x, y = corpus:window_batch("test", 5, 7, 1, 1)
    assert.same({ { 0, 1, 0, 0, 0 } }, x:totable())
    assert.same({ { 1, 2, -1, -1, -1 } }, y:totable())
    assert.equal(0, corpus:windows("train", 5))
    assert.equal(0, corpus:windows("validation", 5))
  end)

  it("tell which documents they touch", function()
    local corpus = counting(nil, { { 20, "test" }, { 5, "train" }, { 14, "test" }, { 9, "test" } })
    -- Tokens 0-10, 10-20, 20-30, 30-40, 40-42 of documents that begin at 0, 20 and 34.
    assert.same({ { 0, 0 }, { 0, 1 }, { 1, 1 }, { 1, 2 }, { 2, 2 } },
      corpus:window_documents("test", 10):totable())
    assert.same({ { 0, 0 }, { 1, 1 } }, corpus:window_documents("test", 10, 2):totable())
    assert.same({ 0, 2 }, corpus:window_documents("validation", 10):shape())
  end)

  it("say what is wrong", function()
    local corpus = counting(35)
    misuse(function() corpus:window_batch("train", 10, nil, 3, 3) end,
      "window_batch: split \"train\" has 4 windows: 3 from 3 on are too many")
    misuse(function() corpus:window_batch("train", 10, nil, 0, 1) end,
      "window_batch: first must be a whole number from 1 on: got 0")
    misuse(function() corpus:windows("train", 10, 0) end,
      "windows: limit must be a whole number from 1 on: got 0")
    misuse(function() corpus:windows("trian", 10) end,
      "windows: there is no split \"trian\"\nhint: train, validation and test exist")
    misuse(function() corpus:windows("train", 1.5) end,
      "windows: context must be a whole number from 1 on: got 1.5")
  end)
end)
