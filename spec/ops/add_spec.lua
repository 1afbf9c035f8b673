local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("add", function()
  local f = moe.add

  support.binary(it, "add", function(a, b) return a + b end, function() return 1, 1 end)

  it("passes the gradient to both sides", function()
    local a, b = support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 5, 6 }, { 7, 8 } }, { 1, 1 })
    close(a, { 1, 2, 3, 4 }, 0)
    close(b, { 4, 6 }, 0)
  end)
end)
