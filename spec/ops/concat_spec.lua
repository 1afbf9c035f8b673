local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("concat", function()
  local a, b = moe.tensor({ { 1, 2 }, { 3, 4 } }), moe.tensor({ { 5, 6 } })

  it("joins along the first dimension, or any", function()
    assert.same({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, moe.concat({ a, b }):totable())
    assert.same({ { 1, 2, 1 }, { 3, 4, 3 } }, moe.concat({ a, a:narrow(2, 1, 1) }, 2):totable())
    assert.same({ { 1, 2, 1, 3 }, { 3, 4, 2, 4 } }, moe.concat({ a, a:transpose() }, -1):totable())
    close(moe.concat({ a }), a, 0)
    assert.same({ 2, 2 }, moe.concat({ a, moe.zeros(0, 2) }):shape())
    assert.same({ 2, 5, 3 }, moe.concat({ moe.ones(2, 1, 3), moe.ones(2, 4, 3) }, 2):shape())
  end)

  it("joins large tensors", function()
    local x, y = moe.randn(301, 101), moe.randn(301, 7)
    local z = moe.concat({ x, y }, 2)
    close(z:narrow(2, 1, 101):contiguous(), x, 0)
    close(z:narrow(2, 102, 7):contiguous(), y, 0)
  end)

  it("cuts the gradient apart", function()
    local function f(p, q)
      return moe.concat({ p, q, p }, 2)
    end
    local dp, dq = support.grads({ { 1, 2, 3, 4 } }, f, { { 0 } }, { { 0, 0 } })
    close(dp, { { 5 } }, 0)
    close(dq, { { 2, 3 } }, 0)
  end)

  it("refuses what does not fit", function()
    local text = "concat: tensors 1 and 2 differ in more than dimension %d: [2 x 2] and [%s]"
    support.rejects(text:format(2, "1 x 2"), moe.concat, { a, b }, 2)
    support.rejects(text:format(1, "2"), moe.concat, { a, moe.ones(2) })
    support.rejects("concat: there is no dimension 3 in [2 x 2]", moe.concat, { a, b }, 3)
    support.rejects("concat: xs must hold 1 to 64 tensors, not 0", moe.concat, {})
  end)
end)
