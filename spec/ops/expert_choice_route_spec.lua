-- Expert choice against a selection by sorting, in groups by sequence and by position.
local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local function softmax(row)
  local top, sum, p = math.max(table.unpack(row)), 0, {}
  for e, l in ipairs(row) do
    p[e] = math.exp(l - top)
    sum = sum + p[e]
  end
  for e = 1, #p do p[e] = p[e] / sum end
  return p
end

-- Lists of rows (from 1) that are chosen among together.
local function groups(B, S, over)
  local list = {}
  for b = 1, B do
    for i = 1, S do
      local g = over == "sequence" and b or i
      list[g] = list[g] or {}
      table.insert(list[g], (b - 1) * S + i)
    end
  end
  return list
end

-- chosen[t][e] of scores [T][N]
local function select_by_sorting(scores, list, N, capacity)
  local chosen = {}
  for t = 1, #scores do chosen[t] = {} end
  for _, group in ipairs(list) do
    for e = 1, N do
      local order = table.move(group, 1, #group, 1, {})
      table.sort(order, function(a, b)
        return scores[a][e] > scores[b][e] or scores[a][e] == scores[b][e] and a < b
      end)
      for i = 1, capacity do chosen[order[i]][e] = true end
    end
  end
  return chosen
end

local cases = {
  -- B, S, N, capacity
  { 1, 1, 1, 1 }, { 2, 7, 3, 2 }, { 7, 2, 3, 2 }, { 3, 40, 5, 40 }, { 40, 3, 17, 1 },
  { 5, 33, 33, 4 }, { 4, 4, 2, 3 },
}

describe("expert_choice_route", function()
  for _, over in ipairs({ "sequence", "batch" }) do
    describe("over the " .. over, function()
      it("takes the best tokens of every group for each expert", function()
        for _, case in ipairs(cases) do
          local B, S, N, capacity = table.unpack(case)
          capacity = math.min(capacity, over == "batch" and B or S)
          local logits = moe.randn(B, S, N, { seed = 1 })
          local gates, experts = logits:expert_choice_route(capacity, over)
          local scores = logits:softmax(-1):reshape(B * S, N):totable()
          local chosen = select_by_sorting(scores, groups(B, S, over), N, capacity)
          local want_gates, want = {}, {}
          for t = 1, B * S do
            want[t], want_gates[t] = {}, {}
            for e = 1, N do
              want[t][e] = chosen[t][e] and e - 1 or -1
              want_gates[t][e] = chosen[t][e] and scores[t][e] or 0
            end
          end
          assert.same(want, experts:totable())
          close(gates, want_gates, 0)
          assert.equal("i32", experts:dtype())
        end
      end)

      it("loads every expert exactly", function()
        local B, S, N, capacity = 6, 9, 4, 3
        local _, experts = moe.randn(B, S, N, { seed = 2 }):expert_choice_route(capacity, over)
        local each = capacity * (over == "batch" and S or B)
        close(experts:bincount(N), { each, each, each, each }, 0)
      end)

      it("has the closed-form gradient", function()
        local B, S, N, capacity = 5, 60, 4, 3
        local logits = moe.randn(B, S, N, { seed = 3 }):requires_grad()
        local a = moe.randn(B * S, N, { seed = 4 })
        local gates, experts = logits:expert_choice_route(capacity, over);
        (gates * a):sum():backward()
        local want, weights, chosen = {}, a:totable(), experts:totable()
        for t, row in ipairs(logits:detach():reshape(-1, N):totable()) do
          local p, mean = softmax(row), 0
          for e = 1, N do mean = mean + (chosen[t][e] >= 0 and p[e] * weights[t][e] or 0) end
          want[t] = {}
          for e = 1, N do
            want[t][e] = p[e] * ((chosen[t][e] >= 0 and weights[t][e] or 0) - mean)
          end
        end
        close(logits:grad():reshape(-1, N), want, 1e-6)
      end)

      it("prefers the first of equal tokens", function()
        local _, experts = moe.zeros(3, 3, 2):expert_choice_route(2, over)
        local want = {}
        for b = 1, 3 do
          for i = 1, 3 do
            local place = over == "batch" and b or i
            want[#want + 1] = place <= 2 and { 0, 1 } or { -1, -1 }
          end
        end
        assert.same(want, experts:totable())
      end)
    end)
  end

  it("chooses padding when nothing else is left", function()
    local logits = moe.randn(2, 3, 2, { seed = 7 })
    local mask = moe.tensor({ 0, 1, 1, 1, 0, 0 })
    local p = logits:softmax(-1):reshape(-1, 2):totable()
    local function chosen(over)
      local gates, experts = logits:expert_choice_route(over == "batch" and 1 or 2, over, mask)
      local used = {}
      for t, row in ipairs(experts:totable()) do
        for e = 1, 2 do close(gates:totable()[t][e], row[e] >= 0 and p[t][e] or 0, 0) end
        used[t] = row[1] >= 0
      end
      return used
    end
    assert.same({ false, true, true, true }, table.move(chosen("sequence"), 1, 4, 1, {}))
    assert.same({ false, true, true, true, false, false }, chosen("batch"))
  end)

  it("chooses within the sequence when nothing is said", function()
    local logits = moe.randn(3, 5, 2, { seed = 1 })
    assert.same(select(2, logits:expert_choice_route(2, "sequence")):totable(),
      select(2, logits:expert_choice_route(2)):totable())
  end)

  it("over the batch, does not depend on other positions; over the sequence, on other sequences",
    function()
      local logits = moe.randn(4, 6, 3, { seed = 5 })
      local function alone(part, over, capacity)
        return select(2, part:contiguous():expert_choice_route(capacity, over)):totable()
      end
      local _, by_position = logits:expert_choice_route(2, "batch")
      local head = {}
      for b = 1, 4 do
        for i = 1, 3 do head[#head + 1] = by_position:totable()[(b - 1) * 6 + i] end
      end
      assert.same(head, alone(logits:narrow(2, 1, 3), "batch", 2))
      local _, by_sequence = logits:expert_choice_route(2, "sequence")
      assert.same(table.move(by_sequence:totable(), 7, 12, 1, {}),
        alone(logits:narrow(1, 2, 1), "sequence", 2))
    end)

  it("takes strided and empty input, and -inf for experts that are ruled out", function()
    local logits = moe.randn(4, 3, 5, { seed = 6 })
    local twice = logits:transpose(1, 2):contiguous():transpose(1, 2)
    close(twice:expert_choice_route(2), logits:expert_choice_route(2), 0)
    local gates, experts = moe.zeros(0, 3, 2):expert_choice_route(2)
    assert.same({ 0, 2 }, gates:shape())
    assert.same({ 0, 2 }, experts:shape())
    local inf = 1 / 0
    gates, experts = moe.tensor({ { { -inf, 0 }, { 0, -inf }, { -inf, -inf } } })
      :expert_choice_route(2)
    close(gates, { { 0, 1 }, { 1, 0 }, { 0.5, 0.5 } }, 0)
    assert.same({ { -1, 1 }, { 0, -1 }, { 0, 1 } }, experts:totable())
  end)

  it("refuses NaN, and what does not fit", function()
    local function says(text, ...)
      support.rejects("expert_choice_route: " .. text, moe.expert_choice_route, ...)
    end
    says("the logit of token 3 for expert 2 is NaN",
      moe.tensor({ { { 1, 2 }, { 3, 4 } }, { { 5, 0 / 0 }, { 7, 8 } } }), 1)
    says("the logit of token 1 for expert 1 is infinite", moe.tensor({ { { 1 / 0, 2 } } }), 1)
    says("logits must have 3 dimensions, not [2 x 3]", moe.ones(2, 3), 1)
    says("capacity must be 1 to the number of tokens of a sequence: 0 of 3", moe.ones(2, 3, 4), 0)
    says("capacity must be 1 to the number of tokens of a sequence: 4 of 3", moe.ones(2, 3, 4), 4)
    says("capacity must be 1 to the number of tokens of a position: 3 of 2", moe.ones(2, 3, 4), 3,
      "batch")
    says("mask must have one number for each of 6 tokens, not [5]", moe.ones(2, 3, 4), 1,
      "sequence", moe.ones(5))
    says('over must be one of "sequence", "batch", not "group"', moe.ones(2, 3, 4), 1, "group")
  end)
end)
