-- Layers: shapes, names, forward against formulas, initialisation, and what mixtures report.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local misuse = models.misuse

-- W2 (silu(W1 x) * W3 x)
local function swiglu(x, w1, w3, w2)
  local up = x:matmul(w1:transpose(1, 2))
  local gate = up * up:sigmoid() * x:matmul(w3:transpose(1, 2))
  return gate:matmul(w2:transpose(1, 2))
end

describe("Linear", function()
  it("is x W^T + bias", function()
    local layer = nn.Linear(3, 2, { bias = true })
    local names, shapes = models.shapes(layer)
    assert.same({ "weight", "bias" }, names)
    assert.same({ weight = "2x3", bias = "2" }, shapes)
    models.set(layer.weight, moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }))
    models.set(layer.bias, moe.tensor({ 10, 20 }))
    helper.close(layer(moe.tensor({ { 1, 0, -1 }, { 2, 2, 2 } })), { { 8, 18 }, { 22, 50 } })
  end)

  it("has no bias unless asked", function()
    assert.same({ "weight" }, (models.shapes(nn.Linear(3, 2))))
  end)

  it("refuses options it does not know", function()
    misuse(function() nn.Linear(3, 2, { bais = true }) end,
      "nn.Linear: unknown option 'bais'\nhint: did you mean 'bias'?")
  end)
end)

describe("Embedding and RmsNorm", function()
  it("look up and normalise", function()
    local table_of = nn.Embedding(4, 3)
    assert.same({ 2, 1, 3 }, table_of(moe.tensor({ { 0 }, { 3 } }, "i32")):shape())
    local norm = nn.RmsNorm(2, 0)
    models.set(norm.weight, moe.tensor({ 1, 2 }))
    local scale = math.sqrt(12.5)
    helper.close(norm(moe.tensor({ { 3, 4 } })), { { 3 / scale, 8 / scale } })
    assert.equal(1e-5, nn.RmsNorm(2).eps)
  end)
end)

describe("FeedForward", function()
  local x = moe.randn(5, 4, { seed = 1, stream = "x" })

  it("is W2 (silu(W1 x) * W3 x)", function()
    local layer = nn.FeedForward({ dim = 4, hidden = 6, std = 1, seed = 3 })
    local names, shapes = models.shapes(layer)
    assert.same({ "w1", "w3", "w2" }, names)
    assert.same({ w1 = "6x4", w3 = "6x4", w2 = "4x6" }, shapes)
    helper.close(layer(x), swiglu(x, layer.w1, layer.w3, layer.w2))
  end)

  for _, activation in ipairs({ "relu", "gelu", "silu" }) do
    it("is W2 a(W1 x) without a gate: " .. activation, function()
      local layer = nn.FeedForward({ dim = 4, hidden = 6, std = 1, seed = 3,
        activation = activation })
      assert.same({ "w1", "w2" }, (models.shapes(layer)))
      local up = x:matmul(layer.w1:transpose(1, 2))
      helper.close(layer(x), moe[activation](up):matmul(layer.w2:transpose(1, 2)))
    end)
  end
end)

