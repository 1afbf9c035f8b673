local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("div", function()
  local f = moe.div

  support.binary(it, "div", function(a, b) return a / b end, function(x) return 1 / x, -1 / x end)

  it("has the gradients dy / b and -dy a / b^2", function()
    local a, b = support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 5, 6 }, { 7, 8 } }, { 2, 4 })
    close(a, { 0.5, 0.5, 1.5, 1 })
    close(b, { -(5 + 21) / 4, -(12 + 32) / 16 })
  end)

  it("is infinite or NaN over zero", function()
    local y = f(moe.tensor({ 1, -1, 0 }), 0):totable()
    close({ y[1], y[2] }, { math.huge, -math.huge }, 0)
    assert.is_true(y[3] ~= y[3])
  end)
end)
