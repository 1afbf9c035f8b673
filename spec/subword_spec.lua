-- Corpora, training and evaluation with tokens of several bytes.
local helper = require("spec.helper")
local core = require("moelua.core")
local moe = require("moelua")
local data = require("moelua.data")
local token_file = require("moelua.token_file")

-- Of the tokens below.
local byte_lengths = {}
for id = 0, 65793 do byte_lengths[id + 1] = id < 65536 and 2 or id < 65792 and 1 or 0 end
byte_lengths = moe.tensor(byte_lengths, "i32")

-- Two bytes a token, big-endian; the last byte of an odd text is one of the 256 ids behind those,
-- and then come bos and eos. Nothing has to be learned, ids need 32 bits, and lengths are known.
local function pairs_tokenizer(more)
  local tok = { name = "pairs", vocab = 65794, bos = 65792, eos = 65793 }
  for key, value in pairs(more or {}) do tok[key] = value end
  function tok.encode(_, text, opts)
    local ids = {}
    if tok.adds and not (opts and opts.add == false) then ids[1] = tok.bos end
    for i = 1, #text, 2 do
      ids[#ids + 1] = i < #text and (">I2"):unpack(text, i) or 65536 + text:byte(i)
    end
    return ids
  end
  function tok.decode(_, ids)
    local parts = {}
    for i, id in ipairs(type(ids) == "table" and ids or ids:totable()) do
      parts[i] = id < 65536 and (">I2"):pack(id) or id < 65792 and string.char(id - 65536) or ""
    end
    return table.concat(parts)
  end
  function tok.pack(_, text, first, last)
    local ids = tok:encode(text:sub(first, last), { add = false })
    for i, id in ipairs(ids) do ids[i] = ("<I4"):pack(id) end
    return table.concat(ids), #ids
  end
  function tok.byte_lengths() return byte_lengths end
  function tok.hash() return tok.name .. "-hash" end
  return tok
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

-- One file in each split: 9, 8 and 60 bytes.
local TEXTS = {}
for split, bytes in pairs({ test = 9, validation = 8, train = 61 }) do
  local n = 0
  repeat
    n = n + 1
    TEXTS[split] = (("%d abcdefghij"):format(n):rep(9)):sub(1, bytes)
  until helper.split_of(TEXTS[split]) == split
end

local function corpus_of(tok, more)
  local folder = helper.tmpdir()
  for split, text in pairs(TEXTS) do write(folder .. "/" .. split, text) end
  local opt = { path = folder, tokenizer = tok }
  for key, value in pairs(more or {}) do opt[key] = value end
  return assert(data.corpus(opt)), folder
end

local function ids_of(corpus, split) return corpus.handle:ids(split, 1, corpus:tokens(split)) end

describe("a corpus of subwords", function()
  it("has ids of 32 bits where the vocabulary needs them", function()
    local tok = pairs_tokenizer()
    local corpus = corpus_of(tok, { separator = "none" })
    assert.same({ 5, 4, 31 }, { corpus:tokens("test"), corpus:tokens("validation"),
      corpus:tokens("train") })
    assert.same(tok:encode(TEXTS.test), ids_of(corpus, "test"))
    assert.equal(65794, corpus:vocab())
    assert.equal(TEXTS.train, data.text(corpus, "train", 1000))
    local x, y = corpus:batch { batch = 2, context = 4 }
    assert.same({ 2, 4 }, x:shape())
    assert.equal(16 - (y:totable()[1][4] >= 65536 and 1 or 0) - (y:totable()[2][4] >= 65536 and 1
      or 0), corpus:bytes(y))
  end)

  it("knows how many bytes its tokens stand for", function()
    local corpus = corpus_of(pairs_tokenizer())
    assert.equal(2 + 1 + 0 + 0, corpus:bytes(moe.tensor({ 65535, 65536, 65793, -1 }, "i32")))
    local _, y = corpus:window_batch("test", 3, nil, 1, 2)
    -- Six tokens, the last one ends the text: five targets, and one that is not there.
    assert.equal(-1, y:totable()[2][3])
    assert.equal(9 - 2, corpus:bytes(y))
    assert.error_matches(function() corpus:bytes(moe.tensor({ 65794 }, "i32")) end,
      "token 1 of the corpus is 65794: the vocabulary has 65794")
    local plain = corpus_of("bytes")
    assert.equal(3, plain:bytes(moe.tensor({ 0, 255, 7, -1 }, "i32")))
  end)

  it("separates documents as asked, by default as the tokenizer does", function()
    local function separated(tok, separator)
      local corpus = corpus_of(tok, { separator = separator })
      local ids, own = ids_of(corpus, "test"), tok:encode(TEXTS.test, { add = false })
      local before = ids[1] == tok.bos and 1 or 0
      assert.same(own, table.move(ids, 1 + before, #own + before, 1, {}))
      return { before, #ids - #own - before }
    end
    local tok = pairs_tokenizer()
    assert.same({ 0, 1 }, separated(tok))
    assert.same({ 0, 0 }, separated(tok, "none"))
    assert.same({ 1, 0 }, separated(tok, "bos"))
    assert.same({ 1, 1 }, separated(tok, "both"))
    assert.same({ 1, 1 }, separated(pairs_tokenizer { adds = true }))
    assert.same({ 0, 1 }, separated(pairs_tokenizer { adds = true }, "eos"))
    assert.error_matches(function() corpus_of("bytes", { separator = "eos" }) end,
      "separator is 'eos': the tokenizer 'bytes' has no eos token")
    assert.same({ 9 }, { corpus_of("bytes"):tokens("test") })
  end)

  it("is made again for another tokenizer or separator", function()
    local cache = helper.tmpdir() .. "/cache.safetensors"
    local first, folder = corpus_of(pairs_tokenizer(), { cache = cache })
    local function again(opt)
      opt.path, opt.cache = folder, cache
      local written = core.system.hash(core.system.read(cache))
      local corpus = assert(data.corpus(opt))
      return corpus, written ~= core.system.hash(core.system.read(cache))
    end
    local corpus, made = again { tokenizer = pairs_tokenizer() }
    assert.is_false(made)
    assert.equal(first.hash, corpus.hash)
    assert.equal(TEXTS.test, data.text(corpus, "test", 1000))
    corpus, made = again { tokenizer = pairs_tokenizer { name = "other" } }
    assert.same({ "other", true }, { corpus.tokenizer.name, made })
    corpus, made = again { tokenizer = pairs_tokenizer { name = "other" }, separator = "none" }
    assert.is_true(made)
    assert.equal("other-hash", corpus:metadata().tokenizer)
    corpus, made = again {}
    assert.is_true(made)
    assert.equal("bytes", corpus:metadata().tokenizer)
  end)

  it("is opened with its own tokenizer only", function()
    local path = helper.tmpdir() .. "/tokens.safetensors"
    assert(corpus_of(pairs_tokenizer()):save(path))
    local corpus = assert(data.open(path))
    assert.is_nil(corpus.tokenizer)
    assert.equal(2, corpus:bytes(moe.tensor({ 5 }, "i32")))
    assert.equal(TEXTS.train, data.text(assert(data.open(path, "x", pairs_tokenizer())), "train",
      1000))
    local none, message, code = data.open(path, "x", pairs_tokenizer { name = "other" })
    assert.same({ nil, ("corpus: %s has the tokens of another tokenizer: pairs-hash instead of " ..
      "other-hash"):format(path), "format" }, { none, message, code })
  end)

  it("tells which lines of test train has as well", function()
    local folder = helper.tmpdir()
    local known, other = ("k"):rep(21), ("o"):rep(30)
    -- The same lines at odd and even places: their tokens differ.
    local texts, n = { train = "a\n" .. known .. "\nzz\n",
      test = known .. "\n" .. other .. "\nzz" }, 0
    for split, text in pairs(texts) do
      repeat n = n + 1 until helper.split_of(text .. "\n" .. n) == split
      write(folder .. "/" .. split, text .. "\n" .. n)
    end
    for _, tok in ipairs({ "bytes", pairs_tokenizer() }) do
      local corpus = assert(data.corpus { path = folder, tokenizer = tok })
      assert.same({ 0.5, 1, 2 }, { data.shared_lines(corpus) })
    end
  end)

  it("is foretold", function()
    local corpus, folder = corpus_of(pairs_tokenizer())
    local plan = assert(data.survey { path = folder, tokenizer = pairs_tokenizer() })
    for _, split in ipairs({ "test", "validation", "train" }) do
      assert.equal(corpus:tokens(split), plan:tokens(split))
    end
  end)

  it("refuses lengths that make no sense", function()
    local function opened(lengths)
      local path = helper.tmpdir() .. "/tokens.safetensors"
      assert(moe.checkpoint.save(path, {
        ids = { dtype = "U16", shape = { 2 }, data = "\0\0\1\0" },
        docs = { dtype = "I64", shape = { 2 }, data = ("<i8i8"):pack(0, 2) },
        split = { dtype = "U8", shape = { 1 }, data = "\2" }, lengths = lengths,
      }, { vocab = "2" }))
      local corpus, message, code = data.open(path)
      return corpus and corpus:bytes(moe.tensor({ 0, 1, 1 }, "i32")) or
        message:gsub("^.-safetensors: ", ""), code
    end
    local function i32(...) return { dtype = "I32", shape = { select("#", ...) },
      data = ("<i4"):rep(select("#", ...)):pack(...) } end
    assert.equal(11, opened(i32(3, 4)))
    assert.same({ "\"lengths\" has 3 tokens: the vocabulary has 2", "format" },
      { opened(i32(3, 4, 5)) })
    assert.same({ "token 1 has -4 bytes", "format" }, { opened(i32(3, -4)) })
    assert.same({ "\"lengths\" is U8 instead of I32", "format" },
      { opened({ dtype = "U8", shape = { 2 }, data = "ab" }) })
  end)
end)

describe("a model of subwords", function()
  local function new_model(tok)
    moe.manual_seed(1)
    local model = moe.model.new { dim = 8, layers = 1, heads = 1, hidden = 8, context = 4,
      vocab = tok.vocab }
    model.tokenizer = tok
    return model
  end

  it("is measured in bits per byte of what it predicts", function()
    local tok = pairs_tokenizer()
    local model, corpus = new_model(tok), corpus_of(tok)
    local report = moe.evaluate(model, { text = corpus }, { split = "test" })
    -- The targets by hand: all ids but the first, in windows of four.
    local ids, nats, bytes = ids_of(corpus, "test"), 0, 0
    for first = 1, #ids - 1, 4 do
      local n = math.min(4, #ids - first)
      local scores = model:logits(table.move(ids, first, first + n - 1, 1, {})):log_softmax(-1)
      for i = 1, n do
        nats = nats - scores:select(1, i):totable()[ids[first + i] + 1]
        bytes = bytes + #tok:decode({ ids[first + i] })
      end
    end
    assert.same({ text = 5 }, report.tokens)
    assert.same({ text = 7 }, report.bytes)
    assert.equal(7, bytes)
    helper.close(report.nats.text, nats / 5, 1e-5)
    helper.close(report.metric.text, nats / 7 / math.log(2), 1e-5)
    assert.equal(report.metric.text, report.mean)
  end)

  it("logs bits per byte", function()
    local tok = pairs_tokenizer()
    local model, corpus = new_model(tok), corpus_of(tok, { separator = "none" })
    local x, y = corpus:batch { batch = 2, context = 4, stream = "batches.text", seed = 5 }
    local _, info = model:loss(x, y)
    local nats, bytes = info.nll:item() * 8, corpus:bytes(y)
    local result = moe.train(model, { data = { text = corpus }, steps = 1, batch = 2, lr = 1e-3,
      seed = 5, quiet = true, eval_every = 0 })
    assert.equal(8, result.curve[1][1])
    helper.close(result.curve[1][2], nats / bytes / math.log(2), 1e-6)
  end)

  it("reads no text of another tokenizer", function()
    local model = new_model(pairs_tokenizer())
    local corpus = corpus_of("bytes")
    local message = "corpus 'text' has the tokens of another tokenizer than the model's: bytes " ..
      "instead of pairs%-hash\nhint: moe.data.corpus { tokenizer = model.tokenizer, ... }"
    assert.error_matches(function() moe.evaluate(model, { text = corpus }) end,
      "evaluate: " .. message)
    assert.error_matches(function()
      moe.train(model, { data = { text = corpus }, steps = 1, batch = 1, quiet = true })
    end, "moe.train: " .. message)
    model.tokenizer = nil               -- nobody knows
    assert.equal(9 - 1, moe.evaluate(model, { text = corpus }, { split = "test" }).bytes.text)
  end)

  it("is branched with its tokenizer, as it would be trained here", function()
    local text = {}
    for i = 1, 120 do text[i] = ("the %d other words of %d texts"):format(i, i * i) end
    text = table.concat(text, "\n")
    local folder, n = helper.tmpdir(), 0
    for _, split in ipairs({ "train", "train", "validation", "test" }) do
      repeat n = n + 1 until helper.split_of(text .. n) == split
      write(folder .. "/" .. n, text .. n)
    end
    local tok = assert(moe.tokenizer.train { path = folder, vocab = 300 })
    local corpus = assert(data.corpus { path = folder, tokenizer = tok })
    local function seed()
      local model = moe.model.new { dim = 8, layers = 1, heads = 1, hidden = 8, context = 8,
        vocab = tok.vocab, seed = 3 }
      model.tokenizer = tok
      return model
    end
    local opts = { steps = 3, batch = 2, lr = 1e-2, quiet = true, log_every = 1 }
    local here = seed()
    opts.data = { text = corpus }
    local result = moe.train(here, opts)
    opts.data, opts.out = nil, helper.tmpdir() .. "/branches"
    local expert = moe.branch(seed(), { text = corpus }, opts).text
    assert.same(result.curve, expert.summary.curve)
    assert.equal(here.embedding:bytes(), expert.embedding:bytes())
    assert.equal(tok:hash(), expert.tokenizer:hash())
    assert.same({ tok.eos, 300 }, { expert.tokenizer.eos, expert.tokenizer.vocab })
    -- Programs that read config.json alone find it there.
    local config = core.json.decode(core.system.read(expert.path .. "/config.json"))
    assert.same({ tok.eos, core.json.null }, { config.eos_token_id, config.bos_token_id })
    -- Fewer bits a byte than a token: every token of text is a byte at least.
    local report = moe.evaluate(expert, { text = corpus })
    assert.is_true(report.bytes.text > report.tokens.text)
    helper.close(report.metric.text,
      report.nats.text * report.tokens.text / report.bytes.text / math.log(2), 1e-9)
  end)

  it("has its run and its branches tell its text by the tokenizer", function()
    local run = require("moelua.run")
    local tok = pairs_tokenizer()
    assert.equal("pairs-hash", run.identity(corpus_of(tok)).tokenizer)
    assert.equal("bytes", run.identity(corpus_of("bytes")).tokenizer)
    assert.equal("bytes", token_file.identity(moe.tokenizer.bytes()))
  end)
end)
