local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("select", function()
  local x = moe.tensor({ { { 1, 2, 3 }, { 4, 5, 6 } }, { { 7, 8, 9 }, { 10, 11, 12 } } })

  it("drops the dimension", function()
    assert.same({ { 7, 8, 9 }, { 10, 11, 12 } }, x:select(1, 2):totable())
    assert.same({ { 1, 2, 3 }, { 7, 8, 9 } }, x:select(2, 1):totable())
    assert.same({ { 3, 6 }, { 9, 12 } }, x:select(3, -1):totable())
    assert.equal(11, x:select(1, 2):select(1, 2):select(1, 2):item())
  end)

  it("shares storage, also through a transpose and for i32", function()
    local a = moe.zeros(2, 3)
    local b = a:transpose():select(1, 2)
    a:fill_(4)
    close(b, { 4, 4 }, 0)
    assert.same({ 2, 4 }, support.ids({ { 1, 2 }, { 3, 4 } }):select(2, 2):totable())
  end)

  it("gives the other positions no gradient", function()
    local function f(t)
      return t:select(2, 2)
    end
    close(support.grads({ 1, 2 }, f, { { 0, 0, 0 }, { 0, 0, 0 } }), { { 0, 1, 0 }, { 0, 2, 0 } }, 0)
  end)

  it("refuses what is not there", function()
    local function says(text, ...)
      support.rejects("select: " .. text, moe.select, x, ...)
    end
    says("there is no position 3 in dimension 2 of [2 x 2 x 3]", 2, 3)
    says("there is no position -4 in dimension 3 of [2 x 2 x 3]", 3, -4)
    says("there is no dimension 4 in [2 x 2 x 3]", 4, 1)
    says("position counts from 1 (or from -1, the last), not 0", 1, 0)
  end)
end)
