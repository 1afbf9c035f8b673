local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("narrow", function()
  local x = moe.tensor({ { 1, 2, 3, 4 }, { 5, 6, 7, 8 }, { 9, 10, 11, 12 } })

  it("takes a stretch of a dimension", function()
    assert.same({ { 2, 3 }, { 6, 7 }, { 10, 11 } }, x:narrow(2, 2, 2):totable())
    assert.same({ { 9, 10, 11, 12 } }, x:narrow(1, 3, 1):totable())
    assert.same({ { 3, 4 }, { 7, 8 }, { 11, 12 } }, x:narrow(-1, -2, 2):totable())
    assert.same({ 3, 0 }, x:narrow(2, 1, 0):shape())
    assert.same({ { 7 } }, x:narrow(1, 2, 2):narrow(2, 3, 1):narrow(1, 1, 1):totable())
  end)

  it("shares storage, also through a transpose and for i32", function()
    local a = moe.zeros(2, 3)
    local b = a:transpose():narrow(1, 2, 1)
    a:fill_(4)
    close(b, { { 4, 4 } }, 0)
    assert.same({ 2, 3 }, support.ids({ 1, 2, 3 }):narrow(1, 2, 2):totable())
  end)

  it("gives the rest no gradient", function()
    local function f(t)
      return t:narrow(2, 2, 2)
    end
    close(support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 0, 0, 0 }, { 0, 0, 0 } }), {
      { 0, 1, 2 },
      { 0, 3, 4 },
    }, 0)
  end)

  it("refuses what is not inside", function()
    local function says(text, ...)
      support.rejects("narrow: " .. text, moe.narrow, x, ...)
    end
    says("2 from position 4 is not inside dimension 2 of [3 x 4]", 2, 4, 2)
    says("1 from position -5 is not inside dimension 2 of [3 x 4]", 2, -5, 1)
    says("5 from position 1 is not inside dimension 1 of [3 x 4]", 1, 1, 5)
    says("length must not be negative: -1", 1, 1, -1)
    says("there is no dimension 3 in [3 x 4]", 3, 1, 1)
    says("start counts from 1 (or from -1, the last), not 0", 1, 0, 1)
    says(
      "9223372036854775807 from position 2 is not inside dimension 1 of [3 x 4]",
      1,
      2,
      math.maxinteger
    )
  end)
end)
