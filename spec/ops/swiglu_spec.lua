local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("swiglu", function()
  it("multiplies silu(gate) by up", function()
    for _, n in ipairs({ 1, 16, 17, 9001 }) do
      local gate, up = moe.randn(n), moe.randn(n)
      close(moe.swiglu(gate, up), moe.silu(gate) * up, 1e-6)
    end
    close(moe.swiglu(moe.tensor({ 0, 1000, -1000 }), moe.tensor({ 5, 2, 3 })), { 0, 2000, 0 }, 0)
    assert.same({ 0, 3 }, moe.swiglu(moe.zeros(0, 3), moe.zeros(0, 3)):shape())
  end)

  it("takes strided input", function()
    local gate, up = moe.randn(3, 5), moe.randn(5, 3)
    close(moe.swiglu(gate:transpose(), up), moe.silu(gate:transpose()) * up, 1e-6)
  end)

  it("has the gradients of silu(gate) * up", function()
    local values = moe.randn(600):totable()
    local up = moe.randn(600):totable()
    local weight = moe.randn(600):totable()
    local dgate, dup = support.grads(weight, moe.swiglu, values, up)
    local dgate2, dup2 = support.grads(weight, function(g, u)
      return moe.silu(g) * u
    end, values, up)
    close(dgate, dgate2, 1e-5)
    close(dup, dup2, 1e-5)
  end)

  it("adds up when one tensor is both", function()
    local x = moe.randn(17):requires_grad()
    moe.swiglu(x, x):sum():backward()
    local y = x:detach():clone():requires_grad();
    (moe.silu(y) * y):sum():backward()
    close(x:grad(), y:grad(), 1e-5)
  end)

  it("refuses different shapes", function()
    support.rejects(
      "swiglu: gate and up must have the same shape: [2 x 3] and [3]",
      moe.swiglu,
      moe.ones(2, 3),
      moe.ones(3)
    )
  end)
end)
