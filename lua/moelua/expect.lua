-- expect.lua: what a function needs from its caller, said in one line where it is needed.
--
--   expect(type(ids) == "table", "generate", "ids", "a list of token ids", ids)
--
-- Ops and functions in C check their arguments themselves.

local core = require("moelua.core")

--- Raises "where: name must be WANTED, not VALUE" with the user's line, unless `holds`.
---@param holds any
---@param where string the function that was called
---@param name string of its parameter
---@param wanted string as "a list of token ids"
---@param value any what was given
return function(holds, where, name, wanted, value)
  if not holds then
    core.raise("%s: %s must be %s, not %s", where, name, wanted, core.describe(value))
  end
end
