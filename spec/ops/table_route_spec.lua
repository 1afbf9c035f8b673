local moe = require("moelua")
local support = require("spec.ops.support")
local ids = support.ids

describe("table_route", function()
  it("looks the experts of every id up", function()
    local rows = ids({ { 0, 3 }, { 1, 2 }, { 0, 2 } })
    assert.same({ { 0, 2 }, { 0, 3 }, { 1, 2 }, { 1, 2 } },
      ids({ { 2, 0 }, { 1, 1 } }):table_route(rows):totable())
    assert.same({ 0, 2 }, ids({}):table_route(rows):shape())
  end)

  it("refuses ids without a row", function()
    local function says(message, ...)
      support.rejects("table_route: " .. message, moe.table_route, ...)
    end
    says("ids has 3 at position 2, but must be 0 to 2", ids({ 0, 3 }), ids({ { 0 }, { 1 }, { 2 } }))
    says("table must have 2 dimensions, not [3]", ids({ 0 }), ids({ 0, 1, 2 }))
  end)
end)
