-- Training that goes on exactly where it stopped, and whom a run folder belongs to.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local run = require("moelua.run")
local lfs = require("lfs")
local host = require("moelua.host")
local misuse, system = models.misuse, core.system

local prose, code = models.corpus("prose"), models.corpus("code")

local new_folder = models.run_folder
local function options(more) return models.training(prose, more) end

-- A corpus that fails at batch number `at`.
local function failing(corpus, at)
  return models.watched(corpus, function(n) if n == at then error("the power is gone", 0) end end)
end

-- The log without wall-clock seconds, which differ from run to run, and without warnings.
local function log_of(folder)
  local log = {}
  for _, entry in ipairs(run.read_log(folder)) do
    entry.seconds = nil
    if not entry.warning then log[#log + 1] = entry end
  end
  return log
end

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

describe("an interrupt of a run", function()
  local function request(folder)
    return options({ data = { code = code, prose = prose }, batch = 3, out = folder,
      save_every = 5, log_every = 2, eval_every = 4, eval_windows = 2 })
  end
  local function new_model() return models.tiny({ ffn = { {}, models.mixture() } }) end
  local whole, straight = new_folder(), new_model()
  local result = moe.train(straight, request(whole))

  -- Trains, and calls meet() at a moment: one of those below.
  local function train_until(moment, m, folder, meet)
    return pcall(function()
      moment(function()
        debug.sethook()
        meet()
      end)
      moe.train(m, request(folder))
      debug.sethook()
    end)
  end

  local function after_instructions(count)
    return function(meet) debug.sethook(meet, "", count) end
  end

  -- When a function of that name begins for the second time.
  local function in_function(name)
    return function(meet)
      local calls = 0
      debug.sethook(function()
        if debug.getinfo(2, "n").name == name then calls = calls + 1 end
        if calls == 2 then meet() end
      end, "c")
    end
  end

  -- How many instructions a run takes.
  local function instructions()
    local n = 0
    debug.sethook(function() n = n + 1000 end, "", 1000)
    moe.train(new_model(), request(new_folder()))
    debug.sethook()
    return n
  end

  local function state_steps(folder)
    local steps = {}
    if not system.exists(folder .. "/state") then return steps end
    for name in lfs.dir(folder .. "/state") do
      steps[#steps + 1] = tonumber(name:match("^step%-(%d+)%.safetensors$"))
    end
    table.sort(steps)
    return steps
  end

  -- Moments all over a run, and in each of its parts.
  local moments, points = {}, 40
  local total = instructions()
  for point = 1, points do moments[point] = after_instructions(total * point // points) end
  for _, name in ipairs({ "next", "forward", "one_step", "step", "validate", "measure",
    "save_state" }) do
    moments[#moments + 1] = in_function(name)
  end

  for _, where in ipairs({ "anywhere", "operation" }) do
    it("loses no step, and the result is the same: " .. where, function()
      for i, moment in ipairs(moments) do
        local folder, m = new_folder(), new_model()
        local ok, message = train_until(moment, m, folder, function() core.interrupt(where) end)
        if not ok then assert.equal("interrupted!", message) end
        assert.is_true(not ok or i <= points, "moment " .. i)
        pcall(core.uninterrupted, function() end)     -- one that came too late
        local steps = state_steps(folder)
        if steps[1] then
          -- The state is of the last complete step: the model in memory is the one that was saved.
          local file = assert(core.checkpoint.open(("%s/state/step-%08d.safetensors"):format(folder,
            steps[#steps])))
          for name, bytes in pairs((models.bits(m))) do
            assert.is_true(bytes == file:tensor("w." .. name):bytes(), name)
          end
        end
        for _, entry in ipairs(m:parameters()) do assert.is_nil(entry[2]:grad()) end
        local other = i % 2 == 0 and m or new_model()
        local again = moe.train(other, request(folder))
        models.same(straight, other)
        assert.same(log_of(whole), log_of(folder))
        assert.same(result.curve, again.curve)
        models.same(straight, assert(moe.load(folder .. "/model")))
      end
    end)
  end
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
      local message = models.failure(function() moe.train(m or models.tiny(), opts) end).message
      assert.matches("^" .. folder:gsub("%p", "%%%0") .. " was " .. what .. "$", message)
    end
    local hint = "\nhint: %-%-fresh starts over, %-%-out names another folder"
    local options_differ = "made with other options: "
    refused(options_differ .. "lr was 0%.01, now 0%.02" .. hint, nil, { lr = 0.02 })
    refused(options_differ .. "batch was 4, now 5" .. hint, nil, { batch = 5 })
    refused(options_differ .. "model%.seed was 1, now 2" .. hint, models.tiny({ seed = 2 }))
    local put_back = "\nhint: put the files back; %-%-fresh starts over"
    refused("trained on other text: domain 'prose' had 3 documents and 7200 tokens, now " ..
      "3 documents and 5200 tokens" .. put_back, nil,
      { data = models.corpus("prose", { train = 5000, validation = 100, test = 100 }) })
    refused("trained on other text: domain 'prose' has 3 documents and 7200 tokens as before, " ..
      "but not the same ones" .. put_back, nil, { data = { prose = code } })
    refused("trained on other text: domain 'code' is new" .. put_back, nil,
      { data = { prose = prose, code = code } })
    refused("trained on other text: domain 'code' is new" .. put_back, nil, { data = code })
    local changed = models.tiny()
    models.parameter(changed, "norm"):detach():fill_(0.5)
    refused(options_differ .. "start was \"%x+\", now \"%x+\"" .. hint, changed)
    moe.train(models.tiny(), options({ out = folder, save_every = 1, name = "other" }))
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
