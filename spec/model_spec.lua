-- The decoder: names, counts, configuration errors, causality, losses, seeds.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local misuse = models.misuse

local function new(more)
  return function()
    local m = models.tiny(more)
    return m
  end
end

local ids = { 5, 200, 31, 7, 7, 90, 0, 255 }

describe("parameters", function()
  it("have family-independent names in the order of checkpoints", function()
    local m = models.tiny({ layers = 2, kv_heads = 1, ffn = { { hidden = 20 },
      models.mixture({ hidden = 12, experts = 3 }) } })
    local names, shapes = models.shapes(m)
    assert.same({ "embedding",
      "layers.0.attention_norm", "layers.0.attention.q", "layers.0.attention.k",
      "layers.0.attention.v", "layers.0.attention.o", "layers.0.ffn_norm",
      "layers.0.ffn.w1", "layers.0.ffn.w3", "layers.0.ffn.w2",
      "layers.1.attention_norm", "layers.1.attention.q", "layers.1.attention.k",
      "layers.1.attention.v", "layers.1.attention.o", "layers.1.ffn_norm",
      "layers.1.ffn.router", "layers.1.ffn.experts.w1", "layers.1.ffn.experts.w3",
      "layers.1.ffn.experts.w2", "norm" }, names)
    assert.equal("256x16", shapes.embedding)
    assert.equal("16x16", shapes["layers.0.attention.q"])
    assert.equal("8x16", shapes["layers.0.attention.k"])
    assert.equal("20x16", shapes["layers.0.ffn.w1"])
    assert.equal("16x20", shapes["layers.0.ffn.w2"])
    assert.equal("3x16", shapes["layers.1.ffn.router"])
    assert.equal("3x12x16", shapes["layers.1.ffn.experts.w3"])
    assert.equal("3x16x12", shapes["layers.1.ffn.experts.w2"])
    assert.equal("16", shapes.norm)
  end)

  it("include a head of its own when it is not tied", function()
    local names, shapes = models.shapes(models.tiny({ tied = false }))
    assert.equal("head", names[#names])
    assert.equal("256x16", shapes.head)
    local tied = models.shapes(models.tiny())
    assert.equal("norm", tied[#tied])
  end)

  it("are counted, all and those of one token", function()
    local attention, ffn = 4 * 16 * 16, 3 * 16 * 24
    local rest = 256 * 16 + 16 + 2 * (attention + 2 * 16)
    local total, active = models.tiny():count()
    assert.equal(rest + 2 * ffn, total)
    assert.equal(total, active)
    total, active = models.tiny({ ffn = models.mixture() }):count()
    assert.equal(rest + 2 * (4 * ffn + 4 * 16), total)
    assert.equal(rest + 2 * (2 * ffn + 4 * 16), active)
  end)

  it("follow from the seed alone", function()
    local first = models.tiny({ seed = 3, ffn = models.mixture() })
    models.tiny({ seed = 4 })
    moe.randn(7)
    models.same(first, models.tiny({ seed = 3, ffn = models.mixture() }))
    local a, names = models.bits(first)
    local b = models.bits(models.tiny({ seed = 4, ffn = models.mixture() }))
    for _, name in ipairs(names) do
      if not name:find("norm") then assert.not_equal(a[name], b[name], name) end
    end
  end)

  it("are the same in layers that have the same name, whatever else differs", function()
    local dense, mixed = models.bits(models.tiny()),
      models.bits(models.tiny({ vocab = 256, ffn = models.mixture() }))
    for _, name in ipairs({ "embedding", "layers.1.attention.q", "layers.0.attention.o" }) do
      assert.equal(dense[name], mixed[name], name)
    end
  end)
end)

describe("configuration", function()
  it("is completed", function()
    local config = models.tiny({ ffn = { {}, models.mixture({ router = { k = 1 } }) } }).config
    assert.same({ { kind = "dense", hidden = 24, activation = "swiglu" },
      { kind = "moe", hidden = 24, experts = 4, activation = "swiglu",
        router = require("moelua.router").options({ k = 1 }, 4) } }, config.ffn)
    assert.equal(2, config.kv_heads)
    assert.equal(8, config.head_dim)
    assert.equal(10000, config.rope_theta)
    assert.is_true(config.tied)
  end)

  it("stays as it is when it is complete", function()
    local check_config = require("moelua.model").check_config
    for _, ffn in ipairs({ {}, models.mixture(), models.mixture({ segments = 2, shared = 1 }),
      models.mixture({ router = { kind = "sample" } }),
      models.mixture({ router = { kind = "hash", by = "balanced" } }) }) do
      local config = models.tiny({ ffn = ffn }).config
      assert.same(config, check_config(config))
    end
  end)

  it("has mixtures of tokens in the later half, for which routers do not count", function()
    local mot = { kind = "mot", hidden = 24, experts = 4, group = 2, flop_matched = true }
    local m = models.tiny({ layers = 4, ffn = { {}, models.mixture(), mot, mot } })
    assert.equal(12, m.config.ffn[3].hidden)
    assert.same(m.config, require("moelua.model").check_config(m.config))
    assert.same({ causal = true, coupled = "batch", group = 2 }, m:traits())
    assert.same({ 2, 3, 256 }, m:logits(moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, "i32")):shape())
    misuse(new({ ffn = { kind = "mot", experts = 4, group = 2, router = {} } }),
      "moe.model.new: a mixture of tokens has no option 'router'\nhint: kind = \"moe\"")
    misuse(new({ ffn = models.mixture({ group = 2 }) }),
      "moe.model.new: a mixture of experts has no option 'group'\nhint: kind = \"mot\"")
  end)

  it("makes the first mixture layer soft where one expert is drawn", function()
    local drawn = models.mixture({ router = { kind = "sample", z_loss = 0.1 } })
    local config = models.tiny({ layers = 4, ffn = { {}, drawn, drawn, {} } }).config
    assert.equal("soft", config.ffn[2].router.kind)
    assert.equal(0.1, config.ffn[2].router.z_loss)
    assert.equal("sample", config.ffn[3].router.kind)
    drawn.router.first = "sample"
    config = models.tiny({ ffn = { {}, drawn } }).config
    assert.equal("sample", config.ffn[2].router.kind)
  end)

  it("tells a hash the vocabulary", function()
    local hash = models.mixture({ router = { kind = "hash", by = "balanced" } })
    assert.equal(256, models.tiny({ ffn = hash }).config.ffn[1].router.vocab)
    hash.router.vocab = 100
    misuse(new({ ffn = hash }),
      "moe.model.new: the hash of a router is for a vocabulary of 100, the model has 256")
    hash.router.vocab = {}
    misuse(new({ ffn = hash }),
      "moe.model.new: the hash of a router is for a vocabulary of a table, the model has 256")
    misuse(new({ ffn = models.mixture({ router = 3 }) }),
      "moe.model.new: option 'router' has the wrong type: table expected, got 3")
  end)

  it("is refused with the reason", function()
    misuse(new({ dims = 3 }), "moe.model.new: unknown option 'dims'\nhint: did you mean 'dim'?")
    misuse(new({ heads = 3 }),
      "moe.model.new: dim 16 is not divisible by 3 heads\nhint: or give head_dim")
    misuse(new({ heads = 4, kv_heads = 3 }), "moe.model.new: 4 heads cannot share 3 kv_heads")
    misuse(new({ kv_heads = 0 }), "moe.model.new: kv_heads must be at least 1, not 0")
    misuse(new({ head_dim = 7 }),
      "moe.model.new: head_dim must be even for rotary positions, not 7")
    misuse(new({ head_dim = -2 }), "moe.model.new: head_dim must be at least 1, not -2")
    misuse(new({ layers = 0 }), "moe.model.new: layers must be at least 1, not 0")
    misuse(new({ hidden = 0 }), "moe.model.new: hidden must be at least 1, not 0")
    misuse(new({ ffn = { { hidden = 8 } } }),
      "moe.model.new: ffn lists 1 layers, but the model has 2")
    misuse(new({ ffn = { kind = "moe" } }),
      "moe.model.new: a mixture of experts needs experts = N")
    misuse(new({ ffn = { experts = 4 } }),
      "moe.model.new: a dense layer has no option 'experts'\nhint: kind = \"moe\"")
    misuse(new({ ffn = { activation = "tanh" } }), "moe.model.new: option 'activation' is " ..
      "'tanh': unknown\nhint: known are swiglu, relu, gelu, silu")
    misuse(new({ ffn = { {}, 3 } }), "moe.model.new: ffn must be a table of options, not 3")
    misuse(new({ ffn = models.mixture({ experts = 1 }) }),
      "router: k must be 1 to the number of experts: 2 of 1")
    misuse(new({ ffn = { kind = "sparse" } }),
      "ffn: option 'kind' is 'sparse': unknown\nhint: known are dense, moe, mot")
    misuse(function()
      moe.model.new({ dim = 16, layers = 1, heads = 1, vocab = 8, context = 8 })
    end, "moe.model.new: the width of the feed-forward layers is missing\nhint: hidden = 64")
  end)
end)

local patterns = {
  dense = {}, untied = { tied = false }, grouped = { heads = 4, kv_heads = 2 },
  mixture = { ffn = models.mixture() },
  ["dense below, mixture above"] = { ffn = { {}, models.mixture() } },
  ["mixture below, dense above"] = { ffn = { models.mixture({ experts = 3 }), { hidden = 8 } } },
  ["shared experts"] = { ffn = models.mixture({ segments = 2, shared = { experts = 1,
    gate = true } }) },
  ["two matrices"] = { ffn = { { activation = "gelu" }, models.mixture({ activation = "relu" }) } },
  ["hash of two tokens"] = { ffn = models.mixture({ router = { kind = "hash", by = "bigram" } }) },
  ["biased sigmoid gates"] = { ffn = models.mixture({ router = { k = 2, gate = "sigmoid",
    bias = { rate = 0.1 }, scale = 2.5 } }) },
}
local pattern_names = {}
for name in pairs(patterns) do pattern_names[#pattern_names + 1] = name end
table.sort(pattern_names)

for _, name in ipairs(pattern_names) do
  describe("logits (" .. name .. ")", function()
    local m = models.tiny(patterns[name])

    it("have one row per token", function()
      assert.same({ 8, 256 }, m:logits(ids):shape())
      assert.same({ 2, 3, 256 }, m:logits(moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, "i32")):shape())
    end)

    it("do not depend on later tokens", function()
      local before = m:logits(ids)
      for at = 2, #ids do
        local other = table.move(ids, 1, #ids, 1, {})
        other[at] = (ids[at] + 100) % 256
        local after = m:logits(other)
        assert.equal(before:narrow(1, 1, at - 1):clone():bytes(),
          after:narrow(1, 1, at - 1):clone():bytes())
        assert.is_true(models.distance(before:narrow(1, at, 1), after:narrow(1, at, 1)) > 1e-4)
      end
    end)

    it("are those of the row in any batch", function()
      local alone = m:logits(ids)
      local other = { 1, 2, 3, 4, 5, 6, 7, 8 }
      local batch = m:logits(moe.tensor({ other, ids, other }, "i32"))
      helper.close(batch:select(1, 2), alone, 1e-5)
    end)

    it("grow a token at a time with a cache", function()
      local whole, cache = m:logits(ids), require("moelua.kv_cache")(m.config, { room = 8 })
      helper.close(m:logits({ table.unpack(ids, 1, 3) }, nil, cache), whole:narrow(1, 1, 3), 1e-5)
      for t = 4, 8 do
        helper.close(m:logits({ ids[t] }, nil, cache), whole:narrow(1, t, 1), 1e-5)
      end
      assert.same({ 8 }, cache.lengths)
    end)
  end)
end

describe("loss", function()
  local x = moe.tensor({ ids, { 1, 2, 3, 4, 5, 6, 7, 8 } }, "i32")
  local y = moe.tensor({ { 200, 31, 7, 7, 90, 0, 255, -1 }, { 2, 3, 4, 5, 6, 7, 8, -1 } }, "i32")

  -- Mean of -log softmax over the targets that count.
  local function cross_entropy(m)
    local rows, targets = m:logits(x):log_softmax(-1):totable(), y:totable()
    local sum, n = 0, 0
    for b = 1, 2 do
      for t = 1, 8 do
        if targets[b][t] >= 0 then
          sum, n = sum - rows[b][t][targets[b][t] + 1], n + 1
        end
      end
    end
    return sum / n
  end

  for _, name in ipairs({ "dense", "untied", "mixture" }) do
    it("is the mean cross-entropy of the logits: " .. name, function()
      local m = models.tiny(patterns[name])
      local _, info = m:loss(x, y)
      helper.close(info.nll, cross_entropy(m), 1e-5)
    end)
  end

  it("has nothing added in a dense model", function()
    local loss, info = models.tiny():loss(x, y)
    assert.equal(info.nll:item(), loss:item())
    assert.is_nil(info.aux)
    assert.same({}, info.layers)
  end)

  it("adds the auxiliary losses of all layers up", function()
    local m = models.tiny({ layers = 3,
      ffn = { models.mixture(), {}, models.mixture({ router = { k = 1, z_loss = 0.1 } }) } })
    local loss, info = m:loss(x, y)
    assert.is_nil(info.layers[2])
    local sum = info.layers[1].loss:item() + info.layers[3].loss:item()
    helper.close(info.aux, sum, 1e-6)
    helper.close(loss, info.nll:item() + sum, 1e-6)
    assert.equal(4, #info.layers[1].load)
  end)

  it("reaches every parameter", function()
    local m = models.tiny({ tied = false, ffn = { {}, models.mixture({ router = { k = 4,
      balance = {} } }) } })
    m:loss(x, y):backward()
    for _, entry in ipairs(m:parameters()) do
      local grad = entry[2]:grad()
      assert.is_not_nil(grad, entry[1])
      assert.is_true(models.distance(grad, grad * 0) > 0, entry[1])
    end
  end)

  it("is refused without tokens", function()
    misuse(function() models.tiny():logits({}) end, "logits: no token ids")
  end)
end)
