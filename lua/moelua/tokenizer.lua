-- tokenizer.lua: text to token ids and back.
--
--   local tok = moe.tokenizer.bytes()               -- one id per byte
--   local tok = assert(moe.tokenizer.open("model")) -- or a tokenizer.json, a .gguf
--   tok:encode("ab")            -- a list of ids
--   tok:decode({ 97, 98 })      -- a text
--   tok:save("model")           -- tokenizer.json and tokenizer_config.json

local Bytes = require("moelua.byte_tokenizer")
local class = require("moelua.tokenizer_class")
local core = require("moelua.core")
local expect = require("moelua.expect")
local gguf = require("moelua.tokenizer_gguf")
local json, raise, system = core.json, core.raise, core.system

local tokenizer = {}

--- The byte tokenizer.
---@return moelua.ByteTokenizer
function tokenizer.bytes()
  return Bytes.new()
end

local function is_tokenizer(value)
  return type(value) == "table" and type(value.encode) == "function"
    and type(value.decode) == "function" and type(value.pack) == "function"
    and math.type(value.vocab) == "integer"
end

--- The tokenizer that an option names: "bytes", the path of one, or a tokenizer itself.
---@param where string the function that was called, for messages
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.resolve(where, value)
  if value == "bytes" then return tokenizer.bytes() end
  if is_tokenizer(value) then return value end
  if type(value) == "string" and system.exists(value) then return tokenizer.open(value) end
  raise("%s: there is no tokenizer %s\nhint: \"bytes\", the path of one, or what " ..
    "moe.tokenizer.open returned", where, core.describe(value))
end

-- ---- tables -----------------------------------------------------------------------------------

-- Files of a tokenizer that was made here. Everything in tables is written as it was given.
local function written(file, config)
  local base = { tokenizer_class = "PreTrainedTokenizerFast", clean_up_tokenization_spaces = false }
  for key, value in pairs(config) do base[key] = value end
  return {
    ["tokenizer.json"] = json.encode(file, { indent = 2 }) .. "\n",
    ["tokenizer_config.json"] = json.encode(base, { indent = 2 }) .. "\n",
  }
end

--- A tokenizer of the table that a tokenizer.json holds. `config` is the table of a
--- tokenizer_config.json: bos_token, eos_token, unk_token, pad_token, chat_template.
---@param file table
---@param config table?
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.from_table(file, config)
  expect(type(file) == "table", "tokenizer.from_table", "file", "a table", file)
  expect(config == nil or type(config) == "table", "tokenizer.from_table", "config", "a table",
    config)
  config = config or {}
  local made
  local function files()
    made = made or written(file, config)
    return made
  end
  local tok, message, code = class.new(file, config, files)
  if not tok then return nil, "tokenizer.from_table: " .. message, code end
  return tok
end

--- Learns a byte-level BPE from text, see tokenizer_train.lua.
---@param given table
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.train(given) return require("moelua.tokenizer_train")(given) end

-- ---- GGUF -----------------------------------------------------------------------------------

local function from_gguf(metadata)
  local file, config, scores = gguf.read(metadata)
  if not file then return nil, config, scores end
  local tok, made
  local function files()
    if scores and not made then file.model.merges = json.array((tok.handle:merge_list())) end
    made = made or written(file, config)
    return made
  end
  local message, code
  tok, message, code = class.new(file, config, files, scores)
  if tok then tok.description.pre = metadata[gguf.PREFIX .. "pre"] end
  return tok, message, code
end

--- The tokenizer that the metadata of a GGUF file describe: what its Checkpoint's metadata()
--- returns.
---@param metadata table
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.from_gguf(metadata)
  expect(type(metadata) == "table", "tokenizer.from_gguf", "metadata", "a table", metadata)
  local tok, message, code = from_gguf(metadata)
  if not tok then return nil, "tokenizer.from_gguf: " .. message, code end
  return tok
end

local function open_gguf(path)
  local file, message, code = core.checkpoint.open(path)
  if not file then return nil, message, code, true end
  local metadata = file:metadata()
  file:close()
  local tok
  tok, message, code = from_gguf(metadata)
  return tok, message and ("%s: %s"):format(path, message), code
end

-- ---- files ------------------------------------------------------------------------------------

-- What lies beside a tokenizer.json and belongs to it.
local SIBLINGS = { "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
  "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json" }

-- The object in a text of JSON, or nil, message, code.
local function object(path, text)
  local value, reason = json.decode(text)
  if type(value) == "table" then return value end
  return nil, ("%s: %s"):format(path, reason or "no JSON object"), "format"
end

local function read_siblings(folder, files)
  for _, name in ipairs(SIBLINGS) do
    local path = folder .. name
    if system.exists(path) then
      local content, message, code = system.read(path)
      if not content then return nil, message, code end
      files[name] = content
    end
  end
  return files
end

-- The files of the tokenizer at a path, and the path of its tokenizer.json.
local function read_files(path)
  if system.exists(path .. "/tokenizer.json") then path = path .. "/tokenizer.json" end
  local text, message, code = system.read(path)
  if not text then return nil, message, code end
  local files = { ["tokenizer.json"] = text }
  local ok
  ok, message, code = read_siblings(path:match("^(.*/)[^/]*$") or "", files)
  if not ok then return nil, message, code end
  return files, path
end

-- What a file is, its first bytes tell, whatever its name.
local function is_gguf(path)
  if path:lower():find("%.gguf$") then return true end
  local file <close> = io.open(path, "rb")
  return file ~= nil and file:read(4) == "GGUF"
end

local function open(path)
  if is_gguf(path) then return open_gguf(path) end
  local files, where, code = read_files(path)
  if not files then return nil, where, code, true end
  local file, message
  file, message, code = object(where, files["tokenizer.json"])
  if not file then return nil, message, code end
  if Bytes.is(file) then return Bytes.new() end
  local config = {}
  if files["tokenizer_config.json"] then
    config, message, code = object((where:match("^(.*/)") or "") .. "tokenizer_config.json",
      files["tokenizer_config.json"])
    if not config then return nil, message, code end
  end
  local tok
  tok, message, code = class.new(file, config, function() return files end, nil,
    files["chat_template.jinja"])
  return tok, message and ("%s: %s"):format(where, message), code
end

--- Opens a tokenizer.json, that of a model directory, or that of a GGUF file.
---@param path string
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
function tokenizer.open(path)
  expect(type(path) == "string", "tokenizer.open", "path", "a string", path)
  local tok, message, code, whole = open(path)
  if tok then return tok end
  return nil, whole and message or "tokenizer.open: " .. message, code
end

return tokenizer
