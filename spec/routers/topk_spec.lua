-- Top-k: the bias that balances without a loss, and what the gates mean for training.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local options = require("moelua.options")
local router = require("moelua.router")
local support = require("spec.routers.support")
local misuse = models.misuse

local function biased(more)
  return support.router(options.merge({ k = 1, gate = "all", bias = { rate = 0.25 } }, more or {}),
    3)
end

local train = { train = true, step = 1, micro = 0 }

describe("the bias of topk", function()
  -- 3 tokens to expert 1, 1 to expert 2.
  local x = moe.tensor({ { 2, 1, 0 }, { 2, 1, 0 }, { 2, 0, 0 }, { 0, 2, 0 } })

  it("moves against the load, by its rate, after a step", function()
    local made = biased()
    made:route(x, train)
    helper.close(made.bias, { 0, 0, 0 }, 0)
    made:after_step()
    helper.close(made.bias, { -0.25, 0.25, 0.25 }, 0)        -- loads 3, 1, 0; the mean is 4/3
    made:after_step()                                        -- nothing was counted since
    helper.close(made.bias, { -0.25, 0.25, 0.25 }, 0)
  end)

  it("stays where the load is the mean", function()
    local made = biased()
    made:route(moe.tensor({ { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } }), train)
    made:after_step()
    helper.close(made.bias, { 0, 0, 0 }, 0)
  end)

  it("counts all micro-batches of a step", function()
    local made = biased()
    made:route(x, train)
    made:route(moe.tensor({ { 0, 2, 0 }, { 0, 2, 0 }, { 0, 2, 0 } }),
      { train = true, step = 1, micro = 1 })
    made:after_step()
    helper.close(made.bias, { -0.25, -0.25, 0.25 }, 0)       -- loads 3, 4, 0
  end)

  it("does not count evaluation, what runs again, a step that was broken off, padding", function()
    local made, other = biased(), moe.tensor({ { 0, 0, 3 }, { 0, 0, 3 } })
    made:route(other, { train = true, step = 1, micro = 0 })
    made:route(x, { train = true, step = 1, micro = 0, mask = moe.tensor({ 1, 1, 1, 0 }) })
    made:route(other, { train = true, step = 1, micro = 0, again = true })
    made:route(other)
    made:after_step()
    helper.close(made.bias, { -0.25, 0.25, 0.25 }, 0)        -- loads 3, 0, 0
  end)

  it("is frozen by a rate of 0 and still selects", function()
    local made = biased({ bias = { rate = 0 } })
    moe.no_grad(function() made.bias:copy_(moe.tensor({ -1, 0, 0 })) end)
    local _, experts = made:route(x, train)
    assert.same({ { 1 }, { 1 }, { 1 }, { 1 } }, experts:totable())
    made:after_step()
    helper.close(made.bias, { -1, 0, 0 }, 0)
  end)

  it("leaves gates alone, and outputs while the selected are the same", function()
    local layer = nn.MoE({ dim = 6, hidden = 5, experts = 4, std = 0.5, seed = 1,
      router = { k = 2, gate = "sigmoid", bias = {} } })
    local input = moe.randn(20, 6, { seed = 2 })
    local before = layer(input):bytes()
    moe.no_grad(function() layer.router.bias:fill_(0.5) end)         -- the same for all
    assert.equal(before, layer(input):bytes())
    moe.no_grad(function() layer.router.bias:copy_(moe.tensor({ 9, 9, 0, 0 })) end)
    local gates, experts = layer.router:route(input)
    local s = input:linear(layer.router.weight):sigmoid()
    local first = s:narrow(2, 1, 1) / (s:narrow(2, 1, 1) + s:narrow(2, 2, 1))
    for t, ids in ipairs(experts:totable()) do
      assert.same(2, ids[1] + ids[2] + 1)                            -- experts 1 and 2
      local g, f = gates:totable()[t], first:totable()[t][1]
      helper.close(g[ids[1] == 0 and 1 or 2], f, 1e-5)
    end
  end)

  it("is a buffer and no parameter, and has no gradient", function()
    local layer = nn.MoE({ dim = 4, hidden = 4, experts = 3, router = { bias = {} } })
    assert.is_nil(models.shapes(layer)["router.bias"])
    local list = layer:buffers("layers.0.ffn.")
    assert.same({ "layers.0.ffn.router.bias" }, { list[1][1], list[2] and list[2][1] })
    assert.equal(layer.router.bias, list[1][2])
    local y = layer(moe.randn(5, 4), train);
    (y * y):sum():backward()
    assert.is_nil(layer.router.bias:grad())
    assert.same({}, nn.MoE({ dim = 4, hidden = 4, experts = 3 }):buffers())
  end)

  it("evens the load of skewed logits without any loss", function()
    local made = support.router({ k = 2, gate = "sigmoid", bias = { rate = 0.02 } }, 8)
    local logits = moe.randn(256, 8, { seed = 3 }) + moe.arange(8) * 0.3
    local function variation()
      local _, _, info = made:route(logits, train)
      local sum = 0
      for _, l in ipairs(info.load) do sum = sum + (l * 8 - 1) ^ 2 end
      return math.sqrt(sum / 8)
    end
    local before = variation()
    for _ = 1, 60 do
      variation()
      made:after_step()
    end
    assert.is_true(before > 0.5, tostring(before))
    assert.is_true(variation() < 0.25, tostring(variation()))
  end)

  it("refuses rates that are none", function()
    misuse(function() router.options({ bias = { rate = -1 } }) end,
      "router.bias: rate must be finite and not negative, not -1")
    misuse(function() router.options({ bias = { speed = 1 } }) end,
      "router.bias: unknown option 'speed'\nhint: known are rate")
  end)
end)

