-- tokenizer_train.lua: a byte-level BPE learned from text.
--
--   local tok = moe.tokenizer.train { path = "src", match = "%.[ch]$", vocab = 8192 }
--   assert(tok:save("model"))               -- a tokenizer.json that others read
--
-- Ids are those of the special tokens first, then the 256 bytes in the order of GPT-2's alphabet,
-- then what was learned, the most frequent first. The merges follow from the counts of words alone,
-- see core/text/bpe_train.h.

local core = require("moelua.core")
local corpora = require("moelua.corpora")
local expect = require("moelua.expect")
local options = require("moelua.options")
local sources = require("moelua.sources")
local token_file = require("moelua.token_file")
local json, raise = core.json, core.raise

local SPLITS = { "gpt2", "llama3", "qwen2", "smollm" }
local ROLES = { "bos", "eos", "unk", "pad" }

local declared = {
  corpus = "table", path = "string|table", match = "string", texts = "table",
  vocab = { "integer", 8192 },          -- ids, special ones included
  split = { SPLITS, "gpt2" },           -- how text is cut into words
  special = "table",                    -- { "<|endoftext|>" } when left out
  bos = "string", eos = "string", unk = "string", pad = "string",
  min_count = { "integer", 2 },         -- pairs that occur less often are not merged
  max_bytes = "integer",
  max_words = { "integer", 8000000 },   -- different words that are counted at a time
}

-- ---- options ----------------------------------------------------------------------------------

local function check_special(special)
  local seen = {}
  for i, token in ipairs(special) do
    if type(token) ~= "string" or token == "" or not utf8.len(token) then
      raise("tokenizer.train: special[%d] must be a text, not %s", i, core.describe(token))
    end
    if seen[token] then raise("tokenizer.train: %q is in special twice", token) end
    seen[token] = true
  end
  return seen
end

-- The first special token ends a text unless `eos` names another one.
local function check_roles(opts, seen)
  opts.eos = opts.eos or opts.special[1]
  for _, role in ipairs(ROLES) do
    if opts[role] and not seen[opts[role]] then
      raise("tokenizer.train: %s = %q is no special token%s", role, opts[role],
        options.hint(opts[role], opts.special))
    end
  end
end

