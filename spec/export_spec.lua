-- Exporting mixtures: what is written computes the same, and what cannot be said is refused with
-- what can be done about it.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local misuse = models.misuse

local ids = { 5, 200, 31, 7, 7, 90, 0, 255 }

local function mixture(more)
  local ffn = { kind = "moe", hidden = 24, experts = 4, router = { k = 2 } }
  for k, v in pairs(more or {}) do ffn[k] = v end
  return ffn
end

local function model(ffn, more)
  local opts = { tied = false, ffn = ffn }
  for k, v in pairs(more or {}) do opts[k] = v end
  local m = models.tiny(opts)
  m.tokenizer = moe.tokenizer.bytes()
  return m
end

local function field(folder, name)
  return core.json.decode((assert(core.system.read(folder .. "/config.json"))))[name]
end

-- Throws unless the export of m is a Mixtral with the same logits.
local function same(m, opts, tolerance)
  local out = helper.tmpdir() .. "/out"
  assert(moe.export(m, out, opts))
  assert.equal("mixtral", field(out, "model_type"))
  local got = assert(moe.load(out))
  helper.close(got:logits(ids), m:logits(ids), tolerance or 1e-5)
  return got, out
end

describe("a Mixtral directory", function()
  it("has the same mixture, bit for bit, from memory and from a folder", function()
    local m = model(mixture())
    local folder = helper.tmpdir() .. "/m"
    assert(m:save(folder))
    for _, from in ipairs({ m, folder }) do
      local out = helper.tmpdir() .. "/out"
      local summary = assert(moe.export(from, out))
      assert.equal((m:count()), summary.parameters)
      models.same(m, assert(moe.load(out)))
    end
  end)

  it("has every field, and the files of the tokenizer", function()
    local m = model(mixture({ router = { k = 3 } }))
    local folder, out = helper.tmpdir() .. "/m", helper.tmpdir() .. "/out"
    assert(m:save(folder))
    assert(core.system.write(folder .. "/generation_config.json", "{\"a\":1}"))
    assert(moe.export(folder, out, { dtype = "bf16" }))
    for name, value in pairs({ model_type = "mixtral", num_local_experts = 4,
        num_experts_per_tok = 3, intermediate_size = 24, hidden_size = 16, vocab_size = 256,
        num_hidden_layers = 2, num_attention_heads = 2, num_key_value_heads = 2, head_dim = 8,
        hidden_act = "silu", tie_word_embeddings = false, torch_dtype = "bfloat16",
        rms_norm_eps = 1e-5, rope_theta = 10000.0, router_jitter_noise = 0.0,
        output_router_logits = false, max_position_embeddings = 16 }) do
      assert.equal(value, field(out, name), name)
    end
    assert.same({ "MixtralForCausalLM" }, field(out, "architectures"))
    for _, name in ipairs({ "tokenizer.json", "generation_config.json" }) do
      assert.equal(core.system.read(folder .. "/" .. name), core.system.read(out .. "/" .. name))
    end
  end)

  it("has dense layers as identical experts", function()
    local m = model({ { hidden = 20 }, mixture() })
    local got = same(m, { dense_as_experts = true })
    assert.equal(4, got.config.ffn[1].experts)
    assert.equal(24, got.config.ffn[1].hidden)
    local w1 = got.layers[1].ffn.experts.w1:detach()
    assert.equal(w1:select(1, 1):clone():bytes(), w1:select(1, 4):clone():bytes())
    helper.close(w1:select(1, 1):narrow(1, 21, 4), moe.zeros(4, 16), 0)
  end)

  it("has narrower experts widened by zeros", function()
    local m = model({ mixture({ hidden = 10 }), mixture() })
    assert.equal(24, same(m).config.ffn[1].hidden)
  end)

  it("has a factor of the gates in W2", function()
    local m = model(mixture({ router = { k = 2, scale = 2.5 } }))
    local got = same(m)
    assert.is_nil(got.config.ffn[1].router.scale)
    helper.close(got.layers[1].ffn.experts.w2, m.layers[1].ffn.experts.w2:detach() * 2.5, 1e-6)
  end)

  it("has soft routing, and all probabilities, as the choice of all experts", function()
    assert.equal(4, same(model(mixture({ router = { kind = "soft" } }))).config.ffn[1].router.k)
    same(model(mixture({ router = { k = 4, gate = "all" } })))
  end)

  it("has noisy routing without its noise", function()
    local m = model(mixture({ router = { kind = "noisy_topk", k = 2 } }))
    for i, layer in ipairs(m.layers) do
      models.set(layer.ffn.router.weight, moe.randn(4, 16, { seed = i, stream = "w" }))
    end
    same(m)
  end)

  it("has what training needs under our own key", function()
    local got = same(model(mixture({ router = { k = 2, z_loss = 1e-3,
      balance = { form = "switch", coef = 0.01 } } })))
    assert.equal(1e-3, got.config.ffn[1].router.z_loss)
    assert.equal(0.01, got.config.ffn[1].router.balance.coef)
  end)

  it("is made of what mixing and upcycling make", function()
    local a, b = model({}), model({}, { seed = 2 })
    same(moe.mix({ a, b }, { split = 2, scale = 2 }))
    same(moe.upcycle(a, { experts = 2, segments = 2, router = { k = 2 },
      vary = { form = "drop" } }))
    same(moe.upcycle(a, { experts = 3, layers = { 2 } }), { dense_as_experts = true })
  end)

  it("carries the bias along that never moved", function()
    local m = model(mixture({ router = { k = 2, bias = {} } }))
    same(m)
    m.layers[2].ffn.router.bias:fill_(1)
    local _, message, code = moe.export(m, helper.tmpdir() .. "/out")
    assert.equal("export: layer 2: a bias takes part in the choice of experts\n" ..
      "hint: train it on without bias, with a balance loss", message)
    assert.equal("unsupported", code)
  end)
end)

