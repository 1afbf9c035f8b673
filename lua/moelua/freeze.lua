-- freeze.lua: which parameters of a model training leaves as they are. The list is part of the
-- configuration (in config.json under "moelua"), so that it holds for whoever trains the model:
--
--   moe.mix(models, { freeze = { "experts" } })                 -- by the names below
--   freeze = { "^layers%.0%.", "router$" }                      -- or Lua patterns of parameters
--
-- Frozen parameters have no gradient: none is computed, and the optimizer does not know them.

local core = require("moelua.core")
local options = require("moelua.options")
local raise = core.raise

local freeze = {}

local named = {
  attention = "^layers%.%d+%.attention%.",
  embedding = "^embedding$",
  experts = "^layers%.%d+%.ffn%.experts%.",
  ffn = "^layers%.%d+%.ffn%.[wb]%d",
  head = "^head$",
  norms = "norm$",
  router = "^layers%.%d+%.ffn%.router",
  shared = "^layers%.%d+%.ffn%.shared",
}

local function is_pattern(name) return name:find("[%^%$%%%.%*%+%-%?]") ~= nil end

local function check_one(where, entry)
  if type(entry) ~= "string" then
    raise("%s: freeze is a list of names or patterns, not %s", where, core.describe(entry))
  end
  local known = {}
  for name in pairs(named) do known[#known + 1] = name end
  table.sort(known)
  if not named[entry] and not is_pattern(entry) then
    raise("%s: freeze has '%s': unknown%s", where, entry, options.hint(entry, known))
  end
end

--- Raises unless this is nil or a list of names and patterns.
function freeze.check(where, list)
  for key in pairs(list or {}) do
    if math.type(key) ~= "integer" then
      raise("%s: freeze is a list of names or patterns, not a table with '%s'", where,
        tostring(key))
    end
  end
  for _, entry in ipairs(list or {}) do check_one(where, entry) end
end

--- Whether the parameter of that name is meant.
function freeze.holds(list, name)
  for _, entry in ipairs(list or {}) do
    local ok, found = pcall(string.find, name, named[entry] or entry)
    if not ok then raise("freeze: '%s': %s", entry, (found:gsub("^.-:%d+: ", ""))) end
    if found then return true end
  end
  return false
end

--- Takes the gradients from the parameters of a model that its configuration freezes.
function freeze.apply(model)
  for _, entry in ipairs(model.config.freeze and model:parameters() or {}) do
    if freeze.holds(model.config.freeze, entry[1]) then entry[2]:requires_grad(false) end
  end
end

return freeze
