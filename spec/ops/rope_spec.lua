local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("rope", function()
  --- The definition, element by element.
  local function expected(x, theta, offset, frequencies, factor)
    local out = {}
    for b, batch in ipairs(x:totable()) do
      out[b] = {}
      for t, position in ipairs(batch) do
        out[b][t] = {}
        for h, head in ipairs(position) do
          local half, y = #head // 2, {}
          for i = 1, half do
            local frequency = frequencies and frequencies[i] or theta ^ (-(i - 1) / half)
            local angle, long = (t - 1 + offset) * frequency, factor or 1
            local c, s = long * math.cos(angle), long * math.sin(angle)
            y[i] = head[i] * c - head[i + half] * s
            y[i + half] = head[i + half] * c + head[i] * s
          end
          out[b][t][h] = y
        end
      end
    end
    return out
  end

  it("turns the pairs (i, i + D/2) by position", function()
    for _, d in ipairs({ 2, 6, 32, 34 }) do
      local x = moe.randn(2, 7, 3, d)
      close(moe.rope(x), expected(x, 10000, 0), 2e-6)
      close(moe.rope(x, 500, 11), expected(x, 500, 11), 2e-6)
    end
  end)

  it("turns by given frequencies, and makes longer", function()
    local list = { 1, 0.3125, 0, 0.125 }
    local x, frequencies = moe.randn(2, 7, 3, 8), moe.tensor(list)
    close(moe.rope(x, 10000, 3, nil, frequencies), expected(x, 1, 3, list), 2e-6)
    close(moe.rope(x, 10000, 3, nil, frequencies, 1.5), expected(x, 1, 3, list, 1.5), 3e-6)
    close(moe.rope(x, 10000, 3, nil, nil, 0.5), expected(x, 10000, 3, nil, 0.5), 2e-6)
    local weight = moe.randn(1, 5, 2, 8)
    local dx = support.grads(weight:totable(), function(y)
      return moe.rope(y, 1, 0, nil, frequencies, 1.5)
    end, moe.zeros(1, 5, 2, 8):totable())
    close(moe.rope(dx, 1, 0, nil, frequencies, 1 / 1.5), weight, 1e-6)
  end)

  it("keeps its digits far away from the start", function()
    local x = moe.randn(1, 2, 1, 8)
    close(moe.rope(x, 1e6, 1000000), expected(x, 1e6, 1000000), 2e-6)
  end)

  it("continues where a cached part ended", function()
    local x = moe.randn(1, 9, 2, 4)
    local whole = moe.rope(x)
    close(moe.rope(x:narrow(2, 6, 4), 10000, 5), whole:narrow(2, 6, 4):contiguous(), 1e-6)
  end)

  it("leaves position 0 alone, keeps lengths and takes nothing", function()
    local x = moe.randn(1, 1, 2, 4)
    close(moe.rope(x), x, 0)
    local long = moe.randn(1, 50, 1, 2)
    close(moe.rope(long):pow(2):sum(-1), long:pow(2):sum(-1), 1e-5)
    assert.same({ 0, 3, 1, 2 }, moe.rope(moe.zeros(0, 3, 1, 2)):shape())
  end)

  it("turns the gradient back", function()
    local weight = moe.randn(1, 5, 2, 6)
    local dx = support.grads(weight:totable(), moe.rope, moe.zeros(1, 5, 2, 6):totable())
    close(moe.rope(dx), weight, 1e-6)
  end)

  it("refuses what it cannot turn", function()
    local function says(text, ...)
      support.rejects("rope: " .. text, moe.rope, ...)
    end
    says("x must have 4 dimensions, not [2 x 3 x 4]", moe.ones(2, 3, 4))
    says("the size of a head must be even: [1 x 2 x 3 x 5]", moe.ones(1, 2, 3, 5))
    says("theta must be positive: 0", moe.ones(1, 1, 1, 2), 0)
    says("offset must not be negative: -1", moe.ones(1, 1, 1, 2), 10000, -1)
    local x = moe.ones(1, 1, 1, 4)
    says("one frequency per pair is needed: frequencies [3] and x [1 x 1 x 1 x 4]", x, 1, 0, nil,
      moe.ones(3))
    says("frequencies have no gradients\nhint: frequencies:detach()", x, 1, 0, nil,
      moe.ones(2):requires_grad())
    says("factor must be positive and finite: 0", x, 1, 0, nil, nil, 0)
    says("factor must be positive and finite: inf", x, 1, 0, nil, nil, math.huge)
  end)
end)
