local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local ids = support.ids
local policies = { "position", "choice", "probability" }

-- The slots {t, s} of tokens first .. last in the order of a policy.
local function queue(policy, gates, first, last)
  local list = {}
  for t = first, last do
    for s = 1, #gates[t] do list[#list + 1] = { t, s } end
  end
  table.sort(list, function(a, b)
    local x, y = gates[a[1]][a[2]], gates[b[1]][b[2]]
    if policy == "probability" and x ~= y then return x > y end
    if policy == "choice" and a[2] ~= b[2] then return a[2] < b[2] end
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
  end)
  return list
end

local function reference(gates, experts, capacity, policy, segments)
  local length, left, kept = #gates // segments, {}, {}
  for t, row in ipairs(experts) do
    left[t], kept[t] = {}, {}
    for s = 1, #row do left[t][s], kept[t][s] = -1, 0 end
  end
  for segment = 1, segments do
    local used = {}
    for _, slot in ipairs(queue(policy, gates, (segment - 1) * length + 1, segment * length)) do
      local t, s = slot[1], slot[2]
      local e = experts[t][s]
      used[e] = (used[e] or 0) + 1
      if e >= 0 and used[e] <= capacity then left[t][s], kept[t][s] = e, 1 end
    end
  end
  return left, kept
end

describe("capacity_route", function()
  for _, policy in ipairs(policies) do
    describe("by " .. policy, function()
      it("leaves what comes first to each expert, in each segment", function()
        for _, size in ipairs({ { 1, 1, 1, 1, 1 }, { 12, 4, 2, 3, 2 }, { 300, 7, 3, 1, 40 },
          { 300, 5, 2, 4, 9 }, { 33, 3, 1, 1, 0 } }) do
          local T, N, k, segments, capacity = table.unpack(size)
          local gates, experts = moe.randn(T, N, { seed = 1 }):topk_route(k, "all")
          local want, want_kept = reference(gates:totable(), experts:totable(), capacity, policy,
            segments)
          local left, kept = gates:capacity_route(experts, capacity, policy, segments)
          assert.same(want, left:totable())
          close(kept, want_kept, 0)
          assert.equal("i32", left:dtype())
          assert.is_true(left:bincount(N):max():item() <= capacity * segments)
        end
      end)

      it("changes nothing when every expert could take all", function()
        local gates, experts = moe.randn(50, 4, { seed = 1 }):topk_route(2)
        local left, kept = gates:capacity_route(experts, 50, policy)
        assert.same(experts:totable(), left:totable())
        close(kept, moe.ones(50, 2), 0)
      end)

      it("passes over slots that are not used: they take no place", function()
        local gates = moe.tensor({ { 9, 1 }, { 8, 1 }, { 7, 1 } })
        local experts = ids({ { -1, 0 }, { 0, -1 }, { -1, -1 } })
        local left, kept = gates:capacity_route(experts, 2, policy)
        assert.same(experts:totable(), left:totable())
        close(kept, { { 0, 1 }, { 1, 0 }, { 0, 0 } }, 0)
      end)

      it("takes no tokens, no slots, and strided tensors", function()
        assert.same({ 0, 2 }, moe.zeros(0, 2):capacity_route(ids({ { 1, 2 } }):narrow(1, 1, 0), 3,
          policy):shape())
        local gates, experts = moe.randn(40, 4, { seed = 1 }):topk_route(3)
        local left = gates:narrow(2, 1, 2):capacity_route(experts:narrow(2, 1, 2), 9, policy)
        assert.same(gates:narrow(2, 1, 2):contiguous()
          :capacity_route(experts:narrow(2, 1, 2):contiguous(), 9, policy):totable(),
          left:totable())
      end)
    end)
  end

  it("tells the policies apart", function()
    local gates = moe.tensor({ { 0.6, 0.4 }, { 0.7, 0.3 }, { 0.9, 0.1 } })
    local experts = ids({ { 1, 0 }, { 2, 1 }, { 0, 1 } })
    local function left(policy)
      return (gates:capacity_route(experts, 1, policy)):totable()
    end
    assert.same({ { 1, 0 }, { 2, -1 }, { -1, -1 } }, left("position"))
    assert.same({ { 1, -1 }, { 2, -1 }, { 0, -1 } }, left("choice"))
    gates = moe.tensor({ { 0.3, 0.2 }, { 0.7, 0.4 }, { 0.1, 0.5 } })
    assert.same({ { -1, 0 }, { 2, -1 }, { -1, 1 } }, left("probability"))
    assert.same(left("position"), (gates:capacity_route(experts, 1)):totable())
  end)

  it("takes the earlier of equal gates", function()
    local gates, experts = moe.ones(4, 1), ids({ { 0 }, { 0 }, { 0 }, { 0 } })
    local left = gates:capacity_route(experts, 2, "probability")
    assert.same({ { 0 }, { 0 }, { -1 }, { -1 } }, left:totable())
  end)

  -- Causality: only "position" decides about a token without looking at later ones.
  it("lets no later token change an earlier one, by position", function()
    local gates, experts = moe.randn(60, 4, { seed = 1 }):topk_route(2, "all")
    local early = { gates:narrow(1, 1, 30), experts:narrow(1, 1, 30) }
    local function differs(policy)
      local all = gates:capacity_route(experts, 11, policy)
      local some = early[1]:capacity_route(early[2], 11, policy)
      return (all:narrow(1, 1, 30):to("f32") - some:to("f32")):pow(2):sum():item() > 0
    end
    assert.is_false(differs("position"))
    assert.is_true(differs("choice"))
    assert.is_true(differs("probability"))
  end)

  it("has no gradient", function()
    local gates, experts = moe.randn(5, 3):requires_grad():topk_route(2)
    local _, kept = gates:capacity_route(experts, 2)
    assert.is_false(moe.ops.capacity_route.differentiable);
    (gates * kept):sum():backward()
  end)

  it("has nothing to do without tokens, in however many segments", function()
    local gates, experts = moe.zeros(0, 3):topk_route(2)
    for _, segments in ipairs({ 1, 1 << 40 }) do
      local left, kept = gates:capacity_route(experts, 1, "position", segments)
      assert.same({ 0, 2 }, left:shape())
      assert.same({ 0, 2 }, kept:shape())
    end
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("capacity_route: " .. text, moe.capacity_route, ...)
    end
    local gates, experts = moe.ones(2, 1), ids({ { 0 }, { 2 } })
    says("gates must have 2 dimensions, not [2]", moe.ones(2), experts, 1)
    says("gates and experts differ: [2 x 1] and [2]", gates, ids({ 0, 2 }), 1)
    says("gates and experts differ: [1 x 2] and [2 x 1]", moe.ones(1, 2), experts, 1)
    says("capacity must not be negative: -1", gates, experts, -1)
    says('policy must be one of "position", "choice", "probability", not "first"', gates, experts,
      1, "first")
    says("2 tokens do not make 3 segments of equal length", gates, experts, 1, "choice", 3)
    says("2 tokens do not make 0 segments of equal length", gates, experts, 1, "choice", 0)
    says("experts has 4096 at position 1, but must be 0 to 4095", gates, ids({ { 4096 }, { 0 } }),
      1)
    says("experts has -2 at position 2, but must be 0 to 4095", gates, ids({ { 0 }, { -2 } }), 1)
  end)
end)
