-- One vocabulary for several models: which tokens, in which order, and whose rows.
local core = require("moelua.core")
local tokenizer = require("moelua.tokenizer")
local vocabulary = require("moelua.vocabulary")
local json = core.json

-- A byte-level tokenizer with these tokens, by id from 0, and merges.
local function tokens(list, merges, added)
  local vocab, declared = {}, {}
  for i, token in ipairs(list) do vocab[token] = i - 1 end
  for i, token in ipairs(added or {}) do
    declared[i] = { id = #list + i - 1, content = token, special = true }
  end
  local level = { type = "ByteLevel", add_prefix_space = false, use_regex = true }
  return assert(tokenizer.from_table({ pre_tokenizer = level, decoder = level,
    added_tokens = json.array(declared),
    model = { type = "BPE", vocab = vocab, merges = json.array(merges or {}) } }))
end

local function rows(union, m) return union.rows[m].rows:totable() end
local function from(union, m) return union.rows[m].from:totable() end

local function all(tok)
  local list = {}
  for id = 0, tok.vocab - 1 do list[id + 1] = tok:token(id) or false end
  return list
end

local function misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal(message, (got:gsub("^[^\n]*vocabulary_spec%.lua:%d+: ", "")))
end

describe("vocabulary.union", function()
  local a = tokens({ "x", "y", "xy" }, { "x y" }, { "<s>" })
  local b = tokens({ "y", "z", "x", "yz", "xyz" }, { "y z", "x yz" }, { "<s>", "<b>" })
  local c = tokens({ "w", "z", "yz" })

  it("extends the base by what it lacks, added tokens last", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 },
      { tokenizer = c, vocab = 3 } })
    assert.same({ "x", "y", "xy", "<s>", "z", "yz", "xyz", "w", "<b>" }, all(union.tokenizer))
    assert.same({ 9, 9 }, { union.size, union.tokens })
    -- The base's merges go first: x y, then what z can join.
    assert.same({ 2, 4 }, union.tokenizer:encode("xyz"))
    assert.same({ 1, 8, 5, 3 }, union.tokenizer:encode("y<b>yz<s>"))
  end)

  it("takes a row of the model's own, else the only donor's, else the base's", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 } })
    -- x y xy <s> z yz xyz <b>
    assert.same({ 0, 1, 2, 3, 1, 3, 4, 6 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 2, 2, 2, 2 }, from(union, 1))
    assert.same({ 2, 0, 2, 5, 1, 3, 4, 6 }, rows(union, 2))
    assert.same({ 0, 0, 1, 0, 0, 0, 0, 0 }, from(union, 2))
    assert.equal(0, union.computed)
  end)

  it("prefers the base's row over those of others, and computes a mean without it", function()
    local models = { { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 },
      { tokenizer = c, vocab = 3 } }
    local union = vocabulary.union(models)
    -- x y xy <s> z yz xyz w <b>: c lacks x and y, which a and b have: a is the base. z and yz are
    -- in b and c: a gets their mean, rows 0 and 1 of the computed ones, source 4.
    assert.same({ 0, 1, 2, 3, 1, 2, 4, 0, 6 }, rows(union, 3))
    assert.same({ 1, 1, 1, 1, 0, 0, 2, 0, 2 }, from(union, 3))
    assert.same({ 0, 1, 2, 3, 0, 1, 4, 0, 6 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 4, 4, 2, 3, 2 }, from(union, 1))
    assert.equal(2, union.computed)
    -- With b as the base nothing has to be computed.
    assert.equal(0, vocabulary.union(models, { base = 2 }).computed)
  end)

  it("drops ids that an embedding has no row for", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 4 } })
    assert.same({ "x", "y", "xy", "<s>", "z", "yz" }, all(union.tokenizer))
    union = vocabulary.union({ { tokenizer = a, vocab = 3 }, { tokenizer = b, vocab = 7 } })
    assert.same({ 0, 1, 2, 5, 1, 3, 4, 6 }, rows(union, 1))
    assert.same({ 0, 0, 0, 2, 2, 2, 2, 2 }, from(union, 1))
  end)

  it("gives zeros where nobody has a row", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 2 }, { tokenizer = c, vocab = 1 } })
    assert.same({ "x", "y", "xy", "<s>", "w" }, all(union.tokenizer))
    assert.same({ 0, 1, -1, -1, 0 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 2 }, from(union, 1))
  end)

  it("keeps a tokenizer that lacks nothing as it is", function()
    local models = { { tokenizer = b, vocab = 7 }, { tokenizer = tokens({ "z", "y" }), vocab = 2 } }
    local union = vocabulary.union(models)
    assert.equal(b, union.tokenizer)
    assert.same({ 1, 0, 2, 3, 4, 5, 6 }, rows(union, 2))
  end)

  it("can be the vocabulary of one model", function()
    local models = { { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 } }
    local union = vocabulary.union(models, { kind = "base" })
    assert.equal(a, union.tokenizer)
    assert.same({ 2, 0, 2, 5 }, rows(union, 2))
    assert.same({ 0, 0, 1, 0 }, from(union, 2))
    union = vocabulary.union(models, { kind = { model = 2 } })
    assert.equal(b, union.tokenizer)
    assert.same({ 1, 1, 0, 3, 4, 3, 6 }, rows(union, 1))
    assert.same({ 0, 2, 0, 2, 2, 0, 2 }, from(union, 1))
  end)

  it("rounds the size up", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 } },
      { pad_to_multiple_of = 5 })
    assert.same({ 10, 8, 2 }, { union.size, union.tokens, union.computed })
    assert.same({ 0, 0, 3, 3 }, { rows(union, 1)[9], rows(union, 1)[10], from(union, 1)[9],
      from(union, 1)[10] })
    assert.same({ 1, 1, 3, 3 }, { rows(union, 2)[9], rows(union, 2)[10], from(union, 2)[9],
      from(union, 2)[10] })
  end)

  it("tells what it cannot use", function()
    misuse(function() vocabulary.union({ { vocab = 3 } }) end,
      "vocabulary.union: models[1] has no tokenizer")
    misuse(function() vocabulary.union({ { tokenizer = a } }) end,
      "vocabulary.union: models[1].vocab must be the rows of its embedding, not nil")
    misuse(function() vocabulary.union({ { tokenizer = a, vocab = 3 } }, { base = 2 }) end,
      "vocabulary.union: base is 2: there are 1 models")
    misuse(function() vocabulary.union({ { tokenizer = a, vocab = 3 } }, { kind = "unoin" }) end,
      "vocabulary.union: kind is \"unoin\"\nhint: did you mean 'union'?")
  end)
end)
