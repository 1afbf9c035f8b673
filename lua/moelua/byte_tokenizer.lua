-- byte_tokenizer.lua: one id per byte, 0 to 255. Tokenizers of other kinds do the same things.
--
-- On disk it is a Hugging Face tokenizer: byte-level BPE with the 256 symbols of GPT-2's alphabet
-- as vocabulary, without merges, each byte's symbol with the byte as id.

local class = require("moelua.tokenizer_class")
local core = require("moelua.core")
local expect = require("moelua.expect")
local json, raise, system = core.json, core.raise, core.system

---@class moelua.ByteTokenizer
---@field name string
---@field vocab integer how many ids there are
local Bytes = { name = "bytes", vocab = 256 }
Bytes.__index = Bytes
Bytes.__name = "moelua.Tokenizer"

-- ---- bytes ------------------------------------------------------------------------------------

-- string.byte and string.char put everything on the stack at once, so texts go through in parts.
local PART = 4096

--- The ids of a text.
---@param text string any bytes, NUL included
---@return integer[]
function Bytes.encode(_, text)
  expect(type(text) == "string", "encode", "text", "a string", text)
  local ids = {}
  for first = 1, #text, PART do
    local part = { text:byte(first, first + PART - 1) }
    table.move(part, 1, #part, first, ids)
  end
  return ids
end

local function check_ids(ids)
  for i, id in ipairs(ids) do
    if math.type(id) ~= "integer" or id < 0 or id > 255 then
      raise("decode: id %d is no byte: %s is not in 0 to 255", i, tostring(id))
    end
  end
end

--- The text of ids.
---@param ids integer[]|moelua.Tensor a list, or an i32 tensor of one dimension
---@return string
function Bytes.decode(_, ids)
  if getmetatable(ids) == "moelua.Tensor" then ids = core.totable(ids) end
  expect(type(ids) == "table", "decode", "ids", "a list or a tensor", ids)
  check_ids(ids)
  local parts = {}
  for first = 1, #ids, PART do
    parts[#parts + 1] = string.char(table.unpack(ids, first, math.min(first + PART - 1, #ids)))
  end
  return table.concat(parts)
end

--- The ids of bytes `first` to `last` as 16-bit little-endian numbers, and how many they are:
--- what a token file holds.
---@return string packed
---@return integer count
function Bytes.pack(_, text, first, last)
  local packed = core.text.pack_bytes(text, first, last)
  return packed, #packed // 2
end

-- ---- files ------------------------------------------------------------------------------------

-- GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards.
local function is_printable(byte)
  return byte >= 0x21 and byte <= 0x7E or byte >= 0xA1 and byte ~= 0xAD
end

local function alphabet()
  local vocab, symbols, others = {}, {}, 0
  for byte = 0, 255 do
    local code = byte
    if not is_printable(byte) then
      code = 0x100 + others
      others = others + 1
    end
    symbols[byte] = utf8.char(code)
    vocab[symbols[byte]] = byte
  end
  return vocab, symbols
end

local BYTES, SYMBOLS = alphabet()

local function byte_level(add_prefix_space, use_regex)
  return { type = "ByteLevel", add_prefix_space = add_prefix_space, trim_offsets = true,
    use_regex = use_regex }
end

local function tokenizer_table()
  return {
    version = "1.0", truncation = json.null, padding = json.null, added_tokens = json.array({}),
    normalizer = json.null, post_processor = json.null,
    pre_tokenizer = byte_level(false, false),
    decoder = byte_level(false, false),
    model = {
      type = "BPE", dropout = json.null, unk_token = json.null,
      continuing_subword_prefix = json.null, end_of_word_suffix = json.null,
      fuse_unk = false, byte_fallback = false, ignore_merges = false,
      vocab = (alphabet()), merges = json.array({}),
    },
  }
end

--- The files of the tokenizer in a model directory: name -> content.
---@return table<string, string>
function Bytes.files(_)
  return {
    ["tokenizer.json"] = json.encode(tokenizer_table(), { indent = 2 }) .. "\n",
    ["tokenizer_config.json"] = json.encode({
      tokenizer_class = "PreTrainedTokenizerFast",
      add_bos_token = false, add_eos_token = false, clean_up_tokenization_spaces = false,
    }, { indent = 2 }) .. "\n",
  }
end

Bytes.save = class.save

-- ---- tokens -----------------------------------------------------------------------------------

--- The symbol of a byte in GPT-2's alphabet; nil for what is no byte.
---@param id integer
---@return string?
function Bytes.token(_, id)
  return SYMBOLS[id]
end

--- The byte of a symbol; nil when it is none.
---@param token string
---@return integer?
function Bytes.id(_, token)
  expect(type(token) == "string", "id", "token", "a string", token)
  return BYTES[token]
end

--- How many bytes each token has: one.
---@return moelua.Tensor lengths i32 [256]
function Bytes.byte_lengths(_)
  local lengths = {}
  for i = 1, 256 do lengths[i] = 1 end
  return core.tensor(lengths, "i32")
end

--- A hash of what it is.
---@return string
function Bytes:hash()
  return system.hash(self:files()["tokenizer.json"])
end

--- It comes without a template of conversations.
---@return nil
function Bytes.chat_template(_) return nil end

--- The metadata of a GGUF file that describe it: key -> value.
---@return table
function Bytes:gguf()
  return assert(class.new(tokenizer_table(), {}, function() return self:files() end)):gguf()
end

-- ---- reading ----------------------------------------------------------------------------------

local function is_empty(value)
  return value == nil or value == json.null or type(value) == "table" and next(value) == nil
end

local function is_byte_level(value, prefix_matters)
  return type(value) == "table" and value.type == "ByteLevel"
    and not (prefix_matters and value.add_prefix_space)
end

local function same_vocabulary(vocab)
  if type(vocab) ~= "table" then return false end
  local count = 0
  for symbol, id in pairs(vocab) do
    if BYTES[symbol] ~= id then return false end
    count = count + 1
  end
  return count == 256
end

--- Whether the table of a tokenizer.json describes the byte tokenizer.
---@param file table
---@return boolean
function Bytes.is(file)
  local model = file.model
  return type(model) == "table" and model.type == "BPE" and is_empty(model.merges)
    and is_empty(model.dropout)
    and same_vocabulary(model.vocab) and is_empty(file.added_tokens) and is_empty(file.normalizer)
    and is_empty(file.post_processor) and is_byte_level(file.pre_tokenizer, true)
    and is_byte_level(file.decoder)
end

--- The byte tokenizer.
---@return moelua.ByteTokenizer
function Bytes.new()
  return setmetatable({}, Bytes)
end

return Bytes
