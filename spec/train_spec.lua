-- Training: it learns, writes down what it does, and stops when the numbers diverge.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local run = require("moelua.run")
local misuse, system, json = models.misuse, core.system, core.json

local prose, code = models.corpus("prose"), models.corpus("code")

local new_folder = models.run_folder
local function options(more) return models.training(prose, more) end

describe("train", function()
  it("brings the loss down", function()
    local m = models.tiny()
    local before = moe.evaluate(m, prose).mean
    local result = moe.train(m, options({ steps = 60, log_every = 1 }))
    local after = moe.evaluate(m, prose).mean
    assert.is_true(before > 7 and after < 4.5, ("%g to %g"):format(before, after))
    assert.equal(60, #result.curve)
    assert.is_true(result.curve[60][2] < result.curve[1][2] - 2)
  end)

  it("brings the loss of a mixture down, and moves every parameter", function()
    local m = models.tiny({ tied = false, ffn = { {}, models.mixture() } })
    local before, names = models.bits(m)
    moe.train(m, options({ steps = 60 }))
    assert.is_true(moe.evaluate(m, prose).mean < 4.5)
    local after = models.bits(m)
    for _, name in ipairs(names) do assert.not_equal(before[name], after[name], name) end
  end)

  it("gives the same bits for the same seed, others for another", function()
    local function trained(more)
      local m = models.tiny({ ffn = models.mixture() })
      moe.train(m, options(more))
      return m
    end
    models.same(trained(), trained())
    assert.not_equal(trained().embedding:bytes(), trained({ seed = 2 }).embedding:bytes())
  end)

  it("tells what it did", function()
    local m = models.tiny()
    local result = moe.train(m, options({ log_every = 5 }))
    assert.equal(12, result.steps)
    assert.equal(12 * 4 * 16, result.tokens)
    assert.equal(12 * 4 * 16 * moe.flops.per_token(m.config), result.flops)
    assert.is_true(result.seconds > 0)
    assert.equal(3, #result.curve)                 -- steps 5, 10 and the last
    assert.equal(10 * 4 * 16, result.curve[2][1])
  end)

  it("draws the next windows every step", function()
    local draws, seen = {}, {}
    local spy = setmetatable({ batch = function(self, given)
      local x, y, draw = prose.batch(self, given)
      draws[#draws + 1], seen[x:bytes()] = given.draw, true
      return x, y, draw
    end }, { __index = prose })
    moe.train(models.tiny(), options({ steps = 3, data = spy }))
    assert.same({ 0, 4, 8 }, draws)
    local count = 0
    for _ in pairs(seen) do count = count + 1 end
    assert.equal(3, count)
  end)

  it("mixes corpora evenly", function()
    local drawn = { code = 0, prose = 0 }
    local function counting(name, corpus)
      return setmetatable({ batch = function(self, given)
        drawn[name] = drawn[name] + given.batch
        return corpus.batch(self, given)
      end }, { __index = corpus })
    end
    moe.train(models.tiny(), options({ batch = 3, steps = 10,
      data = { code = counting("code", code), prose = counting("prose", prose) } }))
    assert.same({ code = 15, prose = 15 }, drawn)
  end)

  it("takes a step of AdamW on the gradient of the loss", function()
    local m, twin = models.tiny(), models.tiny()
    moe.train(m, options({ steps = 1, warmup = 0, schedule = "constant", clip = 0,
      weight_decay = 0.5, context = 8 }))
    local x, y = prose:batch({ batch = 4, context = 8, stream = "batches.prose" })
    twin:loss(x, y):backward()
    -- With zero moments the first step is lr * sign(g), up to eps.
    for i, entry in ipairs(twin:parameters()) do
      local w, g = entry[2]:detach(), entry[2]:grad()
      local decay = w:dim() > 1 and 0.5 or 0
      local want = w * (1 - 1e-2 * decay) - g / ((g * g):sqrt() + 1e-8) * 1e-2
      helper.close(m:parameters()[i][2], want, 2e-5)
    end
  end)

  it("clips the gradient's norm", function()
    local folder = new_folder()
    moe.train(models.tiny(), options({ steps = 2, out = folder, log_every = 1, clip = 1e-3 }))
    assert.is_true(run.read_log(folder)[1].grad_norm > 1e-2)      -- as it was before
  end)
end)

describe("the log of a run", function()
  local folder = new_folder()
  local m = models.tiny({ ffn = { {}, models.mixture() } })
  local result = moe.train(m, options({ out = folder, log_every = 4, eval_every = 6,
    eval_windows = 3, warmup = 2, schedule = "linear", floor = 0 }))
  local log = run.read_log(folder)

  it("has one object per logged step", function()
    local steps = {}
    for i, entry in ipairs(log) do steps[i] = entry.step end
    assert.same({ 4, 6, 8, 12, 12 }, steps)
    local first = log[1]
    helper.close(first.lr, 1e-2 * 8 / 10)
    assert.equal(4 * 4 * 16, first.tokens)
    assert.equal(first.tokens * moe.flops.per_token(m.config), first.flops)
    assert.is_true(first.grad_norm > 0 and first.seconds > 0)
  end)

  it("has the mean bits since the entry before, without the balance loss", function()
    local every = new_folder()
    moe.train(models.tiny({ ffn = { {}, models.mixture() } }), options({ out = every,
      log_every = 1, warmup = 2, schedule = "linear", floor = 0 }))
    local sum, steps = 0, run.read_log(every)
    for i = 1, 4 do
      sum = sum + steps[i].bits
      local extra = steps[i].loss - steps[i].bits * math.log(2)
      assert.is_true(extra > 0.005 and extra < 0.03, extra)
    end
    helper.close(log[1].bits, sum / 4, 1e-9)
  end)

  it("has the routing of the mixture layers", function()
    assert.equal(1, #log[1].routing)
    assert.equal(2, log[1].routing[1].layer)
    assert.is_true(log[1].routing[1].max_over_mean >= 1)
    assert.is_true(log[1].routing[1].max_over_mean <= 4)
    assert.is_true(log[1].routing[1].entropy <= math.log(4) + 1e-6)
    assert.equal(4, #log[1].routing[1].load)
  end)

  it("has the routing of the validation text, and what it tells of its domains", function()
    assert.equal(1, #log[2].statistics)
    assert.equal(2, log[2].statistics[1].layer)
    assert.equal(4, #log[2].statistics[1].load)
    assert.equal(0, log[2].statistics[1].mutual_information)      -- of one domain
  end)

  it("has the validation loss", function()
    assert.is_nil(log[2].loss)
    assert.equal(log[2].mean, log[2].validation.data or log[2].validation.prose)
    helper.close(log[5].mean, moe.evaluate(m, prose, { windows = 3 }).mean, 1e-6)
  end)

  it("is the curve", function()
    assert.same({ { log[1].tokens, log[1].bits }, { log[3].tokens, log[3].bits },
      { log[4].tokens, log[4].bits } }, result.curve)
  end)

  it("stands beside the configuration, the summary and the model", function()
    local config = json.decode(system.read(folder .. "/config.json"))
    assert.equal(12, config.steps)
    assert.equal(1e-2, config.lr)
    assert.equal("linear", config.schedule)
    assert.equal(16, config.model.dim)
    assert.equal("bytes", prose:metadata().tokenizer)
    assert.equal(result.tokens, run.finished(folder).tokens)
    models.same(m, assert(moe.load(folder .. "/model")))
    assert.equal(folder .. "/model", m.path)
    assert.is_false(system.exists(folder .. "/state"))
  end)
end)

describe("divergence", function()
  for name, ffn in pairs({ dense = {}, mixture = models.mixture() }) do
    it("stops with a code: " .. name, function()
      local failure = models.failure(function()
        moe.train(models.tiny({ ffn = ffn }), options({ lr = 1e30, warmup = 0, clip = 0 }))
      end)
      assert.equal("diverged", failure.code)
      assert.matches("^train: the %a+ became %a+ at step %d+, first in .-; the step was not " ..
        "applied\nhint: try a lower rate %(lr is 1e%+30%) or a smaller clip$", failure.message)
    end)
  end

  it("names step, place and state, and leaves the states alone", function()
    local folder, m = new_folder(), models.tiny()
    local saved
    local poison = models.watched(prose, function(n)
      if n ~= 8 then return end
      saved = models.hashes(folder .. "/state")
      models.set(models.parameter(m, "layers.1.ffn.w2"), moe.full(0 / 0, 16, 24))
    end)
    local failure = models.failure(function()
      moe.train(m, options({ data = poison, out = folder, save_every = 3, name = "seed" }))
    end)
    assert.same({ code = "diverged", message = "seed: the loss became NaN at step 8, first in " ..
      "layers.1.ffn.w2; the step was not applied\nhint: try a lower rate (lr is 0.01) or a " ..
      "smaller clip; the state of step 6 is saved" }, failure)
    assert.same(saved, models.hashes(folder .. "/state"))
    local again, straight = models.tiny(), models.tiny()
    moe.train(again, options({ out = folder, save_every = 3, name = "seed" }))
    moe.train(straight, options())
    models.same(straight, again)
  end)

  it("applies no step with gradients that are not finite", function()
    local m = models.tiny()
    -- Weights of the last norm so large that the loss is finite and the gradient is not.
    local bits
    local poison = models.watched(prose, function(n)
      if n == 2 then models.set(models.parameter(m, "norm"), moe.full(1e30, 16)) end
      if n == 2 then bits = models.bits(m) end
    end)
    local failure = models.failure(function() moe.train(m, options({ data = poison })) end)
    assert.equal("diverged", failure.code)
    assert.matches("^train: the gradient became %a+ at step 2, first in ", failure.message)
    assert.same(bits, (models.bits(m)))
  end)
end)

describe("train refuses", function()
  local function refused(more, message)
    misuse(function() moe.train(models.tiny(), options(more)) end, message)
  end

  it("options that make no sense", function()
    refused({ step = 3 }, "moe.train: unknown option 'step'\nhint: did you mean 'steps'?")
    refused({ steps = 0 }, "moe.train: steps must be at least 1, not 0")
    refused({ log_every = 0 }, "moe.train: log_every must be at least 1, not 0")
    refused({ schedule = "cosin" },
      "moe.train: option 'schedule' is 'cosin': unknown\nhint: did you mean 'cosine'?")
    misuse(function() moe.train(models.tiny(), { data = prose }) end,
      "moe.train: option 'steps' is missing: integer expected")
  end)

  it("routers that nothing would teach", function()
    local folder = new_folder()
    local m = models.tiny({ ffn = { {}, models.mixture({ router = { k = 1 } }) } })
    local ok, message = pcall(moe.train, m, options({ out = folder }))
    assert.is_false(ok)
    assert.matches("^spec/train_spec.lua:%d+: router: the only gate of a token is 1 ", message)
    assert.is_false(system.exists(folder))
    moe.train(models.tiny({ ffn = models.mixture({ router = { k = 1, gate = "all" } }) }),
      options({ steps = 1 }))
  end)

  it("data that does not fit", function()
    refused({ data = {} }, "moe.train: data is empty")
    refused({ data = { a = "text" } }, "moe.train: data.a must be a corpus, not \"text\"")
    misuse(function() moe.train(models.tiny({ vocab = 200 }), options()) end,
      "moe.train: corpus 'prose' has a vocabulary of 256, the model of 200")
  end)

  it("text that cannot be validated on, before the first step", function()
    local short = models.corpus("prose", { train = 6000, validation = 16, test = 500 })
    local folder = new_folder()
    local failure = models.failure(function()
      moe.train(models.tiny(), options({ data = short, eval_every = 5, out = folder }))
    end)
    assert.same({ code = "format", message = 'corpus "prose": split "validation" has 16 tokens: ' ..
      "a context of 16 needs 17\nhint: give the corpus more text, or use a shorter context" },
      failure)
    assert.is_false(system.exists(folder))
    moe.train(models.tiny(), options({ data = short, steps = 1 }))
  end)
end)
