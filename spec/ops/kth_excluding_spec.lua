local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

-- Where the k-th largest stands among the elements of a row other than i; the first of equals.
local function place(row, k, i)
  local others = {}
  for j = 1, #row do
    if j ~= i then others[#others + 1] = j end
  end
  table.sort(others, function(a, b) return row[a] > row[b] or row[a] == row[b] and a < b end)
  return others[k]
end

describe("kth_excluding", function()
  it("gives the k-th largest of the others, and sends the gradient to it", function()
    for _, size in ipairs({ { 1, 2, 1 }, { 5, 4, 3 }, { 300, 7, 2 }, { 3, 65, 1 },
      { 2, 65, 64 } }) do
      local T, N, k = table.unpack(size)
      local x, weight = moe.randn(T, N, { seed = 1 }), moe.randn(T, N, { seed = 2 })
      local rows, w, want, slope = x:totable(), weight:totable(), {}, {}
      for t = 1, T do
        want[t], slope[t] = {}, {}
        for i = 1, N do slope[t][i] = 0 end
        for i = 1, N do
          local at = place(rows[t], k, i)
          want[t][i] = rows[t][at]
          slope[t][at] = slope[t][at] + w[t][i]
        end
      end
      x:requires_grad()
      local y = x:kth_excluding(k)
      close(y, want, 0);
      (y * weight):sum():backward()
      close(x:grad(), slope, 1e-5)
    end
  end)

  it("is exceeded by exactly the k largest", function()
    local x = moe.randn(100, 9, { seed = 1 })
    local y = x:kth_excluding(3)
    local above = ((x - y):relu() * 1e30):totable()
    local _, experts = x:topk_route(3)
    local chosen = experts:totable()
    for t, row in ipairs(above) do
      local count = 0
      for i = 1, 9 do count = count + (row[i] > 0 and 1 or 0) end
      assert.equal(3, count)
      for _, e in ipairs(chosen[t]) do assert.is_true(row[e + 1] > 0) end
    end
  end)

  it("gives the same number for equal logits, and stands -inf", function()
    close(moe.tensor({ { 2, 2, 2, 1 } }):kth_excluding(2), { { 2, 2, 2, 2 } }, 0)
    close(moe.tensor({ { 3, -math.huge, 1 } }):kth_excluding(2),
      { { -math.huge, 1, -math.huge } }, 0)
    assert.same({ 0, 3 }, moe.zeros(0, 3):kth_excluding(1):shape())
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("kth_excluding: " .. text, moe.kth_excluding, ...)
    end
    says("logits must have 2 dimensions, not [3]", moe.ones(3), 1)
    says("k must be 1 to the number of other logits: 0 of 2", moe.ones(2, 3), 0)
    says("k must be 1 to the number of other logits: 3 of 2", moe.ones(2, 3), 3)
    says("at most 4096 experts, not 4097", moe.zeros(1, 4097), 1)
    says("the logit of token 1 for expert 2 is NaN", moe.tensor({ { 1, 0 / 0, 2 } }), 1)
  end)
end)
