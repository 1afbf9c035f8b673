local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("sigmoid", function()
  local function sigmoid(x)
    return 1 / (1 + math.exp(-x))
  end
  support.unary(it, "sigmoid", { -8, -1, 0, 0.5, 3, 12 }, sigmoid, function(x)
    return sigmoid(x) * (1 - sigmoid(x))
  end)

  it("saturates at the ends", function()
    local inf = math.huge
    close(moe.sigmoid(moe.tensor({ -inf, -1000, 0, 1000, inf })), { 0, 0, 0.5, 1, 1 }, 0)
  end)
end)
