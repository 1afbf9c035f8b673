-- tokenizer_gguf.lua: tokenizers as GGUF files describe them: lists of tokens with their types and
-- merges or scores, and a name for how text is cut.

local core = require("moelua.core")
local parts = require("moelua.tokenizer_parts")
local json = core.json
local field, refuse = parts.field, parts.refuse

local gguf = {}

local PREFIX = "tokenizer.ggml."
local UNKNOWN, CONTROL, USER, UNUSED, BYTE = 2, 3, 4, 5, 6
local MARK = "\u{2581}"

-- ---- how text is cut --------------------------------------------------------------------------

local function byte_level(use_regex)
  return { type = "ByteLevel", add_prefix_space = false, trim_offsets = true,
    use_regex = use_regex }
end

local function split(regex)
  return { type = "Split", pattern = { Regex = regex }, behavior = "Isolated", invert = false }
end

local function sequence(...)
  return { type = "Sequence", pretokenizers = json.array({ ... }) }
end

local function split_by(name)
  return sequence(split(core.text.split_pattern(name)), byte_level(false))
end

local function by_digits()
  return sequence({ type = "Digits", individual_digits = true }, byte_level(true))
end

-- What llama.cpp does when a file names no pre-tokenizer: four expressions, one after the other.
local function unnamed()
  return sequence(split([[[\p{P}\$\+<=>\^~\|]+]]),
    split([['s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)]]),
    split([[\p{N}+]]), split("[0-9][0-9][0-9]"), byte_level(false))
end

-- Names that a file may give: how it cuts, and what else the name means.
local PRE = {
  ["gpt-2"] = { cut = byte_level, arg = true },
  smollm = { cut = by_digits },
  starcoder = { cut = by_digits },
  ["llama-bpe"] = { cut = split_by, arg = "llama3", ignore_merges = true, add_bos = true },
  qwen2 = { cut = split_by, arg = "qwen2", normalizer = { type = "NFC" } },
  default = { cut = unnamed },
}

-- ---- reading: lists ---------------------------------------------------------------------------

local function read_list(metadata, name, kind, count)
  local list = field(metadata, PREFIX .. name, "table", nil, "metadata")
  if not list then return nil end
  if count and #list ~= count then
    refuse("format", "%s%s has %d entries: there are %d tokens", PREFIX, name, #list, count)
  end
  for i, value in ipairs(list) do
    if type(value) ~= kind then
      refuse("format", "%s%s: entry %d is %s", PREFIX, name, i - 1, core.describe(value))
    end
  end
  return list
end

-- Ids by token, from the list by id.
local function by_token(tokens)
  local vocab = {}
  for i, token in ipairs(tokens) do
    if vocab[token] then
      refuse("format", "%stokens: %s is both token %d and token %d", PREFIX, core.describe(token),
        vocab[token], i - 1)
    end
    vocab[token] = i - 1
  end
  return vocab
end

local function added_tokens(tokens, types)
  local added = json.array({})
  for i, kind in ipairs(types or {}) do
    if (kind == CONTROL or kind == UNKNOWN or kind == USER) and tokens[i] ~= "" then
      added[#added + 1] = { id = i - 1, content = tokens[i], special = kind ~= USER,
        single_word = false, lstrip = false, rstrip = false, normalized = false }
    end
  end
  return added
end

-- ---- reading: special tokens ------------------------------------------------------------------

local ROLES = { bos = "bos_token", eos = "eos_token", unknown = "unk_token",
  padding = "pad_token" }

local function read_config(metadata, tokens)
  local config = {}
  for role, name in pairs(ROLES) do
    local id = field(metadata, PREFIX .. role .. "_token_id", "integer", nil, "metadata")
    if id and not tokens[id + 1] then
      refuse("format", "%s%s_token_id is %d: there are %d tokens", PREFIX, role, id, #tokens)
    end
    config[name] = id and tokens[id + 1]
  end
  config.chat_template = field(metadata, "tokenizer.chat_template", "string", nil, "metadata")
  return config
end

-- One text, or two, each within the tokens that are put around.
local function template(before, after)
  local tokens, single, pair = {}, json.array({}), json.array({})
  local function add(list, name, text)
    if not name then return end
    local special = { SpecialToken = { id = name.token, type_id = text } }
    list[#list + 1] = special
    tokens[name.token] = { id = name.token, ids = json.array({ name.id }),
      tokens = json.array({ name.token }) }
  end
  local function write(list, letter, text)
    add(list, before, text)
    list[#list + 1] = { Sequence = { id = letter, type_id = text } }
    add(list, after, text)
  end
  write(single, "A", 0)
  write(pair, "A", 0)
  write(pair, "B", 1)
  return { type = "TemplateProcessing", single = single, pair = pair, special_tokens = tokens }
end

-- What is put around a text; null when nothing is. Files that do not say have what their kind has.
local function read_around(metadata, config, vocab, add_bos)
  local function wanted(name, token, default)
    local add = field(metadata, PREFIX .. name, "boolean", default, "metadata")
    config[name] = add
    return add and token and { token = token, id = vocab[token] } or nil
  end
  local before = wanted("add_bos_token", config.bos_token, add_bos)
  local after = wanted("add_eos_token", config.eos_token, false)
  return (before or after) and template(before, after) or json.null
end

-- ---- reading: the two kinds -------------------------------------------------------------------

local function model_table(vocab, merges, given)
  local model = { type = "BPE", dropout = json.null, unk_token = json.null,
    continuing_subword_prefix = json.null, end_of_word_suffix = json.null, fuse_unk = false,
    byte_fallback = false, ignore_merges = false, vocab = vocab, merges = json.array(merges) }
  for name, value in pairs(given) do model[name] = value end
  return model
end

local function file_table(given)
  local file = { version = "1.0", truncation = json.null, padding = json.null,
    normalizer = json.null, pre_tokenizer = json.null }
  for name, value in pairs(given) do file[name] = value end
  return file
end

local function read_bytes(metadata, tokens, types)
  local name = field(metadata, PREFIX .. "pre", "string", "default", "metadata")
  local pre = PRE[name]
  if not pre then
    refuse("unsupported", "there is no pre-tokenizer %s\nhint: those of gpt-2, smollm, starcoder, "
      .. "llama-bpe, qwen2 and default are known", core.describe(name))
  end
  local vocab, config = by_token(tokens), read_config(metadata, tokens)
  local merges = read_list(metadata, "merges", "string")
  if not merges then refuse("format", "there is no %smerges", PREFIX) end
  return file_table({ added_tokens = added_tokens(tokens, types),
    normalizer = pre.normalizer or json.null, pre_tokenizer = pre.cut(pre.arg),
    post_processor = read_around(metadata, config, vocab, pre.add_bos or false),
    decoder = byte_level(true),
    model = model_table(vocab, table.move(merges, 1, #merges, 1, {}),
      { ignore_merges = pre.ignore_merges or false }) }), config
end

-- With `prefix` a space is put in front of a text, and taken away again.
local function mark_steps(prefix)
  local to_mark = { type = "Replace", pattern = { String = " " }, content = MARK }
  local to_space = { type = "Replace", pattern = { String = MARK }, content = " " }
  local before = json.array({ to_mark })
  local after = json.array({ to_space, { type = "ByteFallback" }, { type = "Fuse" } })
  if prefix then
    table.insert(before, 1, { type = "Prepend", prepend = MARK })
    table.insert(after, { type = "Strip", content = " ", start = 1, stop = 0 })
  end
  return { type = "Sequence", normalizers = before }, { type = "Sequence", decoders = after }
end

-- Scores of what merges make and take: of tokens that are text.
local function usable_scores(scores, types)
  local usable = {}
  for i, score in ipairs(scores) do
    usable[i] = (not types or types[i] == 1) and score or false
  end
  return usable
end

local function read_marks(metadata, tokens, types)
  local scores = read_list(metadata, "scores", "number", #tokens)
  if not scores then refuse("format", "there is no %sscores", PREFIX) end
  local vocab, config = by_token(tokens), read_config(metadata, tokens)
  local prefix = field(metadata, PREFIX .. "add_space_prefix", "boolean", true, "metadata")
  local normalizer, decoder = mark_steps(prefix)
  return file_table({ added_tokens = added_tokens(tokens, types), normalizer = normalizer,
    post_processor = read_around(metadata, config, vocab, true), decoder = decoder,
    model = model_table(vocab, {}, { unk_token = config.unk_token or json.null, fuse_unk = true,
      byte_fallback = true }) }), config, usable_scores(scores, types)
end

local READERS = { gpt2 = read_bytes, llama = read_marks }

local function read(metadata)
  local kind = field(metadata, PREFIX .. "model", "string", nil, "metadata")
  if not kind then refuse("missing", "the file has no tokenizer") end
  local reader = READERS[kind]
  if not reader then
    refuse("unsupported", "tokenizer model %s is not supported: gpt2 and llama are",
      core.describe(kind))
  end
  local tokens = read_list(metadata, "tokens", "string")
  if not tokens then refuse("format", "there is no %stokens", PREFIX) end
  return reader(metadata, tokens, read_list(metadata, "token_type", "number", #tokens))
end

--- The tokenizer that the metadata of a GGUF file describe: the table of a tokenizer.json, that of
--- a tokenizer_config.json, and the scores that order merges, if there are any.
---@param metadata table
---@return table? file
---@return table|string config or message
---@return table|string? scores or code
function gguf.read(metadata)
  return parts.attempt(read, metadata)
end

gguf.PREFIX, gguf.PRE, gguf.MARK = PREFIX, PRE, MARK
gguf.types = { unknown = UNKNOWN, control = CONTROL, user = USER, unused = UNUSED, byte = BYTE }
return gguf
