-- merged_tokenizer.lua: the tokenizer of a united vocabulary, see vocabulary.lua.
--
-- The base's tokens keep their ids, and its merges go first. What it lacks is appended: the tokens
-- of the other models, with the merges that make them, then their added tokens as they were
-- declared. A token that one model added is an added one.

local core = require("moelua.core")
local options = require("moelua.options")
local json, raise = core.json, core.raise

-- The table of a tokenizer.json.
local function table_of(tok)
  local file, reason = json.decode(tok:files()["tokenizer.json"])
  if type(file) ~= "table" or type(file.model) ~= "table" then
    raise("vocabulary.union: a tokenizer is no table: %s", reason or "it has no model")
  end
  return file
end

-- A list of the file; null and nothing are empty ones.
local function list_of(value) return type(value) == "table" and value or {} end

local function config_of(tok)
  local text = tok:files()["tokenizer_config.json"]
  return text and json.decode(text) or {}
end

-- What the models' files say of their added tokens, the first to mention each: content ->
-- declaration.
local function added_of(files)
  local added = {}
  for _, file in ipairs(files) do
    for _, token in ipairs(list_of(file.added_tokens)) do
      added[token.content] = added[token.content] or token
    end
  end
  return added
end

-- The tokens that the base lacks, in the order of the models and of their ids.
local function missing(models, base)
  local list, seen = {}, {}
  for _, model in ipairs(models) do
    local tok = model.tokenizer
    for id = 0, math.min(tok.vocab, model.vocab) - 1 do
      local token = tok:token(id)
      if token and not seen[token] and not base:id(token) then
        seen[token] = true
        list[#list + 1] = token
      end
    end
  end
  return list
end

-- ---- merges -----------------------------------------------------------------------------------

-- The two parts of a merge; older files have them as one string.
local function parts(merge)
  if type(merge) == "table" then return merge[1], merge[2] end
  return merge:match("^(.-) (.*)$")
end

-- The merges of a file as pairs, those only that `wanted` takes.
local function add_merges(list, file, wanted)
  for _, merge in ipairs(list_of(file.model.merges)) do
    local left, right = parts(merge)
    if wanted(left, right) then list[#list + 1] = json.array({ left, right }) end
  end
end

-- The base's merges, then those of the others that make a new token.
local function merges_of(files, base, vocab, new)
  local list, seen = {}, {}
  add_merges(list, files[base], function() return true end)
  local function makes_new(left, right)
    local key = #left .. ":" .. left .. right
    local wanted = new[left .. right] and vocab[left] and vocab[right] and not seen[key]
    seen[key] = true
    return wanted
  end
  for m, file in ipairs(files) do
    if m ~= base then add_merges(list, file, makes_new) end
  end
  return json.array(list)
end

-- ---- putting it together ----------------------------------------------------------------------

-- Every token of the tokenizer with its id; the added ones join the model's, as their ids are no
-- longer the last.
local function vocabulary_of(tok)
  local vocab = {}
  for id = 0, tok.vocab - 1 do
    local token = tok:token(id)
    if token then vocab[token] = id end
  end
  return vocab
end

-- The table of the base's file with the tokens in `list` as well.
local function extended(files, base, tok, list)
  local file, declared = files[base], added_of(files)
  local vocab, new, added = vocabulary_of(tok), {}, {}
  local count = tok.vocab
  local function append(token)
    vocab[token], count = count, count + 1
    return count - 1
  end
  for i, token in ipairs(list_of(file.added_tokens)) do added[i] = token end
  for _, token in ipairs(list) do
    if not declared[token] then new[token] = append(token) end
  end
  for _, token in ipairs(list) do
    if declared[token] then
      added[#added + 1] = options.merge(declared[token], { id = append(token) })
    end
  end
  file.added_tokens = json.array(added)
  file.model.merges = merges_of(files, base, vocab, new)
  file.model.vocab = vocab
  return file
end

--- The base's tokenizer with the tokens that it lacks; itself when it lacks none.
---@param models { tokenizer: moelua.Tokenizer, vocab: integer }[]
---@param base integer
---@return moelua.Tokenizer
return function(models, base)
  local tok, files = models[base].tokenizer, {}
  local list = missing(models, tok)
  if #list == 0 then return tok end
  for m, model in ipairs(models) do files[m] = table_of(model.tokenizer) end
  local result, message = require("moelua.tokenizer").from_table(
    extended(files, base, tok, list), config_of(tok))
  return result or raise("vocabulary.union: %s", message)
end
