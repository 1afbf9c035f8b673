-- support.lua -- what the specs of the ops share.
local assert = require("luassert")
local moe = require("moelua")
local close = require("spec.helper").close

local support = {}

--- An i32 tensor.
function support.ids(list)
  return moe.tensor(list, "i32")
end

--- Throws unless f(...) fails with exactly this message, apart from the position in front.
function support.rejects(message, f, ...)
  local ok, got = pcall(f, ...)
  if ok then
    error("was accepted, but should say: " .. message, 2)
  end
  got = tostring(got):gsub("^[^\n]-:%d+: ", "")
  if got ~= message then
    error(("says: %s\nbut should say: %s"):format(got, message), 2)
  end
end

--- Gradients of sum(weight * f(...)) for tensors made from the given tables; `weight` as a table.
function support.grads(weight, f, ...)
  local leaves = {}
  for i, values in ipairs({ ... }) do
    leaves[i] = moe.tensor(values):requires_grad()
  end
  (f(table.unpack(leaves)) * moe.tensor(weight)):sum():backward()
  for i, leaf in ipairs(leaves) do
    leaves[i] = leaf:grad()
  end
  return table.unpack(leaves)
end

--- Specs that every function of one number shares, added through the `it` of the spec file.
--- `inputs` are numbers within its domain, `expected` is the same function in Lua, `slope` its
--- derivative.
function support.unary(it, name, inputs, expected, slope)
  local f = moe[name]
  local function mapped(list, g)
    local out = {}
    for i, x in ipairs(list) do
      out[i] = g(x)
    end
    return out
  end
  local function cycled(n)
    local out = {}
    for i = 1, n do
      out[i] = inputs[(i - 1) % #inputs + 1]
    end
    return out
  end

  it("computes every element for lengths around a vector", function()
    for _, n in ipairs({ 1, 2, 7, 16, 17, 31, 33, 67 }) do
      local x = cycled(n)
      close(f(moe.tensor(x)), mapped(x, expected), 2e-6)
    end
  end)

  it("computes more than one block", function()
    local x = cycled(20011)
    close(f(moe.tensor(x)), mapped(x, expected), 2e-6)
  end)

  it("keeps the shape, also of empty tensors and single numbers", function()
    assert.same({ 2, 1, 3 }, f(moe.ones(2, 1, 3)):shape())
    assert.same({ 0, 3 }, f(moe.zeros(0, 3)):shape())
    assert.same({}, f(moe.tensor(1)):shape())
  end)

  it("takes strided input", function()
    local x = moe.tensor(cycled(35)):reshape(5, 7)
    close(f(x:transpose()), f(x):transpose():contiguous(), 0)
  end)

  it("has the derivative of the function", function()
    local x, weight = cycled(19), {}
    for i = 1, #x do
      weight[i] = i % 5 - 2
    end
    local want = mapped(x, slope)
    for i = 1, #x do
      want[i] = want[i] * weight[i]
    end
    close(support.grads(weight, f, x), want, 5e-6)
  end)

  it("keeps NaN", function()
    local y = f(moe.tensor({ 1, 0 / 0, 1 })):totable()
    assert.is_true(y[2] ~= y[2])
    assert.is_true(y[1] == y[1] and y[3] == y[3])
  end)

  it("is a method and refuses what is no tensor", function()
    close(moe.tensor({ 1 })[name](moe.tensor({ 1 })), { expected(1) }, 2e-6)
    support.rejects(name .. ": x must be a tensor, not 3", f, 3)
    support.rejects(
      name .. ": x is i32, but must be f32\nhint: x:to(\"f32\")",
      f,
      support.ids({ 1 })
    )
  end)
end

--- Specs that every function of two operands shares, added through the `it` of the spec file.
--- `expected` is the same function in Lua, which takes tensors as well as numbers; `slope` its
--- derivative by each side at operands that are both x, as a function of x.
function support.binary(it, name, expected, slope)
  local f = moe[name]

  it("combines equal shapes of any length", function()
    for _, n in ipairs({ 1, 5, 16, 17, 33, 9001 }) do
      local a, b, want = {}, {}, {}
      for i = 1, n do
        a[i], b[i] = i % 7 - 3, i % 5 + 1
        want[i] = expected(a[i], b[i])
      end
      close(f(moe.tensor(a), moe.tensor(b)), want, 1e-6)
    end
  end)

  it("takes numbers on either side, and is an operator", function()
    local list = { 1, 2, 4 }
    local right, left = {}, {}
    for i, x in ipairs(list) do right[i], left[i] = expected(x, 2), expected(3, x) end
    local x = moe.tensor(list)
    close(f(x, 2), right, 1e-6)
    close(f(3, x), left, 1e-6)
    close(expected(x, 2), right, 1e-6)
    close(expected(3, x), left, 1e-6)
  end)

  it("repeats dimensions of one, and those that are absent", function()
    local a, b = moe.randn(3, 1, 17), moe.randn(5, 1):exp() + 1
    local y = f(a, b)
    assert.same({ 3, 5, 17 }, y:shape())
    local ta, tb, want = a:totable(), b:totable(), {}
    for i = 1, 3 do
      for j = 1, 5 do
        for k = 1, 17 do
          want[#want + 1] = expected(ta[i][1][k], tb[j][1])
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

  it("sums the gradient of a long row and of many rows", function()
    local x = moe.ones(211, 97):requires_grad()
    local row, column = moe.ones(97):requires_grad(), moe.ones(211, 1):requires_grad()
    local one = moe.tensor(1):requires_grad();
    (f(x, row) + f(x, column) + f(x, one)):sum():backward()
    local left, right = slope(1)
    close(x:grad(), moe.full(3 * left, 211, 97), 1e-6)
    close(row:grad(), moe.full(211 * right, 97), 1e-6)
    close(column:grad(), moe.full(97 * right, 211, 1), 1e-6)
    close(one:grad(), { 211 * 97 * right }, 1e-6)
  end)

  it("adds up when one tensor stands on both sides", function()
    local x, want = moe.tensor({ 2, 4 }):requires_grad(), {}
    f(x, x):sum():backward()
    for i, value in ipairs({ 2, 4 }) do
      local left, right = slope(value)
      want[i] = left + right
    end
    close(x:grad(), want, 1e-6)
  end)

  it("refuses shapes that do not fit", function()
    support.rejects(name .. ": shapes do not fit: [2 x 3] and [2]", f, moe.ones(2, 3), moe.ones(2))
    support.rejects(name .. ': b must be a tensor or a number, not "x"', f, moe.ones(2), "x")
  end)
end

return support
