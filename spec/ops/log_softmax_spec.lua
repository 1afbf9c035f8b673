local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("log_softmax", function()
  local function expected(row)
    local top, sum, out = math.max(table.unpack(row)), 0, {}
    for _, value in ipairs(row) do
      sum = sum + math.exp(value - top)
    end
    for i, value in ipairs(row) do
      out[i] = value - top - math.log(sum)
    end
    return out
  end

  it("computes rows of any length", function()
    for _, n in ipairs({ 1, 2, 15, 16, 17, 31, 97 }) do
      local row = {}
      for i = 1, n do
        row[i] = (i * 37 % 23) / 4 - 2
      end
      close(moe.log_softmax(moe.tensor({ row, row })), { expected(row), expected(row) }, 2e-6)
    end
  end)

  it("computes along any dimension", function()
    local x = moe.randn(3, 5, 7)
    close(x:log_softmax(1), x:transpose(1, 3):log_softmax(3):transpose(1, 3):contiguous(), 1e-6)
    close(x:log_softmax(2), x:transpose(2, 3):log_softmax():transpose(2, 3):contiguous(), 1e-6)
    close(x:log_softmax(-1), x:log_softmax(3), 0)
    assert.same({ 0, 3 }, moe.zeros(0, 3):log_softmax():shape())
    assert.same({ 3, 0 }, moe.zeros(3, 0):log_softmax():shape())
  end)

  it("stands large numbers and -inf", function()
    local least, half, quarter = -math.huge, -math.log(2), -math.log(4)
    close(moe.log_softmax(moe.tensor({ 1000, 1000, least })), { half, half, least }, 1e-6)
    close(moe.log_softmax(moe.full(least, 4)), { quarter, quarter, quarter, quarter }, 1e-6)
  end)

  it("keeps NaN in its row", function()
    local y = moe.log_softmax(moe.tensor({ { 1, 0 / 0 }, { 0, 0 } })):totable()
    assert.is_true(y[1][1] ~= y[1][1] and y[1][2] ~= y[1][2])
    close(y[2], { -math.log(2), -math.log(2) }, 1e-6)
  end)

  it("has the gradient of two classes", function()
    close(support.grads({ 1, 0 }, moe.log_softmax, { 0, 0 }), { 0.5, -0.5 }, 1e-6)
    local function columns(t)
      return t:log_softmax(1)
    end
    close(support.grads({ { 1 }, { 0 } }, columns, { { 0 }, { 0 } }), { 0.5, -0.5 }, 1e-6)
  end)

  it("refuses a dimension that is not there", function()
    local x = moe.ones(2, 3)
    support.rejects("log_softmax: there is no dimension 3 in [2 x 3]", moe.log_softmax, x, 3)
    support.rejects("log_softmax: there is no dimension -1 in []", moe.log_softmax, moe.tensor(1))
    support.rejects(
      "log_softmax: dim counts from 1 (or from -1, the last), not 0",
      moe.log_softmax,
      x,
      0
    )
  end)
end)
