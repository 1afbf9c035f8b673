local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("embedding", function()
  local ids = support.ids
  local weight = moe.tensor({ { 1, 2 }, { 3, 4 }, { 5, 6 } })

  it("looks up ids of any shape", function()
    assert.same({ { 5, 6 }, { 1, 2 } }, moe.embedding(weight, ids({ 2, 0 })):totable())
    local y = moe.embedding(weight, ids({ { 2, 0 }, { 1, 1 } }))
    assert.same({ { { 5, 6 }, { 1, 2 } }, { { 3, 4 }, { 3, 4 } } }, y:totable())
    assert.same({ 2 }, moe.embedding(weight, ids(1)):shape())
    assert.same({ 0, 2 }, moe.embedding(weight, ids({})):shape())
    close(moe.embedding(weight, ids({ { 0, 1 }, { 2, 0 } }):transpose()), {
      { { 1, 2 }, { 5, 6 } },
      { { 3, 4 }, { 1, 2 } },
    }, 0)
  end)

  it("adds up the gradients of each id", function()
    local function f(w)
      return moe.embedding(w, ids({ { 2, 0 }, { 2, 2 } }))
    end
    local up = { { { 1, 2 }, { 3, 4 } }, { { 5, 6 }, { 7, 8 } } }
    local dw = support.grads(up, f, { { 0, 0 }, { 0, 0 }, { 0, 0 } })
    close(dw, { { 3, 4 }, { 0, 0 }, { 13, 16 } }, 0)
  end)

  it("refuses ids that are not in the table", function()
    local function says(text, ...)
      support.rejects("embedding: " .. text, moe.embedding, ...)
    end
    says("ids has 3 at position 4, but must be 0 to 2", weight, ids({ { 0, 1 }, { 2, 3 } }))
    says("weight must have 2 dimensions, not [3]", moe.ones(3), ids({ 0 }))
    says(
      "ids [1 x 1 x 1 x 1 x 1 x 1 x 1 x 1] leave no room for another dimension (the limit is 8)",
      weight,
      ids({ 0 }):reshape(1, 1, 1, 1, 1, 1, 1, 1)
    )
  end)
end)
