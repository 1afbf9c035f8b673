local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("pow", function()
  it("raises every element", function()
    local x = moe.tensor({ { 1, 2, 3 }, { 4, 0.5, 10 } })
    close(moe.pow(x, 2), { 1, 4, 9, 16, 0.25, 100 }, 0)
    close(moe.pow(x, 3), { 1, 8, 27, 64, 0.125, 1000 }, 0)
    close(moe.pow(x, -1), { 1, 0.5, 1 / 3, 0.25, 2, 0.1 })
    close(moe.pow(x, 0), { 1, 1, 1, 1, 1, 1 }, 0)
    close(x ^ 0.5, { 1, 2 ^ 0.5, 3 ^ 0.5, 2, 0.5 ^ 0.5, 10 ^ 0.5 })
  end)

  it("keeps shapes, also empty ones, and takes strided input", function()
    assert.same({ 0, 3 }, moe.pow(moe.zeros(0, 3), 2):shape())
    close(moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }):transpose():pow(2), { 1, 16, 4, 25, 9, 36 }, 0)
  end)

  it("is NaN for a root of a negative number", function()
    local y = moe.pow(moe.tensor({ -2 }), 0.5):item()
    assert.is_true(y ~= y)
    close(moe.pow(moe.tensor({ -2 }), 3), { -8 }, 0)
  end)

  it("has the derivative n x^(n-1)", function()
    local function power(n)
      return function(x)
        return moe.pow(x, n)
      end
    end
    close(support.grads({ 1, 2 }, power(3), { 2, -3 }), { 12, 54 })
    close(support.grads({ 1, 2 }, power(2), { 2, -3 }), { 4, -12 })
    close(support.grads({ 1, 1 }, power(1), { 0, 5 }), { 1, 1 }, 0)
    close(support.grads({ 1, 1 }, power(0), { 0, 5 }), { 0, 0 }, 0)
    close(support.grads({ 1 }, power(-0.5), { 4 }), { -0.5 * 4 ^ -1.5 })
  end)

  it("refuses what is no number", function()
    support.rejects('pow: exponent must be a number, not "x"', moe.pow, moe.ones(2), "x")
  end)
end)
