-- Sample Top-1: who wins, with what weight, and what differs in inference.
local helper = require("spec.helper")
local misuse = require("spec.models").misuse
local moe = require("moelua")
local router = require("moelua.router")
local sample = require("moelua.routers.sample")
local support = require("spec.routers.support")

local ROW = { 1, 0, -1, 2 }
local DRAWS = 200000
local many = moe.ones(DRAWS, 1):matmul(moe.tensor({ ROW }))

-- Options whose temperature is tau at every step.
local function at(tau, more)
  local opts = { kind = "sample", temperature = { start = tau, rate = 0, least = tau } }
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

describe("sample in training", function()
  local how = { train = true, step = 1, seed = 5 }

  it("draws each expert as often as softmax says, whatever the temperature", function()   -- I6
    local p, first = support.softmax(ROW), nil
    for _, tau in ipairs({ 2, 0.1 }) do
      local _, experts, info = support.route(at(tau), many, how)
      for e = 1, 4 do support.frequency(info.counts[e], DRAWS, p[e]) end
      first = first or experts:bytes()
      assert.is_true(first == experts:bytes())
    end
  end)

  it("weighs with the winner's part of the perturbed softmax", function()
    for tau, mean in pairs({ [2] = 0.51, [1] = 0.68, [0.5] = 0.82, [0.1] = 0.96 }) do
      local gates = support.route(at(tau), many, how)
      helper.close(gates:mean(), mean, 0.006)
    end
  end)

  it("is softmax of logits plus noise, of which the largest is kept", function()
    local made = support.router(at(0.7), 4)
    local logits = moe.randn(6, 4, { seed = 2 })
    local gates, experts = made:route(logits, how)
    local u = made:draw("rand", "gumbel", how, 6, 4):totable()
    for t, row in ipairs(logits:totable()) do
      for i = 1, 4 do row[i] = (row[i] - math.log(-math.log(u[t][i]))) / 0.7 end
      local y, best = support.softmax(row), 1
      for i = 2, 4 do if y[i] > y[best] then best = i end end
      assert.equal(best - 1, experts:totable()[t][1])
      helper.close(gates:totable()[t][1], y[best], 1e-5)
    end
  end)

  it("has the gradient of that softmax in every logit", function()
    local logits = moe.tensor({ ROW }):requires_grad()
    local gates, experts = sample.route(support.router(at(0.5), 4), logits, how)
    gates:sum():backward()
    local made = support.router(at(0.5), 4)
    local l = sample.perturbed(made, moe.tensor({ ROW }), how) / 0.5
    local y, winner, want = support.softmax(l:totable()[1]), experts:item() + 1, {}
    for j = 1, 4 do want[j] = y[winner] / 0.5 * ((j == winner and 1 or 0) - y[j]) end
    helper.close(logits:grad(), { want }, 1e-5)
  end)

  it("lowers the temperature with the steps", function()
    local opts = router.options({ kind = "sample" })
    assert.equal(1, sample.temperature(opts, 0))
    helper.close(sample.temperature(opts, 1000), math.exp(-0.1), 1e-12)
    assert.equal(0.5, sample.temperature(opts, 10000))
    assert.equal(1, sample.temperature(opts, nil))
  end)
end)

describe("sample in inference", function()
  it("draws from softmax with weight 1", function()
    local gates, _, info = support.route({ kind = "sample" }, many, { seed = 3 })
    for e, p in ipairs(support.softmax(ROW)) do support.frequency(info.counts[e], DRAWS, p) end
    assert.equal(1, gates:max():item())
    assert.equal(DRAWS, gates:sum():item())
  end)

  it("draws again for another seed or batch, the same for the same, by token", function()
    local made = support.router({ kind = "sample" }, 4)
    local x = moe.randn(64, 4, { seed = 1 })
    local function experts(how, rows)
      local _, ids = made:route(rows or x, how)
      return ids:totable()
    end
    local first = experts({ seed = 1, micro = 2 })
    assert.same(first, experts({ seed = 1, micro = 2 }))
    assert.not_same(first, experts({ seed = 2, micro = 2 }))
    assert.not_same(first, experts({ seed = 1, micro = 3 }))
    local some = experts({ seed = 1, micro = 2 }, x:narrow(1, 1, 10))
    for t = 1, 10 do assert.same(first[t], some[t]) end
  end)

  it("takes the largest logit when told to", function()
    local gates, experts = support.route({ kind = "sample", inference = "argmax" },
      { ROW, { 5, 0, 0, 0 } }, {})
    assert.same({ { 3 }, { 0 } }, experts:totable())
    assert.same({ { 1 }, { 1 } }, gates:totable())
  end)
end)

describe("the first layer of sample", function()
  local losses = { form = "btx", coef = 0.02, scope = "batch", reduce = "sum" }
  local opts = router.options({ kind = "sample", balance = losses, z_loss = 1e-3 })

  it("is soft, with the same losses", function()
    assert.same({ kind = "soft", balance = losses, z_loss = 1e-3 },
      router.options(router.for_layer(opts, true)))
    assert.equal(opts, router.for_layer(opts, false))
  end)

  it("is not when told so, and neither is that of other kinds", function()
    local all = router.options({ kind = "sample", first = "sample" })
    assert.equal(all, router.for_layer(all, true))
    local topk = router.options({})
    assert.equal(topk, router.for_layer(topk, true))
  end)
end)

it("sample refuses temperatures that are none", function()
  for _, wrong in ipairs({ { least = 0 }, { start = -1 }, { rate = -1 }, { start = 0 / 0 } }) do
    assert.is_false(pcall(router.options, { kind = "sample", temperature = wrong }))
  end
  misuse(function() router.options({ kind = "sample", temperature = { least = 0 } }) end,
    "router.temperature: start and least must be above 0 and rate at least 0, not 1, 0 and 0.0001")
  misuse(function() router.options({ kind = "sample", temperature = { tau = 1 } }) end,
    "router.temperature: unknown option 'tau'\nhint: known are least, rate, start")
end)
