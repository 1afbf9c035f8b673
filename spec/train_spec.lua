-- Training: it learns, it writes down what it does, and it goes on exactly where it stopped.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local run = require("moelua.run")
local lfs = require("lfs")
local host = require("moelua.host")
local misuse, system, json = models.misuse, core.system, core.json

local prose, code = models.corpus("prose"), models.corpus("code")

local function new_folder() return helper.tmpdir() .. "/run" end

local function options(more)
  local opts = { data = prose, steps = 12, batch = 4, lr = 1e-2, quiet = true }
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

-- A corpus that calls before(n) ahead of batch number n.
local function watched(corpus, before)
  local n = 0
  return setmetatable({ batch = function(self, given)
    n = n + 1
    before(n)
    return corpus.batch(self, given)
  end }, { __index = corpus })
end

local function failing(corpus, at)
  return watched(corpus, function(n) if n == at then error("the power is gone", 0) end end)
end

-- The log without wall-clock seconds, which differ from run to run.
local function log_of(folder)
  local log = run.read_log(folder)
  for _, entry in ipairs(log) do entry.seconds = nil end
  return log
end

local function files(folder)
  local list = {}
  for name in lfs.dir(folder) do
    if name:sub(1, 1) ~= "." then list[name] = system.hash(system.read(folder .. "/" .. name)) end
  end
  return list
