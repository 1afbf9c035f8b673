-- Branch-Train-MiX, the mixing: the invariants of the method, and what the mixture is made of.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local misuse = models.misuse

local ids = { 5, 200, 31, 7, 7, 90, 0, 255 }

-- Models of one shape with different numbers, as if trained from one seed.
local function family_of(count, more)
  local list = {}
  for i = 1, count do
    local opts = { seed = i }
    for k, v in pairs(more or {}) do opts[k] = v end
    list[i] = models.tiny(opts)
  end
  return list
end

local function repeated(m, count)
  local list = {}
  for i = 1, count do list[i] = m end
  return list
end

local function randomise_routers(m, std)
  for i, layer in ipairs(m.layers) do
    models.set(layer.ffn.router.weight, moe.randn(layer.ffn.router.weight:shape(),
      { std = std, seed = i, stream = "routers" }))
  end
end

describe("a mixture of identical models", function()                               -- I1
  for _, tied in ipairs({ true, false }) do
    local seed = models.tiny({ tied = tied })
    for _, count in ipairs({ 1, 2, 3, 4 }) do
      for k = 1, count do
        it(("is the model: %d experts, k = %d, tied = %s"):format(count, k, tied), function()
          local mixed = moe.mix(repeated(seed, count), { router = { k = k } })
          helper.close(mixed:logits(ids), seed:logits(ids), 1e-5)
          randomise_routers(mixed, 3)
          helper.close(mixed:logits(ids), seed:logits(ids), 1e-5)
        end)
      end
    end
  end

  it("is another one when the gates do not sum to one", function()
    local seed = models.tiny()
    local mixed = moe.mix(repeated(seed, 4), { router = { k = 2, gate = "all" } })
    assert.is_true(models.distance(mixed:logits(ids), seed:logits(ids)) > 1e-3)
  end)
end)

describe("averages", function()                                                    -- I2
  it("of a power of two of equal models are the model, bit for bit", function()
    local seed = models.tiny({ tied = false })
    for _, count in ipairs({ 1, 2, 4, 8 }) do
      models.same(seed, moe.average(repeated(seed, count)))
      local mixed = models.bits(moe.mix(repeated(seed, count)))
      for name, bits in pairs((models.bits(seed))) do
        if not name:find("ffn%.w") then assert.equal(bits, mixed[name], name) end
      end
    end
  end)

  it("are the arithmetic mean of every number", function()
    local list = family_of(3)
    local mean = moe.average(list)
    for i, entry in ipairs(mean:parameters()) do
      local sum = moe.zeros(entry[2]:shape())
      for _, m in ipairs(list) do sum = sum + m:parameters()[i][2]:detach() end
      assert.is_true(models.distance(entry[2], sum / 3) <= 1e-8, entry[1])
    end
  end)

  it("do not depend on the order", function()
    local a, b, c = table.unpack(family_of(3))
    local one, other = moe.average({ a, b, c }), moe.average({ c, a, b })
    for i, entry in ipairs(one:parameters()) do
      assert.is_true(models.distance(entry[2], other:parameters()[i][2]) < 1e-7, entry[1])
    end
  end)

  it("leave the models as they were", function()
    local list = family_of(2)
    local before = nn.fingerprint(list[1])
    moe.average(list)
    moe.mix(list)
    assert.equal(before, nn.fingerprint(list[1]))
  end)
end)

