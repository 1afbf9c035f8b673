-- Numbers that stop being finite: where that is said to have happened, and what is kept.
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local Optimizer = require("moelua.optimizer")
local system = core.system

local NAN, INF = 0 / 0, math.huge
local prose = models.corpus("prose")

local function new_model()
  return models.tiny({ tied = false, ffn = { {}, models.mixture() } })
end

local function request(folder, more)
  local opts = models.training(prose, { out = folder, save_every = 3, name = "seed", warmup = 1 })
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

-- Sets one element, all else stays.
local function set(tensor, value, ...)
  local part = tensor:detach()
  for _, i in ipairs({ ... }) do part = part:select(1, i) end
  core.no_grad(function() part:fill_(value) end)
end

-- Runs f(optimizer), where optimizer() is the one that training has made.
local function watch_optimizers(f)
  local made, init = nil, Optimizer.init
  Optimizer.init = function(self, ...)
    made = self
    return init(self, ...)
  end
  local ok, message = pcall(f, function() return made end)
  Optimizer.init = init
  if not ok then error(message, 0) end
end

local function index_of(m, name)
  for i, entry in ipairs(m:parameters()) do
    if entry[1] == name then return i end
  end
  error("no parameter " .. name)
end

local straight
local function same_as_straight(folder)
  if not straight then
    straight = new_model()
    moe.train(straight, request(nil))
  end
  local m = new_model()
  moe.train(m, request(folder))
  models.same(straight, m)
end

-- Trains with break_it(model, optimizer, n) ahead of batch 8 and later ones; the run must end with
-- `wanted`, keep the state of `kept`, and go on from there as if nothing had been broken.
local function diverges(wanted, kept, break_it, more)
  local folder, m = models.run_folder(), new_model()
  watch_optimizers(function(optimizer)
    local before
    local poison = models.watched(prose, function(n)
      if n == kept + 1 then before = models.hashes(folder .. "/state") end
      if n >= 8 then break_it(m, optimizer(), n) end
    end)
    local opts = request(folder, more)
    opts.data = poison
    local failure = models.failure(function() moe.train(m, opts) end)
    assert.equal("diverged", failure.code)
    assert.equal("seed: " .. wanted .. "\nhint: try a lower rate (lr is 0.01) or a smaller " ..
      ("clip; the state of step %d is saved"):format(kept), failure.message)
    assert.same(before, models.hashes(folder .. "/state"))
  end)
  assert.is_false(system.exists(folder .. "/model"))
  assert.is_false(system.exists(folder .. "/done.json"))
  if not more then same_as_straight(folder) end
end

local function not_applied(what, value, place)
  return ("the %s became %s at step 8, first in %s; the step was not applied"):format(what, value,
    place)
end

describe("a weight that is not finite is named:", function()
  local weights = {
    { "embedding", NAN }, { "layers.0.attention_norm", NAN, 1 }, { "layers.0.attention.q", INF, 1 },
    { "layers.0.attention.k", NAN, 2 }, { "layers.0.attention.v", -INF, 3 },
    { "layers.1.attention.o", NAN, 4 }, { "layers.0.ffn_norm", INF, 2 },
    { "layers.0.ffn.w1", NAN, 1, 1 }, { "layers.0.ffn.w2", NAN, 1, 1 },
    { "layers.0.ffn.w3", NAN, 24 }, { "layers.1.ffn.router", NAN, 2, 3 }, { "norm", NAN, 16 },
    { "head", NAN, 40 },
  }
  for _, case in ipairs(weights) do
    local name, value = case[1], case[2]
    it(name, function()
      local seen
      local ok, message = pcall(diverges, not_applied("loss", "NaN", name), 6, function(m)
        set(models.parameter(m, name), value, table.unpack(case, 3))
        seen = true
      end)
      assert.is_true(seen)
      if not ok then error(message, 0) end
    end)
  end

  it("of an expert", function()
    diverges(not_applied("loss", "NaN", "layers.1.ffn.experts.w3 of expert 2"), 6, function(m)
      set(models.parameter(m, "layers.1.ffn.experts.w3"), NAN, 2)
    end)
  end)

  it("of a row of the embedding that the batch reads", function()
    diverges(not_applied("loss", "NaN", "embedding"), 6, function(m)
      set(models.parameter(m, "embedding"), NAN, ("t"):byte() + 1)
    end)
  end)
end)

describe("what is computed from finite weights is named:", function()
  it("logits of a router that are infinite", function()
    diverges(not_applied("loss", "infinite", "the output of layers.1.ffn.router"), 6, function(m)
      set(models.parameter(m, "layers.1.ffn_norm"), 1e30)
      set(models.parameter(m, "layers.1.ffn.router"), 1e30)
    end)
  end)

  it("the losses of a router", function()
    diverges(not_applied("loss", "infinite", "the losses of layers.1.ffn.router"), 6, function(m)
      m.layers[2].ffn.router.opts.balance = { form = "btx", coef = INF,
        scope = "batch", reduce = "sum" }
    end)
  end)

  it("attention", function()
    diverges(not_applied("loss", "NaN", "the output of layers.0.attention"), 6, function(m)
      set(models.parameter(m, "layers.0.attention.v"), 1e30)
      set(models.parameter(m, "layers.0.attention.o"), 1e30)
    end)
  end)

  it("the feed-forward of a layer", function()
    diverges(not_applied("loss", "NaN", "the output of layers.0.ffn"), 6, function(m)
      set(models.parameter(m, "layers.0.ffn.w1"), 1e30)
      set(models.parameter(m, "layers.0.ffn.w3"), 1e30)
    end)
  end)

  it("logits", function()
    diverges(not_applied("loss", "NaN", "the logits"), 6, function(m)
      set(models.parameter(m, "norm"), 1e30)
      set(models.parameter(m, "head"), 1e30)
    end)
  end)

  it("a gradient alone", function()
    diverges(not_applied("gradient", "NaN", "the gradient of norm"), 6, function(m)
      local loss = m.loss
      m.loss = function(...)
        local value, info = loss(...)
        return value + (models.parameter(m, "norm") * 0):sum():sqrt(), info      -- 0, steeply
      end
    end)
  end)

  it("gradients whose squares overflow", function()
    diverges(not_applied("gradient", "infinite", "the sum of its squares"), 6, function(m)
      set(models.parameter(m, "norm"), 1e30)
    end)
  end)
end)

