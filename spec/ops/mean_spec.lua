local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("mean", function()
  local x = moe.tensor({ { 1, 2, 6 }, { 4, 5, 9 } })

  it("averages everything or one dimension", function()
    assert.same({}, x:mean():shape())
    close(x:mean(), { 4.5 })
    close(x:mean(1), { 2.5, 3.5, 7.5 })
    close(x:mean(2), { 3, 6 })
    assert.same({ 2, 1 }, x:mean(-1, true):shape())
    close(x:transpose():mean(1), { 3, 6 })
    assert.same({ 0 }, moe.zeros(0, 3):mean(2):shape())
  end)

  it("is exact for a long constant row", function()
    close(moe.full(0.5, 70001):mean(), { 0.5 }, 1e-7)
  end)

  it("shares the gradient out", function()
    close(support.grads(6, moe.mean, { { 1, 2, 3 }, { 4, 5, 6 } }), { 1, 1, 1, 1, 1, 1 })
    local function rows(t)
      return t:mean(2)
    end
    close(support.grads({ 3, 6 }, rows, { { 1, 2, 3 }, { 4, 5, 6 } }), { 1, 1, 1, 2, 2, 2 })
  end)

  it("refuses to average nothing", function()
    support.rejects("mean: [0 x 3] has no mean", moe.mean, moe.zeros(0, 3))
    local empty = moe.zeros(2, 0)
    support.rejects("mean: dimension 2 of [2 x 0] is empty and has no mean", moe.mean, empty, -1)
    support.rejects("mean: there is no dimension 3 in [2 x 3]", moe.mean, x, 3)
  end)
end)
