local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("log", function()
  support.unary(it, "log", { 0.001, 0.5, 1, 2.5, 1e6 }, math.log, function(x)
    return 1 / x
  end)

  it("is -inf at zero and NaN below", function()
    local y = moe.log(moe.tensor({ 0, -1, math.huge })):totable()
    close({ y[1], y[3] }, { -math.huge, math.huge }, 0)
    assert.is_true(y[2] ~= y[2])
  end)
end)
