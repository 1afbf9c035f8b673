-- ffn.lua: the feed-forward layers of a model by their kind. A module of a kind has
--
--   declared                the options of such a layer in a configuration
--   options(where, given)   checks and completes them; what is complete stays as it is
--   size(opts, dim)         { parameters, active, macs } of a layer: what it holds, what of that a
--                           token uses, and multiply-adds per token; floats
--   layer(opts)             makes one, with dim and the options of its initialisation
--
-- Complete options are plain data: config.json holds them.

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")
local router = require("moelua.router")
local raise = core.raise

local ffn = {}

local kinds = {
  dense = require("moelua.feed_forward"),
  moe = require("moelua.mixture"),
  mot = require("moelua.mixture_of_tokens"),
}
local names = { "dense", "moe", "mot" }
local articles = { dense = "a dense layer", moe = "a mixture of experts",
  mot = "a mixture of tokens" }

local function sorted(declared)
  local list = {}
  for name in pairs(declared) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- What one kind has and another has not is told as such.
local function check_names(where, given, kind)
  for _, other in ipairs(names) do
    for _, name in ipairs(sorted(kinds[other].declared)) do
      if given[name] ~= nil and not kinds[kind].declared[name] then
        raise("%s: %s has no option '%s'\nhint: kind = \"%s\"", where, articles[kind], name, other)
      end
    end
  end
end

--- The options of one layer, complete. `width` is its `hidden` when it says none.
---@param where string the function that was called, for messages
---@param given table kind and the options of that kind, as its module declares them
---@param width integer?
---@return table
function ffn.options(where, given, width)
  expect(type(given) == "table", where, "ffn", "a table of options", given)
  local kind = options.check("ffn", { kind = given.kind }, { kind = { names, "dense" } }).kind
  given = options.merge(given, { hidden = given.hidden or width })
  given.kind = nil
  check_names(where, given, kind)
  local complete = kinds[kind].options(where, given)
  complete.kind = kind
  return complete
end

-- A hash by tables has a table for all tokens of the model.
local function with_vocab(where, layer, vocab)
  local routing = layer.router
  if not (type(routing) == "table" and routing.kind == "hash") then return layer end
  local known = routing.vocab or vocab
  if known ~= vocab then
    raise("%s: the hash of a router is for a vocabulary of %s, the model has %d", where,
      core.describe(known), vocab)
  end
  return options.merge(layer, { router = options.merge(routing, { vocab = vocab }) })
end

-- The description of layer number i.
local function given_for(where, config, i)
  local list = config.ffn or {}
  local given = list[1] and list[i] or list
  expect(type(given) == "table", where, "ffn", "a table of options", given)
  if not (config.hidden or given.hidden) then
    raise("%s: the width of the feed-forward layers is missing\nhint: hidden = %d", where,
      4 * config.dim)
  end
  return with_vocab(where, given, config.vocab)
end

--- `ffn` of a model's configuration, one table or a list, as a list with the complete options of
--- each layer.
---@param where string the function that was called, for messages
---@param config table layers, dim, vocab, hidden and ffn
---@return table[]
function ffn.per_layer(where, config)
  local given, list, is_first = config.ffn or {}, {}, true
  if given[1] and #given ~= config.layers then
    raise("%s: ffn lists %d layers, but the model has %d", where, #given, config.layers)
  end
  for i = 1, config.layers do
    local one = ffn.options(where, given_for(where, config, i), config.hidden)
    if one.router then
      one.router = router.options(router.for_layer(one.router, is_first), one.experts)
      is_first = false
    end
    list[i] = one
  end
  return list
end

--- What a layer with these options holds, what of that a token uses on average, and its
--- multiply-adds per token.
---@param opts table complete options
---@param dim integer
---@return { parameters: number, active: number, macs: number }
function ffn.size(opts, dim) return kinds[opts.kind].size(opts, dim) end

--- The layer with these complete options; `init` has dim and how its parameters begin.
function ffn.layer(opts, init)
  local own = options.merge(opts, init)
  own.kind = nil
  return kinds[opts.kind].layer(own)
end

return ffn
