-- Inputs at the edge of what operations accept.
local moe = require("moelua")
local helper = require("spec.helper")
local close = helper.close

describe("at the edge", function()
  it("sigmoid gates that all underflow are equal and have no gradient", function()
    local logits = moe.full(-200, 1, 4):requires_grad()
    local gates = logits:topk_route(2, "sigmoid")
    close(gates, { 0.5, 0.5 }, 0)
    gates:sum():backward()
    close(logits:grad(), { 0, 0, 0, 0 }, 0)
  end)

  it("moe_ffn refuses tokens without experts", function()
    local nobody = moe.tensor({ {}, {} }, "i32")
    local ok, message = pcall(moe.moe_ffn, moe.ones(2, 3), moe.zeros(2, 0), nobody,
      moe.ones(4, 2, 3), moe.ones(4, 2, 3), moe.ones(4, 3, 2))
    assert.False(ok)
    assert.matches("moe_ffn: every token needs at least one slot: gates are %[2 x 0%]$", message)
  end)

  it("linear of a matrix with itself adds both gradients", function()
    local x = moe.randn(160, 160):requires_grad()
    local a, b = x:clone():requires_grad(), x:clone():requires_grad()
    local weight = moe.randn(160, 160);
    (x:linear(x) * weight):sum():backward();
    (a:linear(b) * weight):sum():backward()
    close(x:grad(), a:grad() + b:grad(), 1e-5)
  end)

  it("a batch of many small products takes time in proportion", function()
    local a, b = moe.randn(50000, 2, 2), moe.randn(50000, 2, 2)
    local began = os.clock()
    local y = a:matmul(b)
    assert.truthy(os.clock() - began < 2 * helper.patience)
    close(y:select(1, 50000), a:select(1, 50000):matmul(b:select(1, 50000)), 1e-6)
  end)

  it("adamw_step refuses moments that are mapped from a file", function()
    local core = require("moelua.core")
    local path = helper.tmpdir() .. "/m.safetensors"
    assert(moe.checkpoint.save(path, { m = moe.zeros(3) }))
    local m = assert(assert(moe.checkpoint.open(path)):tensor("m"))
    local w = moe.ones(3):requires_grad()
    w:sum():backward()
    local ok, message = pcall(core.adamw_step, { w }, { m }, { moe.zeros(3) }, {})
    assert.False(ok)
    assert.truthy(message:find("adamw: a moment [3] is mapped from a file", 1, true), message)
  end)

  it("sizes that no product can take are refused, also where a 0 makes the tensor empty", function()
    local function says(text, f, ...)
      local ok, message = pcall(f, ...)
      assert.False(ok)
      assert.truthy(message:find(text, 1, true), message)
    end
    local huge, limit = 1 << 31, "a matrix of 2147483648 rows or columns is too large"
    says("[0 x 1099511627776 x 1099511627776] is too large", moe.zeros, 0, 1 << 40, 1 << 40)
    says("reshape: [0] has 0 elements and cannot become [0 x 1099511627776 x 1099511627776]",
      moe.reshape, moe.zeros(0), 0, 1 << 40, 1 << 40)
    says("matmul: " .. limit, moe.matmul, moe.zeros(huge, 0), moe.zeros(0, 1))
    says("matmul: " .. limit, moe.matmul, moe.zeros(1, 0), moe.zeros(0, huge))
    says("linear: " .. limit, moe.linear, moe.zeros(huge, 0), moe.zeros(1, 0))
    says("head_cross_entropy: " .. limit, moe.head_cross_entropy, moe.zeros(1, 0),
      moe.zeros(huge, 0), moe.tensor({ 0 }, "i32"))
    local keys = moe.zeros(0, huge, 1, 8)
    says("attention: " .. limit, moe.attention, moe.zeros(0, 1, 1, 8), keys, keys)
    says("moe_ffn: " .. limit, moe.moe_ffn, moe.zeros(1, 0), moe.ones(1, 1),
      moe.tensor({ { 0 } }, "i32"), moe.zeros(1, huge, 0), moe.zeros(1, huge, 0),
      moe.zeros(1, 0, huge))
    local empty = moe.zeros(1 << 40, 0, 0)
    assert.same({ 1 << 40, 0, 0 }, empty:matmul(empty):shape())
  end)
end)
