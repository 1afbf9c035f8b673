-- moe.tokenizer.train: from text to a tokenizer, its files, and what is refused.
local helper = require("spec.helper")
local core = require("moelua.core")
local data = require("moelua.data")
local tokenizer = require("moelua.tokenizer")
local json = core.json

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal(message, (got:gsub("^[^\n]*tokenizer_train_spec%.lua:%d+: ", "")))
end

local words = { "low low low low low lower lower newest newest newest newest newest newest",
  " widest widest widest" }

describe("moe.tokenizer.train", function()
  it("gives special tokens, bytes and merges the ids in this order", function()
    local tok = tokenizer.train { texts = words, vocab = 264, special = { "<s>", "</s>" },
      bos = "<s>", eos = "</s>" }
    assert.equal(264, tok.vocab)
    assert.same({ 0, 1 }, { tok.bos, tok.eos })
    assert.same({ "<s>", "</s>", "!", "Ń" }, { tok:token(0), tok:token(1), tok:token(2),
      tok:token(257) })
    -- Counted by hand: "es" and "st" are 9 each, and so is "Ġ w"; the smaller ids go first.
    assert.equal("es", tok:token(258))
    assert.same({ tok:id("Ġ"), tok:id("x") }, tok:encode(" x"))
    assert.same({ 0, tok:id("x"), 1 }, tok:encode("<s>x</s>"))
  end)

  it("gives back every text", function()
    for _, split in ipairs({ "gpt2", "llama3", "qwen2", "smollm" }) do
      local tok = tokenizer.train { texts = words, vocab = 300, split = split }
      local text = "The lowest, new\u{E9}st \n\n 12345 'll <|endoftext|> \u{1F600}\t newest"
      assert.equal(text, tok:decode(tok:encode(text)))
      assert.equal("\xff\0\xfe", tok:decode(tok:encode("\xff\0\xfe"), { raw = true }))
      assert.is_true(#tok:encode("newest lower") < 12)
    end
  end)

  it("is saved as a file that gives the same tokenizer", function()
    for _, split in ipairs({ "gpt2", "llama3", "qwen2", "smollm" }) do
      local tok = tokenizer.train { texts = words, vocab = 280, split = split }
      local folder = helper.tmpdir()
      assert(tok:save(folder))
      local again = assert(tokenizer.open(folder))
      assert.same(tok:encode("newest low 2024 <|endoftext|>"),
        again:encode("newest low 2024 <|endoftext|>"))
      assert.same({ tok.eos, tok.vocab }, { again.eos, again.vocab })
      local file = json.decode(core.system.read(folder .. "/tokenizer.json"))
      assert.equal("BPE", file.model.type)
      assert.same({ "e", "s" }, file.model.merges[1])
      assert.equal("ByteLevel", file.decoder.type)
    end
  end)

  it("is the same whatever the order of the texts", function()
    local a = tokenizer.train { texts = words, vocab = 290 }
    local b = tokenizer.train { texts = { words[2], words[1] }, vocab = 290 }
    assert.same(a:files(), b:files())
  end)

  it("learns nothing from what is held out", function()
    local folder, held = helper.tmpdir(), 0
    for i = 1, 60 do
      local learned, other = ("%d abab"):format(i), ("%d xyxy"):format(i)
      local is_held = helper.split_of(other) ~= "train"
      if is_held then held = held + 1 end
      if is_held or helper.split_of(learned) == "train" then
        write(("%s/%d.txt"):format(folder, i), is_held and other or learned)
      end
    end
    assert.is_true(held > 2)
    local tok = tokenizer.train { path = folder, match = "%.txt$", vocab = 300 }
    assert.equal(1, #tok:encode(" abab"))
    assert.equal(5, #tok:encode(" xyxy"))
    local corpus = assert(data.corpus { path = folder })
    assert.same(tok:files(), tokenizer.train({ corpus = corpus, vocab = 300 }):files())
    corpus:release()
  end)

  it("has fewer ids when there is little to learn", function()
    local tok = tokenizer.train { texts = { "ab" }, vocab = 300, min_count = 1 }
    assert.equal(258, tok.vocab)
    assert.equal(257, tokenizer.train({ texts = { "ab" }, vocab = 300 }).vocab)
    assert.equal(256, tokenizer.train({ texts = {}, vocab = 256, special = {} }).vocab)
    assert.is_nil(tokenizer.train({ texts = {}, vocab = 256, special = {} }).eos)
  end)

  it("takes a special token that a merge would make as well", function()
    local tok = tokenizer.train { texts = { "abc abc" }, vocab = 300, special = { "ab" } }
    assert.equal(0, tok:id("ab"))
    assert.equal(258, tok.vocab)        -- "ab" special, 256 bytes, "abc"
    assert.equal("abc", tok:token(257))
  end)

  it("tells what it cannot use", function()
    misuse(function() tokenizer.train { vocab = 300 } end,
      "tokenizer.train: one of corpus, path and texts must say what to learn from: got none")
    misuse(function() tokenizer.train { texts = {}, path = "x" } end,
      "tokenizer.train: one of corpus, path and texts must say what to learn from: got path and " ..
      "texts")
    misuse(function() tokenizer.train { texts = {}, vocab = 256 } end,
      "tokenizer.train: vocab is 256: 256 bytes and 1 special tokens need 257")
    misuse(function() tokenizer.train { texts = { 1 } } end,
      "tokenizer.train: texts[1] must be a string, not 1")
    misuse(function() tokenizer.train { texts = {}, special = { "a", "a" } } end,
      'tokenizer.train: "a" is in special twice')
    misuse(function() tokenizer.train { texts = {}, eos = "</s>" } end,
      'tokenizer.train: eos = "</s>" is no special token\nhint: known are <|endoftext|>')
    misuse(function() tokenizer.train { texts = {}, min_count = 0 } end,
      "tokenizer.train: min_count must be positive: 0")
    misuse(function() tokenizer.train { corpus = {} } end,
      "tokenizer.train: corpus must be a corpus with a tokenizer, not a table")
    local tok, message, code = tokenizer.train { path = "/no/such/folder" }
    assert.same({ nil, "corpus: no such file or folder: /no/such/folder", "missing" },
      { tok, message, code })
  end)
end)
