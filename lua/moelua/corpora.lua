-- corpora.lua: { name = corpus }, as training, branching and evaluation take their text.

local core = require("moelua.core")
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

return corpora
