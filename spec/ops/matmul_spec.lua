local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local function product(a, b)
  local c = {}
  for i = 1, #a do
    c[i] = {}
    for j = 1, #b[1] do
      local sum = 0
      for l = 1, #b do sum = sum + a[i][l] * b[l][j] end
      c[i][j] = sum
    end
  end
  return c
end

describe("matmul", function()
  it("multiplies matrices of odd sizes", function()
    local left = moe.tensor({ { 1, 2 }, { 3, 4 }, { 5, 6 } })
    local right = moe.tensor({ { 1, 0, 2 }, { 0, 1, -1 } })
    close(left:matmul(right), { { 1, 2, 0 }, { 3, 4, 2 }, { 5, 6, 4 } }, 0)
    for _, size in ipairs({ { 1, 1, 1 }, { 7, 5, 3 }, { 257, 130, 33 }, { 9, 517, 301 } }) do
      local m, n, k = table.unpack(size)
      local a, b = moe.randn(m, k, { seed = 1 }), moe.randn(k, n, { seed = 2 })
      close(a:matmul(b), product(a:totable(), b:totable()), 2e-5)
    end
  end)

  it("multiplies batches, with a right side of their own or one for all", function()
    local a, b = moe.randn(2, 3, 4, 5), moe.randn(2, 3, 5, 7)
    local c = a:matmul(b)
    assert.same({ 2, 3, 4, 7 }, c:shape())
    for i = 1, 2 do
      for j = 1, 3 do
        close(c:select(1, i):select(1, j), product(a:select(1, i):select(1, j):totable(),
          b:select(1, i):select(1, j):totable()), 1e-5)
      end
    end
    local one = b:select(1, 1):select(1, 1)
    close(a:matmul(one):select(1, 2):select(1, 3), product(a:select(1, 2):select(1, 3):totable(),
      one:totable()), 1e-5)
  end)

  it("takes a hundred thousand small products", function()
    local n = 100000
    local a, b = moe.randn(n, 2, 3, { seed = 1 }), moe.randn(n, 3, 2, { seed = 2 })
    a:requires_grad()
    local c = a:matmul(b)
    c:sum():backward()
    for _, i in ipairs({ 1, 2, 777, 50001, n }) do
      local x, y = a:detach():select(1, i):totable(), b:select(1, i):totable()
      close(c:detach():select(1, i), product(x, y), 1e-5)
      close(a:grad():select(1, i), product({ { 1, 1 }, { 1, 1 } },
        b:select(1, i):transpose():totable()), 1e-5)
    end
  end)

  it("takes strided input", function()
    local a, b = moe.randn(5, 3), moe.randn(7, 5)
    close(a:transpose():matmul(b:transpose()), product(a:transpose():totable(),
      b:transpose():totable()), 1e-5)
  end)

  it("handles sizes of zero", function()
    close(moe.zeros(2, 0):matmul(moe.zeros(0, 3)), moe.zeros(2, 3), 0)
    assert.same({ 0, 3 }, moe.zeros(0, 2):matmul(moe.zeros(2, 3)):shape())
    assert.same({ 0, 2, 3 }, moe.zeros(0, 2, 4):matmul(moe.zeros(0, 4, 3)):shape())
    assert.same({ 2, 0 }, moe.zeros(2, 3):matmul(moe.zeros(3, 0)):shape())
  end)

  it("has gradients dc b^T and a^T dc", function()
    local a, b = { { 1, 2 }, { 3, 4 } }, { { 5, 6, 7 }, { 8, 9, 10 } }
    local da, db = support.grads({ { 1, 0, 2 }, { 0, 3, 0 } }, moe.matmul, a, b)
    close(da, { { 19, 28 }, { 18, 27 } }, 0)
    close(db, { { 1, 9, 2 }, { 2, 12, 4 } }, 0)
  end)

  it("sums the gradient of a right side that serves the whole batch", function()
    local a = { { { 1, 2 } }, { { 3, 4 } }, { { -1, 1 } } }
    local da, db = support.grads({ { { 1, 2 } }, { { 0, 1 } }, { { 5, 0 } } }, moe.matmul, a,
      { { 1, 10 }, { 100, 1000 } })
    close(da, { { { 21, 2100 } }, { { 10, 1000 } }, { { 5, 500 } } }, 0)
    close(db, { { -4, 5 }, { 7, 8 } }, 0)
  end)

  it("gives an operand of size zero between two others a gradient of zero", function()
    local da, db = support.grads({ { 1, 1 } }, function(a, b)
      return a:narrow(2, 1, 0):matmul(b:narrow(1, 1, 0))
    end, { { 1, 2 } }, { { 1, 2 }, { 3, 4 } })
    close(da, { { 0, 0 } }, 0)
    close(db, moe.zeros(2, 2), 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("matmul: " .. text, moe.matmul, ...) end
    says("inner dimensions differ: [2 x 3] x [4 x 5]", moe.ones(2, 3), moe.ones(4, 5))
    says("both sides need at least 2 dimensions: [3] x [3 x 1]", moe.ones(3), moe.ones(3, 1))
    says("both sides need at least 2 dimensions: [1 x 3] x [3]", moe.ones(1, 3), moe.ones(3))
    says("leading dimensions differ: [2 x 1 x 3] x [3 x 3 x 1]", moe.ones(2, 1, 3),
      moe.ones(3, 3, 1))
    says("leading dimensions differ: [1 x 3] x [1 x 3 x 1]", moe.ones(1, 3), moe.ones(1, 3, 1))
  end)
end)
