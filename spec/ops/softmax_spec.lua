local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("softmax", function()
  local function expected(row)
    local top, sum, out = math.max(table.unpack(row)), 0, {}
    for _, value in ipairs(row) do
      sum = sum + math.exp(value - top)
    end
    for i, value in ipairs(row) do
      out[i] = math.exp(value - top) / sum
    end
    return out
  end

  it("computes rows of any length", function()
    for _, n in ipairs({ 1, 2, 15, 16, 17, 31, 97 }) do
      local row = {}
      for i = 1, n do
        row[i] = (i * 37 % 23) / 4 - 2
      end
      close(moe.softmax(moe.tensor({ row, row })), { expected(row), expected(row) }, 2e-6)
    end
  end)

  it("computes along any dimension", function()
    local x = moe.randn(3, 5, 7)
    close(x:softmax(1), x:transpose(1, 3):softmax(3):transpose(1, 3):contiguous(), 1e-6)
    close(x:softmax(2), x:transpose(2, 3):softmax():transpose(2, 3):contiguous(), 1e-6)
    close(x:softmax(-1), x:softmax(3), 0)
    assert.same({ 0, 3 }, moe.zeros(0, 3):softmax():shape())
    assert.same({ 3, 0 }, moe.zeros(3, 0):softmax():shape())
  end)

  it("stands large numbers and -inf", function()
    local inf = math.huge
    close(moe.softmax(moe.tensor({ 1000, 1000, -inf })), { 0.5, 0.5, 0 }, 1e-6)
    close(moe.softmax(moe.tensor({ -inf, -inf, -inf, -inf })), { 0.25, 0.25, 0.25, 0.25 }, 1e-6)
  end)

  it("keeps NaN in its row", function()
    local y = moe.softmax(moe.tensor({ { 1, 0 / 0 }, { 0, 0 } })):totable()
    assert.is_true(y[1][1] ~= y[1][1] and y[1][2] ~= y[1][2])
    close(y[2], { 0.5, 0.5 }, 1e-6)
  end)

  it("has the gradient of two classes", function()
    close(support.grads({ 1, 0 }, moe.softmax, { 0, 0 }), { 0.25, -0.25 }, 1e-6)
    local function columns(t)
      return t:softmax(1)
    end
    close(support.grads({ { 1 }, { 0 } }, columns, { { 0 }, { 0 } }), { 0.25, -0.25 }, 1e-6)
  end)

  it("refuses a dimension that is not there", function()
    local x = moe.ones(2, 3)
    support.rejects("softmax: there is no dimension 3 in [2 x 3]", moe.softmax, x, 3)
    support.rejects("softmax: there is no dimension -1 in []", moe.softmax, moe.tensor(1))
    support.rejects(
      "softmax: dim counts from 1 (or from -1, the last), not 0",
      moe.softmax,
      x,
      0
    )
  end)
end)
