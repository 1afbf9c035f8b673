local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local DENSITY0 = 0.3989422804014327             -- 1 / sqrt(2 pi)

local function density(x) return DENSITY0 * math.exp(-x * x / 2) end

-- Phi(x) = 1/2 + density(x) (x + x^3/3 + x^5/15 + ...)
local function phi(x)
  local sum, term = 0, x
  for i = 1, 200 do
    sum = sum + term
    term = term * x * x / (2 * i + 1)
  end
  return 0.5 + density(x) * sum
end

describe("normal_cdf", function()
  support.unary(it, "normal_cdf", { -4, -1.5, -0.1, 0, 0.5, 2, 5 }, phi, density)

  it("has known values", function()
    close(moe.tensor({ 0, 1, -1, 1.959963985, -2.326347874 }):normal_cdf(),
      { 0.5, 0.841344746, 0.158655254, 0.975, 0.01 }, 2e-7)
  end)

  it("keeps its digits where it is tiny, and ends at 0 and 1", function()
    local inf = math.huge
    local y = moe.tensor({ -4, -7, -12 }):normal_cdf():totable()
    close({ y[1] / 3.167124183e-5, y[2] / 1.279812544e-12, y[3] / 1.776482112e-33 }, { 1, 1, 1 },
      1e-5)
    close(moe.tensor({ -inf, -1000, 1000, inf }):normal_cdf(), { 0, 0, 1, 1 }, 0)
  end)

  it("has no slope at the ends", function()
    local x = moe.tensor({ -1000, 1000, -math.huge }):requires_grad()
    x:normal_cdf():sum():backward()
    close(x:grad(), { 0, 0, 0 }, 0)
  end)
end)
