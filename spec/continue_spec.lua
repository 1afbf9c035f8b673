-- The same command again: a study of several stages that is stopped over and over, and one whose
-- text changes between its runs.
local helper = require("spec.helper")
local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local models = require("spec.models")
local run = require("moelua.run")
local lfs = require("lfs")
local system, json = core.system, core.json

local RECIPE = [[
local moe = require("moelua")
local opt = moe.options { name = "r", options = { { "domain", {}, repeatable = true },
  { "max_bytes", 100000 }, { "context", 16 }, { "eval_windows", 2 } } }
local study = moe.study.open(opt, { recipe = "r", title = "R", about = "r" })
local domains = study.domains
local seed = moe.model.new { dim = 8, layers = 1, heads = 1, hidden = 8, vocab = 256,
  context = 16, seed = opt.seed }
seed.tokenizer = moe.tokenizer.bytes()
local cost = study:train("seed", seed, { data = domains, steps = 4, batch = 4, log_every = 2 })
study:arm("seed", seed, cost)
local experts = moe.branch(seed, domains, { steps = 3, batch = 4, out = opt.out .. "/branches",
  quiet = true, log_every = 1 })
local list, sum = { seed }, cost
for i, name in ipairs(study.names) do
  list[i + 1], sum = experts[name], moe.study.sum(sum, experts[name].summary)
  study:arm("expert " .. name, experts[name], sum)
end
study:arm("average", moe.average(list), sum)
local mixed = moe.mix(list, { seed = opt.seed })
study:arm("just mixed", mixed, sum)
study:arm("mixed", mixed, study:train("mix", mixed, { data = domains, steps = 3, batch = 4 }, sum))
assert(mixed:save(opt.out .. "/model"))
local dense = assert(moe.load(seed.path))
study:arm("dense", dense, study:train("dense", dense, { data = domains, steps = 3, batch = 4,
  eval_every = 2, eval_windows = 1 }, cost))
study:finish()
]]

-- LUA_INIT of a process that stops itself ahead of its second training batch, and once while it
-- waits for branches.
local STOPPING = [[
local data, system = require("moelua.data"), require("moelua.core").system
local function stop() os.execute("kill -TERM $PPID") end
local stopped
local function counting(corpus)
  local n, batch = 0, corpus.batch
  corpus.batch = function(...)
    n = n + 1
    if n == 2 and not stopped then
      stopped = true
      stop()
    end
    return batch(...)
  end
  return corpus
end
for _, name in ipairs { "open", "corpus" } do
  local make = data[name]
  data[name] = function(...) return counting(assert(make(...))) end
end
local sleep = system.sleep
system.sleep = function(seconds)
  if not system.exists("slept") then
    system.write("slept", "")
    stop()
  end
  return sleep(seconds)
end
]]

local folder

local function write(name, text) assert(system.write(folder .. "/" .. name, text)) end
local function get(name) return (assert(system.read(folder .. "/" .. name))) end

local function document(kind, i)
  return ("%s %d has words of its own\n"):format(kind, i):rep(9)
end

local function new_folder()
  folder = helper.tmpdir()
  write("r.lua", RECIPE)
  write("stop.lua", STOPPING)
  for _, kind in ipairs({ "code", "prose" }) do
    assert(lfs.mkdir(folder .. "/" .. kind))
    for i = 1, 80 do
      local file <close> = assert(io.open(("%s/%s/%d"):format(folder, kind, i), "w"))
      file:write(document(kind, i))
    end
  end
end

-- Runs the recipe; returns its status and what it said. Nobody who reads a message of the command
-- line wants positions and tracebacks in it.
local function recipe(out, environment)
  local _, _, status = os.execute(("cd '%s' && %s timeout -k 5 120 '%s' r.lua --quiet --out %s "
    .. "--domain code=code --domain prose=prose </dev/null >stdout 2>stderr"):format(folder,
    environment or "", host.program, out))
  local said = get("stderr")
  assert.is_nil(said:find("traceback", 1, true), said)
  return status, said
