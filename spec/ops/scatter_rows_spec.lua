local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("scatter_rows", function()
  local ids = support.ids
  local x = moe.tensor({ { 1, 2 }, { 3, 4 }, { 5, 6 } })

  it("adds rows to where they belong", function()
    local y = moe.scatter_rows(x, ids({ 3, 0, 3 }), 4)
    assert.same({ { 3, 4 }, { 0, 0 }, { 0, 0 }, { 6, 8 } }, y:totable())
    assert.same({ 2, 2 }, moe.scatter_rows(moe.zeros(0, 2), ids({}), 2):shape())
    assert.same({ 0, 2 }, moe.scatter_rows(moe.zeros(0, 2), ids({}), 0):shape())
    assert.same({ 5, 1, 3 }, moe.scatter_rows(moe.ones(1, 1, 3), ids({ 4 }), 5):shape())
  end)

  it("undoes gather_rows for a permutation", function()
    local rows, order = moe.randn(37, 17), {}
    for i = 1, 37 do
      order[i] = i * 5 % 37
    end
    local picked = moe.gather_rows(rows, ids(order))
    close(moe.scatter_rows(picked, ids(order), 37), rows, 0)
  end)

  it("picks the gradient of each row", function()
    local function f(t)
      return moe.scatter_rows(t, ids({ 1, 0, 1 }), 3)
    end
    local dx = support.grads({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, f, { { 0, 0 }, { 0, 0 }, { 0, 0 } })
    close(dx, { { 3, 4 }, { 1, 2 }, { 3, 4 } }, 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("scatter_rows: " .. text, moe.scatter_rows, ...)
    end
    says("rows must have one number per row of x: [3 x 2] and [2]", x, ids({ 0, 1 }), 4)
    says("rows has 4 at position 3, but must be 0 to 3", x, ids({ 0, 1, 4 }), 4)
    says("count must not be negative: -1", x, ids({ 0, 1, 2 }), -1)
    says("rows must have 1 dimension, not []", x, ids(0), 1)
  end)
end)
