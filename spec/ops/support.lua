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

return support
