-- Arms over several seeds: what is trained, chosen, claimed and written down.
local helper = require("spec.helper")
local models = require("spec.models")
local Comparison = require("moelua.comparison")
local core = require("moelua.core")
local flops = require("moelua.flops")
local host = require("moelua.host")
local lfs = require("lfs")
local run = require("moelua.run")
local json, system = core.json, core.system

-- A study in which nothing is trained: outcome(name, opts) says what a stage or the evaluation of a
-- model came to.
local function rehearsal(outcome, opt)
  local study = { names = { "a", "b" }, domains = {}, parts = { recipe = "x" }, stages = {},
    claims = {}, arms = {}, apart = {}, opt = { seed = 5, seeds = 3, batch = 2 } }
  for k, v in pairs(opt or {}) do study.opt[k] = v end
  function study.say() end
  function study.curve() end
  function study:stage(name, model, opts)
    self.stages[#self.stages + 1] = { name = name, steps = opts.steps, lr = opts.lr,
      seed = opts.seed, eval_every = opts.eval_every }
    local tokens = opts.steps * opts.batch * model.config.context
    local cost = { steps = opts.steps, tokens = tokens, seconds = opts.steps * 0.5, curve = {},
      flops = tokens * flops.per_token(model.config), validation = { { opts.steps, 1.0 } } }
    for k, v in pairs(outcome(name, opts) or {}) do cost[k] = v end
    return cost
  end
  function study.measure(_, name, _, more)
    local result = { metric = { a = 1.0, b = 2.0 }, mean = 1.5, causal = true, coupled = false,
      statistics = {}, group = more.group }
    for k, v in pairs(outcome(name) or {}) do result[k] = v end
    return result
  end
  function study.trained(_, _, make) return make() end
  function study:claim(name, holds, fmt, ...)
    table.insert(self.claims, { name, holds, fmt:format(...) })
  end
  function study:enter(arm, causal) table.insert(causal and self.arms or self.apart, arm) end
  return study
end

local function dense() return models.tiny({ dim = 8, layers = 1, heads = 1, hidden = 8 }) end
local function wide() return models.tiny({ dim = 8, layers = 1, heads = 1, hidden = 64 }) end

local function compare(study, more)
  local given = { steps = 40, tuning_steps = 10, rates = { 0.1, 0.2, 0.4 } }
  for k, v in pairs(more or {}) do given[k] = v end
  return Comparison(study, given)
end

