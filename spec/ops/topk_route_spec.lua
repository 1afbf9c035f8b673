local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

-- 1-based experts in descending order of their logits, ties to the lowest.
local function order(l)
  local list = {}
  for e = 1, #l do list[e] = e end
  table.sort(list, function(a, b) return l[a] > l[b] or l[a] == l[b] and a < b end)
  return list
end

local function softmax(l)
  local top, sum, p = math.max(table.unpack(l)), 0, {}
  for e = 1, #l do
    p[e] = math.exp(l[e] - top)
    sum = sum + p[e]
  end
  for e = 1, #l do p[e] = p[e] / sum end
  return p
end

local function sigmoid(x) return 1 / (1 + math.exp(-x)) end

-- Scores of one row, and whether the gates are their shares of the selected sum.
local scores = {
  selected = function(l) return softmax(l), true end,       -- the same thing: softmax cancels
  all = function(l) return softmax(l), false end,
  sigmoid = function(l, k)
    local s = {}
    for e = 1, #l do s[e] = sigmoid(l[e]) end
    return s, k > 1
  end,
}

-- What is selected by: the logits, or the scores and a bias.
local function keys(l, s, bias)
  if not bias then return l end
  local sum = {}
  for e = 1, #l do sum[e] = l[e] == -1 / 0 and l[e] or s[e] + bias[e] end
  return sum
end

local function reference(logits, k, gate, bias)
  local gates, experts = {}, {}
  for t, l in ipairs(logits) do
    local s, shares = scores[gate](l, k)
    local best, sum = order(keys(l, s, bias)), 0
    gates[t], experts[t] = {}, {}
    for i = 1, k do sum = sum + s[best[i]] end
    for i = 1, k do
      gates[t][i] = shares and s[best[i]] / sum or s[best[i]]
      experts[t][i] = best[i] - 1
    end
  end
  return gates, experts
end

-- dl_i = g_i (a_i - sum g a) for the selected; dl_j = p_j ([j in S] a_j - sum p a) for all.
local function reference_grad(l, k, gate, a, bias)
  local s, shares = scores[gate](l, k)
  local best, dl, sum, mean = order(keys(l, s, bias)), {}, 0, 0
  for e = 1, #l do dl[e] = 0 end
  for i = 1, k do sum = sum + s[best[i]] end
  for i = 1, k do mean = mean + s[best[i]] * a[i] / (shares and sum or 1) end
  for i = 1, k do
    local e = best[i]
    if gate == "selected" then dl[e] = s[e] / sum * (a[i] - mean) end
    if gate == "sigmoid" then
      dl[e] = s[e] * (1 - s[e]) * (k > 1 and (a[i] - mean) / sum or a[i])
    end
    if gate == "all" then dl[e] = s[e] * a[i] end
  end
  if gate == "all" then
    for e = 1, #l do dl[e] = dl[e] - s[e] * mean end
  end
  return dl
end

