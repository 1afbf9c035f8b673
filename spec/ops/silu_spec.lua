local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("silu", function()
  local function sigmoid(x)
    return 1 / (1 + math.exp(-x))
  end
  support.unary(it, "silu", { -8, -1, 0, 0.5, 3, 12 }, function(x)
    return x * sigmoid(x)
  end, function(x)
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)))
  end)

  it("is the identity far above zero and nothing far below", function()
    close(moe.silu(moe.tensor({ 1000, -1000 })), { 1000, 0 }, 0)
  end)
end)