describe("what an update breaks is found at the next step, or before anything is saved:", function()
  local function moment(which, name, value)
    return function(m, optimizer, n)
      if n == 8 then set(optimizer[which][index_of(m, name)], value) end
    end
  end

  it("a first moment", function()
    diverges("the loss became NaN at step 9, first in the first moment of layers.0.ffn.w1; " ..
      "the step was not applied", 6, moment("m", "layers.0.ffn.w1", NAN))
  end)

  it("a second moment", function()
    diverges("the loss became NaN at step 9, first in the second moment of " ..
      "layers.1.ffn.experts.w2 of expert 1; the step was not applied", 6,
      moment("v", "layers.1.ffn.experts.w2", NAN))
  end)

  it("a second moment that stops a weight without breaking it", function()
    diverges("after step 9 the second moment of norm is not finite; it was not saved", 6,
      moment("v", "norm", INF))
  end)

  it("an expert that no token goes to", function()
    diverges("after step 9 layers.1.ffn.experts.w1 of expert 4 is not finite; it was not saved", 6,
      function(m)
        set(models.parameter(m, "layers.1.ffn.router"), 0)      -- ties go to the first two
        set(models.parameter(m, "layers.1.ffn.experts.w1"), NAN, 4)
      end)
  end)

  it("the last update of all", function()
    diverges("after step 12 the first moment of head is not finite; it was not saved", 9,
      function(m, optimizer, n)
        if n == 12 then set(optimizer.m[index_of(m, "head")], NAN) end
      end)
  end)

  it("the update ahead of a validation", function()
    diverges("after step 8 the first moment of head is not finite; it was not saved", 6,
      moment("m", "head", NAN), { eval_every = 8 })
  end)

  it("a validation of weights that are finite", function()
    for name, value in pairs({ ["layers.1.ffn.router"] = "infinite", ["head"] = "NaN" }) do
      local folder, m = models.run_folder(), new_model()
      local validating = setmetatable({ window_batch = function(...)
        set(models.parameter(m, "layers.1.ffn_norm"), 1e30)
        set(models.parameter(m, "norm"), 1e30)
        set(models.parameter(m, name), 1e30)
        return prose.window_batch(...)
      end }, { __index = prose })
      local failure = models.failure(function()
        moe.train(m, request(folder, { data = validating, eval_every = 5 }))
      end)
      assert.same({ code = "diverged", message = ("seed: the validation loss became %s after " ..
        "step 5\nhint: try a lower rate (lr is 0.01) or a smaller clip; the state of step 3 is " ..
        "saved"):format(value) }, failure)
    end
  end)

  it("the update ahead of an interrupt", function()
    local folder, m = models.run_folder(), new_model()
    watch_optimizers(function(optimizer)
      local poison = models.watched(prose, function(n)
        if n == 2 then set(optimizer().v[index_of(m, "norm")], INF) end
        if n == 3 then core.interrupt() end
      end)
      local failure = models.failure(function()
        moe.train(m, request(folder, { data = poison }))
      end)
      assert.same({ code = "diverged", message = "seed: after step 2 the second moment of norm " ..
        "is not finite; it was not saved\nhint: try a lower rate (lr is 0.01) or a smaller clip" },
        failure)
      assert.is_false(system.exists(folder .. "/state"))
    end)
  end)
end)

describe("a rate that is too high", function()
  for _, lr in ipairs({ 1e6, 1e20, 1e30 }) do
    it(("ends the run with a true message, or not at all: %g"):format(lr), function()
      local m = new_model()
      local ok, failure = pcall(moe.train, m, request(models.run_folder(), { lr = lr, clip = 0,
        warmup = 0, steps = 30 }))
      if ok then
        for _, entry in ipairs(m:parameters()) do
          assert.equal(0, (entry[2]:detach() * 0):sum():item())
        end
        return
      end
      assert.equal("diverged", failure.code)
      local place = failure.message:match("first in (.-); the step was not applied")
        or failure.message:match("after step %d+ (.-) is not finite")
      local name = place:gsub(" of expert %d+$", "")
      local finite = true
      for _, entry in ipairs(m:parameters()) do
        local good = (entry[2]:detach() * 0):sum():item() == 0
        finite = finite and good
        if entry[1] == name then assert.is_false(good, place) end
      end
      if place:find("^the output") or place:find("^the gradient") then
        assert.is_true(finite, place)
      end
    end)
  end
end)
