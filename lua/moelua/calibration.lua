-- calibration.lua: text as sequences of tokens, some to learn something from and some held out to
-- see whether it holds. A text is
--
--   "..."                     the text itself
--   { path = "code.txt" }     a file
--   { "...", "..." }          several short ones, each a sequence of its own
--   corpus                    of moe.data.corpus: from train, and from validation
--
-- Of what is no corpus the last fifth is held out.

local core = require("moelua.core")
local run = require("moelua.run")
local raise = core.raise

local HELD_OUT = 1 / 5

local function is_corpus(text) return type(text) == "table" and text.window_batch ~= nil end

-- At most `most` of the list, evenly spaced.
local function some(list, most)
  if #list <= most then return list end
  local out = {}
  for i = 1, most do out[i] = list[(i - 1) * #list // most + 1] end
  return out
end

-- Ids first .. last in sequences of `context`.
local function cut(ids, first, last, context)
  local list = {}
  for from = first, last, context do
    list[#list + 1] = table.move(ids, from, math.min(from + context - 1, last), 1, {})
  end
  return list
end

local function whole_text(where, text, tokenizer, context)
  local ids = tokenizer:encode(text)
  if #ids < 2 then raise("%s: a text of %d tokens is too short", where, #ids) end
  local learnt = math.max(1, math.floor(#ids * (1 - HELD_OUT)))
  return cut(ids, 1, learnt, context), cut(ids, learnt + 1, #ids, context)
end

local function short_texts(where, list, tokenizer, context)
  local all = {}
  for i, text in ipairs(list) do
    if type(text) ~= "string" then
      raise("%s: text %d is not a string, but %s", where, i, core.describe(text))
    end
    local ids = tokenizer:encode(text)
    all[i] = table.move(ids, 1, math.min(#ids, context), 1, {})
    if #all[i] == 0 then raise("%s: text %d is empty", where, i) end
  end
  if #all == 1 then return whole_text(where, list[1], tokenizer, context) end
  local learnt = math.max(1, #all - math.max(1, math.floor(#all * HELD_OUT)))
  return table.move(all, 1, learnt, 1, {}), table.move(all, learnt + 1, #all, 1, {})
end

local function windows(corpus, split, context, most)
  local list, count = {}, corpus:windows(split, context, most)
  for i = 1, count do
    local _ <close> = core.scope()
    list[i] = corpus:window_batch(split, context, most, i, 1):select(1, 1):totable()
  end
  return list
end

-- The sequences of a text: to learn from, and held out.
local function sequences_of(where, text, opts, tokenizer)
  if is_corpus(text) then
    return windows(text, "train", opts.context, opts.windows),
      windows(text, "validation", opts.context, opts.held_out)
  end
  if not tokenizer then raise("%s: the model has no tokenizer\nhint: tokenizer = ...", where) end
  local learnt, held
  if type(text) == "table" and text.path then text = run.check(core.system.read(text.path)) end
  if type(text) == "string" then
    learnt, held = whole_text(where, text, tokenizer, opts.context)
  elseif type(text) == "table" and text[1] then
    learnt, held = short_texts(where, text, tokenizer, opts.context)
  else
    raise("%s: a text is a string, { path = ... }, a list of strings or a corpus, not %s", where,
      core.describe(text))
  end
  return some(learnt, opts.windows), some(held, opts.held_out)
end

-- Adds sequences to all others; returns where their tokens are, { first, count }.
local function append(all, list)
  local place = { first = all.tokens + 1, count = 0 }
  for _, sequence in ipairs(list) do
    all.sequences[#all.sequences + 1] = sequence
    place.count = place.count + #sequence
  end
  all.tokens = all.tokens + place.count
  return place
end

-- Several texts, or one.
local function list_of(text)
  local several = type(text) == "table" and not is_corpus(text) and type(text[1]) == "table"
  return several and text or { text }
end

--- The sequences of all texts, one after the other.
---   where     the function that was called, for messages
---   opts      text (one, or a list of tables), negative, context, windows, held_out
---   tokenizer needed for what is no corpus
--- Returns { sequences, learnt = how many tokens come first to learn from, classes = for each text
--- where those are, { first, count }, negative = the same or nil, held = where its tokens are that
--- are held out, and for each text }.
return function(where, opts, tokenizer)
  local all, held = { sequences = {}, tokens = 0, classes = {} }, {}
  local texts = opts.by == "means" and opts.text or list_of(opts.text)
  for i, text in ipairs(texts) do
    local learnt
    learnt, held[i] = sequences_of(where, text, opts, tokenizer)
    all.classes[i] = append(all, learnt)
  end
  all.learnt = all.tokens
  if opts.negative then
    all.negative = append(all, (sequences_of(where, opts.negative, opts, tokenizer)))
  end
  all.held = { first = all.tokens + 1 }
  for i, list in ipairs(held) do
    all.held[i] = append(all, list)
    all.held[i].first = all.held[i].first - all.held.first + 1
  end
  all.held.count = all.tokens - all.held.first + 1
  return all
end
