local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("sub", function()
  local f = moe.sub

  support.binary(it, "sub", function(a, b) return a - b end, function() return 1, -1 end)

  it("passes the gradient to both sides", function()
    local a, b = support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 5, 6 }, { 7, 8 } }, { { 1 }, { 1 } })
    close(a, { 1, 2, 3, 4 }, 0)
    close(b, { -3, -7 }, 0)
  end)
end)
