local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("contiguous", function()
  it("copies into row-major order", function()
    local x = moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } })
    local y = x:transpose():contiguous()
    assert.is_true(y:is_contiguous())
    assert.same({ { 1, 4 }, { 2, 5 }, { 3, 6 } }, y:totable())
    x:fill_(0)
    close(y, { 1, 4, 2, 5, 3, 6 }, 0)
  end)

  it("copies slices of large tensors", function()
    local x = moe.arange(300 * 70):reshape(300, 70)
    local y = x:transpose():narrow(1, 11, 50):contiguous():totable()
    for i = 1, 50 do
      for j = 1, 300 do
        if y[i][j] ~= (j - 1) * 70 + i + 9 then
          assert.equal((j - 1) * 70 + i + 9, y[i][j])
        end
      end
    end
  end)

  it("copies i32, single numbers and nothing", function()
    local ids = support.ids({ { 1, 2 }, { 3, 4 } }):transpose():contiguous()
    assert.equal("i32", ids:dtype())
    assert.same({ { 1, 3 }, { 2, 4 } }, ids:totable())
    assert.equal(7, moe.tensor(7):contiguous():item())
    assert.same({ 3, 0 }, moe.zeros(0, 3):transpose():contiguous():shape())
  end)

  it("passes the gradient on", function()
    local function f(t)
      return t:transpose():contiguous()
    end
    close(support.grads({ { 1, 2 }, { 3, 4 } }, f, { { 0, 0 }, { 0, 0 } }), { 1, 3, 2, 4 }, 0)
  end)
end)
