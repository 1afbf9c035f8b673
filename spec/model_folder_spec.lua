-- Mixtures that are written tensor by tensor: the same numbers as those made in memory, whatever
-- they are made of and wherever that lies.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")

local function dense(more)
  local m = models.tiny(more)
  m.tokenizer = moe.tokenizer.bytes()
  return m
end

local function saved(m, opts)
  local folder = helper.tmpdir() .. "/m"
  assert(m:save(folder, opts))
  return folder
end

local a, b, c = dense({ tied = false }), dense({ tied = false, seed = 2 }),
  dense({ tied = false, seed = 3 })
local A, B, C = saved(a), saved(b), saved(c)

-- Throws unless f gives the same model in memory and in a folder, of models and of paths.
local function check(f, others, paths, tolerance)
  local want = f(others, {})
  for _, list in ipairs({ others, paths }) do
    local out = helper.tmpdir() .. "/out"
    local summary = assert(f(list, { out = out }))
    assert.equal((want:count()), summary.parameters)
    local got = assert(moe.load(out))
    assert.same(want.config.ffn, got.config.ffn)
    if tolerance then
      for i, entry in ipairs(want:parameters()) do
        assert.is_true(models.distance(entry[2], got:parameters()[i][2]) <= tolerance, entry[1])
      end
    else
      models.same(want, got)
    end
    assert.equal("bytes", got.tokenizer.name)
  end
  models.same(want, f(paths, {}))
end

local function with(opts, more)
  for k, v in pairs(more) do opts[k] = v end
  return opts
end

describe("a folder that is written", function()
  it("has the mixture of Branch-Train-MiX", function()
    check(function(list, more) return moe.mix(list, with({}, more)) end, { a, b, c }, { A, B, C },
      1e-7)
    check(function(list, more) return moe.mix(list, with({ rest = 2 }, more)) end, { a, b },
      { A, B })
  end)

  it("has split, blended, padded and scaled experts", function()
    local narrow = dense({ tied = false, hidden = 20, seed = 4 })
    local N = saved(narrow)
    for _, opts in ipairs({ { split = 2, scale = 2 }, { blend = true }, { layers = { 2 } } }) do
      check(function(list, more)
        return moe.mix(list, with(with({ rest = 1 }, opts), more))
      end, { a, b }, { A, B })
    end
    check(function(list, more) return moe.mix(list, with({ rest = 1 }, more)) end, { a, narrow },
      { A, N })
  end)

  it("has what upcycling draws, the same numbers", function()
    for _, opts in ipairs({ { vary = { form = "drop" } }, { vary = { form = "noise" } },
        { vary = { form = "replace" } }, { segments = 3, router = { k = 3 }, permute = true },
        { shared = {}, layers = "last half" }, { router = { kind = "noisy_topk" } } }) do
      check(function(list, more)
        return moe.upcycle(list[1], with(with({ experts = 3, seed = 5 }, opts), more))
      end, { a }, { A })
    end
  end)

  it("has routers from hidden states, which are read layer by layer", function()
    local text = { { "some text", "more text", "texts" }, { "0 1 2 3", "4 5 6 7", "8 9" } }
    check(function(list, more)
      return moe.mix(list, with({ rest = 1, init = { by = "means", text = text } }, more))
    end, { a, b }, { A, B })
  end)

  it("tells how the routers came out", function()
    local summary = assert(moe.upcycle(A, { experts = 2, out = helper.tmpdir() .. "/out",
      init = { by = "clusters", text = { "some text", "more text", "other text" } } }))
    assert.equal(2, #summary.report)
  end)

  it("is of the number type of its sources, or of another", function()
    local half = { saved(a, { dtype = "bf16" }), saved(b, { dtype = "bf16" }) }
    for given, stored in pairs({ [""] = "BF16", f32 = "F32", f16 = "F16" }) do
      local out = helper.tmpdir() .. "/out"
      assert(moe.mix(half, { out = out, dtype = given ~= "" and given or nil }))
      local file = assert(moe.checkpoint.open(out))
      for _, name in ipairs(file:names()) do assert.equal(stored, file:info(name).dtype, name) end
      local first = assert(moe.checkpoint.open(half[1]))
      if stored == "BF16" then
        assert.equal(first:raw("model.layers.0.mlp.gate_proj.weight"),
          file:raw("model.layers.0.block_sparse_moe.experts.0.w1.weight"))
      end
      local dtypes = { BF16 = "bfloat16", F32 = "float32", F16 = "float16" }
      local hf = core.json.decode((assert(core.system.read(out .. "/config.json"))))
      assert.equal(dtypes[stored], hf.torch_dtype)
      assert.equal("mixtral", hf.model_type)
    end
  end)

  it("keeps mixtures that are there already, and averages them", function()
    local mixture = dense({ ffn = { {}, models.mixture() } })
    local M = saved(mixture)
    check(function(list, more)
      return moe.upcycle(list[1], with({ experts = 2, layers = { 1 } }, more))
    end, { mixture }, { M })
    models.same(mixture, moe.average({ M, M }))
  end)

  it("carries tokenizer and generation_config.json over byte for byte", function()
    assert(core.system.write(A .. "/generation_config.json", "{\"top_k\": 7}"))
    local out = helper.tmpdir() .. "/out"
    assert(moe.upcycle(A, { experts = 2, out = out }))
    for _, name in ipairs({ "tokenizer.json", "generation_config.json" }) do
      assert.equal(core.system.read(A .. "/" .. name), core.system.read(out .. "/" .. name), name)
    end
    os.remove(A .. "/generation_config.json")
  end)

  it("in shards has an index", function()
    local out = helper.tmpdir() .. "/out"
    assert(moe.mix({ A, B }, { rest = 1, out = out, max_shard_size = 10000, memory = "1M" }))
    assert.is_true(core.system.exists(out .. "/model.safetensors.index.json"))
    models.same(moe.mix({ A, B }, { rest = 1 }), assert(moe.load(out)))
  end)

  it("is not that of a model it is made of", function()
    for _, out in ipairs({ A, A .. "/../" .. A:match("[^/]+$") }) do
      local summary, message, code = moe.mix({ A, B }, { out = out })
      assert.is_nil(summary)
      assert.equal(out .. ": out is the folder of a model that is read", message)
      assert.equal("format", code)
      assert.is_nil(moe.upcycle(A, { experts = 2, out = out, vary = { form = "drop" } }))
    end
    models.same(a, assert(moe.load(A)))
  end)

  it("that cannot be written gives message and code", function()
    local file = helper.tmpdir() .. "/file"
    assert(core.system.write(file, "x"))
    local summary, message, code = moe.mix({ A, B }, { out = file .. "/out" })
    assert.is_nil(summary)
    assert.equal("string", type(message))
    assert.equal("string", type(code))
  end)
end)
