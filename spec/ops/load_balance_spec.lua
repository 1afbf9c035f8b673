local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local ids = support.ids

local function softmax(l)
  local sum, p = 0, {}
  for e = 1, #l do sum = sum + math.exp(l[e]) end
  for e = 1, #l do p[e] = math.exp(l[e]) / sum end
  return p
end

-- N sum(u p) with its gradients by logits and gates.
local function reference(logits, gates, experts, form)
  local T, N, u, p, mean = #logits, #logits[1], {}, {}, {}
  for e = 1, N do u[e], mean[e] = 0, 0 end
  for t = 1, T do
    p[t] = softmax(logits[t])
    for e = 1, N do mean[e] = mean[e] + p[t][e] / T end
    for s, e in ipairs(experts[t]) do
      u[e + 1] = u[e + 1] + (form == "btx" and gates[t][s] or 1) / T
    end
  end
  local loss, dl, dg = 0, {}, {}
  for e = 1, N do loss = loss + N * u[e] * mean[e] end
  for t = 1, T do
    local average = 0
    for e = 1, N do average = average + u[e] * p[t][e] end
    dl[t], dg[t] = {}, {}
    for e = 1, N do dl[t][e] = N / T * p[t][e] * (u[e] - average) end
    for s, e in ipairs(experts[t]) do dg[t][s] = form == "btx" and N / T * mean[e + 1] or 0 end
  end
  return loss, dl, dg
end

-- Logits of tokens that take the experts in turn.
local function cyclic(T, N, height)
  local rows = {}
  for t = 1, T do
    rows[t] = {}
    for e = 1, N do
      local turn = (t + e) % N
      rows[t][e] = turn == 0 and height or turn == 1 and height / 2 or 0
    end
  end
  return moe.tensor(rows)
end

describe("load_balance", function()
  for _, form in ipairs({ "btx", "switch" }) do
    it(form .. " is N sum(u p), with its gradients", function()
      for _, size in ipairs({ { 1, 1, 1 }, { 5, 3, 2 }, { 301, 19, 4 }, { 4, 33, 1 } }) do
        local T, N, k = table.unpack(size)
        local logits = moe.randn(T, N, { seed = 1 })
        local gates, experts = logits:topk_route(k)
        gates = gates * moe.rand(T, k, { seed = 2 })        -- need not sum to one
        local loss, dl, dg = reference(logits:totable(), gates:totable(), experts:totable(), form)
        close(logits:load_balance(gates, experts, form), { loss }, 2e-6)
        logits:requires_grad()
        gates:requires_grad();
        (logits:load_balance(gates, experts, form) * 2):backward()
        close(logits:grad() * (T / 2), moe.tensor(dl) * T, 1e-5)
        close(gates:grad() * (T / 2), moe.tensor(dg) * T, 1e-5)
      end
    end)
  end

  it("of balanced routing is 1 in the form of btx and k in that of Switch", function()
    for k = 1, 3 do
      local logits = cyclic(20, 5, 1)
      local gates, experts = logits:topk_route(k)
      local uniform = moe.zeros(20, 5)
      close(uniform:load_balance(gates, experts), { 1 }, 1e-6)
      if k < 3 then                             -- the third choice falls on experts unevenly
        close(logits:load_balance(gates, experts), { 1 }, 1e-6)
        close(logits:load_balance(gates, experts, "switch"), { k }, 1e-6)
      end
    end
  end)

  it("of a collapse on one expert is N in both forms", function()
    local rows = {}
    for t = 1, 12 do rows[t] = { 0, 0, 60, 0, 0, 0 } end
    local logits = moe.tensor(rows)
    local gates, experts = logits:topk_route(1)
    close(logits:load_balance(gates, experts), { 6 }, 1e-6)
    close(logits:load_balance(gates, experts, "switch"), { 6 }, 1e-6)
    gates, experts = logits:topk_route(2)
    close(logits:load_balance(gates, experts), { 6 }, 1e-6)
    close(logits:load_balance(gates, experts, "switch"), { 6 }, 1e-6)
  end)

  it("may fall below 1: counts are no probabilities", function()
    local rows = {}
    for t = 1, 10 do
      local p = t <= 6 and 0.51 or 0.01
      rows[t] = { math.log(p), math.log(1 - p) }
    end
    local logits = moe.tensor(rows)
    local gates, experts = logits:topk_route(1)
    close(logits:load_balance(gates, experts, "switch"), { 0.924 }, 1e-6)
  end)

  it("sends its gradient through both factors, or through p alone", function()
    local logits = moe.randn(9, 4, { seed = 1 })
    local function through(form, route)
      local leaf = logits:clone():requires_grad()
      local gates, experts = leaf:topk_route(2)
      if not route then gates = gates:detach() end
      leaf:load_balance(gates, experts, form):backward()
      return leaf:grad()
    end
    close(through("switch", true), through("switch", false), 0)
    assert.is_true((through("btx", true) - through("btx", false)):pow(2):sum():item() > 1e-6)
    local step, flat = 1e-2, logits:clone():reshape(-1)
    local analytic = through("btx", true):reshape(-1):totable()
    local function value()
      local x = flat:reshape(9, 4)
      return x:load_balance(x:topk_route(2)):item()
    end
    for _, i in ipairs({ 1, 7, 20, 36 }) do
      local at = flat:narrow(1, i, 1)
      local before = at:item()
      at:fill_(before + step)
      local up = value()
      at:fill_(before - step)
      local down = value()
      at:fill_(before)
      close((up - down) / (2 * step), analytic[i], 1e-3)
    end
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("load_balance: " .. text, moe.load_balance, ...)
    end
    local logits, gates, experts = moe.ones(2, 3), moe.ones(2, 1), ids({ { 0 }, { 2 } })
    says("logits must have 2 dimensions, not [3]", moe.ones(3), gates, experts)
    says("gates must have 2 dimensions, not [2]", logits, moe.ones(2), experts)
    says("gates and experts differ: [2 x 1] and [1 x 2]", logits, gates, ids({ { 0, 1 } }))
    says("gates and experts differ: [2 x 1] and [2]", logits, gates, ids({ 0, 1 }))
    says("one row of gates per row of logits is needed: [2 x 1] and [3 x 3]", moe.ones(3, 3), gates,
      experts)
    says("one row of gates per row of logits is needed: [0 x 1] and [0 x 3]", moe.ones(0, 3),
      moe.ones(0, 1), ids({ { 1 } }):narrow(1, 1, 0))
    says("experts has 3 at position 2, but must be 0 to 2", logits, gates, ids({ { 0 }, { 3 } }))
    says("experts has -1 at position 1, but must be 0 to 2", logits, gates, ids({ { -1 }, { 0 } }))
    says('form must be one of "btx", "switch", not "gshard"', logits, gates, experts, "gshard")
  end)
end)
