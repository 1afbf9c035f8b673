local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("exp", function()
  support.unary(it, "exp", { -3, -0.5, 0, 0.25, 1, 4.5, 20 }, math.exp, math.exp)

  it("goes to zero and to infinity at the ends", function()
    local inf = math.huge
    close(moe.exp(moe.tensor({ -inf, -1000, 1000, inf })), { 0, 0, inf, inf }, 0)
  end)
end)
