local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("bincount", function()
  local ids = support.ids

  it("counts ids of any shape", function()
    close(moe.bincount(ids({ 2, 0, 2, 2, 4 }), 6), { 1, 0, 3, 0, 1, 0 }, 0)
    close(moe.bincount(ids({ { 1, 0 }, { 1, 1 } }), 2), { 1, 3 }, 0)
    close(moe.bincount(ids(0), 1), { 1 }, 0)
    assert.equal("f32", moe.bincount(ids({ 0 }), 1):dtype())
  end)

  it("counts nothing where there is nothing", function()
    close(moe.bincount(ids({}), 3), { 0, 0, 0 }, 0)
    assert.same({ 0 }, moe.bincount(ids({}), 0):shape())
  end)

  it("takes strided ids", function()
    close(moe.bincount(ids({ { 0, 1 }, { 0, 2 }, { 0, 2 } }):select(2, 2), 3), { 0, 1, 2 }, 0)
  end)

  it("counts every slot of a routing once", function()
    local _, experts = moe.randn(301, 7, { seed = 1 }):topk_route(3)
    local count = experts:bincount(7)
    assert.equal(3 * 301, count:sum():item())
    local want = { 0, 0, 0, 0, 0, 0, 0 }
    for _, row in ipairs(experts:totable()) do
      for _, e in ipairs(row) do want[e + 1] = want[e + 1] + 1 end
    end
    close(count, want, 0)
  end)

  it("passes over slots that are not used", function()
    close(moe.bincount(ids({ { -1, 0 }, { 2, -1 }, { -1, -1 } }), 3), { 1, 0, 1 }, 0)
    close(moe.bincount(ids({ -1 }), 0), {}, 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("bincount: " .. text, moe.bincount, ...) end
    says("ids has 3 at position 2, but must be 0 to 2", ids({ 0, 3 }), 3)
    says("ids has -2 at position 1, but must be 0 to 2", ids({ -2 }), 3)
    says("ids has 0 at position 1, but must be 0 to -1", ids({ 0 }), 0)
    says("count must not be negative: -2", ids({}), -2)
    says("count must be an integer, not 1.5", ids({}), 1.5)
    says("count must be given, not nil", ids({}))
    says('ids is f32, but must be i32\nhint: ids:to("i32")', moe.ones(1), 3)
  end)
end)
