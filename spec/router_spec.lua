-- Routers: options, gates, and which parts of a router a loss reaches.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local options = require("moelua.options")
local router = require("moelua.router")
local support = require("spec.routers.support")
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

describe("jitter", function()
  local x = moe.randn(2, 6, 4, { seed = 1 })
  local how = { train = true, step = 2, micro = 1, seed = 9 }
  local opts = { gate = "all", jitter = 0.3 }

  it("multiplies what the router sees by numbers around 1", function()
    local made = support.router(opts, 4)
    local gates = made:route(x, how)
    local factor = made:draw("rand", "jitter", how, 2, 6, 4) * 0.6 + 0.7
    local want = (x * factor):reshape(12, 4):topk_route(2, "all")
    helper.close(gates, want, 1e-6)
    assert.is_true(factor:max():item() < 1.3 and (-factor):max():item() <= -0.7)
  end)

  it("does not reach the experts", function()
    local layer = nn.MoE({ dim = 4, hidden = 5, experts = 3, std = 0.5, seed = 2,
      router = { jitter = 0.5, k = 3 } })
    moe.no_grad(function() layer.router.weight:fill_(0) end)      -- even gates, whatever x is
    assert.equal(layer(x):bytes(), layer(x, how):bytes())
  end)

  it("is off in evaluation, which is the same every time", function()
    local made, plain = support.router(opts, 4), support.router({ gate = "all" }, 4)
    assert.equal(plain:route(x):bytes(), made:route(x):bytes())
    assert.equal(made:route(x, { step = 1 }):bytes(), made:route(x, { step = 2 }):bytes())
    assert.not_equal(plain:route(x):bytes(), made:route(x, how):bytes())
  end)

  it("reaches the gradient of x", function()
    local made = support.router({ gate = "all", k = 1, jitter = 0.3 }, 4)
    local leaf = x:clone():requires_grad()
    made:route(leaf, how):sum():backward()
    local flat = x:clone():requires_grad()
    local factor = made:draw("rand", "jitter", how, 2, 6, 4) * 0.6 + 0.7
    local gates = (flat * factor):reshape(12, 4):topk_route(1, "all")
    gates:sum():backward()
    helper.close(leaf:grad(), flat:grad(), 1e-6)
  end)

  it("is refused from 1 on", function()
    misuse(function() router.options({ jitter = 1 }) end,
      "router: jitter must be at least 0 and below 1, not 1")
    misuse(function() router.options({ z_loss = -1 }) end,
      "router: z_loss must be at least 0 and finite, not -1")
  end)
end)

