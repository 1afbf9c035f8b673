local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("clamp", function()
  it("keeps elements between two bounds", function()
    close(moe.clamp(moe.tensor({ -3, -1, 0.5, 2, 7 }), -1, 2), { -1, -1, 0.5, 2, 2 }, 0)
    local x = moe.randn(70, 301)
    local y = x:clamp(-0.5, 0.25):totable()
    for i, row in ipairs(x:totable()) do
      for j, value in ipairs(row) do
        assert.equal(math.max(-0.5, math.min(0.25, value)), y[i][j])
      end
    end
  end)

  it("keeps NaN, and takes nothing", function()
    local y = moe.clamp(moe.tensor({ 0 / 0, 1 / 0, -1 / 0 }), -1, 1):totable()
    assert.is_true(y[1] ~= y[1])
    assert.same({ 1, -1 }, { y[2], y[3] })
    assert.same({ 0, 3 }, moe.clamp(moe.zeros(0, 3), -1, 1):shape())
  end)

  it("passes the gradient on where it changes nothing", function()
    local dx = support.grads({ 1, 2, 3, 4, 5 }, function(x) return moe.clamp(x, -1, 2) end,
      { -3, -1, 0.5, 2, 7 })
    close(dx, { 0, 2, 3, 4, 0 }, 0)
  end)

  it("refuses bounds that are crossed", function()
    support.rejects("clamp: low must not be above high: 2 and 1", moe.clamp, moe.zeros(2), 2, 1)
  end)
end)
