-- mix_vocabulary.lua: the embeddings and heads of models with different vocabularies, brought to
-- one (vocabulary.lua), as parts of a mixture.

local core = require("moelua.core")
local parts = require("moelua.parts")
local vocabulary = require("moelua.vocabulary")

-- Tokenizers and sizes as vocabulary.lua takes them; nil when a tokenizer is missing.
local function models_of(list)
  local models = {}
  for i, donor in ipairs(list) do
    models[i] = { tokenizer = donor.tokenizer(), vocab = donor.config.vocab }
    if not models[i].tokenizer then return nil end
  end
  return models
end

-- Where the table of a donor lies: in its file, or in memory.
local function source_of(donor, name)
  return donor.source(name) or { tensor = donor.tensor(name), shape = donor.shape(name) }
end

-- The sources of all donors' tables of this name, with as many rows. Those that have to be computed
-- are in memory from now on.
local function gathers_of(union, list, name)
  local sources = {}
  for i, donor in ipairs(list) do sources[i] = source_of(donor, name) end
  return vocabulary.sources(union, sources)
end

--- How the tables of the donors become those of one vocabulary; nil when they are of one already,
--- or when that is not known.
---   united.size, united.tokenizer
---   united.parts(name)      one part for each donor
---@param list table[] donors
---@param kind string|table see vocabulary.union
---@return table? united
return function(list, kind)
  local models = models_of(list)
  if not models or vocabulary.same(models) then return nil end
  local union = vocabulary.union(models, { kind = kind })
  return { size = union.size, tokenizer = union.tokenizer, parts = function(name)
    local gathers, copies, out = gathers_of(union, list, name), {}, {}
    for i, donor in ipairs(list) do copies[i] = parts.copy(donor, name) end
    for i in ipairs(list) do
      out[i] = parts.gathered(copies, { union.size, copies[i].shape[2] }, function()
        return gathers[i]
      end, ("%d %s"):format(i, core.json.encode(kind)))
    end
    return out
  end }
end