describe("Attention", function()
  local function layer_of(kv_heads)
    return nn.Attention({ dim = 8, heads = 4, kv_heads = kv_heads, head_dim = 6, std = 0.5,
      seed = 2 })
  end

  it("has the shapes of grouped queries", function()
    local names, shapes = models.shapes(layer_of(2))
    assert.same({ "q", "k", "v", "o" }, names)
    assert.same({ q = "24x8", k = "12x8", v = "12x8", o = "8x24" }, shapes)
    assert.equal(2, nn.Attention({ dim = 8, heads = 4 }).head_dim)
    assert.equal(4, nn.Attention({ dim = 8, heads = 4 }).kv_heads)
  end)

  it("shares a key-value head among its query heads", function()
    local grouped, full = layer_of(2), layer_of(4)
    models.set(full.q, grouped.q)
    models.set(full.o, grouped.o)
    for _, name in ipairs({ "k", "v" }) do
      local heads = {}
      for h = 0, 3 do heads[h + 1] = grouped[name]:detach():narrow(1, h // 2 * 6 + 1, 6) end
      models.set(full[name], moe.concat(heads, 1))
    end
    local x = moe.randn(2, 5, 8, { seed = 1, stream = "x" })
    helper.close(full(x), grouped(x))
  end)

  it("does not see later positions", function()
    local layer = layer_of(2)
    local x = moe.randn(1, 6, 8, { seed = 1, stream = "x" })
    local changed = x:clone()
    changed:narrow(2, 4, 1):fill_(9)
    local a, b = layer(x), layer(changed)
    assert.equal(0, models.distance(a:narrow(2, 1, 3), b:narrow(2, 1, 3)))
    assert.is_true(models.distance(a:narrow(2, 4, 3), b:narrow(2, 4, 3)) > 0.01)
  end)

  it("knows where a token stands", function()
    local layer = layer_of(2)
    local row = moe.randn(1, 2, 8, { seed = 1, stream = "x" })
    local y = layer(moe.concat({ row, row }, 2))
    assert.is_true(models.distance(y:narrow(2, 2, 1), y:narrow(2, 4, 1)) > 1e-3)
  end)
end)

describe("MoE", function()
  local function mixture(router, more)
    local opts = { dim = 4, hidden = 6, experts = 3, std = 0.7, seed = 5, router = router }
    for k, v in pairs(more or {}) do opts[k] = v end
    return nn.MoE(opts)
  end
  local x = moe.randn(2, 5, 4, { seed = 1, stream = "x" })

  it("has one router and a bank of experts", function()
    local names, shapes = models.shapes(mixture())
    assert.same({ "router", "experts.w1", "experts.w3", "experts.w2" }, names)
    assert.same({ router = "3x4", ["experts.w1"] = "3x6x4", ["experts.w3"] = "3x6x4",
      ["experts.w2"] = "3x4x6" }, shapes)
  end)

  for _, gate in ipairs({ "selected", "all", "sigmoid" }) do
    it("is the sum of the chosen experts times their gates: " .. gate, function()
      local layer = mixture({ k = 2, gate = gate })
      local flat = x:reshape(-1, 4)
      local gates, ids = flat:linear(layer.router.weight):topk_route(2, gate)
      gates, ids = gates:totable(), ids:totable()
      local expert = {}
      for e = 1, 3 do
        local bank = layer.experts
        expert[e] = swiglu(flat, bank.w1:select(1, e), bank.w3:select(1, e), bank.w2:select(1, e))
          :totable()
      end
      local want = {}
      for t = 1, 10 do
        want[t] = { 0, 0, 0, 0 }
        for s = 1, 2 do
          local row = expert[ids[t][s] + 1][t]
          for d = 1, 4 do want[t][d] = want[t][d] + gates[t][s] * row[d] end
        end
      end
      local y = layer(x)
      assert.same({ 2, 5, 4 }, y:shape())
      helper.close(y, want)
    end)
  end

  for _, activation in ipairs({ "relu", "gelu", "silu" }) do
    it("has experts of two matrices: " .. activation, function()
      local layer = mixture({ kind = "soft" }, { activation = activation })
      assert.same({ "router", "experts.w1", "experts.w2" }, (models.shapes(layer)))
      local flat, want, bank = x:reshape(-1, 4), 0, layer.experts
      local gates = flat:linear(layer.router.weight):softmax(-1)
      for e = 1, 3 do
        local up = flat:matmul(bank.w1:select(1, e):transpose(1, 2))
        want = moe[activation](up):matmul(bank.w2:select(1, e):transpose(1, 2)) *
          gates:narrow(2, e, 1) + want
      end
      helper.close(layer(x):reshape(-1, 4), want)
    end)
  end

  it("reports load, entropy and drops", function()
    local layer = mixture({ k = 2 })
    local _, info = layer(x)
    local sum = 0
    for _, share in ipairs(info.load) do sum = sum + share end
    helper.close(sum, 1)
    assert.equal(3, #info.load)
    assert.equal(0, info.dropped)
    assert.is_nil(info.loss)
    assert.is_true(info.entropy > 0 and info.entropy < math.log(3))
    layer.router.weight:detach():fill_(0)
    _, info = layer(x)
    helper.close(info.entropy, math.log(3))
    helper.close(info.load, { 0.5, 0.5, 0 })        -- ties go to the lowest
  end)

  it("leaves the figures out when they are not wanted", function()
    local _, info = mixture({ balance = {} })(x, { stats = false })
    assert.is_nil(info.load)
    assert.is_nil(info.entropy)
    assert.is_not_nil(info.loss)
  end)

  it("has the z-loss of its logits", function()
    local layer = mixture({ k = 1, z_loss = 0.5 })
    local _, info = layer(x)
    local sum = 0
    for _, row in ipairs(x:reshape(-1, 4):linear(layer.router.weight):totable()) do
      local total = 0
      for _, logit in ipairs(row) do total = total + math.exp(logit) end
      sum = sum + math.log(total) ^ 2
    end
    helper.close(info.loss, 0.5 * sum / 10)
  end)

  -- methods.md 1.3 and Fedus et al. eq. 4, by loops
  local function balance(layer, k, form)
    local logits = x:reshape(-1, 4):linear(layer.router.weight)
    local gates, ids = logits:topk_route(k, "selected")
    local u, p = { 0, 0, 0 }, { 0, 0, 0 }
    gates, ids = gates:totable(), ids:totable()
    for t, row in ipairs(logits:softmax(-1):totable()) do
      for e = 1, 3 do p[e] = p[e] + row[e] / 10 end
      for s = 1, k do
        local e = ids[t][s] + 1
        u[e] = u[e] + (form == "btx" and gates[t][s] or 1) / 10
      end
    end
    return 3 * (u[1] * p[1] + u[2] * p[2] + u[3] * p[3])
  end

  for _, form in ipairs({ "btx", "switch" }) do
    it("has the balance loss " .. form, function()
      local layer = mixture({ k = 2, balance = { form = form, coef = 0.3 } })
      local _, info = layer(x)
      helper.close(info.loss, 0.3 * balance(layer, 2, form))
    end)
  end

  it("adds balance and z-loss up", function()
    local one = select(2, mixture({ balance = { coef = 0.1 } })(x)).loss:item()
    local two = select(2, mixture({ z_loss = 0.2 })(x)).loss:item()
    helper.close(select(2, mixture({ balance = { coef = 0.1 }, z_loss = 0.2 })(x)).loss, one + two)
    assert.is_nil(select(2, mixture({ balance = { coef = 0 } })(x)).loss)
  end)

  it("refuses what it cannot do", function()
    misuse(function() mixture({ k = 4 }) end,
      "router: k must be 1 to the number of experts: 4 of 3")
    misuse(function() nn.MoE({ dim = 4, experts = 3 }) end,
      "nn.MoE: option 'hidden' is missing: integer expected")
  end)
end)

describe("initialisation", function()
  local function weights(opts)
    return nn.FeedForward({ dim = 8, hidden = 8, seed = opts.seed, std = opts.std,
      name = opts.name })
  end

  it("depends on seed and name, not on what was made before", function()
    local first = weights({ seed = 1, name = "a." })
    weights({ seed = 1, name = "b." })
    models.same(first, weights({ seed = 1, name = "a." }))
    assert.not_equal(first.w1:bytes(), weights({ seed = 1, name = "b." }).w1:bytes())
    assert.not_equal(first.w1:bytes(), weights({ seed = 2, name = "a." }).w1:bytes())
    assert.not_equal(first.w1:bytes(), first.w3:bytes())
  end)

  it("draws from moe.manual_seed without a seed", function()
    moe.manual_seed(9)
    local first, second = weights({}), weights({})
    assert.not_equal(first.w1:bytes(), second.w1:bytes())
    moe.manual_seed(9)
    models.same(first, weights({}))
  end)

  it("has the deviation asked for", function()
    local w = nn.Linear(64, 64, { std = 0.3, seed = 1 }).weight:detach()
    helper.close((w * w):mean():item(), 0.09, 0.09 * 4 * math.sqrt(2 / 4096))
    helper.close(w:mean(), 0, 4 * 0.3 / 64)
    w = nn.Linear(64, 64, { seed = 1 }).weight:detach()
    helper.close(math.sqrt((w * w):mean():item()), 0.02, 0.002)
  end)
end)

describe("a bank of experts", function()
  it("is a layer of its own, which keeps its shapes", function()
    local bank = nn.Experts({ experts = 2, dim = 4, hidden = 3, seed = 1 })
    assert.equal("Experts w1 [2 x 3 x 4], w3 [2 x 3 x 4], w2 [2 x 4 x 3]", tostring(bank))
    assert.is_true(nn.is_layer(bank))
    assert.is_false(nn.is_layer(bank.w1))
    assert.is_false(nn.is_layer("w1"))
    assert.same({ "w1", "w3", "w2" }, (models.shapes(bank)))
    local x = moe.randn(5, 4, { seed = 1, stream = "x" })
    local before = nn.fingerprint(bank)
    local y = bank(x, moe.ones(5, 1), moe.zeros(5, 1):to("i32"))
    y:sum():backward()
    moe.optimizer(bank, { lr = 0.1 }):step()
    assert.not_equal(before, nn.fingerprint(bank))
    assert.error_matches(function() bank.w1 = moe.zeros(2, 3, 5) end, "Experts: w1")
  end)

  it("leaves empty slots out", function()
    local bank = nn.Experts({ experts = 2, dim = 4, hidden = 3, seed = 1, activation = "relu" })
    local x = moe.randn(2, 4, { seed = 1, stream = "x" })
    local gates = moe.tensor({ { 0.5, 7 }, { 9, 8 } })
    local y = bank(x, gates, moe.tensor({ { 1, -1 }, { -1, -1 } }, "i32"))
    helper.close(y:narrow(1, 1, 1), bank(x:narrow(1, 1, 1), moe.tensor({ { 0.5 } }),
      moe.tensor({ { 1 } }, "i32")))
    assert.same({ { 0, 0, 0, 0 } }, y:narrow(1, 2, 1):totable())
  end)
end)

describe("fingerprint", function()
  it("changes with any number", function()
    local a, b = nn.Linear(8, 8, { seed = 1 }), nn.Linear(8, 8, { seed = 1 })
    assert.equal(nn.fingerprint(a), nn.fingerprint(b))
    b.weight:detach():narrow(1, 8, 1):narrow(2, 8, 1):fill_(1)
    assert.not_equal(nn.fingerprint(a), nn.fingerprint(b))
  end)
end)
