-- Branches: worker processes that train copies of one model, and what happens when they fail.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local run = require("moelua.run")
local system, json, misuse = core.system, core.json, models.misuse

local prose, code = models.corpus("prose"), models.corpus("code")
local domains = { prose = prose, code = code }

local function new_folder() return helper.tmpdir() .. "/branches" end

local function options(out, more)
  local opts = { out = out, steps = 6, batch = 4, lr = 1e-2, quiet = true }
  for k, v in pairs(more or {}) do opts[k] = v end
  return opts
end

-- The same training in this process.
local function trained_here(m, name, more)
  local opts = options(nil, more)
  opts.data, opts.workers, opts.modules = { [name] = domains[name] }, nil, nil
  moe.train(m, opts)
  return m
end

-- Runs f without the command line around.
local function without_host(f)
  local loaded, preload = package.loaded["moelua.host"], package.preload["moelua.host"]
  package.loaded["moelua.host"] = nil
  package.preload["moelua.host"] = function() error("there is no host") end
  local ok, message = pcall(f)
  package.loaded["moelua.host"], package.preload["moelua.host"] = loaded, preload
  if not ok then error(message, 0) end
end

describe("branch", function()
  it("gives the experts that training in this process gives, bit for bit", function()
    local out, seed = new_folder(), models.tiny()
    seed.tokenizer = moe.tokenizer.bytes()
    local before = models.bits(seed)
    local experts = moe.branch(seed, domains, options(out))
    for name in pairs(domains) do
      models.same(trained_here(models.tiny(), name), experts[name])
      assert.equal(6 * 4 * 16, experts[name].summary.tokens)
      assert.equal(1, #experts[name].summary.curve)
      assert.equal("bytes", experts[name].tokenizer.name)
      assert.equal(out .. "/" .. name .. "/model", experts[name].path)
    end
    assert.same(before, (models.bits(seed)))
    assert.not_equal(experts.prose.embedding:bytes(), experts.code.embedding:bytes())
  end)

  it("is the same for any number of workers, and in turn without a host", function()
    local seed = models.tiny({ ffn = { {}, models.mixture() } })
    local together = moe.branch(seed, domains, options(new_folder(), { workers = 2 }))
    local alone = moe.branch(seed, domains, options(new_folder(), { workers = 1 }))
    local here
    without_host(function() here = moe.branch(seed, domains, options(new_folder())) end)
    for name in pairs(domains) do
      models.same(together[name], alone[name])
      models.same(together[name], here[name])
    end
  end)

  it("hands a job over in its folder", function()
    local out = new_folder()
    moe.branch(models.tiny(), { code = code }, options(out, { weight_decay = 0.3 }))
    local job = json.decode(system.read(out .. "/code/job.json"))
    assert.equal("code", job.name)
    assert.same({ steps = 6, batch = 4, lr = 1e-2, weight_decay = 0.3, precision = "f32" },
      job.options)
    assert.equal(code.path, job.data.code)
    assert.is_true(system.exists(job.model .. "/model.safetensors"))
    local config = json.decode(system.read(out .. "/code/config.json"))
    assert.equal(0.3, config.weight_decay)
  end)

  it("writes the text down when it lies in no file", function()
    local out = new_folder()
    local corpus = models.corpus("prose")
    corpus.path = nil
    local experts = moe.branch(models.tiny(), { prose = corpus }, options(out))
    assert.is_true(system.exists(out .. "/prose/data.safetensors"))
    models.same(trained_here(models.tiny(), "prose"), experts.prose)
    -- Whatever became of that file: the next worker has the text again.
    os.remove(out .. "/prose/done.json")
    system.write(out .. "/prose/data.safetensors", "damaged")
    models.same(experts.prose, moe.branch(models.tiny(), { prose = corpus }, options(out)).prose)
  end)

  it("starts from the model as it is, wherever it was saved before", function()
    local folder, seed = helper.tmpdir() .. "/seed", models.tiny()
    assert(seed:save(folder))
    moe.train(seed, { data = code, steps = 3, batch = 4, quiet = true })
    seed.path = folder
    local experts = moe.branch(seed, { prose = prose }, options(new_folder()))
    models.same(trained_here(seed, "prose"), experts.prose)
    assert.is_nil(seed.path)
  end)

  it("starts from a folder", function()
    local folder, seed = helper.tmpdir() .. "/seed", models.tiny({ seed = 3 })
    assert(seed:save(folder))
    local experts = moe.branch(folder, { prose = prose }, options(new_folder()))
    models.same(trained_here(seed, "prose"), experts.prose)
  end)

  it("does not train finished branches again", function()
    local out = new_folder()
    local first = moe.branch(models.tiny(), domains, options(out))
    local done = system.read(out .. "/code/done.json")
    local again = moe.branch(models.tiny(), domains, options(out))
    models.same(first.code, again.code)
    assert.equal(done, system.read(out .. "/code/done.json"))
  end)

  it("starts over with fresh", function()
    local out = new_folder()
    moe.branch(models.tiny(), { code = code }, options(out))
    local experts = moe.branch(models.tiny(), { code = code }, options(out, { steps = 3,
      fresh = true }))
    assert.equal(3, experts.code.summary.steps)
  end)

  it("has workers require the modules that a job names", function()
    local job = options(new_folder(), { modules = { "moelua.flops", "no.such.module" } })
    local ok, message = pcall(moe.branch, models.tiny(), { code = code }, job)
    assert.is_false(ok)
    assert.matches("module 'no.such.module' not found", message)
  end)
end)

describe("a worker", function()
  local steps = { steps = 1500, save_every = 20, batch = 2 }

  it("that is killed goes on from its last state", function()
    local out, killed = new_folder(), 0
    -- A killer that waits for states to appear and shoots the worker by its pid.
    local spawn = system.spawn
    local processes = {}
    system.spawn = function(plan)
      local process = spawn(plan)
      processes[#processes + 1] = process
      return process
    end
    local sleep = system.sleep
    system.sleep = function(seconds)
      local process = processes[#processes]
      if killed < 2 and system.exists(out .. "/code/state") and not process:wait(0) then
        killed = killed + 1
        process:kill(9)
      end
      return sleep(math.min(seconds, 0.05))
    end
    local ok, experts = pcall(moe.branch, models.tiny(), { code = code }, options(out, steps))
    system.spawn, system.sleep = spawn, sleep
    assert.is_true(ok, tostring(experts))
    assert.equal(2, killed)
    assert.equal(3, #processes)
    models.same(trained_here(models.tiny(), "code", steps), experts.code)
  end)

  it("that always fails is reported with the end of its log; the others finish", function()
    local out = new_folder()
    local short = models.corpus("prose", { train = 20, validation = 20, test = 20 })
    local ok, message = pcall(moe.branch, models.tiny(), { broken = short, code = code },
      options(out))
    assert.is_false(ok)
    assert.matches("branch 'broken' failed 3 times; the last worker ended with status 1:\n",
      message)
    assert.matches("split \"train\" has 1 windows of 16 tokens: a batch of 4 would overlap",
      message)
    assert.is_nil(message:find("branch 'code'"))
    assert.equal(6, run.finished(out .. "/code").steps)
    models.same(trained_here(models.tiny(), "code"), assert(moe.load(out .. "/code/model")))
  end)

  it("that diverges is not tried again", function()
    local failure = models.failure(function()
      moe.branch(models.tiny(), { code = code }, options(new_folder(), { lr = 1e30 }))
    end)
    assert.equal("diverged", failure.code)
    assert.matches("^branch 'code' failed once; the last worker ended with status 3:\n.*NaN",
      failure.message)
  end)

  it("leaves a folder that is in use alone", function()
    local out = new_folder()
    pcall(moe.branch, models.tiny(), { code = code }, options(out, { steps = 100000,
      modules = { "no.such.module" } }))
    local lock <close> = run.lock(out .. "/code")
    local process = assert(system.spawn({ host.program, "--worker", out .. "/code",
      stderr = out .. "/err" }))
    assert.equal(1, process:wait(10).exited)
    lock:release()
  end)

  it("ends with its parent", function()
    local out, script = new_folder(), helper.tmpdir() .. "/parent.lua"
    system.write(script, ([[
      local moe = require("moelua")
      local code = assert(moe.data.open(%q))
      local seed = moe.model.new({ dim = 16, layers = 1, heads = 2, hidden = 24, vocab = 256,
        context = 16 })
      moe.branch(seed, { code = code }, { out = %q, steps = 1000000, batch = 2, save_every = 5 })
    ]]):format(code.path, out))
    local parent = assert(system.spawn({ host.program, script, stderr = script .. ".log" }))
    local deadline = system.clock() + 20
    while not system.exists(out .. "/code/state") and system.clock() < deadline do
      system.sleep(0.02)
    end
    assert.is_true(system.exists(out .. "/code/state"))
    parent:kill(9)
    parent:wait()
    local lock, message
    repeat
      system.sleep(0.02)
      lock, message = system.lock(out .. "/code/lock")
    until lock or system.clock() > deadline
    assert.is_not_nil(lock, message)
    lock:release()
  end)
end)

describe("branch refuses", function()
  local seed = models.tiny()

  it("what cannot cross to another process", function()
    local hint = ", which cannot be handed to another process\n" ..
      "hint: put it into a module and name that in modules = {...}"
    local function refused(more, message)
      misuse(function() moe.branch(seed, domains, options(new_folder(), more)) end, message)
    end
    refused({ lr = function() end }, "branch: option 'lr' is a function" .. hint)
    refused({ lr = seed.embedding }, "branch: option 'lr' is a userdata" .. hint)
    refused({ options = { lr = print } }, "branch: option 'lr' is a function" .. hint)
  end)

  it("options that moe.train does not have, before a worker starts", function()
    local out = new_folder()
    misuse(function() moe.branch(seed, domains, options(out, { step = 3 })) end,
      "branch: unknown option 'step'\nhint: did you mean 'steps'?")
    misuse(function() moe.branch(seed, domains, { out = out }) end,
      "branch: option 'steps' is missing: integer expected")
    misuse(function() moe.branch(seed, domains, { steps = 3 }) end,
      "branch: option 'out' is missing: string expected")
    misuse(function() moe.branch(seed, domains, options(out, { data = {} })) end,
      "branch: there is no option 'data': each domain has its own")
    assert.is_false(system.exists(out))
  end)

  it("no domains, and names that are no folders", function()
    misuse(function() moe.branch(seed, {}, options(new_folder())) end,
      "branch: no domains given")
    for _, name in ipairs({ "a/b", "..", "_seed", "" }) do
      misuse(function() moe.branch(seed, { [name] = code }, options(new_folder())) end,
        "branch: a domain cannot be named '" .. name .. "'\nhint: no /, and no . or _ in front")
    end
    misuse(function() moe.branch(seed, { code = "text" }, options(new_folder())) end,
      "branch: domain 'code' must be a corpus, not \"text\"")
  end)

  it("other options, other text or another seed in the same folder", function()
    local out = new_folder()
    moe.branch(models.tiny(), { code = code }, options(out))
    local function refused(what, m, corpus, more)
      local failure = models.failure(function()
        moe.branch(m, { code = corpus }, options(out, more))
      end)
      assert.matches("^" .. (out .. "/code was "):gsub("%p", "%%%0") .. what .. "$",
        failure.message)
    end
    local hint = "\nhint: %-%-fresh starts over, %-%-out names another folder"
    refused("made with other options: lr was 0%.01, now 0%.5" .. hint, models.tiny(), code,
      { lr = 0.5 })
    refused("made with other options: start was \"%x+\", now \"%x+\"" .. hint,
      models.tiny({ seed = 2 }), code)
    refused("trained on other text: domain 'code' has 3 documents and 7200 tokens as before, " ..
      "but not the same ones\nhint: put the files back; %-%-fresh starts over", models.tiny(),
      prose)
    moe.branch(models.tiny(), { code = code }, options(out, { save_every = 2 }))
  end)

  it("a folder in which another process works", function()
    local out = new_folder()
    local lock <close> = run.lock(out)
    local failure = models.failure(function()
      moe.branch(models.tiny(), { code = code }, options(out))
    end)
    assert.equal("busy", failure.code)
    lock:release()
  end)
end)
