-- Steps in several micro-batches: the same gradient, and what the layers are told.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local run = require("moelua.run")
local misuse = models.misuse

local prose, code = models.corpus("prose"), models.corpus("code")
local both = { code = code, prose = prose }
local many = { code = models.corpus("code", nil, 9), prose = models.corpus("prose", nil, 9) }

-- With a large eps an update is nearly proportional to the gradient.
local function options(more)
  local opts = models.training(both, { batch = 12, steps = 3, eps = 1.0, warmup = 0, lr = 1 })
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

-- A trained model, and what its loss was called with.
local function trained(m, more)
  local calls, loss = {}, m.loss
  m.loss = function(self, x, y, how)
    local call = { x = x:totable(), y = y:totable() }
    for k, v in pairs(how or {}) do call[k] = v end
    call.labels = how and how.labels and how.labels:totable()
    calls[#calls + 1] = call
    return loss(self, x, y, how)
  end
  local result = moe.train(m, options(more))
  return m, calls, result
end

local function close_models(a, b, tolerance)
  for i, entry in ipairs(a:parameters()) do
    helper.close(b:parameters()[i][2], entry[2], tolerance, entry[1])
  end
end

describe("a step in micro-batches", function()
  it("makes the update of the whole batch", function()
    local first = models.tiny({ tied = false })
    local whole = trained(models.tiny({ tied = false }))
    assert.is_true(models.distance(first.head, whole.head) > 1e-3)
    for _, n in ipairs({ 2, 3, 12 }) do
      close_models(whole, (trained(models.tiny({ tied = false }), { accumulate = n })), 2e-6)
    end
  end)

  it("does so when the forward pass is computed twice", function()
    local config = { recompute = true, ffn = models.mixture({ router = { k = 2 } }) }
    local whole = trained(models.tiny(config))
    close_models(whole, (trained(models.tiny(config), { accumulate = 4 })), 2e-6)
  end)

  it("has the balance loss of the whole step where that is asked for", function()
    for _, form in ipairs({ "btx", "switch", "deepseek" }) do
      for _, recompute in ipairs({ false, true }) do
        local function update(scope, n)
          local balance = { form = form, coef = 1.0, scope = scope }
          local first = { recompute = recompute,
            ffn = { {}, models.mixture({ router = { k = 2, balance = balance } }) } }
          return (trained(models.tiny(first), { accumulate = n, steps = 2 }))
        end
        local whole = update("step", 1)
        models.same(whole, update("batch", 1))
        for _, n in ipairs({ 2, 4 }) do close_models(whole, update("step", n), 2e-6) end
        local router = models.parameter(whole, "layers.1.ffn.router")
        local parts = models.parameter(update("batch", 4), "layers.1.ffn.router")
        assert.is_true(models.distance(router, parts) > 1e-4)
      end
    end
  end)

  it("does so when the sequences of a group are mixed", function()
    local config = { ffn = { {}, { kind = "mot", hidden = 24, experts = 4, group = 4 } } }
    local whole = trained(models.tiny(config), { data = many })
    close_models(whole, (trained(models.tiny(config), { data = many, accumulate = 3 })), 2e-6)
  end)

  it("counts the load of the whole step for the bias of a router", function()
    local function bias(n, recompute)
      local ffn = models.mixture({ router = { k = 2, gate = "sigmoid", bias = { rate = 0.1 } } })
      local m = trained(models.tiny({ recompute = recompute, ffn = ffn }),
        { accumulate = n, steps = 1 })
      return m:buffers()[1][2]:totable()
    end
    local want = bias(1)
    assert.equal(4, #want)
    assert.is_true(want[1] ~= 0)
    assert.same(want, bias(4))
    assert.same(want, bias(4, true))
    assert.same(want, bias(1, true))
  end)

  it("reads the windows of the whole batch, in the same order", function()
    local _, calls = trained(models.tiny(), { steps = 2 })
    local _, parts = trained(models.tiny(), { steps = 2, accumulate = 3 })
    assert.equal(2, #calls)
    assert.equal(6, #parts)
    local rows = {}
    for _, part in ipairs(parts) do
      assert.equal(4, #part.x)
      table.move(part.x, 1, 4, #rows + 1, rows)
    end
    assert.same(table.move(calls[2].x, 1, 12, 13, table.move(calls[1].x, 1, 12, 1, {})), rows)
  end)

  it("is logged as one step", function()
    local ffn = { {}, models.mixture() }
    local function log_of(n)
      local folder = models.run_folder()
      local _, _, result = trained(models.tiny({ ffn = ffn }), { out = folder, log_every = 1,
        accumulate = n, eval_every = 2 })
      return run.read_log(folder), result
    end
    local whole, result = log_of(1)
    local parts, same = log_of(4)
    assert.equal(#whole, #parts)
    for i, entry in ipairs(whole) do
      assert.equal(entry.step, parts[i].step)
      assert.equal(entry.tokens, parts[i].tokens)
      assert.equal(entry.flops, parts[i].flops)
    end
    for _, name in ipairs({ "bits", "grad_norm" }) do
      helper.close(parts[1][name], whole[1][name], 1e-4)
    end
    for _, name in ipairs({ "cv", "entropy", "max_over_mean", "dropped", "dead" }) do
      helper.close(parts[1].routing[1][name], whole[1].routing[1][name], 1e-5, name)
    end
    assert.equal(result.tokens, same.tokens)
    assert.equal(result.flops, same.flops)
    assert.equal(result.validation[1][1], 2)
    helper.close(same.validation[1][2], result.validation[1][2], 1e-3)
  end)

  it("tells where a loss became infinite", function()
    local balance = { form = "switch", coef = 0.1, scope = "step" }
    local m = models.tiny({ tied = false,
      ffn = { {}, models.mixture({ router = { k = 2, balance = balance } }) } })
    models.set(models.parameter(m, "norm"), moe.full(1e38, 16))
    models.set(m.head, moe.full(1e3, 256, 16))
    local failure = models.failure(function() moe.train(m, options({ accumulate = 2 })) end)
    assert.equal("diverged", failure.code)
    assert.matches("^train: the loss became %a+ at step 1, first in the logits; ", failure.message)
  end)

  it("must have equal parts", function()
    misuse(function() moe.train(models.tiny(), options({ accumulate = 5 })) end,
      "moe.train: a batch of 12 does not divide into 5 micro-batches\n" ..
      "hint: accumulate must divide batch")
    misuse(function() moe.train(models.tiny(), options({ accumulate = 0 })) end,
      "moe.train: accumulate must be at least 1, not 0")
  end)
end)

describe("the layers are told", function()
  it("step, micro-batch, seed and that this is training", function()
    local _, calls = trained(models.tiny(), { steps = 2, accumulate = 2, seed = 7, log_every = 2 })
    local told = {}
    for i, call in ipairs(calls) do
      told[i] = { call.train, call.step, call.micro, call.seed, call.stats }
    end
    assert.same({ { true, 1, 0, 7, false }, { true, 1, 1, 7, false }, { true, 2, 0, 7, true },
      { true, 2, 1, 7, true } }, told)
  end)

  it("the domain of each sequence: the place of its corpus among the sorted names", function()
    local data = { b = prose, a = code, c = prose }
    local _, calls = trained(models.tiny(), { data = data, steps = 2, accumulate = 3, batch = 12 })
    local all = {}
    for _, call in ipairs(calls) do table.move(call.labels, 1, 4, #all + 1, all) end
    for g, label in ipairs(all) do assert.equal((g - 1) % 3, label) end
  end)
end)
