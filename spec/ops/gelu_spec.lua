local moe = require("moelua")
local phi = require("spec.ops.experts").phi
local support = require("spec.ops.support")

describe("gelu", function()
  support.unary(it, "gelu", { -3, -1, 0, 0.5, 2.5 }, function(x)
    return x * phi(x)
  end, function(x)
    return phi(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
  end)

  it("keeps its digits where it is tiny, one fewer with every factor of ten in x^2", function()
    local n, at = 4001, {}
    for i = 1, n do at[i] = moe.tensor({ (i - 1) / 200 - 13 }):item() end      -- -13 to 7, as f32
    local y = moe.tensor(at):gelu():totable()
    for i, x in ipairs(at) do
      local want = x * phi(x)
      assert(math.abs(y[i] - want) <= math.abs(want) * 1e-7 * (6 + x * x),
        ("gelu(%.9g) is %.9g, not %.9g"):format(x, y[i], want))
    end
  end)

  it("ends in 0 and in x, and lets NaN through", function()
    local y = moe.tensor({ -40, -1e30, 40, 1e30, 0 / 0 }):gelu():totable()
    for i, want in ipairs({ 0, 0, 40 }) do assert.equal(want, y[i]) end
    assert(y[4] > 0.99e30 and y[4] < 1.01e30)
    assert(y[5] ~= y[5])
  end)
end)