describe("topk_route", function()
  for _, gate in ipairs({ "selected", "all", "sigmoid" }) do
    describe("gate " .. gate, function()
      it("gives the k largest logits and their gates", function()
        for _, size in ipairs({ { 1, 1, 1 }, { 7, 5, 2 }, { 300, 9, 3 }, { 3, 33, 1 },
          { 5, 6, 6 } }) do
          local T, E, k = table.unpack(size)
          local logits = moe.randn(T, E, { seed = 1 }):totable()
          local gates, experts = moe.tensor(logits):topk_route(k, gate)
          local want_gates, want_experts = reference(logits, k, gate)
          assert.same(want_experts, experts:totable())
          close(gates, want_gates, 2e-6)
          assert.equal("i32", experts:dtype())
        end
      end)

      it("has the closed-form gradient, with nothing for logits that it does not read", function()
        for _, size in ipairs({ { 270, 7, 3 }, { 5, 4, 1 } }) do
          local T, E, k = table.unpack(size)
          local logits, a = moe.randn(T, E, { seed = 1 }), moe.randn(T, k, { seed = 2 })
          local want, rows, weights = {}, logits:totable(), a:totable()
          for t = 1, T do want[t] = reference_grad(rows[t], k, gate, weights[t]) end
          logits:requires_grad()
          local gates = logits:topk_route(k, gate);
          (gates * a):sum():backward()
          close(logits:grad(), want, 1e-6)
        end
      end)

      it("selects by scores and bias, and takes gates and gradient from the scores", function()
        for _, size in ipairs({ { 270, 7, 3 }, { 6, 5, 1 }, { 3, 2, 2 } }) do
          local T, E, k = table.unpack(size)
          local logits, a = moe.randn(T, E, { seed = 1 }), moe.randn(T, k, { seed = 2 })
          local bias = (moe.rand(E, { seed = 3 }) - 0.5) * 0.3
          local rows, weights, b = logits:totable(), a:totable(), bias:totable()
          local want_gates, want_experts = reference(rows, k, gate, b)
          logits:requires_grad()
          bias:requires_grad()
          local gates, experts = logits:topk_route(k, gate, bias)
          assert.same(want_experts, experts:totable())
          close(gates, want_gates, 2e-6)
          local want = {}
          for t = 1, T do want[t] = reference_grad(rows[t], k, gate, weights[t], b) end
          (gates * a):sum():backward()
          close(logits:grad(), want, 1e-6)
          close(bias:grad(), moe.zeros(E), 0)
        end
      end)

      it("changes nothing with a bias that selects the same, in the same order", function()
        local logits = moe.randn(40, 5, { seed = 1 })
        local gates, experts = logits:topk_route(2, gate)
        for _, shift in ipairs({ 0, -0.25, 8 }) do
          local same_gates, same_experts = logits:topk_route(2, gate, moe.full(shift, 5))
          close(same_gates, gates, 0)
          assert.same(experts:totable(), same_experts:totable())
        end
      end)

      it("is ruled out by -inf whatever the bias says", function()
        local inf = math.huge
        local logits = moe.tensor({ { -inf, 1, 0, -inf }, { 0, -inf, 1, 2 } })
        local _, experts = logits:topk_route(2, gate, moe.tensor({ 9, 9, 0, 0 }))
        assert.same({ { 1, 2 }, { 0, 3 } }, experts:totable())
        _, experts = logits:topk_route(2, gate, moe.tensor({ 0, 0, 0, -inf }))
        assert.same({ { 1, 2 }, { 2, 0 } }, experts:totable())
      end)

      it("breaks ties of score and bias in favour of the lowest expert", function()
        local _, experts = moe.zeros(1, 5):topk_route(3, gate, moe.tensor({ 0, 0.5, 0, 0.5, 0 }))
        assert.same({ { 1, 3, 0 } }, experts:totable())
      end)

      it("breaks ties in favour of the lowest expert", function()
        local _, experts = moe.tensor({ { 1, 2, 2, 1 }, { 0, 0, 0, 0 }, { 3, 1, 3, 3 } })
          :topk_route(2, gate)
        assert.same({ { 1, 2 }, { 0, 1 }, { 0, 2 } }, experts:totable())
      end)

      it("routes a token the same way whatever stands beside it", function()
        local logits = moe.randn(301, 6, { seed = 1 })
        local gates, experts = logits:topk_route(2, gate)
        local some_gates, some_experts = logits:narrow(1, 100, 7):topk_route(2, gate)
        close(some_gates, gates:narrow(1, 100, 7), 0)
        assert.same(experts:narrow(1, 100, 7):totable(), some_experts:totable())
      end)

      it("follows a permutation of the experts", function()
        local logits, order_of = moe.randn(40, 5, { seed = 1 }), { 4, 0, 3, 1, 2 }
        local permuted = logits:transpose():contiguous():gather_rows(support.ids(order_of))
          :transpose()
        local gates, experts = logits:topk_route(3, gate)
        local other_gates, other_experts = permuted:topk_route(3, gate)
        close(other_gates, gates, 1e-6)
        local back = other_experts:totable()
        for _, row in ipairs(back) do
          for i, e in ipairs(row) do row[i] = order_of[e + 1] end
        end
        assert.same(experts:totable(), back)
      end)
    end)
  end

  it("selects two of the experts by softmax over the selected when nothing is said", function()
    local logits = moe.randn(9, 4, { seed = 1 })
    local gates, experts = logits:topk_route()
    local same_gates, same_experts = logits:topk_route(2, "selected")
    close(gates, same_gates, 0)
    assert.same(same_experts:totable(), experts:totable())
    close(gates:sum(2), moe.ones(9), 1e-6)
  end)

  it("gives one selected expert the constant gate 1, and its router no gradient", function()
    local logits = moe.randn(5, 4, { seed = 1 }):requires_grad()
    local gates = logits:topk_route(1)
    close(gates, moe.ones(5, 1), 0);
    (gates * moe.randn(5, 1)):sum():backward()
    close(logits:grad(), moe.zeros(5, 4), 0)
    local all = moe.randn(5, 4, { seed = 1 }):requires_grad()
    all:topk_route(1, "all"):sum():backward()
    assert.is_true(all:grad():pow(2):sum():item() > 0)
  end)

  it("gives one selected expert its sigmoid: divided by itself it would always be 1", function()
    local logits = moe.tensor({ { 0, 1, -1 }, { -3, -4, -2 }, { -1, 50, 0 } }):requires_grad()
    local gates, experts = logits:topk_route(1, "sigmoid")
    assert.same({ { 1 }, { 2 }, { 1 } }, experts:totable())
    close(gates, { { sigmoid(1) }, { sigmoid(-2) }, { 1 } }, 1e-7)
    gates:sum():backward()
    local slope, other = sigmoid(1) * sigmoid(-1), sigmoid(2) * sigmoid(-2)
    close(logits:grad(), { { 0, slope, 0 }, { 0, 0, other }, { 0, 0, 0 } }, 1e-7)
  end)

  it("stands logits far apart, and -inf for experts that are ruled out", function()
    local inf = 1 / 0
    local gates, experts = moe.tensor({ { 1e30, -1e30, 0 }, { -inf, 5, -inf } }):topk_route(2)
    close(gates, { { 1, 0 }, { 1, 0 } }, 0)
    assert.same({ { 0, 2 }, { 1, 0 } }, experts:totable())
    close(moe.tensor({ { -inf, -inf, -inf } }):topk_route(2), { { 0.5, 0.5 } }, 0)
    close(moe.tensor({ { -2000, -3000, -4000 } }):topk_route(2, "sigmoid"), { { 0.5, 0.5 } }, 0)
    close(moe.tensor({ { 200, 300, -400 } }):topk_route(2, "sigmoid"), { { 0.5, 0.5 } }, 0)
  end)

  it("takes strided logits and no tokens", function()
    local logits = moe.randn(5, 3, { seed = 1 })
    close(logits:transpose():contiguous():transpose():topk_route(2), logits:topk_route(2), 0)
    local gates, experts = moe.zeros(0, 3):topk_route(2)
    assert.same({ 0, 2 }, gates:shape())
    assert.same({ 0, 2 }, experts:shape())
  end)

  it("refuses NaN, and what does not fit", function()
    local function says(text, ...) support.rejects("topk_route: " .. text, moe.topk_route, ...) end
    says("the logit of token 2 for expert 3 is NaN", moe.tensor({ { 1, 2, 3 }, { 1, 2, 0 / 0 } }))
    says("the logit of token 1 for expert 2 is infinite", moe.tensor({ { 1, 1 / 0, 3 } }))
    says("logits must have 2 dimensions, not [3]", moe.ones(3))
    says("k must be 1 to the number of experts: 0 of 3", moe.ones(2, 3), 0)
    says("k must be 1 to the number of experts: 4 of 3", moe.ones(2, 3), 4)
    says("k must be 1 to the number of experts: 1 of 0", moe.ones(2, 0), 1)
    says("at most 4096 experts, not 4097", moe.zeros(1, 4097), 1)
    says('gate must be one of "selected", "all", "sigmoid", not "top"', moe.ones(2, 3), 2, "top")
    says("k must be an integer, not 1.5", moe.ones(2, 3), 1.5)
    local function biased(bias) return moe.ones(2, 3), 2, "all", bias end
    says("bias must be one number for each of 3 experts, not [2]", biased(moe.ones(2)))
    says("bias must be one number for each of 3 experts, not [1 x 3]", biased(moe.ones(1, 3)))
    says("the bias of expert 2 is NaN", biased(moe.tensor({ 0, 0 / 0, 0 })))
    says("the bias of expert 3 is infinite", biased(moe.tensor({ 0, 0, 1 / 0 })))
  end)
end)
