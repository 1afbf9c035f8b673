local moe = require("moelua")
local close = require("spec.helper").close
local precision = require("moelua.precision")
local support = require("spec.ops.support")

-- x [m x k] times w [n x k] transposed, plus bias, in plain Lua.
local function product(x, w, bias)
  local y = {}
  for i = 1, #x do
    y[i] = {}
    for j = 1, #w do
      local sum = bias and bias[j] or 0
      for l = 1, #w[j] do sum = sum + x[i][l] * w[j][l] end
      y[i][j] = sum
    end
  end
  return y
end

describe("linear", function()
  it("is x W^T + bias", function()
    local x = moe.tensor({ { 1, 2, 3 }, { -1, 0, 2 } })
    local w = moe.tensor({ { 1, 0, 1 }, { 2, 1, -1 } })
    close(x:linear(w), { { 4, 1 }, { 1, -4 } }, 0)
    close(x:linear(w, moe.tensor({ 10, 20 })), { { 14, 21 }, { 11, 16 } }, 0)
  end)

  it("computes odd sizes, below and above what is cut into tasks", function()
    for _, size in ipairs({ { 1, 1, 1 }, { 5, 3, 7 }, { 17, 33, 9 }, { 301, 67, 71 },
      { 3, 701, 523 } }) do
      local m, n, k = table.unpack(size)
      local x = moe.randn(m, k, { seed = 1 })
      local w, bias = moe.randn(n, k, { seed = 2 }), moe.randn(n, { seed = 3 })
      local got, want = x:linear(w, bias), product(x:totable(), w:totable(), bias:totable())
      close(got, want, 2e-5)
    end
  end)

  it("keeps all leading dimensions, also of a single row", function()
    local x, w = moe.randn(2, 3, 2, 5), moe.randn(4, 5)
    assert.same({ 2, 3, 2, 4 }, x:linear(w):shape())
    close(x:linear(w), x:reshape(12, 5):linear(w), 1e-6)
    close(x:select(1, 1):select(1, 1):select(1, 1):linear(w), product(
      { x:select(1, 1):select(1, 1):select(1, 1):totable() }, w:totable())[1], 1e-5)
  end)

  it("takes strided input", function()
    local x, w = moe.randn(5, 3), moe.randn(5, 7)
    close(x:transpose():linear(w:transpose()), product(x:transpose():totable(),
      w:transpose():totable()), 1e-5)
  end)

  it("handles sizes of zero", function()
    assert.same({ 0, 4 }, moe.zeros(0, 3):linear(moe.ones(4, 3)):shape())
    assert.same({ 2, 0 }, moe.ones(2, 3):linear(moe.ones(0, 3)):shape())
    close(moe.zeros(2, 0):linear(moe.zeros(3, 0)), moe.zeros(2, 3), 0)
    close(moe.zeros(2, 0):linear(moe.zeros(3, 0), moe.arange(3)), { { 0, 1, 2 }, { 0, 1, 2 } }, 0)
  end)

  it("sums over more rows than are summed in one go", function()
    local x, w = moe.randn(2600, 7, { seed = 1 }), moe.randn(5, 7, { seed = 2 }):requires_grad()
    local dy = moe.randn(2600, 5, { seed = 3 });
    (x:linear(w) * dy):sum():backward()
    close(w:grad(), product(dy:transpose():totable(), x:transpose():totable()), 1e-4)
    local half = w:grad():clone();
    (x:linear(w) * dy):sum():backward()                     -- adds to what is there
    close(w:grad(), half * 2, 1e-6)
  end)

  it("has rows and columns in bf16 wherever they are cut", function()
    for _, size in ipairs({ { 17, 1, 1 }, { 40, 700, 300 }, { 301, 67, 71 }, { 33, 33, 1100 } }) do
      local m, n, k = table.unpack(size)
      local x, w = moe.randn(m, k, { seed = 1 }), moe.randn(n, k, { seed = 2 })
      local want = product(x:to("bf16"):to("f32"):totable(), w:to("bf16"):to("f32"):totable())
      close(precision("bf16", moe.linear, x, w), want, 5e-5)
    end
  end)

  it("has gradients dy W, dy^T x and the sum of the rows of dy", function()
    local x, w = { { 1, 2, 3 }, { -1, 0, 2 } }, { { 1, 0, 1 }, { 2, 1, -1 } }
    local dx, dw, db = support.grads({ { 1, 10 }, { 100, 0 } }, moe.linear, x, w, { 5, 6 })
    close(dx, { { 21, 10, -9 }, { 100, 0, 100 } }, 0)
    close(dw, { { -99, 2, 203 }, { 10, 20, 30 } }, 0)
    close(db, { 101, 10 }, 0)
  end)

  it("has those gradients in sizes that are cut into tasks", function()
    local x = moe.randn(301, 71, { seed = 1 }):requires_grad()
    local w = moe.randn(67, 71, { seed = 2 }):requires_grad()
    local dy = moe.randn(301, 67, { seed = 3 });
    (x:linear(w) * dy):sum():backward()
    close(x:grad(), dy:matmul(w:detach()), 2e-5)
    close(w:grad(), dy:transpose():matmul(x:detach()), 2e-5)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("linear: " .. text, moe.linear, ...) end
    says("inner dimensions differ: [2 x 3] x transposed [4 x 5]", moe.ones(2, 3), moe.ones(4, 5))
    says("inner dimensions differ: [] x transposed [1 x 1]", moe.tensor(1), moe.ones(1, 1))
    says("weight must have 2 dimensions, not [3]", moe.ones(2, 3), moe.ones(3))
    says("bias must have one element per output: [3] and weight [4 x 3]", moe.ones(2, 3),
      moe.ones(4, 3), moe.ones(3))
    says("bias must have one element per output: [1 x 4] and weight [4 x 3]", moe.ones(2, 3),
      moe.ones(4, 3), moe.ones(1, 4))
    says("weight must be a tensor, not nil", moe.ones(2, 3))
  end)
end)
