-- Routers: options, gates, and which parts of a router a loss reaches.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local options = require("moelua.options")
local router = require("moelua.router")
local misuse = models.misuse

describe("router options", function()
  it("have defaults", function()
    local defaults = { kind = "topk", k = 2, gate = "selected", z_loss = 0 }
    assert.same(defaults, router.options({}))
    assert.same(options.merge(defaults, { balance = { form = "btx", coef = 0.01,
      scope = "batch", reduce = "sum" } }), router.options({ balance = {} }))
  end)

  it("are checked", function()
    misuse(function() router.options({ gates = "all" }) end,
      "router: unknown option 'gates'\nhint: did you mean 'gate'?")
    misuse(function() router.options({ gate = "selcted" }) end,
      "router: option 'gate' is 'selcted': unknown\nhint: did you mean 'selected'?")
    misuse(function() router.options({ kind = "random" }) end,
      "router: option 'kind' is 'random': unknown\nhint: known are topk, switch, noisy_topk, " ..
      "gshard, sample, soft, expert_choice, base, hash, domain")
    misuse(function() router.options({ balance = { form = "gshrd" } }) end,
      "router.balance: option 'form' is 'gshrd': unknown\nhint: did you mean 'gshard'?")
    misuse(function() router.options({ k = 0 }) end,
      "router: k must be 1 to the number of experts: 0 of any number")
    misuse(function() router.options({ k = 5 }, 4) end,
      "router: k must be 1 to the number of experts: 5 of 4")
    misuse(function() router.options({ k = 1.5 }) end,
      "router: option 'k' has the wrong type: integer expected, got 1.5")
  end)
end)

describe("gates", function()
  local logits = moe.randn(50, 6, { seed = 3, stream = "logits" })

  it("over the selected are those over all, divided by their sum", function()      -- I4
    local selected, ids = logits:topk_route(3, "selected")
    local all, same_ids = logits:topk_route(3, "all")
    assert.equal(ids:bytes(), same_ids:bytes())
    helper.close(selected, all / all:sum(-1, true), 1e-6)
    helper.close(selected:sum(-1), moe.ones(50), 1e-6)
    assert.is_true(all:sum(-1):max():item() < 1)
  end)

  it("take the largest, the lowest number among equals", function()
    local _, ids = moe.tensor({ { 1, 3, 3, 2 }, { 0, 0, 0, 0 } }):topk_route(2)
    assert.same({ { 1, 2 }, { 0, 1 } }, ids:totable())
  end)

  it("leave the logits outside the set without gradient", function()               -- I4
    local leaf = logits:clone():requires_grad()
    local gates, ids = leaf:topk_route(2, "selected")
    local loss = (gates * moe.randn(50, 2, { seed = 1, stream = "a" })):sum()
    loss:backward()
    local grad, chosen = leaf:grad():totable(), ids:totable()
    local reached = 0
    for t = 1, 50 do
      for e = 1, 6 do
        local inside = chosen[t][1] == e - 1 or chosen[t][2] == e - 1
        if not inside then assert.equal(0, grad[t][e]) end
        if inside and grad[t][e] ~= 0 then reached = reached + 1 end
      end
    end
    assert.equal(100, reached)
  end)
end)

describe("gradient of the router", function()
  local x = moe.randn(12, 4, { seed = 1, stream = "x" })

  local function gradient(opts, with_aux)
    local layer = nn.MoE({ dim = 4, hidden = 6, experts = 3, std = 0.7, seed = 5, router = opts })
    local y, info = layer(x)
    local loss = (y * y):mean()
    if with_aux then loss = loss + info.loss end
    loss:backward()
    local grad = layer.router.weight:grad()
    return grad and models.distance(grad, grad * 0) or 0
  end

  it("is exactly zero for k = 1 over the selected: the gate is always 1", function()
    assert.equal(0, gradient({ k = 1, gate = "selected" }))
  end)

  it("is not for gates over all, sigmoid, or for more experts", function()
    assert.is_true(gradient({ k = 1, gate = "all" }) > 1e-4)
    assert.is_true(gradient({ k = 1, gate = "sigmoid" }) > 1e-4)
    assert.is_true(gradient({ k = 2, gate = "selected" }) > 1e-4)
  end)

  it("comes from the balance loss and the z-loss all the same", function()
    assert.is_true(gradient({ k = 1, balance = { coef = 0.1 } }, true) > 1e-5)
    assert.is_true(gradient({ k = 1, z_loss = 0.1 }, true) > 1e-5)
  end)
end)
