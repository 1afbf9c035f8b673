-- What happens when files cannot grow: `ulimit -f` stands for a full disk, which no test can have.
-- A write beyond the limit first takes fewer bytes than asked and then fails, as on a full disk.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local run = require("moelua.run")
local host = require("moelua.host")
local system = core.system

local prose = models.corpus("prose")

-- Trains in a folder, in a process whose files may have so many bytes; its status and stderr.
local function train(folder, bytes, more)
  local script = helper.tmpdir() .. "/job.lua"
  assert(system.write(script, ([[
    local moe = require("moelua")
    local corpus = assert(moe.data.open(%q))
    local m = moe.model.new({ dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 256,
      context = 16, std = 0.1 })
    %s
  ]]):format(prose.path, (more or [[
    moe.train(m, { data = corpus, steps = 40, batch = 4, lr = 1e-2, quiet = true, out = OUT,
      save_every = 10, log_every = 1 })
  ]]):gsub("OUT", ("%q"):format(folder)))))
  local limit = bytes and ("ulimit -f %d; "):format(bytes // 512) or ""      -- blocks of 512 bytes
  local process = assert(system.spawn({ "/bin/sh", "-c", limit .. 'exec "$@"', "sh", host.program,
    script, stdout = script .. ".out", stderr = script .. ".err" }))
  return process:wait(), system.read(script .. ".err")
end

local function temporaries(folder)
  local list = {}
  for path in io.popen(("find %s -name '*.tmp' -o -name '.moelua-*'"):format(folder)):lines() do
    list[#list + 1] = path
  end
  return list
end

local undisturbed = models.run_folder()
assert(train(undisturbed).exited == 0)

-- A second attempt, without the limit, ends as the undisturbed run did.
local function goes_on(folder)
  assert.same({}, temporaries(folder))
  assert.is_nil(run.finished(folder))
  local status, said = train(folder)
  assert.equal(0, status.exited, said)
  models.same(assert(moe.load(undisturbed .. "/model")), assert(moe.load(folder .. "/model")))
  local function steps(of)
    local list = {}
    for _, entry in ipairs(run.read_log(of)) do list[#list + 1] = entry.step and entry.loss end
    return list
  end
  assert.same(steps(undisturbed), steps(folder))
end

describe("a disk that is full", function()
  it("before the first state: nothing is kept, and the run says so", function()
    local folder = models.run_folder()
    local status, said = train(folder, 51200)
    assert.equal(74, status.exited)
    assert.equal(("moelua: %s/state/step-00000010.safetensors: cannot be written: " ..
      "File too large: N KB needed, 50 KB is the limit (ulimit -f)\n" ..
      "no state was saved before that\n" ..
      "hint: free some space, then the same command again goes on from the beginning\n")
      :format(folder), (said:gsub("%d+ KB needed", "N KB needed")))
    goes_on(folder)
  end)

  it("in the log: the last state is kept, and no line is torn", function()
    local folder, limit = models.run_folder(), 153600
    -- Notes fill the log so far that it has room for 25 of the 40 steps.
    local room = system.file_size(undisturbed .. "/log.jsonl") * 25 // 40
    local note = '{"note":"' .. ("x"):rep(89) .. '"}\n'
    assert(system.make_folder(folder))
    assert(system.write(folder .. "/log.jsonl", note:rep((limit - room) // #note)))
    local status, said = train(folder, limit)
    assert.equal(74, status.exited, said)
    assert.equal(("moelua: append: %s/log.jsonl: File too large\n" ..
      "the state of step 20 is kept, complete and unchanged\n" ..
      "hint: free some space, then the same command again goes on from step 20\n"):format(folder),
      said)
    assert.equal("}\n", system.read(folder .. "/log.jsonl"):sub(-2))
    goes_on(folder)
  end)

  it("at the model: the run is not finished, and its last state is kept", function()
    local folder = models.run_folder()
    local status, said = train(folder, 153600, [[
      m.tokenizer = { save = function(_, path)
        return require("moelua.core").system.write(path .. "/tokenizer.json", ("x"):rep(200000))
      end }
      moe.train(m, { data = corpus, steps = 40, batch = 4, lr = 1e-2, quiet = true, out = OUT,
        save_every = 10, log_every = 1 })
    ]])
    assert.equal(74, status.exited)
    assert.equal(("moelua: %s/model/tokenizer.json: cannot be written: File too large: " ..
      "195 KB needed, 150 KB is the limit (ulimit -f)\n" ..
      "the state of step 30 is kept, complete and unchanged\n" ..
      "hint: free some space, then the same command again goes on from step 30\n"):format(folder),
      said)
    assert.is_false(system.exists(folder .. "/model/config.json"))
    goes_on(folder)
  end)

  it("ends a branch once and its parent, which says so", function()
    local folder = models.run_folder()
    local call = [[
      moe.branch(m, { prose = corpus }, { steps = 6, batch = 4, lr = 1e-2, quiet = true, out = OUT,
        save_every = 2 })
    ]]
    local status, said = train(folder, 51200, call)
    assert.equal(74, status.exited)
    assert.equal(("moelua: branch 'prose' failed once; the last worker ended with status 74:\n" ..
      "moelua: %s/prose/state/step-00000002.safetensors: cannot be written: " ..
      "File too large: N KB needed, 50 KB is the limit (ulimit -f)\n" ..
      "no state was saved before that\n" ..
      "hint: free some space, then the same command again goes on from the beginning\n")
      :format(folder), (said:gsub("%d+ KB needed", "N KB needed")))
    assert.same({}, temporaries(folder))
    status, said = train(folder, nil, call)
    assert.equal(0, status.exited, said)
    assert.is_truthy(run.finished(folder .. "/prose"))
  end)
end)