describe("random numbers of a router", function()
  local made = support.router({}, 4)
  local function bytes(use, how, ...) return made:draw("rand", use, how, ...):bytes() end

  it("have streams by step, micro-batch, seed and use", function()
    local first = bytes("a", { step = 1, micro = 0, seed = 1 }, 8)
    assert.equal(first, bytes("a", { step = 1, micro = 0, seed = 1 }, 8))
    assert.equal(first, bytes("a", { step = 1 }, 8))
    for _, other in ipairs({ { step = 2 }, { step = 1, micro = 1 }, { step = 1, seed = 2 } }) do
      assert.not_equal(first, bytes("a", other, 8))
    end
    assert.not_equal(first, bytes("b", { step = 1 }, 8))
    assert.equal(bytes("a", { seed = 1 }, 8), bytes("a", { step = 0, seed = 1 }, 8))
  end)

  it("do not depend on how many tokens follow", function()
    local few, many = bytes("a", { step = 1 }, 3, 4), bytes("a", { step = 1 }, 300, 4)
    assert.equal(few, many:sub(1, #few))
  end)

  it("are those of each sequence by itself when told so", function()
    local draws = { { seed = 3, micro = 1 }, { seed = 8, micro = 5 } }
    assert.equal(bytes("a", draws[1], 3, 4) .. bytes("a", draws[2], 3, 4),
      bytes("a", { draws = draws }, 6, 4))
  end)

  it("follow moe.manual_seed without a step and a seed", function()
    moe.manual_seed(5)
    local first, second = bytes("a", {}, 8), bytes("a", {}, 8)
    assert.not_equal(first, second)
    moe.manual_seed(5)
    assert.equal(first, bytes("a", {}, 8))
  end)
end)

describe("padding", function()
  local x = moe.randn(2, 5, 4, { seed = 1 })
  local mask = moe.tensor({ { 1, 1, 1, 0, 0 }, { 1, 1, 1, 1, 0 } })
  local kept = moe.concat({ x:select(1, 1):narrow(1, 1, 3), x:select(1, 2):narrow(1, 1, 4) }, 1)
  local opts = { gate = "all", z_loss = 1, balance = { form = "switch", coef = 1 } }

  it("is left out of losses and figures", function()
    local _, _, want = support.route(opts, kept)
    local _, _, info = support.route(opts, x, { mask = mask })
    helper.close(info.loss, want.loss, 1e-6)
    helper.close(info.rest, want.rest, 1e-6)
    assert.same(want.counts, info.counts)
    helper.close(info.load, want.load, 1e-6)
    helper.close(info.entropy, want.entropy, 1e-6)
    local _, _, all = support.route(opts, x)
    assert.is_true(math.abs(all.loss:item() - want.loss:item()) > 1e-4)
  end)

  it("is routed all the same", function()
    local gates, experts = support.route(opts, x)
    local same_gates, same = support.route(opts, x, { mask = mask })
    assert.equal(gates:bytes(), same_gates:bytes())
    assert.equal(experts:bytes(), same:bytes())
  end)
end)

describe("info", function()
  it("tells the loss, and what of it is no balance loss", function()
    local x = moe.randn(9, 4, { seed = 1 })
    local function info(opts) return (select(3, support.route(opts, x))) end
    local both = info({ z_loss = 0.1, balance = { coef = 0.5 } })
    helper.close(both.loss, info({ z_loss = 0.1 }).loss + info({ balance = { coef = 0.5 } }).loss,
      1e-6)
    helper.close(both.rest, info({ z_loss = 0.1 }).loss, 1e-7)
    assert.is_nil(info({}).loss)
    assert.is_nil(info({ balance = { coef = 0.5 } }).rest)
  end)

  it("has the z-loss (ln N)^2 where all logits are 0", function()
    local _, _, info = support.route({ z_loss = 1 }, moe.zeros(5, 4))
    helper.close(info.loss, math.log(4) ^ 2, 1e-6)
  end)

  it("counts slots", function()
    local _, experts, info = support.route({}, { { 2, 1, 0 }, { 2, 0, 1 }, { 0, 2, 1 } })
    assert.same({ 2, 2, 2 }, info.counts)
    helper.close(info.load, { 1 / 3, 1 / 3, 1 / 3 }, 1e-6)
    assert.equal(0, info.dropped)
    assert.equal(experts:bytes(), info.experts:bytes())
    helper.close(info.entropy, -(function()
      local sum = 0
      for _, p in ipairs(support.softmax({ 2, 1, 0 })) do sum = sum + p * math.log(p) end
      return sum
    end)(), 1e-5)
  end)

  it("has losses without figures where those are not wanted", function()
    local _, _, info = support.route({ balance = {} }, moe.randn(4, 3, { seed = 1 }),
      { stats = false })
    assert.is_nil(info.load)
    assert.is_truthy(info.loss)
    assert.is_truthy(info.balance.u)
  end)

  it("has figures without losses where those are not wanted", function()
    local _, _, info = support.route({ balance = {}, z_loss = 1 }, moe.randn(4, 3, { seed = 1 }),
      { losses = false })
    assert.is_truthy(info.load)
    assert.is_nil(info.loss or info.balance or info.rest)
  end)
end)

describe("a router", function()
  it("takes inputs of any number of dimensions", function()
    local made, x = support.router({}, 4), moe.randn(2, 3, 4, { seed = 1 })
    local want = made:route(x):bytes()
    assert.equal(want, made:route(x:reshape(6, 4)):bytes())
    assert.equal(want, made:route(x:reshape(2, 1, 3, 4)):bytes())
    assert.equal(want:sub(1, 8), made:route(x:reshape(24):narrow(1, 1, 4)):bytes())
    assert.same({ 0, 2 }, (made:route(moe.zeros(0, 4))):shape())
    misuse(function() made:route(moe.ones(2, 3)) end,
      "router: the last dimension of x must be dim = 4: x is [2 x 3]")
  end)

  it("has options that stay the same when they are checked again", function()
    for _, kind in ipairs(router.kinds) do
      local given = { kind = kind, domains = kind == "domain" and { "a", "b", "c" } or nil }
      local once = router.options(given, 3)
      assert.same(once, router.options(once, 3))
      assert.is_true(router.slots(once, 3) >= 1)
      for _, train in ipairs({ true, false }) do
        assert.equal("boolean", type(router.traits(once, train).causal))
      end
    end
  end)

  it("takes no table of another kind's options", function()
    misuse(function() router.options({ kind = "switch", k = 2 }) end,
      "router: unknown option 'k'\nhint: known are balance, capacity, jitter, kind, scale, z_loss")
  end)
end)
