local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("sum", function()
  local x = moe.tensor({ { { 1, 2, 3 }, { 4, 5, 6 } }, { { 7, 8, 9 }, { 10, 11, 12 } } })

  it("adds up everything to a single number", function()
    assert.same({}, x:sum():shape())
    close(x:sum(), { 78 }, 0)
    close(moe.sum(x, nil, true), { { { 78 } } }, 0)
    assert.same({ 1, 1, 1 }, moe.sum(x, nil, true):shape())
    close(moe.tensor(5):sum(), { 5 }, 0)
    close(moe.zeros(0, 3):sum(), { 0 }, 0)
  end)

  it("adds up along each dimension", function()
    close(x:sum(1), { 8, 10, 12, 14, 16, 18 }, 0)
    close(x:sum(2), { 5, 7, 9, 17, 19, 21 }, 0)
    close(x:sum(3), { 6, 15, 24, 33 }, 0)
    close(x:sum(-1), x:sum(3), 0)
    assert.same({ 2, 3 }, x:sum(2):shape())
    assert.same({ 2, 1, 3 }, x:sum(2, true):shape())
  end)

  it("adds up long rows and many columns", function()
    local n = 100003
    close(moe.ones(n):sum(), { n }, 0)
    close(moe.ones(2, n):sum(2), { n, n }, 0)
    close(moe.ones(3, 1009):sum(1), moe.full(3, 1009), 0)
    close(moe.arange(17):sum(), { 136 }, 0)
  end)

  it("takes strided and empty input", function()
    close(x:transpose(1, 3):sum(1), { 6, 24, 15, 33 }, 0)
    close(moe.zeros(2, 0):sum(2), { 0, 0 }, 0)
    assert.same({ 0 }, moe.zeros(2, 0):sum(1):shape())
  end)

  it("gives every element the gradient of its sum", function()
    local function sum(...)
      local arguments = { ... }
      return function(t)
        return moe.sum(t, table.unpack(arguments))
      end
    end
    local values = { { 1, 2, 3 }, { 4, 5, 6 } }
    close(support.grads(2, sum(), values), { 2, 2, 2, 2, 2, 2 }, 0)
    close(support.grads({ 1, 2, 3 }, sum(1), values), { 1, 2, 3, 1, 2, 3 }, 0)
    close(support.grads({ 1, 2 }, sum(2), values), { 1, 1, 1, 2, 2, 2 }, 0)
  end)

  it("refuses a dimension that is not there", function()
    support.rejects("sum: there is no dimension 4 in [2 x 2 x 3]", moe.sum, x, 4)
    support.rejects("sum: there is no dimension -4 in [2 x 2 x 3]", moe.sum, x, -4)
    support.rejects("sum: there is no dimension 1 in []", moe.sum, moe.tensor(1), 1)
  end)
end)
