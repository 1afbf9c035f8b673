-- rows.lua: any number of tensors put together: batches of parts, stacks of experts.

local core = require("moelua.core")

local rows = {}

local MOST = 64     -- tensors that an op takes

--- The rows of the tensors in a list, one after the other.
---@param list moelua.Tensor[]
---@return moelua.Tensor
function rows.join(list)
  if #list == 1 then return list[1] end
  if #list <= MOST then return core.concat(list, 1) end
  local parts = {}
  for i = 1, #list, MOST do
    parts[#parts + 1] = rows.join(table.move(list, i, math.min(i + MOST - 1, #list), 1, {}))
  end
  return rows.join(parts)
end

return rows
