local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("one_hot", function()
  local ids = support.ids

  it("is one at each id", function()
    close(moe.one_hot(ids({ 2, 0 }), 3), { { 0, 0, 1 }, { 1, 0, 0 } }, 0)
    close(moe.one_hot(ids({ { 1 }, { 0 } }), 2), { { { 0, 1 } }, { { 1, 0 } } }, 0)
    close(moe.one_hot(ids(1), 2), { 0, 1 }, 0)
  end)

  it("is zero for a slot that is not used", function()
    close(moe.one_hot(ids({ -1, 1 }), 2), { { 0, 0 }, { 0, 1 } }, 0)
  end)

  it("adds up to the counts", function()
    local _, experts = moe.randn(101, 7, { seed = 1 }):topk_route(3)
    close(experts:one_hot(7):reshape(-1, 7):sum(1), experts:bincount(7), 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("one_hot: " .. text, moe.one_hot, ...) end
    says("ids has 3 at position 2, but must be 0 to 2", ids({ 0, 3 }), 3)
    says("count must not be negative: -2", ids({}), -2)
    says("ids is f32, but must be i32\nhint: ids:to(\"i32\")", moe.ones(1), 3)
  end)
end)
