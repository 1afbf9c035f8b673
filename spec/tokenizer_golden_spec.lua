-- Vocabularies of GGUF files, with the ids that llama.cpp gives its 46 test texts (its
-- models/ggml-vocab-*.gguf.inp and .out), and what GGUF and tokenizer.json say of the same one.
local helper = require("spec.helper")
local core = require("moelua.core")
local tokenizer = require("moelua.tokenizer")

local FOLDER = "spec/golden/tokenizers/ggml-vocab-"

local function cases(name)
  local texts, ids = {}, {}
  local input = assert(core.system.read(FOLDER .. name .. ".gguf.inp"))
  for text in input:gmatch("(.-)\n__ggml_vocab_test__\n") do texts[#texts + 1] = text end
  for line in assert(core.system.read(FOLDER .. name .. ".gguf.out")):gmatch("([^\n]*)\n") do
    local list = {}
    for id in line:gmatch("%d+") do list[#list + 1] = math.tointeger(id) end
    ids[#ids + 1] = list
  end
  assert.equal(46, #texts)
  assert.equal(46, #ids)
  return texts, ids
end

local toks = {}
local function open(name)
  toks[name] = toks[name] or assert(tokenizer.open(FOLDER .. name .. ".gguf"))
  return toks[name]
end

-- A deterministic text of any bytes.
local function random_bytes(size, seed)
  local bytes, state = {}, seed
  for i = 1, size do
    state = (state * 1103515245 + 12345) & 0x7FFFFFFF
    bytes[i] = string.char(state >> 12 & 0xFF)
  end
  return table.concat(bytes)
end

for _, name in ipairs({ "gpt-2", "starcoder", "llama-spm" }) do
  describe("the vocabulary of " .. name, function()
    it("gives the ids of llama.cpp, and the texts back", function()
      local tok, texts, ids = open(name), cases(name)
      for i, text in ipairs(texts) do
        assert.same(ids[i], tok:encode(text, { add = false }), ("text %d"):format(i))
        assert.equal(text, tok:decode(ids[i]))
      end
    end)

    it("is the same as a model directory", function()
      local folder, tok = helper.tmpdir(), open(name)
      assert(tok:save(folder))
      local again = assert(tokenizer.open(folder))
      assert.equal(tok:hash(), again:hash())
      for _, field in ipairs({ "vocab", "bos", "eos", "unk", "pad" }) do
        assert.equal(tok[field], again[field])
      end
      assert.same(tok:encode("It's  12 o'clock\n"), again:encode("It's  12 o'clock\n"))
      -- What was opened is written again byte for byte.
      for file, content in pairs(again:files()) do
        assert.equal(assert(core.system.read(folder .. "/" .. file)), content)
      end
    end)

    it("is the same as metadata of a GGUF file", function()
      local tok, folder = open(name), helper.tmpdir()
      assert.equal(tok:hash(), assert(tokenizer.from_gguf(assert(tok:gguf()))):hash())
      assert(tok:save(folder))
      local opened = assert(tokenizer.open(folder))
      assert.equal(tok:hash(), assert(tokenizer.from_gguf(assert(opened:gguf()))):hash())
    end)

    it("encodes 100 kB of one character in bounded work", function()
      local tok = open(name)
      for _, character in ipairs({ "a", " ", "7", "\n", "é" }) do
        local text = character:rep(100000 // #character)
        assert.equal(text, tok:decode(tok:encode(text, { add = false })))
      end
    end)

    it("counts the bytes of tokens", function()
      local tok = open(name)
      local lengths, sum = tok:byte_lengths():totable(), 0
      local text = "Numbers 1234, é and 你好 — one two\n\tthree"
      local ids = tok:encode(text, { add = false })
      for _, id in ipairs(ids) do sum = sum + lengths[id + 1] end
      -- Sentencepiece puts a space in front.
      assert.equal(#text + (name == "llama-spm" and 1 or 0), sum)
      assert.equal(0, lengths[tok.eos + 1])
      assert.equal(tok.vocab, #lengths)
    end)

    it("packs what it encodes, whatever lies around", function()
      local tok = open(name)
      local text = "one two\nthree <|endoftext|> </s> four"
      for first = 1, 9, 4 do
        local packed, count = tok:pack(text, first, #text - 3)
        local ids = tok:encode(text:sub(first, -4), { special = false, add = false })
        assert.equal(#ids, count)
        assert.equal(string.pack("<" .. ("I2"):rep(count), table.unpack(ids)), packed)
      end
    end)
  end)
end

describe("special tokens of a vocabulary", function()
  it("are found in text, unless it is plain", function()
    local tok = open("gpt-2")
    assert.same({ 64, 50256, 65 }, tok:encode("a<|endoftext|>b"))
    assert.equal("a<|endoftext|>b", tok:decode({ 64, 50256, 65 }))
    assert.equal("ab", tok:decode({ 64, 50256, 65 }, { skip_special = true }))
    local plain = tok:encode("a<|endoftext|>b", { special = false })
    assert.is_true(#plain > 3)
    assert.equal("a<|endoftext|>b", tok:decode(plain))
  end)

  it("are put around", function()
    local tok = open("llama-spm")
    assert.same({ 1, 15043, 445, 338, 263, 1243 }, tok:encode("Hello this is a test"))
    assert.same({ 15043 }, tok:encode("Hello", { add = false }))
    assert.same({ 1 }, tok:encode(""))
    assert.equal("Hello", tok:decode({ 1, 15043 }, { skip_special = true }))
    assert.equal("<s> Hello", tok:decode({ 1, 15043 }))
  end)

  it("put a space in front of the text behind them, as Llama's do", function()
    assert.same({ 1, 15043, 2, 15043 }, open("llama-spm"):encode("Hello</s>Hello"))
  end)
end)

describe("bytes that are no UTF-8", function()
  it("come back from a byte-level model", function()
    local tok = open("gpt-2")
    for seed = 1, 20 do
      local text = random_bytes(500, seed)
      assert.equal(text, tok:decode(tok:encode(text), { raw = true }))
    end
    assert.equal("a\u{FFFD}b\u{FFFD}", tok:decode(tok:encode("a\xFFb\xE2\x82")))
  end)

  it("are byte tokens of a model that falls back on them", function()
    local tok = open("llama-spm")
    assert.same({ 29871, 258, 229, 133 }, tok:encode("\xFF\xE2\x82", { add = false }))
    assert.equal("\xFF\xE2\x82", tok:decode({ 29871, 258, 229, 133 }, { raw = true }))
    assert.equal(("\u{FFFD}"):rep(3), tok:decode({ 29871, 258, 229, 133 }))
    assert.equal("\u{20AC}", tok:decode({ 29871, 229, 133, 175 }))
  end)
end)

describe("a GGUF file", function()
  local function metadata(change)
    local keys = assert(tokenizer.bytes():gguf())
    change(keys)
    return keys
  end

  local function refused(code, message, change)
    local tok, got, kind = tokenizer.from_gguf(metadata(change))
    assert.is_nil(tok)
    assert.equal("tokenizer.from_gguf: " .. message, got)
    assert.equal(code, kind)
  end

  it("may name how text is cut", function()
    local function pieces(pre, text)
      local tok = assert(tokenizer.from_gguf(metadata(function(keys)
        keys["tokenizer.ggml.pre"] = pre
      end)))
      return #tok:encode(text)
    end
    for _, pre in ipairs({ "gpt-2", "smollm", "starcoder", "llama-bpe", "qwen2", "default" }) do
      assert.equal(9, pieces(pre, "It's 1234"))
    end
    refused("unsupported", "there is no pre-tokenizer \"odd\"\nhint: those of gpt-2, smollm, "
      .. "starcoder, llama-bpe, qwen2 and default are known", function(keys)
        keys["tokenizer.ggml.pre"] = "odd"
      end)
  end)

  it("is found by what it is, not by its name", function()
    local path = helper.tmpdir() .. "/vocabulary"
    assert(core.system.write(path, assert(core.system.read(FOLDER .. "llama-spm.gguf"))))
    assert.equal(open("llama-spm"):hash(), assert(tokenizer.open(path)):hash())
  end)

  it("that contradicts itself is refused", function()
    refused("missing", "the file has no tokenizer", function(keys)
      keys["tokenizer.ggml.model"] = nil
    end)
    refused("unsupported", "tokenizer model \"t5\" is not supported: gpt2 and llama are",
      function(keys) keys["tokenizer.ggml.model"] = "t5" end)
    refused("format", "tokenizer.ggml.tokens: \"A\" is both token 65 and token 66",
      function(keys) keys["tokenizer.ggml.tokens"][67] = "A" end)
    refused("format", "tokenizer.ggml.token_type has 255 entries: there are 256 tokens",
      function(keys) keys["tokenizer.ggml.token_type"][256] = nil end)
    refused("format", "tokenizer.ggml.merges: entry 0 is 7",
      function(keys) keys["tokenizer.ggml.merges"] = { 7 } end)
    refused("format", "tokenizer.ggml.bos_token_id is 256: there are 256 tokens",
      function(keys) keys["tokenizer.ggml.bos_token_id"] = 256 end)
  end)
end)