describe("a GGUF file", function()
  for _, dtype in ipairs({ "f32", "bf16" }) do
    it("of a mixture has the same logits: " .. dtype, function()
      local path = helper.tmpdir() .. "/m.gguf"
      local m = model({ { hidden = 20 }, mixture({ router = { k = 2, scale = 0.5 } }) })
      assert(moe.export(m, path, { dtype = dtype, dense_as_experts = true }))
      local got = assert(moe.load(path))
      helper.close(got:logits(ids), m:logits(ids), dtype == "f32" and 1e-5 or 0.05)
    end)
  end

  it("may be of a dense model, and of a path", function()
    local m, folder = model({}), helper.tmpdir() .. "/m"
    assert(m:save(folder))
    for _, from in ipairs({ m, folder }) do
      local path = helper.tmpdir() .. "/m.gguf"
      assert(moe.export(from, path))
      models.same(m, assert(moe.load(path)))
    end
  end)
end)

describe("export refuses", function()
  local function refused(m, opts)
    local out = helper.tmpdir() .. "/out"
    local result, message, code = moe.export(m, out, opts)
    assert.is_nil(result)
    assert.equal("unsupported", code)
    assert.is_false(core.system.exists(out))
    return message
  end

  local with = "\nhint: train it on with gate = \"selected\", "
  for name, case in pairs({
    ["dense layers"] = { { {}, mixture() }, "layer 1 is dense\n" ..
      "hint: dense_as_experts = true writes it as identical experts, which is exact" },
    ["dense models"] = { {}, "no layer is a mixture of experts\n" ..
      "hint: model:save writes a dense model as it is; moe.upcycle and moe.mix make mixtures" },
    ["mixtures of tokens"] = { { kind = "mot", hidden = 8, experts = 2, group = 2 },
      "layer 1 is a mixture of tokens\n" ..
      "hint: moe.transition makes it a mixture of experts, to be trained a little more" },
    ["probabilities as gates"] = { { mixture(), mixture({ router = { k = 2, gate = "all" } }) },
      "layer 2: the gates are probabilities among all experts, which do not sum to one" .. with ..
      "which sums to one, after model:with_ffn" },
    ["Switch"] = { mixture({ router = { kind = "switch" } }),
      "layer 1: the gates are probabilities among all experts, which do not sum to one" .. with ..
      "which sums to one, after model:with_ffn" },
    ["sigmoids"] = { mixture({ router = { k = 2, gate = "sigmoid" } }),
      "layer 1: the gates are sigmoids" .. with .. "after model:with_ffn" },
    ["other routing"] = { mixture({ router = { kind = "hash" } }),
      "layer 1: it routes by \"hash\"\n" ..
      "hint: train it on with router = { k = ..., gate = \"selected\" }, after model:with_ffn" },
    ["shared experts"] = { mixture({ shared = 1 }),
      "layer 1 has shared experts\nhint: model:save writes them" },
    ["other activations"] = { mixture({ activation = "relu" }),
      "layer 1 has the activation \"relu\", not swiglu\nhint: model:save keeps the model for " ..
      "moelua" },
    ["numbers of experts that differ"] = { { mixture(), mixture({ experts = 3 }) },
      "layers 1 and 2 choose 2 of 4 and 2 of 3 experts\n" ..
      "hint: have the same in every layer: a router without bias cannot leave an expert out" },
    ["numbers of choices that differ"] = { { mixture(), mixture({ router = { k = 3 } }) },
      "layers 1 and 2 choose 2 of 4 and 3 of 4 experts\n" ..
      "hint: have the same in every layer: a router without bias cannot leave an expert out" },
    ["capacity in evaluation"] = { mixture({ router = { k = 2, capacity = { evaluation = 2 } } }),
      "layer 1 drops tokens beyond a capacity\nhint: capacity without evaluation, in " ..
      "model:with_ffn" },
  }) do
    it(name, function() assert.equal("export: " .. case[2], refused(model(case[1]))) end)
  end

  it("what attention of Mixtral has not", function()
    local elsewhere = "\nhint: model:save writes it in a family that has it"
    assert.equal("export: the model has attention_bias = \"qkv\"" .. elsewhere,
      refused(model(mixture(), { attention_bias = "qkv" })))
    assert.equal("export: the model has qk_norm = \"head\"" .. elsewhere,
      refused(model(mixture(), { qk_norm = "head" })))
    assert.equal("export: the model has clip_qkv\nhint: model:save keeps it",
      refused(model(mixture(), { clip_qkv = 3 })))
  end)

  it("what is no option", function()
    misuse(function() moe.export(model(mixture()), "out", { format = "onnx" }) end,
      "export: option 'format' is 'onnx': unknown\nhint: known are mixtral, gguf")
    misuse(function() moe.export(model(mixture()), "out", { dtype = "q8_0" }) end,
      "export: dtype \"q8_0\" is for GGUF\nhint: format = \"gguf\"")
    misuse(function() moe.export(3, "out") end,
      "export: the first argument must be a model, not 3")
  end)
end)
