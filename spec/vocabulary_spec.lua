-- One vocabulary for several models: which tokens, in which order, and whose rows.
local helper = require("spec.helper")
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
    assert.same({ 0, 1, 2, 3, -1, -1, -1, -1 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 2, 2, 2, 2 }, from(union, 1))
    assert.same({ 2, 0, -1, 5, 1, 3, 4, 6 }, rows(union, 2))
    assert.same({ 0, 0, 1, 0, 0, 0, 0, 0 }, from(union, 2))
    assert.equal(0, union.computed)
  end)

  it("prefers the base's row over those of others, and computes a mean without it", function()
    local models = { { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 },
      { tokenizer = c, vocab = 3 } }
    local union = vocabulary.union(models)
    -- x y xy <s> z yz xyz w <b>: c lacks x and y, which a and b have: a is the base. z and yz are
    -- in b and c: a gets their mean, rows 0 and 1 of the computed ones, source 4.
    assert.same({ -1, -1, -1, -1, 1, 2, -1, 0, -1 }, rows(union, 3))
    assert.same({ 1, 1, 1, 1, 0, 0, 2, 0, 2 }, from(union, 3))
    assert.same({ 0, 1, 2, 3, -1, -1, -1, -1, -1 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 4, 4, 2, 3, 2 }, from(union, 1))
    assert.same({ -1, -1, -1, -1, 0, 1, -1, -1, -1 }, union.rows[1].computed:totable())
    assert.equal(2, union.computed)
    -- With b as the base nothing has to be computed.
    assert.equal(0, vocabulary.union(models, { base = 2 }).computed)
  end)

  it("drops ids that an embedding has no row for", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 4 } })
    assert.same({ "x", "y", "xy", "<s>", "z", "yz" }, all(union.tokenizer))
    union = vocabulary.union({ { tokenizer = a, vocab = 3 }, { tokenizer = b, vocab = 7 } })
    assert.same({ 0, 1, 2, -1, -1, -1, -1, -1 }, rows(union, 1))
    assert.same({ 0, 0, 0, 2, 2, 2, 2, 2 }, from(union, 1))
  end)

  it("gives zeros where nobody has a row", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 2 }, { tokenizer = c, vocab = 1 } })
    assert.same({ "x", "y", "xy", "<s>", "w" }, all(union.tokenizer))
    assert.same({ 0, 1, -1, -1, -1 }, rows(union, 1))
    assert.same({ 0, 0, 0, 0, 2 }, from(union, 1))
  end)

  it("keeps a tokenizer that lacks nothing as it is", function()
    local models = { { tokenizer = b, vocab = 7 }, { tokenizer = tokens({ "z", "y" }), vocab = 2 } }
    local union = vocabulary.union(models)
    assert.equal(b, union.tokenizer)
    assert.same({ 1, 0, -1, -1, -1, -1, -1 }, rows(union, 2))
    assert.same({ 0, 0, 1, 1, 1, 1, 1 }, from(union, 2))
  end)

  it("can be the vocabulary of one model", function()
    local models = { { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 } }
    local union = vocabulary.union(models, { kind = "base" })
    assert.equal(a, union.tokenizer)
    assert.same({ 2, 0, -1, 5 }, rows(union, 2))
    assert.same({ 0, 0, 1, 0 }, from(union, 2))
    union = vocabulary.union(models, { kind = { model = 2 } })
    assert.equal(b, union.tokenizer)
    assert.same({ 1, -1, 0, -1, -1, 3, -1 }, rows(union, 1))
    assert.same({ 0, 2, 0, 2, 2, 0, 2 }, from(union, 1))
  end)

  it("rounds the size up", function()
    local union = vocabulary.union({ { tokenizer = a, vocab = 4 }, { tokenizer = b, vocab = 7 } },
      { pad_to_multiple_of = 5 })
    assert.same({ 10, 8, 2 }, { union.size, union.tokens, union.computed })
    for m = 1, 2 do
      assert.same({ -1, -1, 3, 3 }, { rows(union, m)[9], rows(union, m)[10], from(union, m)[9],
        from(union, m)[10] })
      assert.equal(m - 1, union.rows[m].computed:totable()[10])
    end
  end)

  it("tells what it cannot use", function()
    misuse(function() vocabulary.union({ { vocab = 3 } }) end,
      "vocabulary.union: models[1] has no tokenizer")
    misuse(function() vocabulary.union({ { tokenizer = "bytes", vocab = 3 } }) end,
      "vocabulary.union: models[1] has no tokenizer")
    misuse(function()
      vocabulary.union({ { tokenizer = a, vocab = 3 } }, { pad_to_multiple_of = 1 << 62 })
    end, "vocabulary.union: pad_to_multiple_of must be from 1 to 65536: 4611686018427387904")
    misuse(function() vocabulary.union({ { tokenizer = a } }) end,
      "vocabulary.union: models[1].vocab must be the rows of its embedding, not nil")
    misuse(function() vocabulary.union({ { tokenizer = a, vocab = 3 } }, { base = 2 }) end,
      "vocabulary.union: base is 2: there are 1 models")
    misuse(function() vocabulary.union({ { tokenizer = a, vocab = 3 } }, { kind = "unoin" }) end,
      "vocabulary.union: kind is \"unoin\"\nhint: did you mean 'union'?")
  end)
