-- cost.lua: what training took, { tokens, flops, seconds }, added up.

local expect = require("moelua.expect")

local cost = {}

--- Costs added up, with FLOPs and seconds of everything that a model needed.
function cost.sum(...)
  local total = { tokens = 0, flops = 0, seconds = 0 }
  for _, part in ipairs({ ... }) do
    expect(type(part) == "table", "study.sum", "cost", "{ tokens, flops, seconds }", part)
    for k in pairs(total) do
      expect(type(part[k]) == "number", "study.sum", k, "a number", part[k])
      total[k] = total[k] + part[k]
    end
  end
  return total
end

return cost
