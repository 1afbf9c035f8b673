-- Scaled rotary positions: the frequencies of transformers (spec/golden/rope_scaling.py), what the
-- op does with them, and which options are refused.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local rope_scaling = require("moelua.rope_scaling")

local golden = assert(core.json.decode(assert(core.system.read("spec/golden/rope_scaling.json"))))

local function close(want, got, text)
  local limit = 2e-6 * math.abs(want)
  assert.is_true(math.abs(want - got) <= limit, ("%s: %.9g, expected %.9g"):format(text, got, want))
end

describe("frequencies", function()
  for i, case in ipairs(golden) do
    it(("are those of transformers: %d, %s"):format(i, case.scaling.rope_type), function()
      local opts = rope_scaling.check("spec", case.scaling, case.context)
      local length = case.length ~= core.json.null and case.length or nil
      local list, factor = rope_scaling.frequencies(opts, case.theta, case.head_dim, length)
      if not list then        -- as they are without scaling
        list = {}
        for j = 1, case.head_dim // 2 do list[j] = case.theta ^ (-2 * (j - 1) / case.head_dim) end
      end
      assert.equal(case.head_dim // 2, #list)
      for j, want in ipairs(case.frequencies) do close(want, list[j], "frequency " .. j) end
      close(case.factor, factor, "factor")
    end)
  end

  it("are plain without scaling, and in dynamic scaling up to the context", function()
    assert.is_nil((rope_scaling.frequencies(nil, 10000, 8)))
    local opts = rope_scaling.check("spec", { rope_type = "dynamic", factor = 2 }, 16)
    assert.is_nil((rope_scaling.frequencies(opts, 10000, 8, 16)))
    assert.is_table((rope_scaling.frequencies(opts, 10000, 8, 17)))
  end)
end)

describe("options of scaling", function()
  it("are completed, and complete ones stay", function()
    local opts = rope_scaling.check("spec", { rope_type = "yarn", factor = 4 }, 100)
    assert.same({ rope_type = "yarn", factor = 4, original_max_position_embeddings = 100,
      beta_fast = 32, beta_slow = 1, truncate = true }, opts)
    assert.same(opts, rope_scaling.check("spec", opts, 7))
    assert.is_nil(rope_scaling.check("spec", nil))
  end)

  it("are refused", function()
    local function refused(given, message)
      models.misuse(function() rope_scaling.check("spec", given, 16) end, message)
    end
    refused({ factor = 2 }, "spec: rope_scaling: option 'rope_type' is missing: one of linear, " ..
      "dynamic, llama3, yarn expected")
    refused({ rope_type = "lineal", factor = 2 }, "spec: rope_scaling: option 'rope_type' is " ..
      "'lineal': unknown\nhint: did you mean 'linear'?")
    refused({ rope_type = "linear" },
      "spec: rope_scaling: option 'factor' is missing: number expected")
    refused({ rope_type = "linear", factor = 0 },
      "spec: rope_scaling: factor must be positive and below 2^31, not 0")
    refused({ rope_type = "linear", factor = 0 / 0 },
      "spec: rope_scaling: factor must be positive and below 2^31, not -nan")
    refused({ rope_type = "llama3", factor = 8, low_freq_factor = 4, high_freq_factor = 4 },
      "spec: rope_scaling: low_freq_factor must be below high_freq_factor: 4 and 4")
  end)
end)

-- A layer of attention with these options and numbers of its own everywhere.
local function attention(more)
  local opts = { dim = 12, heads = 2, kv_heads = 1, head_dim = 6, seed = 3, std = 0.4 }
  for k, v in pairs(more) do opts[k] = v end
  local layer = moe.nn.Attention(opts)
  core.no_grad(function()
    for i, entry in ipairs(layer:parameters()) do
      entry[2]:copy_(moe.randn(table.unpack(entry[2]:shape())) * 0.3 + (i % 3))
    end
  end)
  return layer
end

describe("attention", function()
  it("turns by other frequencies", function()
    local plain = attention({})
    local x = moe.randn(1, 5, 12)
    -- linear scaling by 2 is the same as positions of half the distance
    local scaled = attention({ rope_scaling = { rope_type = "linear", factor = 2 } })
    for i, entry in ipairs(scaled:parameters()) do
      models.set(entry[2], plain:parameters()[i][2])
    end
    assert.is_true(models.distance(plain(x), scaled(x)) > 1e-3)
    helper.close(plain(x:narrow(2, 1, 1)), scaled(x:narrow(2, 1, 1)), 0)
  end)

  it("holds dynamic scaling in a cache no longer than it is the plain one", function()
    local m = models.tiny({ context = 8, rope_scaling = { rope_type = "dynamic", factor = 2 } })
    local Cache = require("moelua.kv_cache")
    local cache = Cache(m.config, { batch = 1, room = 20 })
    local ids = { 1, 2, 3, 4, 5, 6, 7, 8 }
    helper.close(m:logits(ids, nil, cache), m:logits(ids), 1e-5)
    models.misuse(function() m:logits({ 9 }, nil, cache) end,
      "rope_scaling: a cache holds no more than 8 tokens with dynamic scaling, not 9\n" ..
      "hint: without a cache, model:logits(ids)")
    ids[9] = 9
    local plain = models.tiny({ context = 8 })
    assert.is_true(models.distance(m:logits(ids), plain:logits(ids)) > 1e-5)
  end)
end)