end)

describe("vocabulary.sources", function()
  local a = tokens({ "x", "y" })
  local b = tokens({ "y", "z" })
  local c = tokens({ "z", "x", "w" })
  local function source(list) return { tensor = core.tensor(list) } end
  local A, B = { { 1, 10 }, { 2, 20 } }, { { 3, 30 }, { 4, 40 } }
  local C = { { 8, 80 }, { 6, 60 }, { 7, 70 } }
  local models = { { tokenizer = a, vocab = 2 }, { tokenizer = b, vocab = 2 },
    { tokenizer = c, vocab = 3 } }

  local function read(union, ...)
    local list = {}
    for m, each in ipairs(vocabulary.sources(union, { ... })) do
      list[m] = core.checkpoint.read(each):totable()
    end
    return list
  end

  it("are the embeddings of the united vocabulary", function()
    -- x y z w. z is of b and c, and a gets their mean.
    local got = read(vocabulary.union(models), source(A), source(B), source(C))
    assert.same({ { 1, 10 }, { 2, 20 }, { 6, 60 }, { 7, 70 } }, got[1])
    assert.same({ { 1, 10 }, { 3, 30 }, { 4, 40 }, { 7, 70 } }, got[2])
    assert.same({ { 6, 60 }, { 2, 20 }, { 8, 80 }, { 7, 70 } }, got[3])
  end)

  it("end with the mean of all rows of each model", function()
    local union = vocabulary.union(models, { base = 3, pad_to_multiple_of = 6 })
    local got = read(union, source(A), source(B), source(C))
    assert.same({ 6, 4, 4 }, { union.size, union.tokens, union.computed })
    -- z x w y, two to fill
    assert.same({ { 8, 80 }, { 1, 10 }, { 7, 70 }, { 2, 20 }, { 1.5, 15 }, { 1.5, 15 } }, got[1])
    assert.same({ { 4, 40 }, { 6, 60 }, { 7, 70 }, { 3, 30 }, { 3.5, 35 }, { 3.5, 35 } }, got[2])
    -- c has no y, which a and b have.
    assert.same({ { 8, 80 }, { 6, 60 }, { 7, 70 }, { 2.5, 25 }, { 7, 70 }, { 7, 70 } }, got[3])
  end)

  it("are read from files, and from their middle", function()
    local path = helper.tmpdir() .. "/x.safetensors"
    assert(core.checkpoint.save(path, { e = core.tensor(B) }, {}))
    local file = assert(core.checkpoint.open(path))
    local union = vocabulary.union({ models[1], models[2] })
    local inside = { tensor = core.tensor({ 9, 9, 9, 1, 10, 2, 20, 9 }), first = 3,
      shape = { 2, 2 } }
    local got = read(union, inside, { file = file, name = "e" })
    assert.same({ { 1, 10 }, { 2, 20 }, { 4, 40 } }, got[1])
    assert.same({ { 1, 10 }, { 3, 30 }, { 4, 40 } }, got[2])
    file:close()
  end)

  it("have a mean of many rows in parts", function()
    local list, more, n = {}, {}, 5000 // helper.stride
    for i = 1, n do list[i], more[i] = "t" .. i, "t" .. n + 1 - i end
    local union = vocabulary.union({ models[1], { tokenizer = tokens(list), vocab = n },
      { tokenizer = tokens(more), vocab = n } })
    assert.equal(n, union.computed)
    local own = { tensor = core.arange(0, n - 1):reshape(n, 1) }
    local got = read(union, source({ { 7 }, { 8 } }), own, own)
    for i = 1, n do assert.equal((n - 1) / 2, got[1][i + 2][1]) end
    assert.same({ 7, 8, 0, 1, n - 1 }, { got[2][1][1], got[2][2][1], got[2][3][1], got[2][4][1],
      got[2][n + 2][1] })
    assert.equal(n - 1, got[3][3][1])
  end)

  it("must fit to one another", function()
    local union = vocabulary.union({ models[1], models[2] })
    misuse(function() vocabulary.sources(union, { source(A) }) end,
      "vocabulary.sources: 1 sources for 2 models")
    misuse(function() vocabulary.sources(union, { source(A), source({ { 1 }, { 2 } }) }) end,
      "vocabulary.sources: sources[2] is [2 x 1]: rows of 2 are needed")
  end)
end)

describe("vocabulary.same", function()
  it("is true for equal tokenizers and equally many rows", function()
    local function of(list, vocab) return { tokenizer = tokens(list), vocab = vocab } end
    assert.is_true(vocabulary.same({ of({ "x", "y" }, 2), of({ "x", "y" }, 2) }))
    assert.is_false(vocabulary.same({ of({ "x", "y" }, 2), of({ "x", "y" }, 3) }))
    assert.is_false(vocabulary.same({ of({ "x", "y" }, 2), of({ "y", "x" }, 2) }))
  end)
end)
