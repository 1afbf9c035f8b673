-- merge/tokens.lua: the vocabulary of a result whose models have different ones. The rows come
-- from vocabulary.lua; here stand the options that mergekit has for them.

local core = require("moelua.core")
local inputs = require("moelua.merge.inputs")
local vocabulary = require("moelua.vocabulary")

local tokens = {}

-- The tokenizers and the rows of all models; nil when one has none.
local function parts_of(models, found)
  local parts, complete = {}, true
  for i, model in ipairs(models) do
    local tokenizer, message = model.opened:tokenizer()
    if not tokenizer or not model.vocab then
      found:add(nil, message or ("`%s` has no embedding of tokens"):format(model.path))
      complete = false
    end
    parts[i] = { tokenizer = tokenizer, vocab = model.vocab }
  end
  return complete and parts or nil
end

local function place_of(models, path)
  for i, model in ipairs(models) do
    if model.path == path then return i end
  end
end

-- Whose tokenizer the result has, as vocabulary.union wants it.
local function kind_of(source, models, found)
  if source == "union" or source == "base" then return source end
  local i = place_of(models, source)
  if i then return { model = i } end
  found:add(nil, ("the source of the tokenizer is '%s': union, base or the path of a merged " ..
    "model is expected"):format(source))
end

-- ---- tokens that are told apart ---------------------------------------------------------------

-- The row of a model for a token; nil when it has none.
local function row_of(part, token)
  local id = part.tokenizer:id(token)
  return id and id < part.vocab and id or nil
end

local function check_rules(given, models, parts, union, found)
  local rules, names = {}, {}
  for token in pairs(given) do names[#names + 1] = token end
  table.sort(names)
  for _, token in ipairs(names) do
    local rule = given[token]
    local id, i = union.tokenizer:id(token), place_of(models, rule.source)
    local row = i and row_of(parts[i], token)
    if not id then
      found:add(nil, ("tokenizer.tokens: the result has no token '%s'"):format(token))
    elseif not i then
      found:add(nil, ("tokenizer.tokens: the source of '%s' is %s: the path of a merged model " ..
        "is expected"):format(token, rule.source and "'" .. rule.source .. "'" or "missing"))
    elseif not row then
      found:add(nil, ("tokenizer.tokens: '%s' has no row of its own in '%s'"):format(token,
        rule.source))
    else
      rules[#rules + 1] = { token = token, id = id, model = i, force = rule.force }
    end
  end
  return rules
end

-- Whose row of a token model `m` takes: 0 is its own.
local function donor(rule, m, part)
  local keeps = not rule.force and row_of(part, rule.token)
  return (keeps or rule.model == m) and 0 or rule.model
end

local function apply_rules(rules, parts, union)
  if #rules == 0 then return end
  for m, gather in ipairs(union.rows) do
    local from = gather.from:totable()
    for _, rule in ipairs(rules) do from[rule.id + 1] = donor(rule, m, parts[m]) end
    gather.from = core.tensor(from, "i32")
  end
end

-- ---- the vocabulary of a stage ----------------------------------------------------------------

--- The united vocabulary of the models; nil when nothing is to be united, or it cannot be.
---@param wanted table? the tokenizer option of a stage
---@param models table[] of inputs.lua
---@param base integer which of them has the ids that are kept
---@param lends boolean it is a base model: its rows are those of models that lack a token
---@param found table of problems.lua
---@return table? vocabulary { size, tokenizer, union, models }
function tokens.unite(wanted, models, base, lends, found)
  if not wanted then return nil end
  local parts, kind = parts_of(models, found), kind_of(wanted.source, models, found)
  if not parts or not kind then return nil end
  if not wanted.tokens and not wanted.pad_to_multiple_of and vocabulary.same(parts) then
    return nil
  end
  local union = vocabulary.union(parts, { base = base, lends = lends, kind = kind,
    pad_to_multiple_of = wanted.pad_to_multiple_of })
  apply_rules(check_rules(wanted.tokens or {}, models, parts, union, found), parts, union)
  return { size = union.size, tokenizer = union.tokenizer, union = union, models = models }
end

-- The rows of each model in the vocabulary's table of tokens.
local function own_sources(united, name)
  local sources = {}
  for i, model in ipairs(united.models) do
    local own = model:find(name) or inputs.is_embedding(name) and model.embedding
    sources[i] = model.file:source(own)
    sources[i].shape = sources[i].shape or model:info(own).shape
  end
  return sources
end

--- Completes an entry whose rows are tokens: each source gathers the rows of the united vocabulary.
--- Rows that are means are computed here, so this is done when the tensor is due.
function tokens.complete(entry, united)
  local gathered, place = vocabulary.sources(united.union, own_sources(united, entry.name)), {}
  for i, model in ipairs(united.models) do place[model] = i end
  for i, input in ipairs(entry.others) do entry.sources[i] = gathered[place[input.model]] end
  if entry.base then entry.base = gathered[place[entry.base_input.model]] end
end

return tokens
