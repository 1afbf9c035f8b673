-- The balanced assignment against all assignments there are, and where these are too many, against
-- all ways to exchange tokens.
local moe = require("moelua")
local core = require("moelua.core")
local support = require("spec.ops.support")

local function draw(bound, ...) return core.uniform(7, table.concat({ ... }, " "), 0, bound) end

-- Scores [T][N] by draw(t, e).
local function scores_of(T, N, f)
  local scores = {}
  for t = 1, T do
    scores[t] = {}
    for e = 1, N do scores[t][e] = f(t, e) end
  end
  return scores
end

local function assign(scores)
  local homes = {}
  for t, row in ipairs(moe.tensor(scores):balanced_assignment():totable()) do homes[t] = row[1] end
  return homes
end

local function total(scores, homes)
  local sum = 0
  for t, e in ipairs(homes) do sum = sum + scores[t][e + 1] end
  return sum
end

local function counts(homes, N)
  local n = {}
  for e = 1, N do n[e] = 0 end
  for _, e in ipairs(homes) do n[e + 1] = n[e + 1] + 1 end
  return n
end

local function check_balanced(homes, N)
  for _, n in ipairs(counts(homes, N)) do
    assert.is_true(n == #homes // N or n == (#homes + N - 1) // N,
      ("%d of %d tokens for one of %d experts"):format(n, #homes, N))
  end
end

-- The largest sum of scores over all balanced assignments, by trying each.
local function best_total(scores, N)
  local T, n, best = #scores, {}, -math.huge
  local most, over = (T + N - 1) // N, T % N
  for e = 1, N do n[e] = 0 end
  local function place(t, sum, full)
    if t > T then
      best = math.max(best, sum)
      return
    end
    for e = 1, N do
      local fills = over > 0 and n[e] == most - 1
      if n[e] < most and not (fills and full == over) then
        n[e] = n[e] + 1
        place(t + 1, sum + scores[t][e], full + (fills and 1 or 0))
        n[e] = n[e] - 1
      end
    end
  end
  place(1, 0, 0)
  return best
end

-- Whether passing tokens on in a circle, or the places that only some experts have, gains anything.
-- An assignment is the best one if nothing does: then the graph has no negative cycle.
local function can_gain(scores, homes, N)
  local edge, n, least = {}, counts(homes, N), #homes // N
  for i = 1, N + 1 do
    edge[i] = {}
    for j = 1, N + 1 do edge[i][j] = math.huge end
  end
  for t, e in ipairs(homes) do
    for j = 1, N do
      edge[e + 1][j] = math.min(edge[e + 1][j], scores[t][e + 1] - scores[t][j])
    end
  end
  for e = 1, N do
    if n[e] == least then edge[e][N + 1] = 0 else edge[N + 1][e] = 0 end
  end
  for k = 1, N + 1 do             -- all shortest paths (Floyd)
    for i = 1, N + 1 do
      for j = 1, N + 1 do edge[i][j] = math.min(edge[i][j], edge[i][k] + edge[k][j]) end
    end
  end
  for i = 1, N + 1 do
    if edge[i][i] < 0 then return true end
  end
  return false
end

-- How scores are drawn: whole numbers, so that sums are exact, with many ties or with few.
local laws = {
  ["of few values"] = function(case) return function(t, e) return draw(3, case, t, e) - 1 end end,
  ["of many values"] = function(case)
    return function(t, e) return draw(1 << 20, case, t, e) - (1 << 19) end
  end,
  ["by a favourite of all"] = function(case)
    return function(t, e) return draw(8, case, t, e) + 5 * (e == 2 and 1 or 0) end
  end,
}

describe("balanced_assignment", function()
  for name, law in pairs(laws) do
    it("is the best of all for scores " .. name, function()
      for case = 1, 300 do
        local T, N = draw(8, case, "T"), 1 + draw(4, case, "N")
        local scores = scores_of(T, N, law(case))
        local homes = T > 0 and assign(scores) or {}
        check_balanced(homes, N)
        assert.equal(best_total(scores, N), total(scores, homes), "case " .. case)
      end
    end)

    it("cannot be improved by any exchange, for scores " .. name, function()
      for case, size in ipairs({ { 100, 7 }, { 203, 10 }, { 64, 16 }, { 40, 40 }, { 9, 20 } }) do
        local scores = scores_of(size[1], size[2], law("large " .. case))
        local homes = assign(scores)
        check_balanced(homes, size[2])
        assert.is_false(can_gain(scores, homes, size[2]))
      end
    end)
  end

  it("is proved by an exchange that does gain", function()
    assert.is_true(can_gain({ { 0, 1 }, { 1, 0 } }, { 0, 1 }, 2))
    assert.is_true(can_gain({ { 0, 0 }, { 0, 0 }, { 0, 3 } }, { 0, 1, 0 }, 2))
  end)

  it("prefers low experts and early tokens where it makes no difference", function()
    local function zeros(T, N) return scores_of(T, N, function() return 0 end) end
    assert.same({ 0, 1, 2 }, assign(zeros(3, 3)))
    assert.same({ 0, 0, 1, 1, 2 }, assign(zeros(5, 3)))
    assert.same({ 0, 1 }, assign(zeros(2, 4)))
    assert.same({ 1, 0, 0, 1 }, assign({ { 0, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 } }))
  end)

  it("gives every token its favourite where that is balanced", function()
    local scores = scores_of(12, 4, function(t, e) return t * 7 % 4 == e - 1 and 1 or 0 end)
    local homes = assign(scores)
    for t = 1, 12 do assert.equal(t * 7 % 4, homes[t]) end
  end)

  it("does not depend on what is added to the scores of a token", function()
    local x = moe.randn(60, 6, { seed = 1 })
    local shifts = (moe.rand(60, 1, { seed = 2 }) * 8):to("i32"):to("f32")
    local scores = (x * 64):to("i32"):to("f32")
    assert.same(scores:balanced_assignment():totable(),
      (scores + shifts):balanced_assignment():totable())
  end)

  it("weighs scores of any size", function()
    local x = { { 1, 2 }, { 1, 3 } }
    for _, scale in ipairs({ 1e-38, 1, 1e38 }) do
      assert.same({ { 0 }, { 1 } }, (moe.tensor(x) * scale):balanced_assignment():totable())
    end
  end)

  it("takes one expert, no token and strided scores", function()
    assert.same({ { 0 }, { 0 }, { 0 } }, moe.ones(3, 1):balanced_assignment():totable())
    assert.same({ 0, 1 }, moe.zeros(0, 3):balanced_assignment():shape())
    local x = moe.randn(8, 4, { seed = 1 })
    local twice = x:transpose():contiguous():transpose()
    assert.same(x:balanced_assignment():totable(), twice:balanced_assignment():totable())
    assert.equal("i32", x:balanced_assignment():dtype())
  end)

  it("has no gradient", function()
    assert.is_false(moe.ops.balanced_assignment.differentiable)
  end)

  it("refuses NaN and infinities, and what does not fit", function()
    local function says(text, ...)
      support.rejects("balanced_assignment: " .. text, moe.balanced_assignment, ...)
    end
    says("the logit of token 2 for expert 1 is NaN", moe.tensor({ { 1, 2 }, { 0 / 0, 2 } }))
    says("the logit of token 1 for expert 2 is infinite", moe.tensor({ { 1, 1 / 0 } }))
    says("the logit of token 1 for expert 2 is -infinite, " ..
      "but any expert may have to take any token", moe.tensor({ { 1, -1 / 0 } }))
    says("scores must have 2 dimensions, not [3]", moe.ones(3))
    says("1 to 4096 experts, not 0", moe.ones(3, 0))
    says("1 to 4096 experts, not 4097", moe.zeros(1, 4097))
  end)
end)
