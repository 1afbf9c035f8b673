local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("transpose", function()
  local x = moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } })

  it("exchanges the last two dimensions, or any two", function()
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, x:transpose():totable())
    assert.same(x:transpose():totable(), x:transpose(2, 1):totable())
    assert.same({ 4, 3, 2 }, moe.zeros(2, 3, 4):transpose(1, 3):shape())
    assert.same({ 4, 3, 2 }, moe.zeros(2, 3, 4):transpose(1, -1):shape())
    assert.same(x:totable(), x:transpose():transpose():totable())
    assert.same({ 3, 0 }, moe.zeros(0, 3):transpose():shape())
  end)

  it("shares storage", function()
    local a = moe.zeros(2, 3)
    local b = a:transpose()
    assert.is_false(b:is_contiguous())
    a:fill_(2)
    close(b, moe.full(2, 3, 2), 0)
  end)

  it("takes views and i32", function()
    close(x:narrow(2, 2, 2):transpose(), { 2, 5, 3, 6 }, 0)
    assert.same({ { 1, 3 }, { 2, 4 } }, support.ids({ { 1, 2 }, { 3, 4 } }):transpose():totable())
  end)

  it("turns the gradient back", function()
    local function f(t)
      return t:transpose()
    end
    close(support.grads({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, f, { { 0, 0, 0 }, { 0, 0, 0 } }), {
      { 1, 3, 5 },
      { 2, 4, 6 },
    }, 0)
  end)

  it("refuses a dimension that is not there", function()
    support.rejects("transpose: there is no dimension 3 in [2 x 3]", moe.transpose, x, 1, 3)
    support.rejects("transpose: there is no dimension -2 in [4]", moe.transpose, moe.ones(4))
  end)
end)
