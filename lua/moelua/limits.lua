-- limits.lua: how large a number in a configuration may be. One may come from a stranger's file:
-- what is beyond these is no model, and must not keep anybody busy.

local raise = require("moelua.core").raise

local most = { layers = 4096, experts = 4096, heads = 65536, kv_heads = 65536, segments = 4096 }
local MOST_SIZE = 2^31 - 1

local limits = {}

--- Raises unless each of these integers in the table is at least 1 and not too large; nil is fine.
---@param where string the function that was called
---@param given table
---@param names string[]
function limits.check(where, given, names)
  for _, name in ipairs(names) do
    local value, limit = given[name], most[name] or MOST_SIZE
    if value and value < 1 then raise("%s: %s must be at least 1, not %d", where, name, value) end
    if value and value > limit then
      raise("%s: %s must be at most %d, not %d", where, name, limit, value)
    end
  end
end

--- The number in a field of config.json, which a loop will run to: refused unless it is one that
--- `kind`, a name above, can have.
---@param field string
---@param value any
---@param kind string
---@return integer
function limits.count(field, value, kind)
  if math.type(value) ~= "integer" then
    raise("option '%s' is missing: integer expected", field)
  end
  limits.check(field, { [kind] = value }, { kind })
  return value
end

return limits
