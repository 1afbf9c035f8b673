-- tokenizer_to_gguf.lua: the metadata of a GGUF file that describe a tokenizer. What they cannot
-- say is refused with the reason: llama.cpp would read other ids from the same text.

local gguf = require("moelua.tokenizer_gguf")
local parts = require("moelua.tokenizer_parts")
local refuse = parts.refuse
local PREFIX, MARK, types = gguf.PREFIX, gguf.MARK, gguf.types
local NORMAL = 1

-- ---- tokens -----------------------------------------------------------------------------------

local function added_types(tok)
  local by_id = {}
  for _, token in ipairs(tok.description.added) do
    if token.lstrip or token.rstrip or token.single_word then
      refuse("unsupported", "GGUF cannot say that %q takes white space with it, or stands alone",
        token.content)
    end
    by_id[token.id] = token.special and types.control or types.user
  end
  if tok.unk and not tok.description.byte_level then by_id[tok.unk] = types.unknown end
  return by_id
end

local function type_of(token, byte_fallback)
  if not token then return types.unused end
  if byte_fallback and token:find("^<0x%x%x>$") then return types.byte end
  return NORMAL
end

-- Tokens and their types; a gap gets a name of its own.
local function set_tokens(keys, tok)
  local tokens, kinds, added = {}, {}, added_types(tok)
  for id = 0, tok.vocab - 1 do
    local token = tok:token(id)
    kinds[id + 1] = added[id] or type_of(token, not tok.description.byte_level)
    tokens[id + 1] = token or ("[PAD%d]"):format(id)
  end
  keys[PREFIX .. "tokens"], keys[PREFIX .. "token_type"] = tokens, kinds
end

-- ---- what is put around -----------------------------------------------------------------------

local function set_side(keys, ids, role, where)
  if #ids == 0 then return false end
  local name = PREFIX .. role .. "_token_id"
  if #ids > 1 or keys[name] and keys[name] ~= ids[1] then
    refuse("unsupported", "GGUF cannot say that tokens other than %s are put %s a text", role,
      where)
  end
  keys[name] = ids[1]
  return true
end

local function set_special(keys, tok)
  keys[PREFIX .. "bos_token_id"], keys[PREFIX .. "eos_token_id"] = tok.bos, tok.eos
  keys[PREFIX .. "unknown_token_id"], keys[PREFIX .. "padding_token_id"] = tok.unk, tok.pad
  local around = tok.description.around
  keys[PREFIX .. "add_bos_token"] = set_side(keys, around.before, "bos", "before")
  keys[PREFIX .. "add_eos_token"] = set_side(keys, around.after, "eos", "behind")
  keys["tokenizer.chat_template"] = tok:chat_template()
end

-- ---- byte-level -------------------------------------------------------------------------------

local NAMES = { gpt2 = "gpt-2", smollm = "smollm", llama3 = "llama-bpe", qwen2 = "qwen2" }

-- Without merges it is all the same how text is cut.
local function split_name(made, merges)
  local step = made.splitter[1]
  if not step and #merges == 0 then return "gpt2" end
  if #made.splitter ~= 1 or step.kind ~= "split" then
    refuse("unsupported", "GGUF has no name for how it cuts text; it has for those of GPT-2, "
      .. "SmolLM, Llama 3 and Qwen2")
  end
  return step.split
end

local function check_normalizer(made, split)
  local step = made.normalizer[1]
  if not step or split == "qwen2" and #made.normalizer == 1 and step.kind == "nfc" then return end
  refuse("unsupported", "GGUF cannot say its normalizer")
end

-- Whether whole words are tokens before merging is part of the name.
local function check_whole_words(tok, name)
  if tok.description.ignore_merges == (name == "llama-bpe") then return end
  local id = tok.handle:unmerged()
  if id then
    refuse("unsupported", "in GGUF the name %s says %sthat words which are tokens are not merged; "
      .. "merging does not make token %d", name, name == "llama-bpe" and "" or "not ", id)
  end
end

local function set_byte_level(keys, tok)
  local made = tok.description
  local merges = tok.handle:merge_list()
  local name = made.pre
  if not name then
    local split = split_name(made, merges)
    check_normalizer(made, split)
    name = NAMES[split]
    check_whole_words(tok, name)
  end
  keys[PREFIX .. "model"], keys[PREFIX .. "pre"] = "gpt2", name
  keys[PREFIX .. "merges"] = merges
end

-- ---- marks for spaces -------------------------------------------------------------------------

local function is_mark_replacement(step)
  return step and step.kind == "replace" and step.pattern == " " and not step.regex
    and step.text == MARK
end

-- Is a space put in front of a text? Refuses what is done neither here nor there.
local function puts_space(made)
  local steps, cut = made.normalizer, made.splitter[1]
  if #steps == 0 and #made.splitter == 1 and cut.kind == "metaspace" and cut.text == MARK then
    return cut.scheme ~= "never"
  end
  if #made.splitter == 0 then
    if #steps == 1 and is_mark_replacement(steps[1]) then return false end
    local first = steps[1]
    if #steps == 2 and first.kind == "prepend" and first.text == MARK
        and is_mark_replacement(steps[2]) then
      return true
    end
  end
  refuse("unsupported", "GGUF cannot say its normalizer; it can that of Llama 2: U+2581 for spaces")
end

-- Where each token is first and last made.
local function extents(into)
  local first, last, order = {}, {}, {}
  for i, id in ipairs(into) do
    if not first[id] then first[id], order[#order + 1] = i, id end
    last[id] = i
  end
  return first, last, order
end

-- A score for each token that merges make. Those whose merges lie among one another share one.
local function made_scores(into)
  local first, last, order = extents(into)
  local scores, score, reach = {}, 1.0, 0
  for _, id in ipairs(order) do
    if first[id] > reach then score = score - 1.0 end
    scores[id + 1], reach = score, math.max(reach, last[id])
  end
  return scores, score
end

-- Scores that order merges as their list does, which must be that of the scores.
local function scores_of(tok, kinds)
  local merges, into = tok.handle:merge_list()
  local scores, lowest = made_scores(into)
  for i, kind in ipairs(kinds) do
    if kind ~= NORMAL then scores[i] = false
    else scores[i] = scores[i] or lowest - i end
  end
  local again = tok.handle:scored_merges(scores)
  for i = 1, math.max(#merges, #again) do
    if merges[i] ~= again[i] then
      refuse("unsupported", "its merges are no order of tokens: merge %d is \"%s\", not \"%s\"", i,
        merges[i] or "none", again[i] or "none")
    end
  end
  return scores
end

local function set_marks(keys, tok)
  local made = tok.description
  if not made.byte_fallback then
    refuse("unsupported", "GGUF describes models of characters with byte_fallback alone")
  end
  keys[PREFIX .. "model"], keys[PREFIX .. "pre"] = "llama", "default"
  keys[PREFIX .. "add_space_prefix"] = puts_space(made)
  local scores = made.scores or scores_of(tok, keys[PREFIX .. "token_type"])
  local written = {}
  for id = 1, tok.vocab do written[id] = scores[id] or 0.0 end
  keys[PREFIX .. "scores"] = written
end

local function write(tok)
  local keys = {}
  set_tokens(keys, tok)
  set_special(keys, tok)
  if tok.description.byte_level then set_byte_level(keys, tok) else set_marks(keys, tok) end
  return keys
end

--- The metadata of a tokenizer by key, or nil and why there are none.
---@param tok moelua.Tokenizer
---@return table? metadata
---@return string? message
---@return string? code
return function(tok)
  return parts.attempt(write, tok)
end
