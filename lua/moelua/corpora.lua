-- corpora.lua: { name = corpus }, as training, branching and evaluation take their text.

local core = require("moelua.core")
local options = require("moelua.options")
local token_file = require("moelua.token_file")
local describe, raise = core.describe, core.raise

local corpora = {}

--- Whether a value is a corpus.
function corpora.is_one(value) return type(value) == "table" and value.handle ~= nil end

--- { name = corpus }; a corpus alone goes by its own name. `where` is the call, for messages.
function corpora.named(given, where)
  if type(given) ~= "table" then
    raise("%s: a corpus or { name = corpus } is expected, not %s\n" ..
      "hint: moe.data.corpus { path = ... }", where, describe(given))
  end
  return corpora.is_one(given) and { [given.name or "data"] = given } or given
end

--- The names, sorted. `what` says in a message which one is no corpus, as "moe.train: data.%s".
function corpora.names(given, what)
  local names = {}
  for name, corpus in pairs(given) do
    if not corpora.is_one(corpus) then
      raise("%s must be a corpus, not %s", what:format(name), describe(corpus))
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

--- Raises unless a model can read the corpora: its vocabulary must be large enough, and its
--- tokenizer, if it has one, theirs.
---@param where string the function that was called
---@param given table<string, moelua.Corpus>
---@param names string[]
---@param model { vocab: integer, tokenizer: moelua.Tokenizer? }
function corpora.check_tokens(where, given, names, model)
  local own = model.tokenizer and token_file.identity(model.tokenizer)
  for _, name in ipairs(names) do
    local vocab, is = given[name]:vocab(), given[name]:metadata().tokenizer
    if vocab > model.vocab then
      raise("%s: corpus '%s' has a vocabulary of %d, the model of %d", where, name, vocab,
        model.vocab)
    end
    if own and is and is ~= own then
      raise("%s: corpus '%s' has the tokens of another tokenizer than the model's: %s instead " ..
        "of %s\nhint: moe.data.corpus { tokenizer = model.tokenizer, ... }", where, name, is, own)
    end
  end
end

-- The domains that the routers of a model go by; nil when none does.
local function router_domains(config)
  for _, ffn in ipairs(config.ffn) do
    if ffn.router and ffn.router.kind == "domain" then return ffn.router.domains end
  end
end

--- What `how.labels` calls each corpus: a function of the list of names that gives their numbers
--- from 0. They are places in that list; in a model with routers that go by domain, places among
--- the domains of those, and other names are an error.
---@param where string the function that was called
---@param config table of the model
---@return fun(names: string[]): table<string, integer>
function corpora.labels(where, config)
  local domains = router_domains(config)
  return function(names)
    local labels = {}
    for i, name in ipairs(domains or names) do labels[name] = i - 1 end
    for _, name in ipairs(names) do
      if not labels[name] then
        raise("%s: corpus '%s' is none of the domains that the model routes by%s", where, name,
          options.hint(name, domains))
      end
    end
    return labels
  end
end

return corpora
