local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("tanh", function()
  local function tanh(x)
    local e = math.exp(2 * x)
    return (e - 1) / (e + 1)
  end
  support.unary(it, "tanh", { -4, -1, 0, 0.5, 3 }, tanh, function(x)
    return 1 - tanh(x) ^ 2
  end)

  it("keeps its digits near zero and saturates at the ends", function()
    local y = moe.tanh(moe.tensor({ 1e-6, -100, math.huge })):totable()
    close({ y[1] * 1e6, y[2], y[3] }, { 1, -1, 1 }, 1e-6)
  end)
end)