describe("a comparison", function()
  it("tunes each arm on a seed of its own, then trains it for each seed", function()
    local best = { ["dense/rate-0.2"] = 0.5, ["wide-1/rate-0.4"] = 0.25 }
    local study = rehearsal(function(name, opts)
      if best[name] then return { validation = { { 5, 9.0 }, { opts.steps, best[name] } } } end
    end)
    local arms = compare(study)
    arms:add("dense", dense)
    arms:add("Wide, 1!", wide)
    local share = flops.per_token(dense().config) / flops.per_token(wide().config)
    local steps, short = math.floor(40 * share + 0.5), math.floor(10 * share + 0.5)
    assert.is_true(short < 10 and steps < 40)
    local list = {}
    for i, stage in ipairs(study.stages) do
      list[i] = { stage.name, stage.steps, stage.lr, stage.seed, stage.eval_every }
    end
    assert.same({
      { "dense/rate-0.1", 10, 0.1, 1005, 10 }, { "dense/rate-0.2", 10, 0.2, 1005, 10 },
      { "dense/rate-0.4", 10, 0.4, 1005, 10 }, { "dense/seed-5", 40, 0.2, 5, 0 },
      { "dense/seed-6", 40, 0.2, 6, 0 }, { "dense/seed-7", 40, 0.2, 7, 0 },
      { "wide-1/rate-0.1", short, 0.1, 1005, short },
      { "wide-1/rate-0.2", short, 0.2, 1005, short },
      { "wide-1/rate-0.4", short, 0.4, 1005, short }, { "wide-1/seed-5", steps, 0.4, 5, 0 },
      { "wide-1/seed-6", steps, 0.4, 6, 0 }, { "wide-1/seed-7", steps, 0.4, 7, 0 } }, list)
    local arm = study.arms[1]
    assert.same({ { rate = 0.1, validation = 1.0 }, { rate = 0.2, validation = 0.5 },
      { rate = 0.4, validation = 1.0 } }, arm.rates)
    assert.equal(0.2, arm.rate)
    assert.equal(30 * 2 * 16, arm.tuning.tokens)
    assert.equal(40 * 2 * 16, arm.tokens)
    assert.equal(arm.tokens * flops.per_token(dense().config), arm.flops)
    assert.equal(3 * 10 / 40, arm.tuning.flops / arm.flops)
    assert.same({ 5, 6, 7 }, { arm.seeds[1].seed, arm.seeds[2].seed, arm.seeds[3].seed })
  end)

  it("tunes nothing when there is one rate", function()
    local study = rehearsal(function() end, { lr = 0.3, seeds = 1 })
    compare(study):add("dense", dense)
    assert.equal(1, #study.stages)
    assert.equal(0.3, study.stages[1].lr)
    assert.equal(0, study.arms[1].tuning.flops)
    assert.is_nil(study.arms[1].rates)
  end)

  it("passes over rates with which training diverges", function()
    local study = rehearsal(function(name)
      if name:find("rate%-0.1") then run.fail("diverged", "diverged") end
    end)
    compare(study):add("dense", dense)
    assert.equal(0.2, study.arms[1].rate)
    assert.same({ rate = 0.1, validation = "diverged" }, study.arms[1].rates[1])
    study = rehearsal(function(name) if name:find("rate") then run.fail("no", "diverged") end end)
    local failure = models.failure(function() compare(study):add("dense", dense) end)
    assert.same({ code = "diverged", message = "x: 'dense' diverged with every rate\n" ..
      "hint: --lr X, a lower one" }, failure)
    study = rehearsal(function() run.fail("the disk is full", "full") end)
    assert.equal("full", models.failure(function() compare(study):add("dense", dense) end).code)
  end)

  -- Losses of arms by seed: { arm = { ... } }.
  local function measured(losses, more)
    return rehearsal(function(name)
      local arm, seed = name:match("^(.*), seed (%d+)$")
      if not arm then return nil end
      local mean = losses[arm][tonumber(seed) - 4]
      local result = { mean = mean, metric = { a = mean - 0.5, b = mean + 0.5 } }
      for k, v in pairs(more and more[arm] or {}) do result[k] = v end
      return result
    end, { lr = 0.1 })
  end

  it("claims what the differences per seed resolve", function()
    local study = measured { x = { 1.0, 2.0, 3.0 }, y = { 1.25, 2.25, 3.25 }, z = { 1.2, 1.8, 3 } }
    local arms = compare(study)
    for _, name in ipairs { "x", "y", "z" } do arms:add(name, dense) end
    arms:beats("x", "y")
    arms:beats("y", "x")
    arms:beats("x", "z")
    assert.same({ "x beats y", true, "-0.250 ± 0.000 bits per byte (3 seeds)" }, study.claims[1])
    assert.same({ "y beats x", false, "+0.250 ± 0.000 bits per byte (3 seeds)" }, study.claims[2])
    assert.same({ "x beats z", nil, "+0.000 ± 0.497 bits per byte (3 seeds)" }, study.claims[3])
    local arm = study.arms[1]
    helper.close({ arm.mean, arm.metric.a, arm.metric.b }, { 2, 1.5, 2.5 })
    helper.close(arm.interval, 4.30265272974946 / math.sqrt(3))
    assert.has_error(function() arms:beats("x", "nobody") end)
  end)

  it("lists an arm that sees later text apart, and does not compare its loss", function()
    local study = measured({ x = { 1, 2, 3 }, leak = { 0, 0, 0 }, batch = { 1, 2, 3 } },
      { leak = { causal = false }, batch = { coupled = true } })
    local arms = compare(study)
    for _, name in ipairs { "x", "leak", "batch" } do arms:add(name, dense) end
    assert.same({ "x", "batch", "leak" },
      { study.arms[1].name, study.arms[2].name, study.apart[1].name })
    assert.same({ false, true }, { study.arms[1].coupled, study.arms[2].coupled })
    arms:beats("leak", "x")
    assert.same({ { "leak beats x", nil, "'leak' sees later text: its loss is not compared" } },
      study.claims)
  end)

  it("means the figures of the routing over layers, and compares them", function()
    local function layers(a, b)
      return { statistics = { false, { cv = a, dropped = 0, dead = 0, entropy = 1,
        mutual_information = 0.5 }, { cv = b, dropped = 0.5, dead = 0, entropy = 2,
        mutual_information = 0.5 } } }
    end
    local study = measured({ even = { 1, 1, 1 }, uneven = { 1, 1, 1 }, dense = { 1, 1, 1 } },
      { even = layers(0, 0.5), uneven = layers(1, 2) })
    local arms = compare(study)
    for _, name in ipairs { "even", "uneven", "dense" } do arms:add(name, dense) end
    assert.same({ mean = 0.25, half = 0.0, n = 3 }, study.arms[1].cv)
    assert.same({ mean = 0.25, half = 0.0, n = 3 }, study.arms[1].dropped)
    assert.equal(1.5, study.arms[1].entropy.mean)
    assert.is_nil(study.arms[3].cv)
    arms:lower("cv", "even", "uneven")
    assert.same({ "even has a lower coefficient of variation of the load than uneven", true,
      "-1.250 ± 0.000 (3 seeds)" }, study.claims[1])
    models.misuse(function() arms:lower("cv", "even", "dense") end,
      "compare: 'cv' was not measured for both 'even' and 'dense'")
    assert.has_error(function() arms:lower("nothing", "even", "uneven") end)
  end)

  it("claims exact balance from the log of training", function()
    local cv = { even = { 0.0, 0.0, 1e-9 }, uneven = { 0.0, 0.2, 0.0 } }
    local study = rehearsal(function(name)
      local arm, seed = name:match("^(.*)/seed%-(%d+)$")
      if arm then return { routing = { cv = 0, cv_max = cv[arm][tonumber(seed) - 4] } } end
    end, { lr = 0.1 })
    local arms = compare(study)
    for _, name in ipairs { "even", "uneven" } do
      arms:add(name, dense)
      arms:balanced(name)
    end
    assert.same({ "even is exactly balanced in training", true,
      "coefficient of variation of the load at most 1e-09" }, study.claims[1])
    assert.same({ false, "coefficient of variation of the load at most 0.2" },
      { study.claims[2][2], study.claims[2][3] })
  end)

  it("tells how soon an arm has the loss of another", function()
    local curves = { dense = { { 10, 4.0 }, { 20, 3.0 }, { 40, 2.0 } },
      fast = { { 10, 2.5 }, { 20, 1.5 }, { 40, 1.0 } }, at_once = { { 10, 1.0 }, { 40, 2.0 } },
      slow = { { 10, 4.0 }, { 40, 2.5 } } }
    local study = rehearsal(function(name)
      local arm, seed = name:match("^(.*)/seed%-(%d)$")
      if not arm then return nil end
      local result = { validation = curves[arm:gsub("-", "_")] }
      if arm == "fast" then result.seconds = 80 end
      if arm == "slow" and seed == "7" then result.validation = curves.fast end
      return result
    end, { lr = 0.1 })
    local arms = compare(study, { points = 3 })
    for _, name in ipairs { "dense", "fast", "at once", "slow" } do arms:add(name, dense) end
    arms:add("converted", dense, { convert = wide })
    arms:reach("dense")
    assert.equal(13, study.stages[1].eval_every)
    local function reach(i, key) return study.arms[i].reach[key].mean end
    helper.close({ reach(1, "steps"), reach(1, "flops"), reach(1, "seconds") }, { 1, 1, 1 })
    helper.close({ reach(2, "steps"), reach(2, "flops"), reach(2, "seconds") },
      { 15 / 40, 15 / 40, 15 / 40 * 80 / 20 })
    helper.close(reach(3, "steps"), 10 / 40)
    assert.same({ 1, "dense" }, { study.arms[4].reach.seeds, study.arms[4].reach.reference })
    assert.is_nil(study.arms[4].reach.steps.half)
    assert.is_nil(study.arms[5].reach)
  end)

  it("converts a model on the way, and derives arms without training", function()
    local study = rehearsal(function() end, { seeds = 1 })
    local arms = compare(study, { rates = { 0.1 } })
    local seen = {}
    arms:add("dense", dense)
    arms:add("then wide", dense, { at = 0.75, convert = function(model)
      seen[#seen + 1] = model.config.ffn[1].hidden
      return wide()
    end })
    arms:derive("halved", "dense", function(model) return model end)
    local share = flops.per_token(dense().config) / flops.per_token(wide().config)
    assert.same({ "dense/seed-5", 40, "then-wide/seed-5", 30, "then-wide/seed-5-converted",
      math.floor(10 * share + 0.5) }, { study.stages[1].name, study.stages[1].steps,
      study.stages[2].name, study.stages[2].steps, study.stages[3].name, study.stages[3].steps })
    assert.same({ 8 }, seen)
    assert.equal(64, arms:model("then wide").config.ffn[1].hidden)
    assert.equal((wide():count()), study.arms[2].parameters)
    assert.equal(3, #study.stages)
    assert.equal(study.arms[1].flops, study.arms[3].flops)
    assert.equal(30 + math.floor(10 * share + 0.5), study.arms[2].seeds[1].steps)
    assert.equal("halved", study.arms[3].name)
  end)

  it("refuses misuse", function()
    local arms = compare(rehearsal(function() end, { lr = 0.1 }))
    arms:add("dense", dense)
    models.misuse(function() arms:add("dense", dense) end,
      "add: there is an arm 'dense' already")
    models.misuse(function() arms:add("Dense!", dense) end,
      "add: there is an arm 'dense' already")
    arms:derive("derived", "dense", dense)
    models.misuse(function() arms:model("derived") end,
      "compare: 'derived' was not trained, but derived")
    assert.has_error(function() arms:add("other", 3) end)
    assert.has_error(function() arms:derive("other", "nobody", dense) end)
    assert.has_error(function() compare(rehearsal(), { rates = {} }) end)
    assert.has_error(function() compare(rehearsal(), { rate = 3 }) end)
  end)
end)

local RECIPE = [[
local moe = require("moelua")
local opt = moe.options { name = "r", compares = true, options = { { "steps", 8 },
  { "context", 16 }, { "batch", 2 } } }
local study = moe.study.open(opt, { recipe = "r", title = "R", about = "r" })
local arms = study:compare { steps = opt.steps, rates = { 1e-2, 3e-2 }, points = 2 }
local function add(name, ffn)
  arms:add(name, function(seed)
    return moe.model.new { dim = 8, layers = 1, heads = 1, vocab = 256, context = opt.context,
      ffn = ffn, seed = seed }
  end)
end
add("dense", { hidden = 8 })
add("top-1 of 4", { kind = "moe", hidden = 8, experts = 4, router = { k = 1, gate = "all" } })
arms:derive("top-1 again", "top-1 of 4", function(model) return model end)
arms:beats("top-1 of 4", "dense")
arms:reach("dense")
study:finish()
]]

describe("a recipe that compares", function()
  local folder

  local function put(name, text) assert(system.write(folder .. "/" .. name, text)) end
  local function get(name) return (assert(system.read(folder .. "/" .. name))) end
  local function recipe(words)
    local _, _, code = os.execute(("cd '%s' && timeout -k 5 %d '%s' r.lua --domain a=text %s "
      .. "</dev/null >out 2>err"):format(folder, 60 * helper.patience, host.program, words))
    return code, get("out"), get("err")
  end
  local function results() return (assert(json.decode(get("runs/r/results.json")))) end

  setup(function()
    folder = helper.tmpdir()
    assert(lfs.mkdir(folder .. "/text"))
    put("r.lua", RECIPE)
    for i = 1, 80 do put("text/" .. i, ("document %d has words of its own\n"):format(i):rep(9)) end
  end)

  it("writes down each seed, the rates and the intervals; trains nothing twice", function()
    local code, out, err = recipe("--seeds 2")
    assert.equal(0, code, err)
    local found = results()
    local arm, again = found.arms[2], found.arms[3]
    assert.same({ "dense", "top-1 of 4", "top-1 again" },
      { found.arms[1].name, arm.name, again.name })
    assert.equal(2, #arm.seeds)
    helper.close(arm.mean, (arm.seeds[1].mean + arm.seeds[2].mean) / 2, 1e-9)
    helper.close(arm.interval, 12.7062047361747 / 2 * math.abs(arm.seeds[1].mean -
      arm.seeds[2].mean), 1e-9)
    assert.same({ again.mean, again.metric }, { arm.mean, arm.metric })
    assert.equal(2, #arm.rates)
    assert.equal(1, found.arms[1].reach.steps.mean)
    assert.is_true(arm.training_cv.mean > 0 and arm.cv.mean > 0)
    assert.same({ mean = 0, half = 0, n = 2 }, arm.training_dropped)
    assert.same({ nil, true, false }, { found.arms[1].cv, arm.causal, arm.coupled })
    assert.matches("^held%-out text.-;\nmeans of 2 seeds, ± 95 %% interval\nmodel ", out)
    assert.matches("\nUntil the final validation loss of 'dense', as shares of what that took\n",
      out)
    assert.matches("\nParameters in all.-\nmodel +parameters +active +rate +with tuning\n"
      .. "dense +2.52 k +2.52 k +0.0%d +", out)
    assert.matches("\n%S+ +top%-1 of 4 beats dense: [-+]%d.%d+ ± %d+.%d+ bits per byte "
      .. "%(2 seeds%)\n", out)
    assert.matches("Until the final validation loss", get("runs/r/report.html"))
    assert.matches("The first seed of each arm.", get("runs/r/report.html"))
    assert.matches("\nRates at the edge of the grid: dense 0.03, top%-1 of 4 0.0%d%.\n", out)
    local second = { recipe("--seeds 2") }
    assert.same({ 0, out }, { second[1], second[2] })
    assert.matches("\ndense/seed%-2: finished before\n", second[3])
    assert.equal(0, (recipe("--seeds 3")))
    assert.same(arm.seeds, { results().arms[2].seeds[1], results().arms[2].seeds[2] })
    assert.equal(3, #results().arms[2].seeds)
  end)

  it("is planned as it runs", function()
    local code, out, err = recipe("--seeds 2 --fresh --dry-run --json")
    assert.same({ 0, "" }, { code, err })
    local plan = assert(json.decode(out))
    assert.equal(0, (recipe("--seeds 2 --fresh")))
    local sum = 0
    for _, arm in ipairs(results().arms) do
      if arm.name ~= "top-1 again" then sum = sum + arm.tuning.flops + 2 * arm.flops end
    end
    assert.equal(sum, plan.flops)
    assert.equal(8, #plan.stages)
    assert.equal(6, plan.evaluations)
    assert.matches("\ndense +a +2 x 2, 2 x 8 ", select(2, recipe("--seeds 2 --fresh --dry-run")))
  end)
end)
