local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("softplus", function()
  local function softplus(x) return math.max(x, 0) + math.log(1 + math.exp(-math.abs(x))) end
  support.unary(it, "softplus", { -8, -1, 0, 0.5, 3, 12 }, softplus, function(x)
    return 1 / (1 + math.exp(-x))
  end)

  it("is exp where that is small, and the number itself where that is large", function()
    local inf = math.huge
    local y = moe.tensor({ -80, -30, -20 }):softplus()
    close(y / moe.tensor({ math.exp(-80), math.exp(-30), math.exp(-20) }), { 1, 1, 1 }, 1e-6)
    close(moe.tensor({ -inf, -1000, 60, 2 ^ 99, inf }):softplus(), { 0, 0, 60, 2 ^ 99, inf }, 0)
    close(moe.tensor({ 0 }):softplus(), { math.log(2) }, 1e-7)
  end)

  it("has a slope that keeps its digits where it is small, and saturates", function()
    local x = moe.tensor({ -80, -30, -1000, 1000 }):requires_grad()
    x:softplus():sum():backward()
    local slope = x:grad():totable()
    close({ slope[1] / math.exp(-80), slope[2] / math.exp(-30), slope[3], slope[4] },
      { 1, 1, 0, 1 }, 1e-6)
  end)
end)
