local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("sqrt", function()
  support.unary(it, "sqrt", { 0.25, 1, 2, 9, 1e8 }, math.sqrt, function(x)
    return 0.5 / math.sqrt(x)
  end)

  it("is exact for squares and NaN for negative numbers", function()
    local y = moe.sqrt(moe.tensor({ 0, 49, -1 })):totable()
    close({ y[1], y[2] }, { 0, 7 }, 0)
    assert.is_true(y[3] ~= y[3])
  end)
end)
