-- Signals, from the outside: real processes, and what they leave behind.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local system = core.system

local HUP, INT, TERM = 1, 2, 15
local prose, code = models.corpus("prose"), models.corpus("code")
local PATIENCE = 60 * helper.patience

-- Waits for something that has to happen.
local function wait_for(what, condition)
  local deadline = system.clock() + PATIENCE
  repeat
    local found = condition()
    if found then return found end
    system.sleep(0.01)
  until system.clock() > deadline
  error("waited in vain for " .. what, 2)
end

local function ended(process)
  return assert(process:wait(PATIENCE), "it does not end")
end

local function start(folder, text)
  local script = folder .. "/job.lua"
  assert(system.write(script, text))
  return assert(system.spawn({ host.program, script, stdout = folder .. "/out",
    stderr = folder .. "/err" }))
end

-- What it said since the last call.
local function said(folder)
  local text = assert(system.read(folder .. "/err"))
  assert(system.write(folder .. "/err", ""))
  return text
end

local STEPS = 300

-- Trains in folder/run; `at` is what happens before batch number 5.
local function training(folder, at)
  return ([[
    package.path = "./?.lua;" .. package.path
    local moe = require("moelua")
    local system = require("moelua.core").system
    local corpus, n, batch = assert(moe.data.open(%q)), 0
    batch = corpus.batch
    corpus.batch = function(self, given)
      n = n + 1
      if n == 5 then %s end
      return batch(self, given)
    end
    local m = moe.model.new({ dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 256,
      context = 16, std = 0.1 })
    moe.train(m, { data = corpus, steps = %d, batch = 4, lr = 1e-2, quiet = true, log_every = 5,
      save_every = 100000, out = %q, name = "seed" })
  ]]):format(prose.path, at or "", STEPS, folder .. "/run")
end

-- Says that it is there, and stays for as long as it takes the signal to arrive.
local function stays(folder)
  return ("system.write(%q, '') while true do system.sleep(0.01) end"):format(folder .. "/there")
end

describe("a signal", function()
  local straight = models.tiny()
  moe.train(straight, models.training(prose, { steps = STEPS }))

  for name, number in pairs({ SIGINT = INT, SIGTERM = TERM, SIGHUP = HUP }) do
    it("saves the last complete step, says so, and the run goes on: " .. name, function()
      local folder = helper.tmpdir()
      local process = start(folder, training(folder, stays(folder)))
      wait_for("batch 5", function() return system.exists(folder .. "/there") end)
      process:kill(number)
      assert.same({ exited = 128 + number }, ended(process))
      assert.equal("moelua: interrupted: saved step 4 of seed; the same command again continues "
        .. folder .. "/run\n", said(folder))
      assert.is_true(system.exists(folder .. "/run/state/step-00000004.safetensors"))
      assert.same({ exited = 0 }, ended(start(folder, training(folder))))
      assert.equal("", said(folder))
      models.same(straight, assert(moe.load(folder .. "/run/model")))
    end)
  end

  it("leaves at once the second time", function()
    local folder = helper.tmpdir()
    local process = start(folder, training(folder,
      "repeat until not pcall(function() " .. stays(folder) .. " end) "
      .. ("system.write(%q, '') while true do system.sleep(0.01) end"):format(folder .. "/deaf")))
    wait_for("batch 5", function() return system.exists(folder .. "/there") end)
    process:kill(INT)
    wait_for("the first", function() return system.exists(folder .. "/deaf") end)
    process:kill(INT)
    assert.same({ signaled = INT }, ended(process))
    assert.is_false(system.exists(folder .. "/run/state"))
  end)

  it("in the first step saves nothing, and says how to go on", function()
    local folder = helper.tmpdir()
    local process = start(folder, (training(folder, stays(folder)):gsub("n == 5", "n == 1")))
    wait_for("batch 1", function() return system.exists(folder .. "/there") end)
    process:kill(TERM)
    assert.same({ exited = 143 }, ended(process))
    assert.is_false(system.exists(folder .. "/run/state"))
    assert.same({ exited = 0 }, ended(start(folder, training(folder))))
    models.same(straight, assert(moe.load(folder .. "/run/model")))
  end)

  it("of a file that shrinks while it is read becomes a message", function()
    local folder = helper.tmpdir()
    local path = folder .. "/tokens"
    assert(system.write(path, assert(system.read(prose.path))))
    local text = training(folder, ("assert(os.execute('truncate -s 100 %s'))"):format(path))
    assert.same({ exited = 74 }, ended(start(folder, (text:gsub("%f[^\"]" .. prose.path:gsub("%p",
      "%%%0"), path)))))
    assert.equal("moelua: a file that was being read became shorter, or its disk failed\n" ..
      "hint: what was saved is complete: put the file back and run the same command again\n",
      said(folder))
  end)

  it("that moelua sees to itself is not ignored in the programs that a script starts", function()
    local folder = helper.tmpdir()
    assert.same({ exited = 0 }, ended(start(folder,
      ("assert(os.execute('grep SigIgn /proc/self/status > %s/ignored'))"):format(folder))))
    local ignored = tonumber(assert(system.read(folder .. "/ignored")):match("(%x+)%s$"), 16)
    assert.equal(0, ignored & 0x7fffffff)       -- of the signals 1 to 31, none
  end)
end)

