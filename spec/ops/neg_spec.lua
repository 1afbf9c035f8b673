local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("neg", function()
  support.unary(it, "neg", { -3, -0.5, 0.25, 4 }, function(x)
    return -x
  end, function()
    return -1
  end)

  it("is the unary minus", function()
    close(-moe.tensor({ 1, -2 }), { -1, 2 }, 0)
  end)
end)
