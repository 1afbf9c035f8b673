local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("mul", function()
  local f = moe.mul

  support.binary(it, "mul", function(a, b) return a * b end, function(x) return x, x end)

  it("has the gradients dy b and dy a", function()
    local a, b = support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 5, 6 }, { 7, 8 } }, { 10, 20 })
    close(a, { 10, 40, 30, 80 }, 0)
    close(b, { 5 + 21, 12 + 32 }, 0)
  end)
end)