describe("branches that are stopped", function()
  local steps = 60

  -- A module that each worker requires: training stops ahead of batch 21 until the file `go` is
  -- there.
  local function pause(folder)
    return ([[
      local data, system = require("moelua.data"), require("moelua.core").system
      local open = data.open
      function data.open(path, name)
        local corpus, n = assert(open(path, name)), 0
        local batch = corpus.batch
        corpus.batch = function(...)
          n = n + 1
          if n == 21 then system.write(%q .. name, "") end
          while n == 21 and not system.exists(%q) do system.sleep(0.01) end
          return batch(...)
        end
        return corpus
      end
    ]]):format(folder .. "/paused-", folder .. "/go")
  end


  local function branching(folder)
    return ([[
      local moe = require("moelua")
      local domains = { code = assert(moe.data.open(%q)), prose = assert(moe.data.open(%q)) }
      local seed = moe.model.new({ dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 256,
        context = 16, std = 0.1 })
      moe.branch(seed, domains, { out = %q, steps = %d, batch = 2, lr = 1e-2, save_every = 100000,
        modules = { "pause" }, quiet = true })
    ]]):format(code.path, prose.path, folder .. "/branches", steps)
  end

  local function paused(folder)
    return system.exists(folder .. "/paused-code") and system.exists(folder .. "/paused-prose")
  end

  -- A command in a process group of its own, as a shell starts it.
  local function start_group(folder)
    assert(system.write(folder .. "/job.lua", branching(folder)))
    assert(system.write(folder .. "/pause.lua", pause(folder)))
    return assert(system.spawn({ "setsid", "--wait", host.program, folder .. "/job.lua",
      stdout = folder .. "/out", stderr = folder .. "/err",
      env = { LUA_PATH = folder .. "/?.lua;;" } }))
  end

  local function pids(folder)
    local list = {}
    local pipe <close> = assert(io.popen("ps -eo pid=,pgid=,args="))
    for line in pipe:lines() do
      local pid, group, words = line:match("^%s*(%d+)%s+(%d+)%s+(.*)$")
      if words and words:find(folder, 1, true) and not words:find("setsid", 1, true) then
        list[#list + 1] = { pid = pid, group = group }
      end
    end
    return list
  end

  for _, how in ipairs({ "the terminal's Ctrl-C", "SIGTERM to all", "SIGHUP to all",
      "SIGTERM to the parent" }) do
    it("by " .. how .. " save their states and go on", function()
      local folder = helper.tmpdir()
      local process = start_group(folder)
      wait_for("both workers", function() return paused(folder) end)
      local group = assert(pids(folder)[1], "nothing runs").group
      local number = how:find("Ctrl") and INT or how:find("HUP") and HUP or TERM
      local whom = how:find("parent") and group or "-" .. group
      assert(os.execute(("/bin/kill -%d -- %s"):format(number, whom)))
      assert.same({ exited = 128 + number }, ended(process))
      assert.same({}, pids(folder))
      assert.equal("moelua: interrupted: saved the states of code, prose; the same command again "
        .. "continues " .. folder .. "/branches\n", said(folder))
      for _, name in ipairs({ "code", "prose" }) do
        local branch = folder .. "/branches/" .. name
        assert.is_true(system.exists(branch .. "/state/step-00000020.safetensors"))
        assert.equal(("moelua: interrupted: saved step 20 of %s; the same command again " ..
          "continues %s\n"):format(name, branch), system.read(branch .. "/worker.log"))
      end
      assert(system.write(folder .. "/go", ""))
      assert.same({ exited = 0 }, ended(start_group(folder)))
      for name, corpus in pairs({ code = code, prose = prose }) do
        local m = models.tiny()
        moe.train(m, { data = { [name] = corpus }, steps = steps, batch = 2, lr = 1e-2,
          quiet = true })
        models.same(m, assert(moe.load(folder .. "/branches/" .. name .. "/model")))
      end
    end)
  end

  it("by a second Ctrl-C leave at once, workers and all", function()
    local folder = helper.tmpdir()
    local process = start_group(folder)
    wait_for("both workers", function() return paused(folder) end)
    local all = pids(folder)
    local parent = all[1].group
    for _, each in ipairs(all) do
      if each.pid ~= parent then assert(os.execute("kill -STOP " .. each.pid)) end
    end
    assert(os.execute("/bin/kill -INT -- -" .. parent))     -- the workers cannot save now
    wait_for("the handlers to be gone", function()
      local status = assert(io.open("/proc/" .. parent .. "/status")):read("a")
      return tonumber(status:match("SigCgt:%s*(%x+)"), 16) & (1 << (INT - 1)) == 0
    end)
    assert(os.execute("/bin/kill -INT -- -" .. parent))
    assert.is_not_nil(ended(process))
    wait_for("the end of all", function() return #pids(folder) == 0 end)
  end)
end)

describe("the threads that compute", function()
  it("leave signals to those of the program", function()
    local x = moe.ones(256, 256)
    x:matmul(x)                                   -- they have started by now
    local closed = 0
    for id in require("lfs").dir("/proc/self/task") do
      local text = system.read("/proc/self/task/" .. id .. "/status") or ""
      local mask = tonumber(text:match("\nSigBlk:%s*(%x+)") or "0", 16)
      local asked, fault = 1 << (INT - 1) | 1 << (TERM - 1), 1 << (7 - 1)
      if mask & asked == asked and mask & fault == 0 then closed = closed + 1 end
    end
    assert.equal(core.threads - 1, closed)
  end)
end)
