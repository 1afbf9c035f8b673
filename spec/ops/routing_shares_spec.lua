local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local ids = support.ids
local forms = { "btx", "switch", "gshard", "deepseek" }

-- What token t adds to the share of expert e (from 0).
local function use(form, gates, experts, e)
  local sum = 0
  for slot, expert in ipairs(experts) do
    if expert == e and (form ~= "gshard" or slot == 1) then
      sum = sum + (form == "btx" and gates[slot] or form == "deepseek" and 1 / #experts or 1)
    end
  end
  return sum
end

-- u and p of each segment, and how many tokens of it count.
local function reference(scores, gates, experts, form, segments, mask)
  local length, u, p, counted = #scores // segments, {}, {}, {}
  for s = 1, segments do
    u[s], p[s], counted[s] = {}, {}, 0
    for t = (s - 1) * length + 1, s * length do counted[s] = counted[s] + mask[t] end
    for e = 1, #scores[1] do
      u[s][e], p[s][e] = 0, 0
      for t = (s - 1) * length + 1, s * length do
        if mask[t] == 1 then
          u[s][e] = u[s][e] + use(form, gates[t], experts[t], e - 1) / counted[s]
          p[s][e] = p[s][e] + scores[t][e] / counted[s]
        end
      end
    end
  end
  return u, p, counted
end

-- Every third token does not count, and of every seventh the last slot is not used.
local function routing(T, N, k)
  local logits = moe.randn(T, N, { seed = 1 })
  local gates, experts = logits:topk_route(k)
  gates = gates * moe.rand(T, k, { seed = 2 })              -- need not sum to one
  experts = experts:totable()
  local mask = {}
  for t = 1, T do
    mask[t] = t % 3 == 0 and 0 or 1
    if t % 7 == 0 then experts[t][k] = -1 end
  end
  return logits:softmax(-1), gates, ids(experts), mask
end

describe("routing_shares", function()
  for _, form in ipairs(forms) do
    it(form .. " gives the shares of the experts and their mean scores, of each segment",
      function()
        for _, size in ipairs({ { 1, 1, 1, 1 }, { 10, 3, 2, 5 }, { 602, 19, 4, 1 },
          { 600, 5, 3, 2 }, { 4, 33, 1, 1 } }) do
          local T, N, k, segments = table.unpack(size)
          local scores, gates, experts, mask = routing(T, N, k)
          local u, p = reference(scores:totable(), gates:totable(), experts:totable(), form,
            segments, mask)
          local got_u, got_p = scores:routing_shares(gates, experts, form, segments,
            moe.tensor(mask))
          assert.same({ segments, N }, got_u:shape())
          close(got_u, u, 1e-6)
          close(got_p, p, 1e-6)
        end
      end)

    it(form .. " sends gradient to the scores, and to the gates in the form of btx", function()
      local T, N, k, segments = 602, 7, 3, 2
      local scores, gates, experts, mask = routing(T, N, k)
      local a, b = moe.randn(segments, N, { seed = 3 }), moe.randn(segments, N, { seed = 4 })
      scores:requires_grad()
      gates:requires_grad()
      local u, p = scores:routing_shares(gates, experts, form, segments, moe.tensor(mask));
      ((u * a):sum() + (p * b):sum()):backward()
      local _, _, counted = reference(scores:totable(), gates:totable(), experts:totable(), form,
        segments, mask)
      local by_score, by_gate, as, bs, chosen = {}, {}, a:totable(), b:totable(), experts:totable()
      for t = 1, T do
        local s = (t - 1) // (T // segments) + 1
        by_score[t], by_gate[t] = {}, {}
        for e = 1, N do by_score[t][e] = mask[t] * bs[s][e] / counted[s] end
        for i, e in ipairs(chosen[t]) do
          by_gate[t][i] = form == "btx" and e >= 0 and mask[t] * as[s][e + 1] / counted[s] or 0
        end
      end
      close(scores:grad(), by_score, 1e-7)
      close(gates:grad(), by_gate, 1e-7)
    end)
  end

  it("counts all tokens without a mask, or with one of ones in any shape", function()
    local scores, gates, experts = routing(30, 4, 2)
    for _, form in ipairs(forms) do
      local u, p = scores:routing_shares(gates, experts, form)
      local same_u, same_p = scores:routing_shares(gates, experts, form, 1, moe.ones(5, 6))
      close(same_u, u, 0)
      close(same_p, p, 0)
    end
  end)

  it("does not see what the mask leaves out", function()
    local scores, gates, experts = routing(6, 4, 2)
    local padded = moe.concat({ scores, moe.rand(2, 4) * 9 }, 1)
    local more_gates = moe.concat({ gates, moe.rand(2, 2) * 9 }, 1)
    local more_experts = moe.concat({ experts, ids({ { 0, 1 }, { 3, 3 } }) }, 1)
    local mask = moe.tensor({ 1, 1, 1, 1, 1, 1, 0, 0 })
    for _, form in ipairs(forms) do
      local u, p = scores:routing_shares(gates, experts, form)
      local same_u, same_p = padded:routing_shares(more_gates, more_experts, form, 1, mask)
      close(same_u, u, 0)
      close(same_p, p, 0)
    end
  end)

  it("is zero where no token counts", function()
    local scores, gates, experts = routing(6, 4, 2)
    scores:requires_grad()
    local u, p = scores:routing_shares(gates, experts, "btx", 3, moe.tensor({ 1, 1, 0, 0, 1, 1 }))
    close(u:select(1, 2), moe.zeros(4), 0)
    close(p:select(1, 2), moe.zeros(4), 0)
    p:sum():backward()
    close(scores:grad():narrow(1, 3, 2), moe.zeros(2, 4), 0)
    u, p = moe.zeros(0, 3):routing_shares(moe.zeros(0, 2), experts:narrow(1, 1, 0), "switch", 2)
    close(u, moe.zeros(2, 3), 0)
    close(p, moe.zeros(2, 3), 0)
  end)

  it("sums the shares to one, or to k in the form of Switch", function()
    local logits = moe.randn(301, 6, { seed = 1 })
    for k = 1, 3 do
      local gates, experts = logits:topk_route(k)
      for form, sum in pairs({ btx = 1, switch = k, gshard = 1, deepseek = 1 }) do
        local u, p = logits:softmax(-1):routing_shares(gates, experts, form)
        close(u:sum(), { sum }, 1e-6)
        close(p:sum(), { 1 }, 1e-6)
      end
    end
  end)

  it("has the shares 0 without tokens, in however many segments", function()
    local gates, experts = moe.zeros(0, 3):topk_route(2)
    local u, p = moe.zeros(0, 3):routing_shares(gates, experts, "btx", 4)
    close(u, moe.zeros(4, 3):totable(), 0)
    close(p, moe.zeros(4, 3):totable(), 0)
    u = moe.zeros(0, 0):routing_shares(gates, experts, "btx", 1 << 40)
    assert.same({ 1 << 40, 0 }, u:shape())
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("routing_shares: " .. text, moe.routing_shares, ...)
    end
    local scores, gates, experts = moe.ones(2, 3), moe.ones(2, 1), ids({ { 0 }, { 2 } })
    says("scores must have 2 dimensions, not [3]", moe.ones(3), gates, experts)
    says("gates must have 2 dimensions, not [2]", scores, moe.ones(2), experts)
    says("gates and experts differ: [2 x 1] and [1 x 2]", scores, gates, ids({ { 0, 1 } }))
    says("gates and experts differ: [2 x 1] and [2]", scores, gates, ids({ 0, 1 }))
    says("one row of gates per row of scores is needed: [2 x 1] and [3 x 3]", moe.ones(3, 3), gates,
      experts)
    says("at least one slot is needed: [2 x 0]", scores, moe.ones(2, 0), experts:narrow(2, 1, 0))
    says("experts has 3 at position 2, but must be 0 to 2", scores, gates, ids({ { 0 }, { 3 } }))
    says("experts has -2 at position 1, but must be 0 to 2", scores, gates, ids({ { -2 }, { 0 } }))
    says('form must be one of "btx", "switch", "gshard", "deepseek", not "device"', scores, gates,
      experts, "device")
    says("2 tokens do not make 3 segments of equal length", scores, gates, experts, "btx", 3)
    says("2 tokens do not make 0 segments of equal length", scores, gates, experts, "btx", 0)
    says("mask must have one number for each of 2 tokens, not [3]", scores, gates, experts, "btx",
      1, moe.ones(3))
  end)
end)
