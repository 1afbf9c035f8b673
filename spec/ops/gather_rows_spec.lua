local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("gather_rows", function()
  local ids = support.ids
  local x = moe.tensor({ { 1, 2 }, { 3, 4 }, { 5, 6 } })

  it("picks rows by number", function()
    assert.same({ { 5, 6 }, { 1, 2 }, { 5, 6 } }, moe.gather_rows(x, ids({ 2, 0, 2 })):totable())
    assert.same({ 0, 2 }, moe.gather_rows(x, ids({})):shape())
    assert.same({ 2, 1, 3 }, moe.gather_rows(moe.ones(4, 1, 3), ids({ 3, 0 })):shape())
    close(moe.gather_rows(moe.tensor({ 7, 8 }), ids({ 1, 1, 0 })), { 8, 8, 7 }, 0)
    assert.same({ { 2, 4, 6 } }, moe.gather_rows(x:transpose(), ids({ 1 })):totable())
  end)

  it("adds up the gradients of a row that was picked twice", function()
    local function f(t)
      return moe.gather_rows(t, ids({ 2, 0, 2 }))
    end
    local dx = support.grads({ { 1, 2 }, { 3, 4 }, { 5, 6 } }, f, { { 0, 0 }, { 0, 0 }, { 0, 0 } })
    close(dx, { { 3, 4 }, { 0, 0 }, { 6, 8 } }, 0)
  end)

  it("refuses rows that are not there", function()
    local function says(text, ...)
      support.rejects("gather_rows: " .. text, moe.gather_rows, ...)
    end
    says("rows has 3 at position 2, but must be 0 to 2", x, ids({ 0, 3 }))
    says("rows has -1 at position 1, but must be 0 to 2", x, ids({ -1 }))
    says("rows must have 1 dimension, not [1 x 2]", x, ids({ { 0, 1 } }))
    says("x has no rows: []", moe.tensor(1), ids({ 0 }))
    says('rows is f32, but must be i32\nhint: rows:to("i32")', x, moe.zeros(2))
  end)
end)
