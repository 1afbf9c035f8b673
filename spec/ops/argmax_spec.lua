local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("argmax", function()
  local x = moe.tensor({ { 1, 8, 3 }, { 4, 5, -6 } })

  it("counts positions from 0, as the contents of i32 tensors do", function()
    assert.equal("i32", x:argmax():dtype())
    close(x:argmax(), { 1 }, 0)
    close(x:argmax(1), { 1, 0, 0 }, 0)
    close(x:argmax(2), { 1, 1 }, 0)
    assert.same({ 2, 1 }, x:argmax(2, true):shape())
    close(x:transpose():argmax(), { 2 }, 0)
    close(moe.arange(67):argmax(), { 66 }, 0)
  end)

  it("takes the first of equals, and NaN before everything", function()
    close(moe.tensor({ 2, 7, 7, 1 }):argmax(), { 1 }, 0)
    close(moe.tensor({ 2, 0 / 0, 9, 0 / 0 }):argmax(), { 1 }, 0)
    close(moe.tensor({ { 2, 9 }, { 0 / 0, 9 }, { 3, 1 } }):argmax(1), { 1, 0 }, 0)
    close(moe.full(-math.huge, 5):argmax(), { 0 }, 0)
  end)

  it("refuses to look where nothing is", function()
    support.rejects("argmax: [2 x 0] has no largest element", moe.argmax, moe.zeros(2, 0))
    support.rejects("argmax: there is no dimension 3 in [2 x 3]", moe.argmax, x, 3)
  end)
end)