describe("mix", function()
  local a, b, c = table.unpack(family_of(3, { tied = false }))
  local mixed = moe.mix({ a, b, c })

  it("takes the feed-forward layers as experts, bit for bit", function()
    for l, layer in ipairs(mixed.layers) do
      for e, m in ipairs({ a, b, c }) do
        for _, w in ipairs({ "w1", "w2", "w3" }) do
          assert.equal(m.layers[l].ffn[w]:bytes(),
            layer.ffn.experts[w]:detach():select(1, e):clone():bytes())
        end
      end
    end
  end)

  it("averages everything else, the seed included", function()
    local mean = models.bits(moe.average({ a, b, c }))
    local got, names = models.bits(mixed)
    local averaged = 0
    for _, name in ipairs(names) do
      if not name:find("%.ffn%.") then
        assert.equal(mean[name], got[name], name)
        averaged = averaged + 1
      end
    end
    assert.equal(3 + 2 * 6, averaged)
    local without = models.parameter(moe.average({ b, c }), "embedding")
    assert.is_true(models.distance(models.parameter(mixed, "embedding"), without) > 1e-3)
  end)

  it("has N P_FF + L N d parameters where there were P_FF", function()              -- I2
    local dense, ffn = a:count(), 2 * 3 * 16 * 24
    assert.equal(dense - ffn + 3 * ffn + 2 * 3 * 16, (mixed:count()))
  end)

  it("routes to the top two, with BTX's balance loss, unless told otherwise", function()
    assert.same({ kind = "topk", k = 2, gate = "selected", z_loss = 0,
      balance = { form = "btx", coef = 0.01, scope = "batch", reduce = "sum" } },
      mixed.config.ffn[2].router)
    assert.equal(1, moe.mix({ a }).config.ffn[1].router.k)
    assert.same({ kind = "topk", k = 3, gate = "all", z_loss = 0 },
      moe.mix({ a, b, c }, { router = { k = 3, gate = "all" } }).config.ffn[1].router)
  end)

  it("draws routers from N(0, 0.02^2), whatever the models were drawn from", function()
    local wide = models.tiny({ dim = 64, std = 0.3 })
    local big = moe.mix(repeated(wide, 8))
    for _, layer in ipairs(big.layers) do
      local w = layer.ffn.router.weight:detach()
      assert.same({ 8, 64 }, w:shape())
      helper.close(w:mean(), 0, 4 * 0.02 / math.sqrt(512))
      helper.close((w * w):mean():item() / 0.0004, 1, 4 * math.sqrt(2 / 512))
    end
    assert.not_equal(big.layers[1].ffn.router.weight:bytes(),
      big.layers[2].ffn.router.weight:bytes())
  end)

  it("draws the same routers from the same seed", function()
    models.same(mixed, moe.mix({ a, b, c }))
    models.same(moe.mix({ a, b, c }, { seed = 7 }), moe.mix({ a, b, c }, { seed = 7 }))
    assert.not_equal(mixed.layers[1].ffn.router.weight:bytes(),
      moe.mix({ a, b, c }, { seed = 7 }).layers[1].ffn.router.weight:bytes())
  end)

  it("does not care which expert comes first", function()
    local other = moe.mix({ c, a, b })
    local order = { 3, 1, 2 }
    for l, layer in ipairs(other.layers) do
      local rows = {}
      for i, from in ipairs(order) do
        rows[i] = mixed.layers[l].ffn.router.weight:detach():narrow(1, from, 1)
      end
      models.set(layer.ffn.router.weight, moe.concat(rows, 1))
    end
    helper.close(other:logits(ids), mixed:logits(ids), 1e-5)
  end)

  it("reads models from folders, and keeps the tokenizer", function()
    local folder = helper.tmpdir() .. "/a"
    a.tokenizer = moe.tokenizer.bytes()
    assert(a:save(folder))
    local again = moe.mix({ folder, b, c })
    models.same(mixed, again)
    assert.equal("bytes", again.tokenizer.name)
  end)
end)