end

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
    -- the loss is the cross-entropy plus a balance loss of about 0.01
    local extra = first.loss - first.bits * math.log(2)
    assert.is_true(extra > 0.005 and extra < 0.03, extra)
  end)

  it("has the routing of the mixture layers", function()
    assert.equal(1, #log[1].routing)
    assert.equal(2, log[1].routing[1].layer)
    assert.is_true(log[1].routing[1].max_over_mean >= 1)
    assert.is_true(log[1].routing[1].max_over_mean <= 4)
    assert.is_true(log[1].routing[1].entropy <= math.log(4) + 1e-6)
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

describe("a run that was stopped", function()
  local function request(folder, data)
    return options({ data = data or { code = code, prose = prose }, batch = 3, out = folder,
      save_every = 3, log_every = 2, eval_every = 4, eval_windows = 2 })
  end
  local function new_model() return models.tiny({ ffn = { {}, models.mixture() } }) end
  local whole, straight = new_folder(), new_model()
  local result = moe.train(straight, request(whole))

  for stop = 1, 12 do
    it("goes on as if nothing had happened: step " .. stop, function()
      local folder = new_folder()
      local ok, message = pcall(moe.train, new_model(),
        request(folder, { code = failing(code, stop), prose = prose }))
      assert.is_false(ok)
      assert.equal("the power is gone", message)
      local m = new_model()
      local again = moe.train(m, request(folder))
      models.same(straight, m)
      assert.same(log_of(whole), log_of(folder))
      assert.same(result.curve, again.curve)
      models.same(straight, assert(moe.load(folder .. "/model")))
    end)
  end

  it("goes on more than once, and from the older state when the newest is damaged", function()
    local folder = new_folder()
    for _, stop in ipairs({ 4, 5, 1 }) do
      pcall(moe.train, new_model(), request(folder, { code = failing(code, stop), prose = prose }))
    end
    local newest
    for name in lfs.dir(folder .. "/state") do
      if name:match("^step") and (not newest or name > newest) then newest = name end
    end
    assert.equal("step-00000006.safetensors", newest)
    local path = folder .. "/state/" .. newest
    system.write(path, system.read(path):sub(1, 1000))
    local m = new_model()
    moe.train(m, request(folder))
    models.same(straight, m)
    assert.same(log_of(whole), log_of(folder))
  end)

  it("goes on with the same model in the same process", function()
    local folder, m = new_folder(), new_model()
    pcall(moe.train, m, request(folder, { code = failing(code, 8), prose = prose }))
    moe.train(m, request(folder))
    models.same(straight, m)
    moe.train(m, request(folder))
    models.same(straight, m)
  end)

  it("goes on after SIGKILL at any moment", function()
    local folder, script = new_folder(), helper.tmpdir() .. "/job.lua"
    local steps = 1200
    local function long(more)
      return options({ steps = steps, save_every = 7, log_every = 5, out = more })
    end
    system.write(script, ([[
      package.path = "./?.lua;" .. package.path
      local moe = require("moelua")
      local corpus = assert(moe.data.open(%q))
      local m = moe.model.new({ dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 256,
        context = 16, std = 0.1 })
      moe.train(m, { data = corpus, steps = %d, batch = 4, lr = 1e-2, quiet = true,
        save_every = 7, log_every = 5, out = %q })
    ]]):format(prose.path, steps, folder))
    local kills, status = 0, nil
    for attempt = 1, 60 do
      local process = assert(system.spawn({ host.program, script, stderr = script .. ".log" }))
      local moment = 0.03 + core.uniform(7, "moments", attempt) * 0.1
      status = process:wait(attempt < 9 and moment or 30)
      if status then break end
      process:kill(9)
      process:wait()
      kills = kills + 1
    end
    assert.same({ exited = 0 }, { exited = status.exited }, system.read(script .. ".log"))
    assert.is_true(kills >= 3, "only " .. kills .. " kills")
    local m, expected = models.tiny(), new_folder()
    moe.train(m, long(expected))
    models.same(m, assert(moe.load(folder .. "/model")))
    assert.same(log_of(expected), log_of(folder))
  end)
end)

describe("a run folder", function()
  it("that is finished gives its model without training", function()
    local folder, m = new_folder(), models.tiny()
    local result = moe.train(m, options({ out = folder }))
    local other = models.tiny()
    local again = moe.train(other, options({ out = folder, data = failing(prose, 1) }))
    models.same(m, other)
    assert.same(result.curve, again.curve)
    assert.equal(result.flops, again.flops)
    assert.equal(folder .. "/model", other.path)
  end)

  it("belongs to its options, its data and its first parameters", function()
    local folder = new_folder()
    moe.train(models.tiny(), options({ out = folder }))
    local function refused(what, m, more)
      local opts = options({ out = folder })
      for k, v in pairs(more or {}) do opts[k] = v end
      local ok, message = pcall(moe.train, m or models.tiny(), opts)
      assert.is_false(ok)
      assert.matches("was made with other options: " .. what, message)
      assert.matches("\nhint: %-%-fresh starts over, %-%-out names another folder$", message)
    end
    refused("lr was 0%.01, now 0%.02", nil, { lr = 0.02 })
    refused("batch was 4, now 5", nil, { batch = 5 })
    refused("data%.prose%.tokens was 6000, now 5000", nil,
      { data = models.corpus("prose", { train = 5000, validation = 100, test = 100 }) })
    refused("model%.seed was 1, now 2", models.tiny({ seed = 2 }))
    local changed = models.tiny()
    models.parameter(changed, "norm"):detach():fill_(0.5)
    refused("start was \"%x+\", now \"%x+\"", changed)
  end)

  it("starts over with fresh", function()
    local folder, m = new_folder(), models.tiny()
    moe.train(models.tiny(), options({ out = folder, steps = 5 }))
    moe.train(m, options({ out = folder, fresh = true }))
    assert.equal(12, run.finished(folder).steps)
    local other = models.tiny()
    moe.train(other, options())
    models.same(m, other)
  end)

  it("without a saved model cannot be taken over", function()
    local folder = new_folder()
    moe.train(models.tiny(), options({ out = folder, save_model = false }))
    assert.is_false(system.exists(folder .. "/model"))
    misuse(function() moe.train(models.tiny(), options({ out = folder, save_model = false })) end,
      "moe.train: " .. folder .. " is finished, and its model was not kept\n" ..
      "hint: --fresh trains it again")
  end)

  it("is busy while another process works in it", function()
    local folder = new_folder()
    local lock <close> = run.lock(folder)
    local failure = models.failure(function()
      moe.train(models.tiny(), options({ out = folder }))
    end)
    assert.equal("busy", failure.code)
    lock:release()
  end)

  it("is free after an error", function()
    local folder = new_folder()
    pcall(moe.train, models.tiny(), options({ out = folder, data = failing(prose, 2) }))
    run.lock(folder):release()
  end)
end)

describe("a model's path", function()
  it("is where it was saved, and gone when it was trained further", function()
    local folder, m = new_folder(), models.tiny()
    moe.train(m, options({ out = folder, steps = 2 }))
    assert.equal(folder .. "/model", m.path)
    moe.train(m, options({ steps = 1 }))
    assert.is_nil(m.path)
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
    local poison = watched(prose, function(n)
      if n ~= 8 then return end
      saved = files(folder .. "/state")
      models.set(models.parameter(m, "layers.1.ffn.w2"), moe.full(0 / 0, 16, 24))
    end)
    local failure = models.failure(function()
      moe.train(m, options({ data = poison, out = folder, save_every = 3, name = "seed" }))
    end)
    assert.same({ code = "diverged", message = "seed: the loss became NaN at step 8, first in " ..
      "layers.1.ffn.w2; the step was not applied\nhint: try a lower rate (lr is 0.01) or a " ..
      "smaller clip; the state of step 6 is saved" }, failure)
    assert.same(saved, files(folder .. "/state"))
    local again, straight = models.tiny(), models.tiny()
    moe.train(again, options({ out = folder, save_every = 3, name = "seed" }))
    moe.train(straight, options())
    models.same(straight, again)
  end)

  it("applies no step with gradients that are not finite", function()
    local m = models.tiny()
    -- Weights of the last norm so large that the loss is finite and the gradient is not.
    local bits
    local poison = watched(prose, function(n)
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

  it("data that does not fit", function()
    refused({ data = {} }, "moe.train: data is empty")
    refused({ data = { a = "text" } }, "moe.train: data.a must be a corpus, not string")
    misuse(function() moe.train(models.tiny({ vocab = 200 }), options()) end,
      "moe.train: corpus 'prose' has a vocabulary of 256, the model of 200")
  end)
end)
