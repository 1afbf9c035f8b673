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

  it("says when the configuration is damaged", function()
    local folder = new_folder()
    run.open(folder, {}):close()
    system.write(folder .. "/config.json", "{")
    local failure = models.failure(function() run.open(folder, {}) end)
    assert.equal("format", failure.code)
    assert.equal(failure.message, tostring(failure))
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

  it("forgets what comes after a step", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:rewind_log(0)
    for step = 1, 5 do r:log({ step = step }) end
    r:log({ note = "no step" })
    system.append(folder .. "/log.jsonl", "{\"torn")
    r:rewind_log(3)
    assert.same({ { step = 1 }, { step = 2 }, { step = 3 }, { note = "no step" } },
      run.read_log(folder))
    r:log({ step = 4 })
    assert.equal(5, #run.read_log(folder))
  end)
end)

describe("states", function()
  it("come back as they were, the newest first", function()
    local r <close> = run.open(new_folder(), {})
    assert.is_nil(r:load_state())
    r:save_state(10, state(1), { step = 10, cursor = { draws = { code = 3 } } })
    r:save_state(20, state(2), { step = 20, seconds = 0.1 })
    local file, facts = r:load_state()
    assert.same({ step = 20, seconds = 0.1 }, facts)
    assert.same({ 2, 2, 2 }, file:tensor("w"):totable())
  end)

  it("are the last two", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    for step = 1, 4 do r:save_state(step * 100, state(step), {}) end
    assert.same({ "step-00000300.safetensors", "step-00000400.safetensors" }, states(folder))
  end)

  it("fall back to the older one when the newest is damaged", function()
    local folder = new_folder()
    local r <close> = run.open(folder, {})
    r:save_state(10, state(1), { step = 10 })
    r:save_state(20, state(2), { step = 20 })
    local path = folder .. "/state/step-00000020.safetensors"
    system.write(path, system.read(path):sub(1, -5))
    local file, facts = r:load_state()
    assert.same({ step = 10 }, facts)
    assert.same({ 1, 1, 1 }, file:tensor("w"):totable())
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
