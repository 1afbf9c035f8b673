local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("relu", function()
  support.unary(it, "relu", { -3, -0.5, 0.25, 4 }, function(x)
    return math.max(x, 0)
  end, function(x)
    return x > 0 and 1 or 0
  end)

  it("has no gradient at zero", function()
    close(support.grads({ 1, 1 }, moe.relu, { 0, 1 }), { 0, 1 }, 0)
  end)
end)
