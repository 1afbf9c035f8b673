-- Compute per token against the formula, written out for one model after another.
local models = require("spec.models")
local flops = require("moelua.flops")

describe("flops", function()
  it("of a dense model: 6 P + 6 d V + 12 L d T / 2", function()
    local attention, ffn = 4 * 16 * 16, 3 * 16 * 24
    local want = 6 * 2 * (attention + ffn) + 6 * 16 * 256 + 12 * 2 * 16 * 16 / 2
    assert.equal(want, flops.per_token(models.tiny().config))
    assert.equal(want, flops.per_token(models.tiny({ tied = false }).config))
  end)

  it("grow with the context", function()
    local config = models.tiny().config
    assert.equal(12 * 2 * 16 * (100 - 16) / 2,
      flops.per_token(config, 100) - flops.per_token(config, 16))
  end)

  it("count shared key-value heads once", function()
    local few = models.tiny({ heads = 4, kv_heads = 1 }).config
    local all = models.tiny({ heads = 4 }).config
    assert.equal(6 * 2 * (2 * 16 * 12), flops.per_token(all) - flops.per_token(few))
  end)

  it("are matched by a dense layer of some width", function()
    local ffn = { kind = "moe", hidden = 24, experts = 16, router = { k = 2 } }
    assert.equal(48 + 5, flops.dense_width(ffn, 16))              -- 16 x 16 / (3 x 16) = 5.3
    ffn.activation = "relu"
    assert.equal(48 + 8, flops.dense_width(ffn, 16))              -- two matrices: 16 / 2
    assert.equal(24, flops.dense_width({ kind = "dense", hidden = 24 }, 16))
    models.misuse(function() flops.dense_width(3, 16) end,
      "flops.ffn: ffn must be one of model.config.ffn, not 3")
  end)

  it("leave out the gradients of frozen matrices: 4 per parameter instead of 6", function()
    local function saved(freeze, more)
      local opts = { ffn = { {}, models.mixture({ experts = 5, shared = 1 }) } }
      for k, v in pairs(more or {}) do opts[k] = v end
      local all = flops.per_token(models.tiny(opts).config)
      opts.freeze = freeze
      return all - flops.per_token(models.tiny(opts).config)
    end
    assert.equal(2 * 2 * 3 * 16 * 24, saved({ "experts" }))
    assert.equal(2 * 3 * 16 * 24, saved({ "shared" }))
    assert.equal(2 * 3 * 16 * 24, saved({ "ffn" }))
    assert.equal(2 * 5 * 16, saved({ "router" }))
    assert.equal(2 * 2 * 4 * 16 * 16, saved({ "attention" }))
    assert.equal(2 * (2 * 16 + 2 * 8) * 16, saved({ "^layers%.0%.attention" }, { kv_heads = 1 }))
    assert.equal(2 * 16 * 256, saved({ "embedding" }))
    assert.equal(0, saved({ "embedding" }, { tied = false }))
    assert.equal(2 * 16 * 256, saved({ "head" }, { tied = false }))
    assert.equal(0, saved({ "norms" }))
  end)

  it("of a mixture count k experts and the router", function()
    local dense = flops.per_token(models.tiny().config)
    local mixed = flops.per_token(models.tiny({ ffn = { {}, models.mixture({ experts = 5 }) } })
      .config)
    assert.equal(6 * (3 * 16 * 24 + 5 * 16), mixed - dense)
  end)

  it("of the default recipe's shape", function()
    local shape = { dim = 128, layers = 4, heads = 4, hidden = 352, context = 128 }
    local dense = flops.per_token(models.tiny(shape).config)
    shape.ffn = models.mixture({ hidden = 352 })
    local mixed = flops.per_token(models.tiny(shape).config)
    assert.equal(6 * (4 * (4 * 128 ^ 2 + 3 * 128 * 352) + 128 * 256) + 12 * 4 * 128 * 128 / 2,
      dense)
    assert.equal(dense + 6 * 4 * (3 * 128 * 352 + 4 * 128), mixed)
  end)

  it("of a mixture count what its router uses on average", function()
    local expert, matrix = 3 * 16 * 24, 5 * 16
    local function of(router)
      return flops.ffn({ kind = "moe", hidden = 24, experts = 5, router = router }, 16) / 6
    end
    assert.equal(expert + matrix, of({ kind = "switch" }))
    assert.equal(2 * expert + matrix, of({ kind = "gshard" }))
    assert.equal(2 * expert + 2 * matrix, of({ kind = "noisy_topk" }))
    assert.equal(5 * expert + matrix, of({ kind = "soft" }))
    assert.equal(1.5 * expert + matrix, of({ kind = "expert_choice", factor = 1.5 }))
    assert.equal(expert + matrix, of({ kind = "base" }))
    assert.equal(expert, of({ kind = "hash" }))
    assert.equal(expert, of({ kind = "domain", domains = { "a", "b", "c", "d", "e" } }))
    assert.equal(2 * expert + matrix, of({ k = 2, skip = 2 }))
  end)

  it("and parameters in use are those of the model", function()
    local m = models.tiny({ ffn = models.mixture({ router = { kind = "expert_choice",
      factor = 1.5 } }) })
    local total, active = m:count()
    assert.equal(2 * (4 - 1.5) * 3 * 16 * 24, total - active)
    m = models.tiny({ ffn = models.mixture({ experts = 3, router = { kind = "expert_choice",
      factor = 1.1 } }) })
    total, active = m:count()
    assert.is_true(math.abs(2 * (3 - 1.1) * 3 * 16 * 24 - (total - active)) < 1e-6)
  end)

  -- Rounds to so many digits.
  local function about(x, digits) return ("%." .. digits .. "g"):format(x) end
  local sizes = require("moelua.model").parameters
  local check_config = require("moelua.model").check_config

  it("of DeepSeekMoE 16B, which has 16.4 billion parameters and uses 2.83", function()
    local ffn = { { hidden = 10944 } }
    for i = 2, 28 do
      ffn[i] = { kind = "moe", hidden = 1408, experts = 64, shared = 2,
        router = { k = 6, gate = "all" } }
    end
    local config = check_config({ dim = 2048, layers = 28, heads = 16, vocab = 102400,
      context = 4096, tied = false, ffn = ffn })
    local total, active = sizes(config)
    assert.equal("1.638e+10", about(total, 4))
    assert.equal("2.83e+09", about(active, 3))
    -- 6 per parameter that a token meets, which the embedding is not, and its attention
    local embedding, attention = 102400 * 2048, 12 * 28 * 2048 * 4096 / 2
    assert.equal(6 * (active - embedding) + attention, flops.per_token(config))
  end)

  it("of DeepSeekMoE 2B: 16 experts cut into four, one of them shared", function()
    local function shape(more)
      local ffn = { kind = "moe", hidden = 5120, activation = "relu", experts = 16,
        router = { k = 2, gate = "all" } }
      for name, value in pairs(more) do ffn[name] = value end
      return check_config({ dim = 1280, layers = 9, heads = 10, vocab = 8192, context = 2048,
        ffn = ffn })
    end
    local config = shape({ segments = 4, shared = 1 })
    assert.equal(63, config.ffn[9].experts)
    assert.equal(7, config.ffn[9].router.k)
    assert.equal(1280, config.ffn[9].hidden)
    local total, active = sizes(config)
    assert.equal("2e+09", about(total, 2))
    assert.equal("3e+08", about(active, 1))
    -- GShard's shape has the same but for the routers
    assert.equal(6 * 9 * (63 - 16) * 1280, flops.per_token(config) - flops.per_token(shape({})))
  end)

  -- Layers above the first half are mixtures of tokens, in the sizes of Antoniak et al. 2023; a
  -- vocabulary as of GPT-2, and a head of its own.
  local function mot_of(dim, layers, experts)
    local ffn = {}
    for i = 1, layers do
      ffn[i] = i <= layers // 2 and { hidden = 4 * dim, activation = "relu" } or { kind = "mot",
        hidden = 4 * dim, activation = "relu", experts = experts, group = 32 }
    end
    return check_config({ dim = dim, layers = layers, heads = dim // 64, vocab = 50257,
      context = 256, tied = false, ffn = ffn })
  end

  it("of mixtures of tokens: Medium with 32 experts has 336.7 million parameters", function()
    assert.equal("3.367e+08", about(sizes(mot_of(512, 8, 32)), 4))
    assert.equal("1.04e+09", about(sizes(mot_of(768, 12, 32)), 3))
    assert.equal("1.95e+09", about(sizes(mot_of(768, 12, 64)), 3))
  end)

  it("of a mixture of tokens: of a dense layer, and 3 E d to mix", function()
    local function overhead(dim, hidden, experts, width)
      local dense = flops.ffn({ kind = "dense", hidden = hidden, activation = "relu" }, dim)
      local mot = flops.ffn({ kind = "mot", hidden = width, experts = experts, group = 32,
        activation = "relu" }, dim)
      assert.equal(6 * 3 * experts * dim, mot - dense)
      return about(100 * (mot / dense - 1), 3)
    end
    assert.equal("2.34", overhead(512, 2048, 32, 2048))
    assert.equal("18.8", overhead(512, 2048, 256, 256))
    assert.equal("75", overhead(256, 1024, 512, 64))
  end)

  it("of one layer", function()
    assert.equal(6 * 3 * 16 * 24, flops.ffn({ kind = "dense", hidden = 24 }, 16))
    assert.equal(6 * (2 * 3 * 16 * 24 + 5 * 16),
      flops.ffn({ kind = "moe", hidden = 24, experts = 5, router = { k = 2 } }, 16))
    assert.equal(6 * 2 * 16 * 24, flops.ffn({ kind = "dense", hidden = 24, activation = "gelu" },
      16))
    assert.equal(6 * (2 * 3 * 16 * 24 + 5 * 16 + 2 * 3 * 16 * 7 + 16), flops.ffn({ kind = "moe",
      hidden = 24, experts = 5, shared = { experts = 2, hidden = 7, gate = true } }, 16))
    assert.equal(12 * 48 * 256 / 2, flops.attention(48, 256))
  end)

  it("refuse what is no layer", function()
    assert.error_matches(function() flops.ffn({}, 16) end, "flops.ffn: ffn")
    assert.error_matches(function() flops.ffn({ hidden = 24 }, 16) end, "flops.ffn: ffn")
    assert.error_matches(function() flops.ffn({ kind = "dense", hidden = 24, k = 2 }, 16) end,
      "flops.ffn: unknown option 'k'")
    assert.error_matches(function() flops.ffn({ kind = "dense", hidden = 24 }) end,
      "flops.ffn: dim")
    assert.error_matches(function() flops.attention(48) end, "flops.attention: context")
  end)
end)