local function check_numbers(opts)
  local least = 256 + #opts.special
  if opts.vocab < least then
    raise("tokenizer.train: vocab is %d: 256 bytes and %d special tokens need %d", opts.vocab,
      #opts.special, least)
  end
  for _, name in ipairs({ "min_count", "max_bytes", "max_words" }) do
    if opts[name] and opts[name] < 1 then
      raise("tokenizer.train: %s must be positive: %d", name, opts[name])
    end
  end
end

local function check(given)
  local opts, named = options.check("tokenizer.train", given, declared), {}
  for _, name in ipairs({ "corpus", "path", "texts" }) do
    if opts[name] then named[#named + 1] = name end
  end
  if #named ~= 1 then
    raise("tokenizer.train: one of corpus, path and texts must say what to learn from: got %s",
      #named == 0 and "none" or table.concat(named, " and "))
  end
  opts.special = opts.special or { "<|endoftext|>" }
  check_roles(opts, check_special(opts.special))
  check_numbers(opts)
  return opts
end

-- ---- text -------------------------------------------------------------------------------------

-- Each calls add(text, first, last) for every document, and returns true or nil, message, code.

local function from_texts(opts, add)
  for i, text in ipairs(opts.texts) do
    expect(type(text) == "string", "tokenizer.train", ("texts[%d]"):format(i), "a string", text)
    add(text, 1, #text)
  end
  return true
end

-- What held-out text is made of is not to be learned here either.
local function from_files(opts, add)
  local files, message, code = sources.list(opts.path, opts.match)
  if not files then return nil, message, code end
  return token_file.each(files, opts.max_bytes, function(document, text)
    if document.split == "train" then add(text, document.first, document.last) end
    return true
  end)
end

local function from_corpus(opts, add)
  local corpus = opts.corpus
  if not (corpora.is_one(corpus) and corpus.tokenizer) then
    raise("tokenizer.train: corpus must be a corpus with a tokenizer, not %s",
      core.describe(corpus))
  end
  for i = 1, corpus:documents("train") do
    local ids = corpus.handle:ids("train", corpus.handle:document("train", i))
    local text = corpus.tokenizer:decode(ids, { raw = true, skip_special = true })
    add(text, 1, #text)
  end
  return true
end

-- ---- the tokenizer ----------------------------------------------------------------------------

local function byte_level(use_regex)
  return { type = "ByteLevel", add_prefix_space = false, trim_offsets = true,
    use_regex = use_regex }
end

-- How the file says what core.text splits by hand.
local function pre_tokenizer(split)
  if split == "gpt2" then return byte_level(true) end
  local first = { type = "Digits", individual_digits = true }
  if split ~= "smollm" then
    first = { type = "Split", pattern = { Regex = core.text.split_pattern(split) },
      behavior = "Isolated", invert = false }
  end
  return { type = "Sequence", pretokenizers = json.array({ first, byte_level(split == "smollm") }) }
end

local function added_tokens(special)
  local list = {}
  for i, token in ipairs(special) do
    list[i] = { id = i - 1, content = token, special = true, normalized = false,
      single_word = false, lstrip = false, rstrip = false }
  end
  return json.array(list)
end

local function model_of(special, tokens, merges)
  local vocab, pairs_of, count = {}, {}, #special
  for i, token in ipairs(special) do vocab[token] = i - 1 end
  for _, token in ipairs(tokens) do
    if not vocab[token] then vocab[token], count = count, count + 1 end
  end
  for i, merge in ipairs(merges) do
    pairs_of[i] = json.array({ tokens[merge[1] + 1], tokens[merge[2] + 1] })
  end
  return { type = "BPE", dropout = json.null, unk_token = json.null,
    continuing_subword_prefix = json.null, end_of_word_suffix = json.null, fuse_unk = false,
    byte_fallback = false, ignore_merges = false, vocab = vocab, merges = json.array(pairs_of) }
end

local function table_of(opts, tokens, merges)
  return { version = "1.0", truncation = json.null, padding = json.null,
    added_tokens = added_tokens(opts.special), normalizer = json.null,
    pre_tokenizer = pre_tokenizer(opts.split), post_processor = json.null,
    decoder = byte_level(true), model = model_of(opts.special, tokens, merges) }
end

local function config_of(opts)
  local config = { clean_up_tokenization_spaces = false, add_bos_token = false,
    add_eos_token = false }
  for _, role in ipairs(ROLES) do config[role .. "_token"] = opts[role] end
  return config
end

--- Learns a byte-level BPE (Sennrich et al. 2016). Options:
---   corpus, path or texts   what to learn from: the train split of a corpus, files and folders as
---              moe.data.corpus takes them (with match and max_bytes; only what that would put
---              into train), or a list of strings
---   vocab      how many ids, special tokens and the 256 bytes included; 8192. Fewer come of little
---              text.
---   split      how text is cut into words, over whose ends nothing is merged: "gpt2" (default),
---              "llama3", "qwen2" or "smollm", as those models do; text is never normalised
---   special    tokens that stand for no text, a list; { "<|endoftext|>" }
---   bos, eos, unk, pad   which of those have a role; eos is the first when left out
---   min_count  how often a pair must occur to become a token; 2
---   max_words  how many different words are counted at a time; when there are more, the rarest are
---              forgotten
--- Equally frequent pairs are merged in the order of their ids.
---@param given table
---@return moelua.Tokenizer? tokenizer
---@return string? message
---@return string? code
return function(given)
  local opts = check(given)
  local trainer <close> = core.text.bpe_trainer(opts.split, opts.max_words)
  local read = opts.texts and from_texts or opts.path and from_files or from_corpus
  local ok, message, code = read(opts, function(text, first, last)
    trainer:add(text, first, last)
  end)
  if not ok then return nil, message, code end
  local tokens, merges = trainer:train(opts.vocab - #opts.special, opts.min_count)
  return require("moelua.tokenizer").from_table(table_of(opts, tokens, merges), config_of(opts))
end
