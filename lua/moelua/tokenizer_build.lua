-- tokenizer_build.lua: from the table of a tokenizer.json to a tokenizer of the core.

local core = require("moelua.core")
local parts = require("moelua.tokenizer_parts")
local field, refuse = parts.field, parts.refuse

local MODEL, ADDED, SPECIAL = 1, 2, 4

-- ---- the model --------------------------------------------------------------------------------

local function check_model(model)
  local kind = field(model, "type", "string", model.merges and "BPE" or nil, "model")
  if kind ~= "BPE" then
    refuse("unsupported", "model %s is not supported: it is BPE that is", core.describe(kind))
  end
  if field(model, "dropout", "number", 0, "model") ~= 0 then
    refuse("unsupported", "model: dropout is for training alone")
  end
  for _, name in ipairs({ "continuing_subword_prefix", "end_of_word_suffix" }) do
    if field(model, name, "string", "", "model") ~= "" then
      refuse("unsupported", "model: %s is not supported", name)
    end
  end
end

local function vocab_of(model) return field(model, "vocab", "table", {}, "model") end

-- The switches of the model, with the id of its unknown token.
local function switches(model, byte_level)
  local unk = field(model, "unk_token", "string", nil, "model")
  local id = unk and vocab_of(model)[unk]
  if unk and not id then refuse("format", "model: unk_token %q is not in the vocabulary", unk) end
  return {
    byte_level = byte_level or false, unk = id,
    fuse_unk = field(model, "fuse_unk", "boolean", false, "model"),
    byte_fallback = field(model, "byte_fallback", "boolean", false, "model"),
    ignore_merges = field(model, "ignore_merges", "boolean", false, "model"),
  }
end

-- ---- added tokens -----------------------------------------------------------------------------

local function read_added(entry, i)
  local where = ("added_tokens %d"):format(i)
  if type(entry) ~= "table" then refuse("format", "%s is no object", where) end
  local token = { content = field(entry, "content", "string", "", where),
    id = field(entry, "id", "integer", -1, where) }
  if token.content == "" then refuse("format", "%s has no content", where) end
  if token.id < 0 then refuse("format", "%s: %q has no id", where, token.content) end
  token.special = field(entry, "special", "boolean", false, where)
  token.normalized = field(entry, "normalized", "boolean", not token.special, where)
  for _, name in ipairs({ "single_word", "lstrip", "rstrip" }) do
    token[name] = field(entry, name, "boolean", false, where)
  end
  return token, where
end

-- The added tokens in their order. They join the vocabulary, with what they are for in `flags`.
local function add_tokens(list, tokens, flags)
  local added = {}
  for i, entry in ipairs(list) do
    local token, where = read_added(entry, i)
    local id = tokens[token.content]
    if id and id ~= token.id then
      refuse("format", "%s: %q has the ids %s and %d", where, token.content, tostring(id), token.id)
    end
    if flags[token.content] then refuse("format", "%s: %q comes twice", where, token.content) end
    tokens[token.content] = token.id
    flags[token.content] = (id and MODEL or 0) | ADDED | (token.special and SPECIAL or 0)
    added[i] = token
  end
  return added
end

-- ---- putting it together ----------------------------------------------------------------------

-- What a call of the core returned, unless it refused.
local function checked(...)
  local ok, message, code = ...
  if not ok then refuse(code or "format", "%s", message) end
  return ...
end

local function copied(vocab)
  local tokens = {}
  for token, id in pairs(vocab) do tokens[token] = id end
  return tokens
end

local function check_around(handle, around)
  for _, side in pairs(around) do
    for _, id in ipairs(side) do
      if not handle:token(id) then refuse("format", "post_processor: there is no token %d", id) end
    end
  end
end

local LISTS = { "normalizer", "splitter", "decoder" }

-- In the order in which the core needs them.
local function fill(handle, file, scores)
  local model = file.model
  if type(model) ~= "table" then refuse("format", "there is no model") end
  check_model(model)
  local made = { normalizer = parts.normalizer(file.normalizer),
    splitter = parts.pre_tokenizer(file.pre_tokenizer), decoder = parts.decoder(file.decoder),
    around = parts.post_processor(file.post_processor) }
  made.scores = scores
  local tokens, flags = copied(vocab_of(model)), {}
  made.added = add_tokens(field(file, "added_tokens", "table", {}, "file"), tokens, flags)
  made.byte_level = made.splitter.byte_level or false
  made.splitter.byte_level = nil
  checked(handle:vocabulary(tokens, flags))
  if scores then checked(handle:scores(scores))
  else checked(handle:merges(field(model, "merges", "table", {}, "model"))) end
  local model_switches = switches(model, made.byte_level)
  made.ignore_merges, made.byte_fallback = model_switches.ignore_merges,
    model_switches.byte_fallback
  checked(handle:model(model_switches))
  for _, list in ipairs(LISTS) do
    for _, step in ipairs(made[list]) do checked(handle:step(list, step)) end
  end
  for _, token in ipairs(made.added) do checked(handle:added(token)) end
  check_around(handle, made.around)
  return made
end

--- The core's tokenizer of the table of a tokenizer.json, and what was read of it: the steps of
--- normalizer, splitter and decoder, what is put around ids, the added tokens, byte_level. With
--- `scores`, by id + 1, these order merges instead of the list in the file.
---@param file table
---@param scores table?
---@return userdata? handle
---@return table|string description or message
---@return string? code
return function(file, scores)
  local handle = core.text.tokenizer()
  local made, message, code = parts.attempt(fill, handle, file, scores)
  if made then return handle, made end
  handle:release()
  return nil, message, code
end
