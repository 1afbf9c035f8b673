-- layer_choice.lua: which layers of a model become mixtures.
--
--   "all"             the default
--   "alternate"       every second one: 2, 4, 6 ... (Komatsuzaki et al. 2022, for language)
--   "last half"       (for vision)
--   { 2, 4, -1 }      these, counted from 1, or from the end

local core = require("moelua.core")
local options = require("moelua.options")
local raise = core.raise

local named = {
  all = function() return true end,
  alternate = function(i) return i % 2 == 0 end,
  ["last half"] = function(i, count) return i > count // 2 end,
}

local function by_name(where, name, count)
  local holds = named[name] or raise("%s: layers is '%s': unknown%s", where, name,
    options.hint(name, { "all", "alternate", "last half" }))
  local chosen = {}
  for i = 1, count do chosen[i] = holds(i, count) or nil end
  return chosen
end

local function by_number(where, list, count)
  local chosen = {}
  for _, i in ipairs(list) do
    local number = math.type(i) == "integer" and (i < 0 and count + 1 + i or i)
    if not number or number < 1 or number > count then
      raise("%s: there is no layer %s: the model has %d", where, core.describe(i), count)
    end
    chosen[number] = true
  end
  return chosen
end

--- chosen[i] is true for each layer i that is meant; at least one is.
---@param where string the function that was called, for messages
---@param given string|integer[]|nil
---@param count integer layers of the model
---@return table<integer, true> chosen
return function(where, given, count)
  local choose = type(given) == "table" and by_number or by_name
  local chosen = choose(where, given or "all", count)
  if not next(chosen) then raise("%s: none of the %d layers is chosen", where, count) end
  return chosen
end
