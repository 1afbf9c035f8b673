-- Models that keep the input of each block alone: the same bits in less memory, wherever they go.
local core = require("moelua.core")
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local rejects = require("spec.ops.support").rejects

-- The loss of a training step and its gradients.
local function trained(config, x, y, how)
  local model = moe.model.new(config)
  local _ <close> = moe.scope()
  local loss, info = model:loss(x, y, how)
  loss:backward()
  local list = { loss:bytes(), info.nll:bytes(), info.aux and info.aux:bytes() or "none" }
  for _, entry in ipairs(model:parameters()) do
    list[#list + 1] = entry[2]:grad() and entry[2]:grad():bytes() or "none"
  end
  model:after_step()
  list[#list + 1] = moe.nn.fingerprint(model)
  return list, info
end

describe("a model that recomputes", function()
  local x = moe.rand(4, 16):to("f32") * 200
  x = x:to("i32")

  -- First here: the peak is the highest of the process.
  it("needs much less memory for many layers", function()
    local ids = (moe.rand(8, 64) * 200):to("i32")
    local function risen(again)
      collectgarbage()
      collectgarbage()
      local before = moe.memory().live
      trained({ dim = 32, layers = 12, heads = 2, hidden = 96, vocab = 256, context = 64,
        recompute = again }, ids, ids)
      return moe.memory().peak - before
    end
    local less = risen(true)
    local more = risen()
    assert.is_true(more > 2.5 * less, ("peak %d, without %d"):format(less, more))
  end)

  for name, more in pairs({ dense = {}, ["with mixtures"] = { ffn = models.mixture({ router = {
    k = 2, gate = "sigmoid", balance = { form = "switch", coef = 0.01 }, z_loss = 1e-3 } }) } }) do
    it("has the same loss and gradients, " .. name, function()
      local config = { dim = 16, layers = 3, heads = 2, kv_heads = 1, hidden = 24, vocab = 256,
        context = 16, seed = 3 }
      for k, v in pairs(more) do config[k] = v end
      local expected, info = trained(config, x, x)
      config.recompute = true
      local got, figures = trained(config, x, x)
      assert.same(expected, got)
      for i = 1, 3 do
        assert.equal(info.layers[i] ~= nil, figures.layers[i] ~= nil)
        if info.layers[i] then
          assert.same(info.layers[i].load, figures.layers[i].load)
          assert.equal(info.layers[i].entropy, figures.layers[i].entropy)
        end
      end
    end)
  end

  for _, layer in ipairs({
    { router = { k = 2, bias = { rate = 0.1 }, jitter = 0.1, capacity = { factor = 0.5 } } },
    { router = { k = 2, balance = { scope = "sequence", reduce = "pooled" }, z_loss = 0.1 } },
    { router = { kind = "noisy_topk" } }, { router = { kind = "gshard" } },
    { router = { kind = "sample" } }, { router = { kind = "base" } },
    { router = { kind = "expert_choice", over = "batch" } },
    { router = { kind = "hash", by = "bigram" } },
    { kind = "mot", hidden = 8, experts = 4, group = 4, temperature = "learned" },
    { shared = { experts = 1, gate = true }, router = { k = 1, gate = "all" } },
  }) do
    it("computes the same again in training: " .. core.json.encode(layer), function()
      local config = { dim = 16, layers = 3, heads = 2, hidden = 24, vocab = 256, context = 16,
        seed = 3, ffn = layer.kind and layer or models.mixture(layer) }
      local how = { train = true, step = 5, micro = 0, seed = 2 }
      local expected = trained(config, x, x, how)
      config.recompute = true
      assert.same(expected, (trained(config, x, x, how)))
      how.step, how.seed = nil, nil             -- from the counter of the context
      moe.manual_seed(4)
      local frugal = trained(config, x, x, how)
      config.recompute = nil
      moe.manual_seed(4)
      assert.same(frugal, (trained(config, x, x, how)))
    end)
  end

  it("makes the statistics of a mixture once", function()
    local model = models.tiny({ ffn = models.mixture(), recompute = true })
    local counted, bincount = 0, core.bincount
    core.bincount = function(...)
      counted = counted + 1
      return bincount(...)
    end
    local ok, message = pcall(function() model:loss(x, x):backward() end)
    core.bincount = bincount
    assert(ok, message)
    assert.equal(2, counted)
  end)

  it("trains to the same bits, through a folder too", function()
    local corpus = models.corpus()
    local function train(again, out)
      local model = models.tiny({ ffn = models.mixture(), recompute = again, seed = 5 })
      moe.train(model, { data = corpus, steps = 4, batch = 4, quiet = true, out = out })
      return model
    end
    local plain, frugal = train(), train(true, helper.tmpdir() .. "/run")
    assert.equal(moe.nn.fingerprint(plain), moe.nn.fingerprint(frugal))
    assert.is_true(frugal.config.recompute)
  end)

  it("is one after it was saved and loaded", function()
    local folder = helper.tmpdir() .. "/model"
    for _, ffn in ipairs({ { hidden = 8 }, models.mixture() }) do
      assert(models.tiny({ ffn = ffn, recompute = true }):save(folder))
      assert.is_true(moe.load(folder).config.recompute)
      assert(models.tiny({ ffn = ffn }):save(folder))
      assert.is_nil(moe.load(folder).config.recompute)
    end
    rejects("moe.model.new: option 'recompute' has the wrong type: boolean expected, got 1",
      models.tiny, { recompute = 1 })
  end)

  it("generates as before", function()
    local ids = { 5, 6, 7 }
    local frugal = models.tiny({ recompute = true })
    helper.close(frugal:logits(ids), models.tiny():logits(ids), 0)
    assert.same(models.tiny():generate_ids(ids, { max_tokens = 5, temperature = 0 }),
      frugal:generate_ids(ids, { max_tokens = 5, temperature = 0 }))
  end)
end)
