-- tokenizer_class.lua: the tokenizers that are described by a tokenizer.json.
--
--   tok:encode("Hello")               -- { 15496 }, with what the post-processor adds
--   tok:decode({ 15496 })             -- "Hello"
--   tok.vocab, tok.bos, tok.eos       -- ids, and nil where there is no such token

local build = require("moelua.tokenizer_build")
local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")
local to_gguf = require("moelua.tokenizer_to_gguf")
local json, system = core.json, core.system

---@class moelua.Tokenizer
---@field name string
---@field vocab integer how many ids there are, gaps included
---@field bos integer? id of the token that begins a text
---@field eos integer? id of the token that ends a text
---@field unk integer? id of the token for what has none
---@field pad integer? id of the token that fills batches
---@field handle userdata
---@field description table what tokenizer_build.lua read, files(), chat_template
local Tokenizer = {}
Tokenizer.__index = Tokenizer
Tokenizer.__name = "moelua.Tokenizer"

local ENCODE = { special = { "boolean", true }, add = { "boolean", true } }
local DECODE = { skip_special = { "boolean", false }, raw = { "boolean", false } }

local function surrounded(ids, around)
  local all = table.move(around.before, 1, #around.before, 1, {})
  table.move(ids, 1, #ids, #all + 1, all)
  return table.move(around.after, 1, #around.after, #all + 1, all)
end

--- The ids of a text. opts:
---   special  tokens like <|endoftext|> in the text stand for themselves (default), or are plain
---            text
---   add      put around what the post-processor adds: most often a token that begins a text
---            (default true)
---@param text string any bytes
---@param opts table?
---@return integer[]
function Tokenizer:encode(text, opts)
  expect(type(text) == "string", "encode", "text", "a string", text)
  local given = opts and options.check("encode", opts, ENCODE)
  local ids = self.handle:encode(text, not given or given.special)
  local around = self.description.around
  if given and not given.add or #around.before + #around.after == 0 then return ids end
  return surrounded(ids, around)
end

--- The text of ids. Ids without a token are left out. opts:
---   skip_special  special tokens are left out (default false)
---   raw           bytes as they are; without it U+FFFD stands for those that are no UTF-8
---@param ids integer[]|moelua.Tensor a list, or an i32 tensor of one dimension
---@param opts table?
---@return string
function Tokenizer:decode(ids, opts)
  if getmetatable(ids) == "moelua.Tensor" then ids = core.totable(ids) end
  expect(type(ids) == "table", "decode", "ids", "a list or a tensor", ids)
  local given = opts and options.check("decode", opts, DECODE) or {}
  return self.handle:decode(ids, given.skip_special, given.raw)
end

--- The ids of bytes `first` to `last` as little-endian numbers, of 16 bits when the vocabulary has
--- at most 65536, else of 32; and how many they are. Special tokens are plain text, and nothing is
--- put around.
---@param text string
---@param first integer?
---@param last integer?
---@return string packed
---@return integer count
function Tokenizer:pack(text, first, last)
  return self.handle:pack(text, first, last)
end

--- What a token is written as in the vocabulary; nil where there is none.
---@param id integer
---@return string?
function Tokenizer:token(id)
  return self.handle:token(id)
end

--- The id of a token as it is written in the vocabulary; nil when there is none.
---@param token string
---@return integer?
function Tokenizer:id(token)
  expect(type(token) == "string", "id", "token", "a string", token)
  return self.handle:id(token)
end

--- How many bytes each token adds to a text that has begun: 0 for special tokens and gaps. Summed
--- over the ids of a text they give its length, but for what a normalizer changes or puts in front.
---@return moelua.Tensor lengths i32 [vocab]
function Tokenizer:byte_lengths()
  return self.handle:byte_lengths()
end

--- A hash of all that decides what comes out: equal for tokenizers that do the same, however their
--- files are written.
---@return string 16 hexadecimal digits
function Tokenizer:hash() return self.description.hash end

--- The files of the tokenizer in a model directory: name -> content. Those of one that was opened
--- are what they were, byte for byte.
---@return table<string, string>
function Tokenizer:files()
  local files = {}
  for name, content in pairs(self.description.files()) do files[name] = content end
  return files
end

--- The template of conversations that comes with it; nil when there is none.
---@return string?
function Tokenizer:chat_template()
  local given = self.description.config.chat_template
  if type(given) == "string" then return given end
  for _, named in ipairs(type(given) == "table" and given or {}) do
    if type(named) == "table" and named.name == "default" then return named.template end
  end
  return self.description.template
end

--- The metadata of a GGUF file that describe it: key -> value. What these cannot say gives nil, the
--- reason, "unsupported".
---@return table? metadata
---@return string? message
---@return string? code
function Tokenizer:gguf()
  return to_gguf(self)
end

--- Writes the tokenizer into a model directory, which is made if need be.
---@param folder string
---@return true? ok
---@return string? message
---@return string? code
function Tokenizer:save(folder)
  expect(type(folder) == "string", "save", "folder", "a string", folder)
  local made, reason, why = system.make_folder(folder)
  if not made then return nil, reason, why end
  for name, content in pairs(self:files()) do
    local ok, message, code = system.write(folder .. "/" .. name, content)
    if not ok then return nil, message, code end
  end
  return true
end

function Tokenizer:__tostring()
  return ("Tokenizer %s (%d tokens)"):format(self.name, self.vocab)
end

-- ---- making -----------------------------------------------------------------------------------

-- The token that a field of tokenizer_config.json names: a string, or an object with its content.
local function named(config, field)
  local value = config[field]
  if type(value) == "table" then value = value.content end
  return type(value) == "string" and value or nil
end

local class = { save = Tokenizer.save }       -- for all that have files()

local ROLES = { bos = "bos_token", eos = "eos_token", unk = "unk_token", pad = "pad_token" }

local function take_roles(tok, config)
  for role, field in pairs(ROLES) do
    local token = named(config, field)
    tok[role] = token and tok.handle:id(token)
    if token and not tok[role] then
      return nil, ("%s %q is not in the vocabulary"):format(field, token), "format"
    end
  end
  return tok
end

-- Of all that decides what comes out; nil, message when a text of it could not be in a file.
local function hash_of(handle, made)
  local rest = { handle:digest(), made.normalizer, made.splitter, made.decoder, made.around,
    made.added }
  local ok, text = core.attempt(json.encode, rest)
  if not ok then return nil, (text:gsub("^encode: %S+ ", "a text of it ")) end
  return system.hash(text)
end

--- A tokenizer of the table of a tokenizer.json and that of a tokenizer_config.json. `files`
--- returns what files() will; `scores` is as in tokenizer_build.lua, `template` a chat template
--- that lies beside.
---@return moelua.Tokenizer?
---@return string? message
---@return string? code
function class.new(file, config, files, scores, template)
  local handle, description, code = build(file, scores)
  if not handle then return nil, description, code end
  description.files, description.config, description.template = files, config, template
  local reason
  description.hash, reason = hash_of(handle, description)
  if not description.hash then
    handle:release()
    return nil, reason, "format"
  end
  return take_roles(setmetatable({ handle = handle, description = description, name = "bpe",
    vocab = handle:vocab() }, Tokenizer), config)
end

return class
