local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("max", function()
  local x = moe.tensor({ { 1, 8, 3 }, { 4, 5, -6 } })

  it("finds the largest of everything or of one dimension", function()
    assert.same({}, x:max():shape())
    close(x:max(), { 8 }, 0)
    close(x:max(1), { 4, 8, 3 }, 0)
    close(x:max(2), { 8, 5 }, 0)
    assert.same({ 1, 3 }, x:max(1, true):shape())
    close(x:transpose():max(1), { 8, 5 }, 0)
    close(moe.arange(67):max(), { 66 }, 0)
    assert.same({ 0 }, moe.zeros(0, 3):max(2):shape())
  end)

  it("lets NaN win and takes infinities as numbers", function()
    local least = -math.huge
    local y = moe.tensor({ { 1, 0 / 0, 3 }, { least, least, least } }):max(2):totable()
    assert.is_true(y[1] ~= y[1])
    assert.equal(least, y[2])
  end)

  it("gives the gradient to the first of equals", function()
    close(support.grads(2, moe.max, { 1, 3, 3, 2 }), { 0, 2, 0, 0 }, 0)
    local function columns(t)
      return t:max(1)
    end
    close(support.grads({ 1, 2 }, columns, { { 5, 1 }, { 5, 4 } }), { 1, 0, 0, 2 }, 0)
  end)

  it("refuses to look where nothing is", function()
    support.rejects("max: [0 x 3] has no largest element", moe.max, moe.zeros(0, 3))
    support.rejects(
      "max: dimension 1 of [0 x 3] is empty and has no largest element",
      moe.max,
      moe.zeros(0, 3),
      1
    )
    support.rejects("max: there is no dimension 3 in [2 x 3]", moe.max, x, 3)
  end)
end)
