local moe = require("moelua")
local support = require("spec.ops.support")

describe("keep_slots", function()
  local experts = support.ids({ { 3, 1 }, { 0, -1 }, { 2, 2 } })

  it("leaves slots unused, one by one", function()
    local keep = moe.tensor({ { 1, 0 }, { 0.5, 1 }, { -1, 1e-30 } })
    assert.same({ { 3, -1 }, { 0, -1 }, { -1, 2 } }, experts:keep_slots(keep):totable())
    assert.same({ { 3, 1 }, { 0, -1 }, { 2, 2 } }, experts:totable())
  end)

  it("or whole rows", function()
    assert.same({ { -1, -1 }, { 0, -1 }, { 2, 2 } },
      experts:keep_slots(moe.tensor({ 0, 1, 2 })):totable())
  end)

  it("does not keep what is no number", function()
    local none = moe.tensor({ 0 / 0, 0 / 0, 1 })
    assert.same({ { -1, -1 }, { -1, -1 }, { 2, 2 } }, experts:keep_slots(none):totable())
  end)

  it("takes empty and strided routings", function()
    assert.same({ 0, 3 }, moe.keep_slots(support.ids(0):reshape(1, 1):narrow(1, 1, 0)
      :reshape(0, 3), moe.zeros(0, 3)):shape())
    assert.same({ { 3, -1, 2 }, { 1, -1, 2 } },
      experts:transpose():keep_slots(moe.tensor({ { 1, 0, 1 }, { 1, 1, 1 } })):totable())
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("keep_slots: " .. text, moe.keep_slots, ...) end
    says("keep must have a number for each slot or row of [3 x 2], not be [2]", experts,
      moe.ones(2))
    says("keep must have a number for each slot or row of [3 x 2], not be [3 x 1]", experts,
      moe.ones(3, 1))
    says("experts must have 2 dimensions, not [3]", support.ids({ 1, 2, 3 }), moe.ones(3))
  end)
end)