describe("mix, with other choices,", function()
  local a, b, c = table.unpack(family_of(3, { tied = false }))
  local x = moe.randn(9, 16, { seed = 3, stream = "x" })

  local function expert(m, layer, w, e)
    return m.layers[layer].ffn.experts[w]:detach():select(1, e):clone()
  end

  -- The sum of what all experts of a layer make of x.
  local function sum_of_experts(m, layer)
    local bank, experts, every = m.layers[layer].ffn.experts, {}, {}
    for e = 1, bank.w1:size(1) do experts[e] = e - 1 end
    for t = 1, 9 do every[t] = experts end
    return bank(x, moe.ones(9, #experts), moe.tensor(every, "i32"))
  end

  it("takes the rest from one model, of any number", function()
    for index, m in ipairs({ a, b, c }) do
      local mixed = models.bits(moe.mix({ a, b, c }, { rest = index }))
      for name, bytes in pairs((models.bits(m))) do
        if not name:find("ffn%.w") then assert.equal(bytes, mixed[name], name) end
      end
    end
  end)

  it("leaves layers dense, as the rest is made", function()
    local mixed = moe.mix({ a, b }, { layers = { 2 } })
    helper.close(mixed.layers[1].ffn.w2,
      (a.layers[1].ffn.w2:detach() + b.layers[1].ffn.w2:detach()) / 2, 1e-8)
    assert.equal("moe", mixed.config.ffn[2].kind)
    mixed = moe.mix({ a, b }, { layers = { 2 }, rest = 2 })
    assert.equal(b.layers[1].ffn.w1:bytes(), mixed.layers[1].ffn.w1:bytes())
    helper.close(moe.mix({ a, a }, { layers = { 2 } }):logits(ids), a:logits(ids), 1e-5)
  end)

  it("splits every layer into experts that sum to it", function()
    local mixed = moe.mix({ a, b }, { split = 3, router = { k = 2 } })
    assert.equal(6, mixed.config.ffn[1].experts)
    assert.equal(8, mixed.config.ffn[1].hidden)
    helper.close(sum_of_experts(mixed, 2), a.layers[2].ffn(x) + b.layers[2].ffn(x), 1e-5)
    assert.equal(a.layers[1].ffn.w1:detach():narrow(1, 9, 8):clone():bytes(),
      expert(mixed, 1, "w1", 2):bytes())
  end)

  it("undoes the 1/C of gates that sum to one with scale = C", function()
    for _, scale in ipairs({ 1, 3 }) do
      local mixed = moe.mix({ a }, { split = 3, scale = scale, router = { kind = "soft" } })
      mixed.layers[1].ffn.router.weight:detach():fill_(0)
      helper.close(mixed.layers[1].ffn(x), a.layers[1].ffn(x) * (scale / 3), 1e-5)
    end
  end)

  it("blends pieces of all models into experts that sum to all of them", function()
    local mixed = moe.mix({ a, b, c }, { blend = true })
    assert.equal(3, mixed.config.ffn[1].experts)
    assert.equal(24, mixed.config.ffn[1].hidden)
    helper.close(sum_of_experts(mixed, 1),
      a.layers[1].ffn(x) + b.layers[1].ffn(x) + c.layers[1].ffn(x), 1e-5)
    assert.equal(b.layers[1].ffn.w3:detach():narrow(1, 17, 8):clone():bytes(),
      expert(mixed, 1, "w3", 3):narrow(1, 9, 8):clone():bytes())
  end)

  it("makes experts of narrower models as wide as the widest, by zeros", function()
    local narrow = models.tiny({ tied = false, hidden = 20, seed = 9 })
    local mixed = moe.mix({ a, narrow }, { router = { k = 1, gate = "all" } })
    assert.equal(24, mixed.config.ffn[1].hidden)
    helper.close(sum_of_experts(mixed, 1), a.layers[1].ffn(x) + narrow.layers[1].ffn(x), 1e-5)
    helper.close(expert(mixed, 1, "w1", 2):narrow(1, 21, 4), moe.zeros(4, 16), 0)
    helper.close(expert(mixed, 1, "w2", 2):narrow(2, 21, 4), moe.zeros(16, 4), 0)
  end)

  it("takes what else attention has along: biases, norms, scaled positions", function()
    local function qwen(seed)
      local m = models.tiny({ seed = seed, attention_bias = "qkv", qk_norm = "head",
        rope_scaling = { rope_type = "linear", factor = 2 } })
      for _, name in ipairs({ "q_bias", "k_norm" }) do
        local tensor = models.parameter(m, "layers.1.attention." .. name)
        models.set(tensor, moe.randn(tensor:shape(), { seed = seed, stream = name }))
      end
      return m
    end
    local one, two = qwen(1), qwen(2)
    helper.close(moe.mix({ one, one }):logits(ids), one:logits(ids), 1e-5)
    local function bias(m) return models.parameter(m, "layers.1.attention.q_bias"):detach() end
    helper.close(bias(moe.mix({ one, two })), (bias(one) + bias(two)) / 2, 1e-7)
    local hint = "\nhint: all models must be trained from the same seed"
    misuse(function() moe.mix({ one, models.tiny({ attention_bias = "qkv", qk_norm = "head" }) })
    end, "mix: models 1 and 2 do not fit together: rope_scaling is " ..
      "{\"factor\":2,\"rope_type\":\"linear\"} in model 1 and none in model 2" .. hint)
  end)

  it("refuses what cannot be", function()
    local biased = models.tiny({ mlp_bias = true })
    misuse(function() moe.mix({ biased, biased }) end,
      "mix: feed-forward layers with biases cannot become experts")
    misuse(function() moe.mix({ a, b }, { split = 5 }) end,
      "mix: layer 1, of hidden = 24, cannot be cut into 5 pieces")
    misuse(function() moe.mix({ a, b }, { split = 2, blend = true }) end,
      "mix: layers are split or blended, not both")
    misuse(function() moe.mix({ a, b }, { rest = 3 }) end,
      "mix: rest is \"mean\" or the number of one of the 2 models, not 3")
    misuse(function() moe.mix({ a, b }, { rest = "base" }) end,
      "mix: rest is \"mean\" or the number of one of the 2 models, not \"base\"")
    misuse(function() moe.mix({ a, b }, { freeze = { "expert" } }) end,
      "mix: freeze has 'expert': unknown\nhint: did you mean 'experts'?")
  end)
end)

describe("mix and average refuse", function()
  local a = models.tiny()

  it("models of other shapes", function()
    local hint = "\nhint: all models must be trained from the same seed"
    misuse(function() moe.average({ a, models.tiny({ hidden = 20 }) }) end,
      "average: models 1 and 2 do not fit together: layers.0.ffn.w1 is [24 x 16] in model 1 and " ..
      "[20 x 16] in model 2" .. hint)
    misuse(function() moe.mix({ a, models.tiny({ vocab = 300 }) }) end,
      "mix: models 1 and 2 do not fit together: embedding is [256 x 16] in model 1 and " ..
      "[300 x 16] in model 2" .. hint)
    misuse(function() moe.average({ a, a, models.tiny({ tied = false }) }) end,
      "average: models 1 and 3 do not fit together: head is missing in model 1 and " ..
      "[256 x 16] in model 3" .. hint)
    misuse(function() moe.average({ models.tiny({ layers = 3 }), a }) end,
      "average: models 1 and 2 do not fit together: layers is 3 in model 1 and 2 in model 2" ..
      hint)
  end)

  it("models that only look alike", function()
    local hint = "\nhint: all models must be trained from the same seed"
    misuse(function() moe.mix({ a, models.tiny({ heads = 4 }) }) end,
      "mix: models 1 and 2 do not fit together: heads is 2 in model 1 and 4 in model 2" .. hint)
    misuse(function() moe.average({ a, models.tiny({ rope_theta = 500 }) }) end,
      "average: models 1 and 2 do not fit together: rope_theta is 10000 in model 1 and 500 in " ..
      "model 2" .. hint)
    misuse(function()
      moe.mix({ models.tiny({ ffn = { activation = "relu" } }), models.tiny({ ffn = {
        activation = "gelu" } }) })
    end, "mix: models 1 and 2 do not fit together: the activation of layer 1 is relu in model 1 " ..
      "and gelu in model 2" .. hint)
  end)

  it("mixtures as experts", function()
    misuse(function() moe.mix({ models.tiny({ ffn = { {}, models.mixture() } }) }) end,
      "mix: layer 2 is a mixture already\nhint: Branch-Train-MiX starts from dense models")
  end)

  it("nothing, and what is no model", function()
    misuse(function() moe.mix({}) end, "mix: no models given")
    misuse(function() moe.average({}) end, "average: no models given")
    misuse(function() moe.mix() end,
      "mix: a list of models is expected, not nil\nhint: mix({ a, b })")
    misuse(function() moe.mix({ a, 3 }) end, "mix: number 2 of the list must be a model, not 3")
    misuse(function() moe.mix({ a }, { routers = {} }) end,
      "mix: unknown option 'routers'\nhint: did you mean 'router'?")
    misuse(function() moe.mix({ a, a }, { router = { k = 3 } }) end,
      "router: k must be 1 to the number of experts: 3 of 2")
    local failure = models.failure(function() moe.mix({ helper.tmpdir() .. "/none" }) end)
    assert.equal("missing", failure.code)
  end)

  it("averages of mixtures are fine", function()
    local m = models.tiny({ ffn = models.mixture() })
    models.same(m, moe.average({ m, m }))
  end)

  it("averages of buffers are, of tables that differ they are not", function()
    local function router(kind) return models.tiny({ ffn = models.mixture({ router = kind }) }) end
    local one, two = router({ k = 2, bias = {} }), router({ k = 2, bias = {} })
    one.layers[1].ffn.router.bias:fill_(1)
    helper.close(moe.average({ one, two }).layers[1].ffn.router.bias, { 0.5, 0.5, 0.5, 0.5 })
    one = router({ kind = "hash", by = "balanced" })
    two = one:copy()
    assert.equal(nn.fingerprint(one), nn.fingerprint(moe.average({ one, two })))
    two.layers[2].ffn.router.table:fill_(0)
    misuse(function() moe.average({ one, two }) end,
      "average: models 1 and 2 do not fit together: " ..
      "layers.1.ffn.router.table differs\nhint: all models must be trained from the same seed")
  end)

  it("any kind of router is fine, with whatever it begins with", function()
    local list = family_of(3, { ffn = { activation = "relu" } })
    for _, kind in ipairs({ "switch", "noisy_topk", "soft", "sample", "base", "hash" }) do
      local by = kind == "hash" and "balanced" or nil
      local mixed = moe.mix(list, { router = { kind = kind, by = by }, seed = 7 })
      assert.equal("relu", mixed.config.ffn[1].activation)
      local fresh = moe.model.new({ dim = 16, layers = 2, heads = 2, vocab = 256, context = 16,
        seed = 7, std = 0.02, ffn = { kind = "moe", hidden = 24, experts = 3,
        activation = "relu", router = { kind = kind, by = by } } })
      assert.same(fresh.config.ffn, mixed.config.ffn)
      for i, layer in ipairs(fresh.layers) do
        assert.equal(nn.fingerprint(layer.ffn.router), nn.fingerprint(mixed.layers[i].ffn.router))
      end
      assert.same({ 8, 256 }, mixed:logits(ids):shape())
    end
  end)
end)

describe("feed-forward layers", function()                                          -- I3
  local x = moe.randn(6, 8, { seed = 1, stream = "x" })
  local function layer(seed)
    local ffn = nn.FeedForward({ dim = 8, hidden = 12, std = 0.6, seed = seed })
    return { w1 = ffn.w1:detach(), w3 = ffn.w3:detach(), w2 = ffn.w2:detach() }
  end
  local function apply(w) return x:linear(w.w1):swiglu(x:linear(w.w3)):linear(w.w2) end
  local function chunk(w, n, of)
    local size = 12 // of
    local first = (n - 1) * size + 1
    return { w1 = w.w1:narrow(1, first, size), w3 = w.w3:narrow(1, first, size),
      w2 = w.w2:narrow(2, first, size) }
  end

  it("split along the hidden width sum to the whole", function()
    local w = layer(1)
    for _, parts in ipairs({ 2, 3, 4 }) do
      local sum = apply(chunk(w, 1, parts))
      for n = 2, parts do sum = sum + apply(chunk(w, n, parts)) end
      helper.close(sum, apply(w), 1e-5)
    end
  end)

  it("blended sum to the sum of all", function()
    local all, sum, want = { layer(1), layer(2), layer(3) }, nil, nil
    for n = 1, 3 do
      local parts = { w1 = {}, w3 = {}, w2 = {} }
      for i, w in ipairs(all) do
        for name, part in pairs(chunk(w, n, 3)) do parts[name][i] = part end
      end
      local y = apply({ w1 = moe.concat(parts.w1, 1), w3 = moe.concat(parts.w3, 1),
        w2 = moe.concat(parts.w2, 2) })
      local whole = apply(all[n])
      sum, want = sum and sum + y or y, want and want + whole or whole
    end
    helper.close(sum, want, 1e-5)
  end)
end)

describe("Gumbel noise", function()                                                 -- I6
  it("draws experts by their softmax, at any temperature", function()
    local n, logits = 200000, moe.tensor({ 1, 0, -1, 2 })
    local u = moe.rand(n, 4, { seed = 11, stream = "gumbel" })
    local noisy = logits - (-(u:log())):log()
    local winners = noisy:argmax(-1)
    local share, p = winners:bincount(4):totable(), logits:softmax(-1):totable()
    for e = 1, 4 do
      local sigma = math.sqrt(p[e] * (1 - p[e]) / n)
      helper.close(share[e] / n, p[e], 4 * sigma)
    end
    assert.equal(winners:bytes(), (noisy / 0.5):argmax(-1):bytes())
  end)
end)
