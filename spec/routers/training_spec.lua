-- Routers in moe.train: chance, temperature and bias go on where they stopped, and a step is one
-- step however it is divided.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")

local corpus = models.corpus("code")

local kinds = {
  topk = { kind = "topk", k = 2, gate = "sigmoid", bias = { rate = 0.01 }, jitter = 0.1 },
  switch = { kind = "switch" },
  noisy_topk = { kind = "noisy_topk" },
  gshard = { kind = "gshard" },
  sampling = { kind = "gshard", second = "sampling", capacity = { factor = 1,
    policy = "probability", renormalise = true } },
  sample = { kind = "sample", first = "sample", temperature = { rate = 0.1 } },
  soft = { kind = "soft", jitter = 0.1 },
}

local function model(router)
  return models.tiny({ ffn = { {}, models.mixture({ router = router }) } })
end

local function training(data, more)
  local options = models.training(data, { steps = 6, batch = 4, save_every = 2 })
  for k, v in pairs(more or {}) do options[k] = v end
  return options
end

local function failing(at)
  return models.watched(corpus, function(n) if n == at then error("the power is gone", 0) end end)
end

describe("training with", function()
  for name, router in pairs(kinds) do
    it(name .. " goes on as if it had not been stopped", function()
      local straight, stopped = model(router), model(router)
      local result = moe.train(straight, training(corpus))
      local folder = models.run_folder()
      assert.is_false(pcall(moe.train, model(router), training(failing(4), { out = folder })))
      local again = moe.train(stopped, training(corpus, { out = folder }))
      models.same(straight, stopped)
      assert.same(result.curve, again.curve)
      local loaded = assert(moe.load(folder .. "/model"))
      models.same(straight, loaded)
      local bias, kept = straight:buffers()[1], loaded:buffers()[1]
      assert.equal(bias and bias[2]:bytes(), kept and kept[2]:bytes())
    end)
  end

  it("a bias counts the batch of a step, however it is divided", function()
    local router, bias = { k = 2, gate = "sigmoid", bias = { rate = 0.01 } }, nil
    for _, parts in ipairs({ 1, 2, 4 }) do
      local m = model(router)
      moe.train(m, training(corpus, { steps = 1, accumulate = parts }))
      local got = m.layers[2].ffn.router.bias
      bias = bias or got:bytes()
      assert.equal(bias, got:bytes())
      helper.close((got ^ 2):max():sqrt(), 0.01, 1e-6)
    end
  end)

  it("a bias moves as much when blocks are computed twice", function()
    local function bias(recompute)
      local m = models.tiny({ recompute = recompute, ffn = { {},
        models.mixture({ router = kinds.topk }) } })
      moe.train(m, training(corpus, { steps = 3 }))
      return m.layers[2].ffn.router.bias:bytes()
    end
    assert.equal(bias(false), bias(true))
  end)

  it("noise has the same bits when blocks are computed twice", function()
    for _, name in ipairs({ "noisy_topk", "sample", "gshard", "switch" }) do
      local function trained(recompute)
        local m = models.tiny({ recompute = recompute, ffn = { {},
          models.mixture({ router = kinds[name] }) } })
        moe.train(m, training(corpus, { steps = 3 }))
        return m
      end
      models.same(trained(false), trained(true))
    end
  end)

  it("nothing to learn from is refused", function()
    models.misuse(function() moe.train(model({ k = 1 }), training(corpus)) end,
      "router: the only gate of a token is 1 whatever the logits are: the router gets no " ..
        "gradient and cannot learn\nhint: gate = \"all\", as in Switch; or a balance loss or " ..
        "z_loss, which reach it")
  end)
end)
