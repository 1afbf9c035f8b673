local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("sub", function()
  local f = moe.sub

  it("combines equal shapes of any length", function()
    for _, n in ipairs({ 1, 5, 16, 17, 33, 9001 }) do
      local a, b, want = {}, {}, {}
      for i = 1, n do
        a[i], b[i] = i % 7 - 3, i % 5 + 1
        want[i] = a[i] - b[i]
      end
      close(f(moe.tensor(a), moe.tensor(b)), want, 1e-6)
    end
  end)

  it("takes numbers on either side", function()
    close(f(moe.tensor({ 1, 2, 4 }), 2), { 1 - 2, 2 - 2, 4 - 2 }, 1e-6)
    close(f(2, moe.tensor({ 1, 2, 4 })), { 2 - 1, 2 - 2, 2 - 4 }, 1e-6)
    close(moe.tensor({ 1, 2 }) - 2, { 1 - 2, 2 - 2 }, 1e-6)
    close(3 - moe.tensor({ 1, 2 }), { 3 - 1, 3 - 2 }, 1e-6)
  end)

  it("repeats dimensions of one, and those that are absent", function()
    local a, b = moe.randn(3, 1, 17), moe.randn(5, 1):exp() + 1
    local y = f(a, b)
    assert.same({ 3, 5, 17 }, y:shape())
    local ta, tb, want = a:totable(), b:totable(), {}
    for i = 1, 3 do
      for j = 1, 5 do
        for k = 1, 17 do
          want[#want + 1] = ta[i][1][k] - tb[j][1]
        end
      end
    end
    close(y, want, 1e-5)
    close(f(b, moe.full(2, 1, 1, 1)), f(b, 2), 0)
  end)

  it("takes strided and empty input", function()
    local a, b = moe.randn(4, 7), moe.randn(7, 4):exp()
    close(f(a:transpose(), b), f(a:transpose():contiguous(), b), 0)
    assert.same({ 0, 3 }, f(moe.zeros(0, 3), moe.ones(3)):shape())
    assert.same({ 2, 0 }, f(moe.zeros(2, 1), moe.ones(0)):shape())
    assert.same({}, f(moe.tensor(1), 2):shape())
  end)

  it("passes the gradient to both sides", function()
    local a, b = support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 5, 6 }, { 7, 8 } }, { { 1 }, { 1 } })
    close(a, { 1, 2, 3, 4 }, 0)
    close(b, { -3, -7 }, 0)
  end)

  it("sums the gradient of a long row and of many rows", function()
    local x = moe.zeros(211, 97):requires_grad()
    local row, column = moe.ones(97):requires_grad(), moe.ones(211, 1):requires_grad()
    local one = moe.tensor(1):requires_grad();
    (f(x, row) + f(x, column) + f(x, one)):sum():backward()
    close(x:grad(), moe.full(3 * (1), 211, 97), 1e-6)
    close(row:grad(), moe.full(211 * (-1), 97), 1e-6)
    close(column:grad(), moe.full(97 * (-1), 211, 1), 1e-6)
    close(one:grad(), { 211 * 97 * (-1) }, 1e-6)
  end)

  it("adds up when one tensor stands on both sides", function()
    local x = moe.tensor({ 2, 4 }):requires_grad()
    f(x, x):sum():backward()
    close(x:grad(), { 0, 0 }, 1e-6)
  end)

  it("refuses shapes that do not fit", function()
    support.rejects(
      "sub: shapes do not fit: [2 x 3] and [2]",
      f,
      moe.ones(2, 3),
      moe.ones(2)
    )
    support.rejects('sub: b must be a tensor or a number, not "x"', f, moe.ones(2), "x")
  end)
end)
