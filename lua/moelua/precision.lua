-- precision.lua: a piece of work with matrix products of a given precision.

local core = require("moelua.core")

local function back_to(before, ok, ...)
  core.precision(before)
  if not ok then error((...), 0) end
  return ...
end

--- Calls f(...) while moe.precision() is `name` and returns its results; then it is what it was,
--- also when f fails.
---@param name string
---@param f function
---@return any ...
return function(name, f, ...) return back_to(core.precision(name), pcall(f, ...)) end
