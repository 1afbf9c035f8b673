-- Mixtures of models with different vocabularies: every row is that of whoever has the token.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local tokenizer = require("moelua.tokenizer")
local json = require("moelua.core").json

local function tokens(list, merges)
  local vocab = {}
  for i, token in ipairs(list) do vocab[token] = i - 1 end
  local level = { type = "ByteLevel", add_prefix_space = false, use_regex = true }
  return assert(tokenizer.from_table({ pre_tokenizer = level, decoder = level,
    added_tokens = json.array({}),
    model = { type = "BPE", vocab = vocab, merges = json.array(merges or {}) } }))
end

local function model(tok, rows, seed)
  local m = models.tiny({ vocab = rows, tied = false, seed = seed })
  m.tokenizer = tok
  return m
end

local function row(m, name, id)
  return models.parameter(m, name):detach():narrow(1, id + 1, 1):clone()
end

describe("a mixture of models with different vocabularies", function()
  local x, y = tokens({ "x", "y", "xy" }, { "x y" }), tokens({ "y", "z", "x", "yz" }, { "y z" })
  local a, b = model(x, 3, 1), model(y, 4, 2)
  local united = moe.mix({ a, b })        -- x y xy z yz

  it("has one of all tokens, and experts as they were", function()
    assert.equal(5, united.config.vocab)
    assert.same({ 5, 16 }, models.parameter(united, "head"):shape())
    assert.same({ 2, 3 }, united.tokenizer:encode("xyz"))
    for e, m in ipairs({ a, b }) do
      assert.equal(m.layers[1].ffn.w1:bytes(),
        united.layers[1].ffn.experts.w1:detach():select(1, e):clone():bytes())
    end
  end)

  it("has the mean of two rows, or the only one", function()
    for _, name in ipairs({ "embedding", "head" }) do
      helper.close(row(united, name, 0), (row(a, name, 0) + row(b, name, 2)) / 2, 1e-7)
      helper.close(row(united, name, 1), (row(a, name, 1) + row(b, name, 0)) / 2, 1e-7)
      assert.equal(row(a, name, 2):bytes(), row(united, name, 2):bytes())
      assert.equal(row(b, name, 1):bytes(), row(united, name, 3):bytes())
      assert.equal(row(b, name, 3):bytes(), row(united, name, 4):bytes())
    end
  end)

  it("has the rows of one model where the rest is of that one", function()
    local mixed = moe.mix({ a, b }, { rest = 2 })
    assert.equal(row(b, "embedding", 2):bytes(), row(mixed, "embedding", 0):bytes())
    assert.equal(row(a, "embedding", 2):bytes(), row(mixed, "embedding", 2):bytes())
  end)

  it("has the base's vocabulary when that is wanted", function()
    local mixed = moe.mix({ a, b }, { vocabulary = "base" })
    assert.equal(3, mixed.config.vocab)
    helper.close(row(mixed, "embedding", 0), row(united, "embedding", 0), 0)
    assert.equal(x:hash(), mixed.tokenizer:hash())
  end)

  it("is written as it is made", function()
    local A, B, out = helper.tmpdir() .. "/a", helper.tmpdir() .. "/b", helper.tmpdir() .. "/out"
    assert(a:save(A))
    assert(b:save(B))
    for _, rest in ipairs({ 1, 2, "mean" }) do
      assert(moe.mix({ A, B }, { out = out, rest = rest }))
      local got, want = assert(moe.load(out)), moe.mix({ a, b }, { rest = rest })
      assert.equal(5, got.config.vocab)
      assert.equal(united.tokenizer:hash(), got.tokenizer:hash())
      for i, entry in ipairs(want:parameters()) do
        assert.is_true(models.distance(entry[2], got:parameters()[i][2]) <= 1e-7, entry[1])
      end
    end
  end)

  it("routes by text in the united vocabulary", function()
    local _, report = moe.mix({ a, b }, { init = { by = "means",
      text = { { "xyxy", "xxyy", "xy" }, { "yzyz", "zzyy", "yz" } } } })
    assert.equal(2, #report)
  end)

  it("has the mean of all others for what the base lacks", function()
    local c = model(tokens({ "z", "w", "yz" }), 3, 3)
    for _, rest in ipairs({ 1, "mean" }) do
      local mixed = moe.mix({ a, b, c }, { rest = rest })         -- x y xy z yz w
      assert.equal(6, mixed.config.vocab)
      for _, name in ipairs({ "embedding", "head" }) do
        helper.close(row(mixed, name, 3), (row(b, name, 1) + row(c, name, 0)) / 2, 1e-7)
        helper.close(row(mixed, name, 4), (row(b, name, 3) + row(c, name, 2)) / 2, 1e-7)
        helper.close(row(mixed, name, 5), row(c, name, 1), 1e-7)
      end
    end
  end)

  it("is as before when the vocabularies are the same", function()
    local same = model(x, 3, 5)
    assert.equal(x:hash(), moe.mix({ a, same }).tokenizer:hash())
    assert.equal(3, moe.mix({ a, same }).config.vocab)
  end)
end)
