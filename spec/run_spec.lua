-- Run folders: what they hold, what they agree to, how they begin again.
local helper = require("spec.helper")
local models = require("spec.models")
local core = require("moelua.core")
local run = require("moelua.run")
local lfs = require("lfs")
local system, json = core.system, core.json

local function new_folder() return helper.tmpdir() .. "/run" end

local function states(folder)
  local list = {}
  if not system.exists(folder .. "/state") then return list end
  for name in lfs.dir(folder .. "/state") do
    if name:sub(1, 1) ~= "." then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function state(value) return { w = core.full(value, 3) } end

describe("run.open", function()
  it("writes down what was asked", function()
    local folder = new_folder()
    run.open(folder, { lr = 0.5, model = { dim = 8 } }):close()
    local text = system.read(folder .. "/config.json")
    assert.same({ lr = 0.5, model = { dim = 8 } }, json.decode(text))
  end)

  it("opens again for the same request", function()
    local folder = new_folder()
    run.open(folder, { lr = 0.5, list = { 1, 2 } }):close()
    run.open(folder, { list = { 1, 2 }, lr = 0.5 }):close()
  end)

  it("refuses another one, and says what differs", function()
    local folder = new_folder()
    local hint = "\nhint: --fresh starts over, --out names another folder"
    local first = { lr = 0.5, model = { dim = 8, ffn = { { hidden = 3 } } }, name = "x" }
    run.open(folder, first):close()
    local function other(config) return function() run.open(folder, config):close() end end
    local function refused(f, message)
      assert.same({ message = message }, models.failure(f))
    end
    refused(other({ lr = 0.25, model = first.model, name = "x" }),
      folder .. " was made with other options: lr was 0.5, now 0.25" .. hint)
    refused(other({ lr = 0.5, model = { dim = 8, ffn = { { hidden = 4 } } }, name = "x" }),
      folder .. " was made with other options: model.ffn.1.hidden was 3, now 4" .. hint)
    refused(other({ lr = 0.5, model = first.model }),
      folder .. " was made with other options: name was \"x\", now not given" .. hint)
    refused(other({ lr = 0.5, model = first.model, name = "x", k = true }),
      folder .. " was made with other options: k was not given, now true" .. hint)
    run.open(folder, first):close()                 -- a refusal holds no lock
  end)

  it("starts over with fresh", function()
    local folder = new_folder()
    local first = run.open(folder, { lr = 1 })
    first:log({ step = 1 })
    first:save_state(1, state(1), {})
    first:close()
    run.open(folder, { lr = 2 }, { fresh = true }):close()
    assert.same({}, run.read_log(folder))
    assert.same({}, states(folder))
    assert.same({ lr = 2 }, json.decode(system.read(folder .. "/config.json")))
  end)

  it("goes on emptying a folder when that was cut short", function()
    local folder = new_folder()
    local r = run.open(folder, { lr = 1 })
    r:finish({ steps = 3 })
    r:close()
    local remove_tree, removed = system.remove_tree, {}
    system.remove_tree = function(path)
      removed[#removed + 1] = path
      if #removed > 1 then return nil, "stopped", "io" end
      return remove_tree(path)
    end
    models.failure(function() run.open(folder, { lr = 2 }, { fresh = true }) end)
    system.remove_tree = remove_tree
    assert.equal(folder .. "/config.json", removed[1])
    assert.same({ steps = 3 }, run.finished(folder))
    collectgarbage()                        -- the lock of the failure
    run.open(folder, { lr = 2 }):close()
    assert.is_nil(run.finished(folder))
    assert.is_false(system.exists(folder .. "/clearing"))
  end)

  it("does not empty a folder that is no run", function()
    local folder = helper.tmpdir()
    system.write(folder .. "/precious", "data")
    models.misuse(function() run.open(folder, {}, { fresh = true }):close() end,
      folder .. " is not the folder of a run: it will not be emptied\n" ..
      "hint: --out names another folder")
    assert.equal("data", system.read(folder .. "/precious"))
  end)

  it("is busy while another has it, and fresh does not touch it then", function()
    local folder = new_folder()
    local first = run.open(folder, { lr = 1 })
    first:log({ step = 1 })
    for _, fresh in ipairs({ false, true }) do
      local failure = models.failure(function() run.open(folder, { lr = 1 }, { fresh = fresh }) end)
      assert.same({ code = "busy", message = folder .. " is in use by another process\n" ..
        "hint: wait for it, or --out another folder" }, failure)
    end
    assert.equal(1, #run.read_log(folder))
    first:close()
    run.open(folder, { lr = 1 }):close()
  end)

  it("says which file is damaged, and takes none for one that is not there", function()
    local folder = new_folder()
    local hint = "\nhint: put back what was there; --fresh starts over"
    run.open(folder, {}):close()
    for _, name in ipairs({ "done.json", "config.json" }) do
      local path = folder .. "/" .. name
      for text, reason in pairs({ ["3"] = "no JSON object",
          ["{"] = "decode: line 1, column 1: string or '}' expected near end of file" }) do
        system.write(path, text)
        assert.same({ code = "format", message = path .. ": " .. reason .. hint },
          models.failure(function() run.open(folder, {}) end))
      end
    end
    run.open(folder, {}, { fresh = true }):close()
  end)
end)

describe("the log", function()
  it("keeps numbers exactly", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    local entry = { step = 3, loss = 0.1 + 0.2, tokens = 2 ^ 40 // 1 | 0, text = "é\n" }
    r:log(entry)
    r:log({ step = 4 })
    assert.same({ entry, { step = 4 } }, run.read_log(folder))
  end)

  it("does not count a torn line", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:log({ step = 1 })
    system.append(folder .. "/log.jsonl", "{\"step\": 2, \"lo")
    assert.same({ { step = 1 } }, run.read_log(folder))
  end)

  it("forgets what comes after the state that a run goes on from", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:load_state()
    for step = 1, 3 do r:log({ step = step }) end
    r:save_state(3, { w = core.ones(1) }, { step = 3 })
    for step = 4, 5 do r:log({ step = step }) end
    r:log({ note = "no step" })
    system.append(folder .. "/log.jsonl", "{\"torn")
    r:load_state()
    assert.same({ { step = 1 }, { step = 2 }, { step = 3 }, { note = "no step" } },
      run.read_log(folder))
    r:log({ step = 4 })
    assert.equal(5, #run.read_log(folder))
  end)

  it("begins again with a run that has no state", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:log({ step = 1 })
    r:load_state()
    assert.same({}, run.read_log(folder))
  end)
end)

-- Turns over one bit in the middle of a state's data.
local function damage(folder, step)
  local path = ("%s/state/step-%08d.safetensors"):format(folder, step)
  local bytes = system.read(path)
  system.write(path, bytes:sub(1, -4) .. string.char(bytes:byte(-3) ~ 1) .. bytes:sub(-2))
  return path
end

-- What f writes to stderr, and what it returns.
local function heard(f)
  local text, stderr = {}, io.stderr
  io.stderr = { write = function(self, ...)    -- luacheck: ignore
    for _, part in ipairs({ ... }) do text[#text + 1] = part end
    return self
  end }
  local results = table.pack(pcall(f))
  io.stderr = stderr                           -- luacheck: ignore
  if not results[1] then error(results[2], 0) end
  return table.concat(text), table.unpack(results, 2, results.n)
end

describe("states", function()
  it("come back as they were, the newest first", function()
    local r <close> = run.open(new_folder(), {})
    assert.is_nil(r:load_state())
    r:save_state(10, state(1), { step = 10, cursor = { draws = { code = 3 } } })
    r:save_state(20, state(2), { step = 20, seconds = 0.1 })
    local file, facts = r:load_state()
    assert.same({ step = 20, seconds = 0.1 }, facts)
    assert.same({ 2, 2, 2 }, file:tensor("w"):totable())
    assert.is_true(file:verify())
  end)

  it("are the last two", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    for step = 1, 4 do r:save_state(step * 100, state(step), { step = step * 100 }) end
    assert.same({ "step-00000300.safetensors", "step-00000400.safetensors" }, states(folder))
  end)

  it("fall back to the older one when the newest is damaged, and say so", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    r:save_state(20, state(2), { step = 20 })
    local path = damage(folder, 20)
    system.append(folder .. "/log.jsonl", "{\"torn")       -- must not swallow the warning
    local said, file, facts = heard(function() return r:load_state() end)
    assert.same({ step = 10 }, facts)
    assert.same({ 1, 1, 1 }, file:tensor("w"):totable())
    local warning = said:match("^moelua: warning: ([^\n]*)\n$")
    assert.equal(path .. ": damaged: its checksum is X, its content has X; set aside, going on " ..
      "from the state before it", (warning:gsub(("%x"):rep(32), "X")))
    assert.same({ { warning = warning } }, run.read_log(folder))
  end)

  it("that are damaged do not count, so that the last one that is whole stays", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    r:save_state(20, state(2), { step = 20 })
    damage(folder, 20)
    heard(function() r:load_state() end)
    assert.same({ "damaged-step-00000020.safetensors", "step-00000010.safetensors" },
      states(folder))
    r:save_state(15, state(3), { step = 15 })
    damage(folder, 15)
    local _, file, facts = heard(function() return r:load_state() end)
    assert.same({ step = 10 }, facts)
    assert.same({ 1, 1, 1 }, file:tensor("w"):totable())
    r:save_state(20, state(4), { step = 20 })
    r:save_state(30, state(5), { step = 30 })
    assert.same({ "damaged-step-00000015.safetensors", "damaged-step-00000020.safetensors",
      "step-00000020.safetensors", "step-00000030.safetensors" }, states(folder))
    r:finish({})
    assert.is_false(system.exists(folder .. "/state"))
  end)

  it("of which none is whole end the run: it does not start over by itself", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    r:save_state(20, state(2), { step = 20 })
    local older, newer = damage(folder, 10), damage(folder, 20)
    system.write(newer, system.read(newer):sub(1, 20))
    local before = states(folder)
    for _ = 1, 2 do             -- the second attempt is no different
      local failure = models.failure(function() r:load_state() end)
      assert.equal("format", failure.code)
      assert.equal(("%s: no state is whole:\n" ..
        "  %s: invalid header length: X bytes of 12 (InvalidHeaderLength)\n" ..
        "  %s: damaged: its checksum is X, its content has X\n" ..
        "hint: --fresh starts over from the beginning"):format(folder, newer, older),
        (failure.message:gsub(("%x"):rep(32), "X"):gsub("length: %d+", "length: X")))
      assert.same(before, states(folder))
    end
    assert.is_true(run.can_continue(folder))
  end)

  it("without facts are damaged, too", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    local path = folder .. "/state/step-00000020.safetensors"
    core.checkpoint.save(path, state(2), { checksum = "", facts = "{" })
    local said, _, facts = heard(function() return r:load_state() end)
    assert.same({ step = 10 }, facts)
    assert.matches("^moelua: warning: " .. path:gsub("%p", "%%%0") ..
      ": its facts cannot be read: ", said)
  end)

  it("that cannot be looked at are not taken for damaged", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    local path = folder .. "/state/step-00000020.safetensors"
    lfs.mkdir(path)
    local failure = models.failure(function() r:load_state() end)
    assert.same({ code = "io", message = "cannot open " .. path .. ": Is a directory" }, failure)
  end)
end)

describe("a run that cannot write", function()
  -- The disk is full, or the folder gone: nobody can write into a file.
  local function blocked(name)
    local folder = new_folder()
    local r = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    os.remove(folder .. "/" .. name)
    assert(lfs.link("/dev/full", folder .. "/" .. name, true))
    return r, folder
  end
  local kept = "\nthe state of step 10 is kept, complete and unchanged\n" ..
    "hint: free some space, then the same command again goes on from step 10"

  it("says what is kept and how to go on: the log", function()
    local r <close>, folder = blocked("log.jsonl")
    assert.same({ code = "full", message = ("append: %s/log.jsonl: No space left on device%s")
      :format(folder, kept) }, models.failure(function() r:log({ step = 11 }) end))
  end)

  it("says what is kept and how to go on: a state", function()
    local r <close>, folder = blocked("state/step-00000020.safetensors")
    assert.same({ code = "full", message = ("%s/state/step-00000020.safetensors: cannot be " ..
      "written: No space left on device%s"):format(folder, kept) },
      models.failure(function() r:save_state(20, state(2), { step = 20 }) end))
  end)

  it("says so when nothing is kept", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    system.write(folder .. "/state", "no folder")
    assert.same({ code = "io", message = ("make_folder: %s/state: a file has this name\n" ..
      "no state was saved before that\n" ..
      "hint: when that is repaired, the same command again goes on from the beginning")
      :format(folder) }, models.failure(function() r:save_state(20, state(2), {}) end))
  end)
end)

describe("what a killed writer left", function()
  local function leave(folder, ...)
    for _, name in ipairs({ ... }) do
      system.make_folder((folder .. "/" .. name):match("^(.*)/"))
      system.write(folder .. "/" .. name, "half")
    end
  end

  it("is removed when the folder is taken, where nobody else can be writing", function()
    local folder = new_folder()
    local dead = ".moelua-4194305-1f.tmp"     -- above the largest number a process can have
    local own = (".moelua-%d-2a.tmp"):format(system.pid())
    local other = ".moelua-1-2a.tmp"          -- that process always lives
    leave(folder, dead, own, other, "state/" .. dead, "model/" .. dead, "stage/" .. dead,
      "stage/lock", "model/.moelua-x.tmp", "x.tmp")
    run.open(folder, {}):close()
    local function there(name) return system.exists(folder .. "/" .. name) end
    for _, name in ipairs({ dead, own, "state/" .. dead, "model/" .. dead }) do
      assert.is_false(there(name), name)
    end
    for _, name in ipairs({ other, "stage/" .. dead, "model/.moelua-x.tmp", "x.tmp" }) do
      assert.is_true(there(name), name)
    end
  end)

  it("includes states of a run that was finished", function()
    local folder = new_folder()
    local r = run.open(folder, {})
    r:finish({})
    r:close()
    leave(folder, "state/step-00000020.safetensors")
    run.open(folder, {}):close()
    assert.is_false(system.exists(folder .. "/state"))
  end)
end)

describe("the end of a run", function()
  it("leaves a summary and no states", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    assert.is_nil(run.finished(folder))
    assert.is_false(run.can_continue(folder))
    r:save_state(10, state(1), {})
    assert.is_true(run.can_continue(folder))
    r:finish({ steps = 10, curve = { { 1, 2.5 } } })
    assert.same({ steps = 10, curve = { { 1, 2.5 } } }, run.finished(folder))
    assert.is_true(run.can_continue(folder))
    assert.same({}, states(folder))
  end)
end)
