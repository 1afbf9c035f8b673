-- The byte tokenizer and its files.
local helper = require("spec.helper")
local core = require("moelua.core")
local tokenizer = require("moelua.tokenizer")

local all_bytes = {}
for byte = 0, 255 do all_bytes[byte + 1] = string.char(byte) end
all_bytes = table.concat(all_bytes)

-- Throws unless f raises exactly this message, with the line of this file in front.
local function misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal(message, (got:gsub("^[^\n]*tokenizer_spec%.lua:%d+: ", "")))
  assert.matches("tokenizer_spec%.lua:%d+: ", got)
end

describe("byte tokenizer", function()
  local tok = tokenizer.bytes()

  it("has one id per byte", function()
    assert.equal("bytes", tok.name)
    assert.equal(256, tok.vocab)
    assert.same({ 97, 0, 255 }, tok:encode("a\0\255"))
    assert.same({}, tok:encode(""))
    assert.equal("a\0\255", tok:decode({ 97, 0, 255 }))
    assert.equal("", tok:decode({}))
  end)

  it("takes text of any length", function()
    local text = all_bytes:rep(100) .. "end"
    local ids = tok:encode(text)
    assert.equal(#text, #ids)
    assert.equal(255, ids[256])
    assert.equal(0, ids[4097])
    assert.equal(text, tok:decode(ids))
  end)

  it("packs part of a text as 16-bit ids", function()
    local packed, count = tok:pack("abc\255", 2, 4)
    assert.equal("b\0c\0\255\0", packed)
    assert.equal(3, count)
  end)

  it("refuses what is no text and no byte", function()
    misuse(function() tok:encode(7) end,
      "encode: text must be a string, not 7")
    misuse(function() tok:decode("ab") end,
      "decode: ids must be a list or a tensor, not \"ab\"")
    misuse(function() tok:decode({ 1, 256 }) end,
      "decode: id 2 is no byte: 256 is not in 0 to 255")
    misuse(function() tok:decode({ -1 }) end,
      "decode: id 1 is no byte: -1 is not in 0 to 255")
  end)
end)

describe("tokenizer.json", function()
  local folder, file

  setup(function()
    folder = helper.tmpdir()
    assert(tokenizer.bytes():save(folder))
    file = assert(core.json.decode(assert(core.system.read(folder .. "/tokenizer.json"))))
  end)

  local function write(change)
    local changed = assert(core.json.decode(assert(core.system.read(folder .. "/tokenizer.json"))))
    change(changed)
    if #changed.model.merges == 0 then core.json.array(changed.model.merges) end
    local path = folder .. "/changed.json"
    assert(core.system.write(path, core.json.encode(changed)))
    return path
  end

  it("is byte-level BPE without merges, in GPT-2's alphabet", function()
    assert.equal("1.0", file.version)
    assert.equal("BPE", file.model.type)
    assert.same({}, file.model.merges)
    assert.same({ type = "ByteLevel", add_prefix_space = false, trim_offsets = true,
      use_regex = false }, file.pre_tokenizer)
    assert.equal("ByteLevel", file.decoder.type)
    assert.equal(core.json.null, file.normalizer)
    -- The values of formats that every GPT-2 vocabulary shows: space, newline, tab.
    local vocab = file.model.vocab
    assert.equal(32, vocab["\u{120}"])
    assert.equal(10, vocab["\u{10A}"])
    assert.equal(9, vocab["\u{109}"])
    assert.equal(65, vocab["A"])
    assert.equal(0, vocab["\u{100}"])
    assert.equal(0x7F, vocab["\u{121}"])
    assert.equal(0xA0, vocab["\u{142}"])
    assert.equal(0xAD, vocab["\u{143}"])
    assert.equal(0xA1, vocab["\u{A1}"])
    assert.equal(0xFF, vocab["\u{FF}"])
  end)

  it("gives each byte as an id exactly once", function()
    local seen, count = {}, 0
    for symbol, id in pairs(file.model.vocab) do
      assert.equal(1, utf8.len(symbol))
      assert.is_nil(seen[id])
      seen[id], count = true, count + 1
    end
    assert.equal(256, count)
    assert.is_true(seen[0] and seen[255])
  end)

  it("comes with a configuration that transformers reads", function()
    local config = core.json.decode(core.system.read(folder .. "/tokenizer_config.json"))
    assert.equal("PreTrainedTokenizerFast", config.tokenizer_class)
    assert.equal(false, config.clean_up_tokenization_spaces)
  end)

  it("opens again, by file and by folder", function()
    for _, path in ipairs({ folder, folder .. "/tokenizer.json" }) do
      local tok = assert(tokenizer.open(path))
      assert.equal("bytes", tok.name)
      assert.same({ 240, 159 }, tok:encode("\xF0\x9F"))
    end
  end)

  it("of another kind is another tokenizer", function()
    local function is_bpe(vocab, change)
      local tok = assert(tokenizer.open(write(change)))
      assert.equal("bpe", tok.name)
      assert.equal(vocab, tok.vocab)
      return tok
    end
    assert.same({ 66, 256 }, is_bpe(257, function(t)
      t.model.vocab.AB, t.model.merges = 256, { "A B" }
    end):encode("BAB"))
    assert.same({ 97, 256, 98 }, is_bpe(257, function(t)
      t.added_tokens = { { id = 256, content = "<x>", special = true } }
    end):encode("a<x>b"))
  end)

  it("that nobody can read here is unsupported", function()
    local function refused(reason, change, code)
      local path = write(change)
      local tok, message, got = tokenizer.open(path)
      assert.is_nil(tok)
      assert.equal("tokenizer.open: " .. path .. ": " .. reason, message)
      assert.equal(code or "unsupported", got)
    end
    refused('model "Unigram" is not supported: it is BPE that is',
      function(t) t.model.type = "Unigram" end)
    refused("model: dropout is for training alone", function(t) t.model.dropout = 0.1 end)
    refused("merge 1: \"ab\" is not in the vocabulary",
      function(t) t.model.merges = { "a b" } end, "format")
  end)

  it("that is missing or broken gives nil, message, code", function()
    local missing = folder .. "/none.json"
    local tok, message, code = tokenizer.open(missing)
    assert.is_nil(tok)
    assert.equal("read: " .. missing .. ": No such file or directory", message)
    assert.equal("missing", code)
    local broken = folder .. "/broken.json"
    assert(core.system.write(broken, "{\"model\": "))
    tok, message, code = tokenizer.open(broken)
    assert.is_nil(tok)
    assert.equal("tokenizer.open: " .. broken .. ": ", message:sub(1, #broken + 18))
    assert.equal("format", code)
    misuse(function() tokenizer.open(3) end,
      "tokenizer.open: path must be a string, not 3")
  end)
end)

describe("tokenizer option", function()
  it("is a name or a tokenizer", function()
    local tok = tokenizer.bytes()
    assert.equal(tok, tokenizer.resolve("f", tok))
    assert.equal("bytes", tokenizer.resolve("f", "bytes").name)
    misuse(function() tokenizer.resolve("f", "words") end,
      "f: there is no tokenizer \"words\"\nhint: \"bytes\", the path of " ..
      "one, or what moe.tokenizer.open returned")
    misuse(function() tokenizer.resolve("f", { vocab = 3 }) end,
      "f: there is no tokenizer a table\n" ..
      "hint: \"bytes\", the path of " ..
      "one, or what moe.tokenizer.open returned")
  end)
end)
