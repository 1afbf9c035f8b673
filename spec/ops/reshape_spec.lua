local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("reshape", function()
  local x = moe.arange(12):reshape(3, 4)

  it("keeps the elements in row-major order", function()
    assert.same({ 2, 6 }, x:reshape(2, 6):shape())
    assert.same({ 2, 3, 2 }, x:reshape(2, -1, 2):shape())
    assert.same({ 12 }, x:reshape(-1):shape())
    assert.same({ 4, 3 }, x:reshape({ 4, 3 }):shape())
    close(x:reshape(2, 6), moe.arange(12), 0)
    assert.same({ 0, 5 }, moe.zeros(0, 3):reshape(0, 5):shape())
    assert.same({ 1, 1 }, moe.tensor(7):reshape(1, 1):shape())
  end)

  it("shares storage with a contiguous tensor and copies any other", function()
    local a = moe.zeros(2, 3)
    local b, c = a:reshape(6), a:transpose():reshape(6)
    a:fill_(5)
    close(b, moe.full(5, 6), 0)
    close(c, moe.zeros(6), 0)
  end)

  it("works on views and on i32", function()
    close(x:narrow(1, 2, 2):reshape(8), { 4, 5, 6, 7, 8, 9, 10, 11 }, 0)
    close(x:transpose():reshape(2, 6), { 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11 }, 0)
    local ids = support.ids({ 1, 2, 3, 4 }):reshape(2, 2)
    assert.equal("i32", ids:dtype())
    assert.same({ { 1, 2 }, { 3, 4 } }, ids:totable())
  end)

  it("passes the gradient on", function()
    local function f(t)
      return t:reshape(3, 2)
    end
    close(support.grads({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, f, { { 0, 0, 0 }, { 0, 0, 0 } }), {
      { 1, 2, 3 },
      { 4, 5, 6 },
    }, 0)
  end)

  it("refuses sizes that do not come out", function()
    local text = "reshape: [3 x 4] has 12 elements and cannot become [5 x 2]"
    support.rejects(text, x.reshape, x, 5, 2)
    support.rejects(
      "reshape: [3 x 4] has 12 elements and cannot become [5 x -1]",
      x.reshape,
      x,
      5,
      -1
    )
    support.rejects("reshape: only one size may be -1: [-1 x -1]", x.reshape, x, -1, -1)
    local empty = moe.zeros(0)
    support.rejects(
      "reshape: [0] has 0 elements and cannot become [0 x -1]",
      empty.reshape,
      empty,
      0,
      -1
    )
  end)
end)
