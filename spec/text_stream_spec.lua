-- Text of ids that come one by one: whole characters, and nothing of what ends it.
local Stream = require("moelua.text_stream")
local tokenizer = require("moelua.tokenizer")
local json = require("moelua.core").json

-- A byte-level tokenizer with some longer tokens and a special one.
local level = { type = "ByteLevel", add_prefix_space = false, use_regex = true }
local vocab = {}
for id = 0, 255 do vocab[assert(tokenizer.bytes():token(id))] = id end
vocab["Ġthe"], vocab["ðŁ"], vocab["<s>"] = 256, 257, 258
local subwords = assert(tokenizer.from_table({ pre_tokenizer = level, decoder = level,
  added_tokens = json.array({ { id = 258, content = "<s>", special = true } }),
  model = { type = "BPE", vocab = vocab, merges = json.array({}) } }))

-- The pieces after the ids `before`, one list for each id, and the whole text.
local function pieces(tok, before, ids, stop)
  local out, now = {}, nil
  local function emit(text) now[#now + 1] = text end
  local stream = Stream(tok, before, { stop = stop, emit = emit })
  local stopped
  for i = 1, #ids do
    now = {}
    stopped = stream:update(table.move(ids, 1, i, 1, {}))
    out[i] = table.concat(now, "|")
    if stopped then
      ids = table.move(ids, 1, i, 1, {})
      break
    end
  end
  now = {}
  local text = stream:finish(ids)
  out[#out + 1] = table.concat(now, "|")
  assert.equal(text, table.concat(out))
  return out, text, stopped
end

describe("a stream of text", function()
  it("gives what every token adds", function()
    assert.same({ "a", " the", "b", "" }, (pieces(subwords, { 65 }, { 97, 256, 98 })))
  end)

  it("holds a character back until it is whole", function()
    local face = { ("\u{1F600}"):byte(1, 4) }
    assert.same({ "", "", "", "\u{1F600}", "" }, (pieces(subwords, { 65 }, face)))
    assert.same({ "", "", "\u{1F600}", "x", "" },
      (pieces(subwords, { 65 }, { 257, face[3], face[4], 120 })))
    assert.same({ "", "\u{E9}", "" }, (pieces(tokenizer.bytes(), { 65 }, { 0xC3, 0xA9 })))
  end)

  it("marks what is no character", function()
    -- Cut off at the end, cut off by another character, and a byte that begins none.
    assert.same({ "", "", "\u{FFFD}" }, (pieces(subwords, { 65 }, { 0xF0, 0x9F })))
    assert.same({ "", "\u{FFFD}x", "" }, (pieces(subwords, { 65 }, { 0xE2, 120 })))
    assert.same({ "\u{FFFD}", "y", "" }, (pieces(subwords, { 65 }, { 0x80, 121 })))
    assert.same({ "\u{FFFD}", "" }, (pieces(subwords, { 65 }, { 0xFF })))
    assert.same({ "", "", "\xF0\x9F" }, (pieces(tokenizer.bytes(), { 65 }, { 0xF0, 0x9F })))
  end)

  it("begins behind what went before, also inside of a character", function()
    -- What went before was shown with its bytes as they were: here come the other two.
    local _, text = pieces(tokenizer.bytes(), { 65, 0xC3 }, { 0xA9, 120 })
    assert.equal("\xA9x", text)
    assert.same({ "x", "" }, (pieces(subwords, { 256 }, { 120 })))
  end)

  it("leaves special tokens out", function()
    assert.same({ "a", "", "b", "" }, (pieces(subwords, { 258 }, { 97, 258, 98 })))
  end)

  it("ends before what stops it, and sends no part of that", function()
    local out, text, stopped = pieces(subwords, { 65 }, { 97, 10, 98, 10, 10, 99 }, "\n\n")
    assert.same({ "a", "", "\nb", "", "", "" }, out)
    assert.same({ "a\nb", true }, { text, stopped })
    out, text, stopped = pieces(subwords, { 65 }, { 97, 10 }, "\n\n")
    assert.same({ { "a", "", "\n" }, "a\n", false }, { out, text, stopped })
  end)
end)