describe("topk", function()
  it("has probabilities of sigmoid divided by their sum in the balance loss", function()
    local rows = { { 1, 0, -2 }, { 0, 2, 1 } }
    local _, _, info = support.route({ k = 1, gate = "sigmoid",
      balance = { form = "switch", coef = 1 } }, rows)
    local p = { 0, 0, 0 }
    for _, row in ipairs(rows) do
      local s, sum = {}, 0
      for e, l in ipairs(row) do s[e] = 1 / (1 + math.exp(-l)); sum = sum + s[e] end
      for e = 1, 3 do p[e] = p[e] + s[e] / sum / 2 end
    end
    helper.close(info.loss, 3 * (p[1] / 2 + p[2] / 2), 1e-6)
  end)

  it("scales its gates and nothing else", function()
    local x = moe.randn(12, 4, { seed = 1 })
    local one, ids, info = support.route({ gate = "all", balance = { coef = 1 } }, x)
    local two, same, told = support.route({ gate = "all", balance = { coef = 1 }, scale = 2.5 }, x)
    helper.close(two, one * 2.5, 1e-6)
    assert.equal(ids:bytes(), same:bytes())
    assert.equal(info.loss:item(), told.loss:item())
  end)

  for _, case in ipairs({ { 64, 8 }, { 2, 1 } }) do
    it(("trains %d experts, %d per token"):format(case[1], case[2]), function()
      local m = models.tiny({ layers = 1, ffn = models.mixture({ hidden = 4, experts = case[1],
        router = { k = case[2], gate = "all" } }) })
      local corpus, first, last = models.corpus("code"), nil, nil
      local weight = m.layers[1].ffn.router.weight
      local before, optimizer = weight:clone(), moe.optimizer(m, { lr = 1e-2 })
      for step = 1, 30 do
        local x, y = corpus:batch({ split = "train", batch = 8, context = 16, seed = 1,
          stream = "s", draw = step * 8 })
        local loss = m:loss(x, y, { train = true, step = step, micro = 0 })
        loss:backward()
        optimizer:step()
        first, last = first or loss:item(), loss:item()
      end
      assert.is_true(last < first - 0.5, first .. " -> " .. last)
      assert.is_true(models.distance(weight, before) > 1e-2)
    end)
  end
end)

describe("a router that cannot learn", function()
  local message = "router: the only gate of a token is 1 whatever the logits are: the router " ..
    "gets no gradient and cannot learn\nhint: %s; or a balance loss or z_loss, which reach it"

  local function check(opts) router.check_trainable(router.options(opts)) end

  it("is refused where training begins", function()
    misuse(function() check({ k = 1 }) end, message:format("gate = \"all\", as in Switch"))
    misuse(function() check({ k = 1, balance = { coef = 0 } }) end,
      message:format("gate = \"all\", as in Switch"))
    misuse(function() check({ k = 1, gate = "all", capacity = { renormalise = true } }) end,
      message:format("capacity = { renormalise = false }"))
  end)

  it("is not one that a gate or a loss reaches", function()
    check({ k = 1, gate = "all" })
    check({ k = 1, gate = "sigmoid" })
    check({ k = 2 })
    check({ k = 1, balance = {} })
    check({ k = 1, z_loss = 1e-3 })
    check({ k = 2, gate = "all", capacity = { renormalise = true } })
    for _, kind in ipairs({ "switch", "noisy_topk", "gshard", "sample", "soft", "hash" }) do
      check({ kind = kind })
    end
  end)
end)