end

local function result(out)
  local results = json.decode(get(out .. "/results.json"))
  for _, arm in ipairs(results.arms) do arm.seconds = nil end
  return results
end

local function log_of(path)
  local log = run.read_log(folder .. "/" .. path)
  for _, entry in ipairs(log) do entry.seconds = nil end
  return log
end

local STAGES = { "seed", "branches/code", "branches/prose", "mix", "dense" }

local function same_runs(a, b)
  assert.same(result(a), result(b))
  for _, stage in ipairs(STAGES) do
    assert.same(log_of(a .. "/" .. stage), log_of(b .. "/" .. stage))
    models.same(assert(moe.load(("%s/%s/%s/model"):format(folder, a, stage))),
      assert(moe.load(("%s/%s/%s/model"):format(folder, b, stage))))
  end
end

describe("a study", function()
  it("that is stopped at every step ends with the results of the one that was not", function()
    new_folder()
    assert.equal(0, (recipe("whole")))
    local seen, status = {}, nil
    for attempt = 1, 40 do
      local said
      status, said = recipe("stopped", "LUA_INIT=@stop.lua")
      if status == 0 then break end
      assert.equal(143, status, said)
      seen[attempt] = said:match("^moelua: interrupted: (.-); the same command again continues "
        .. "stopped\n$") or said
    end
    assert.equal(0, status, table.concat(seen, "\n"))
    assert.same({ "saved step 1 of seed", "saved step 2 of seed", "saved step 3 of seed" },
      table.move(seen, 1, 3, 1, {}))
    local text = table.concat(seen, "\n")
    for _, stage in ipairs({ "mix", "dense" }) do
      for step = 1, 2 do
        assert.is_truthy(text:find(("saved step %d of %s"):format(step, stage), 1, true), text)
      end
    end
    same_runs("whole", "stopped")
  end)
end)

describe("the text of a study", function()
  it("may be touched, but not changed, between its runs", function()
    new_folder()
    assert.equal(0, (recipe("out")))
    local before = result("out")

    lfs.touch(folder .. "/code/7", 1000000000)
    assert.equal(0, (recipe("out")))
    assert.same(before, result("out"))

    local hint = "\nhint: put the files back; --fresh starts over\n"
    write("code/7", "other words\n")
    local size = #document("code", 7)
    local tokens = 0
    for i = 1, 80 do tokens = tokens + #document("code", i) end
    assert.same({ 1, ("moelua: out/seed was trained on other text: domain 'code' had 80 documents "
      .. "and %d tokens, now 80 documents and %d tokens"):format(tokens, tokens - size + 12)
      .. hint }, { recipe("out") })
    write("code/7", document("code", 7):upper())
    assert.same({ 1, ("moelua: out/seed was trained on other text: domain 'code' has 80 documents "
      .. "and %d tokens as before, but not the same ones"):format(tokens) .. hint },
      { recipe("out") })
    os.remove(folder .. "/code/7")
    assert.same({ 1, ("moelua: out/seed was trained on other text: domain 'code' had 80 documents "
      .. "and %d tokens, now 79 documents and %d tokens"):format(tokens, tokens - size) .. hint },
      { recipe("out") })

    write("code/7", document("code", 7))
    assert.equal(0, (recipe("out")))
    assert.same(before, result("out"))
  end)

  it("is read again when its token file is damaged", function()
    new_folder()
    assert.equal(0, (recipe("out")))
    local before, path = result("out"), "out/data/code.safetensors"
    local good = get(path)
    local middle = #good - 500
    for _, bad in ipairs({ good:sub(1, 5000), good:sub(1, -2), good .. "x",
      good:sub(1, middle) .. string.char(good:byte(middle + 1) ~ 1) .. good:sub(middle + 2) }) do
      write(path, bad)
      assert.equal(0, (recipe("out")))
      assert.same(before, result("out"))
      assert.equal(good, get(path))
    end
  end)
end)
