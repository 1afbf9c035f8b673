local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("gelu", function()
  -- Phi by its series around 0, good to 1e-12 for the inputs used here.
  local function phi(x)
    local term, sum = x, x
    for n = 1, 80 do
      term = -term * x * x / (2 * n)
      sum = sum + term / (2 * n + 1)
    end
    return 0.5 + sum / math.sqrt(2 * math.pi)
  end
  support.unary(it, "gelu", { -3, -1, 0, 0.5, 2.5 }, function(x)
    return x * phi(x)
  end, function(x)
    return phi(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
  end)

  it("keeps its digits where it is tiny", function()
    -- -6 Phi(-6), with Phi(-6) = 9.865876450377e-10
    local y = moe.gelu(moe.tensor({ -6 })):item()
    close(y * 1e9, -6 * 9.865876450377e-1, 1e-5)
  end)
end)
