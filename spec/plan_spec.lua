-- plan_spec.lua: what --dry-run foretells, against what the run then does; and that it writes
-- nothing.
local lfs = require("lfs")
local helper = require("spec.helper")
local host = require("moelua.host")
local machine = require("moelua.machine")
local plan_text = require("moelua.plan_text")
local study = require("moelua.study")
local core = require("moelua.core")
local json, system = core.json, core.system

local RECIPE = [[
local moe = require("moelua")
local opt = moe.options { name = "r", options = { { "domain", {}, repeatable = true },
  { "max_bytes", 100000 }, { "context", 16 }, { "k", 2 }, { "eval_windows", 2 }, { "batch", 2 },
  { "workers", nil, type = "integer" } } }
local study = moe.study.open(opt, { recipe = "r", title = "R", about = "r" })
study:need(opt.k < 4, "--k is %d: too many", opt.k)
local model = moe.model.new { dim = 32, layers = 2, heads = 2, hidden = 64, vocab = 256,
  context = 16, seed = opt.seed }
model.tokenizer = moe.tokenizer.bytes()
local cost = study:train("seed", model, { data = study.domains, steps = 6, batch = opt.batch })
study:arm("seed", model, cost)
local experts, costs = study:branch(model,
  { steps = 4, batch = opt.batch, workers = opt.workers }, cost)
for i, name in ipairs(study.names) do study:arm("expert " .. name, experts[i], costs[i]) end
local mixed = moe.mix({ model, table.unpack(experts) }, { router = { k = opt.k } })
local more = study:train("mix", mixed, { data = study.domains, steps = 3, batch = opt.batch })
study:routing(study:arm("mix", mixed, more), { "seed", table.unpack(study.names) })
study:keep(mixed)
study:best_on_own_domain(function(name) return "expert " .. name end)
study:better("mix", { "seed" })
study:finish()
]]

local folder

local function put(name, text) assert(system.write(folder .. "/" .. name, text)) end
local function get(name) return (assert(system.read(folder .. "/" .. name))) end

-- Runs the recipe with two domains; returns exit code, stdout, stderr.
local function recipe(words)
  local _, _, code = os.execute(("cd '%s' && timeout -k 5 %d '%s' r.lua %s </dev/null "
    .. ">../out 2>../err"):format(folder, 120 * helper.patience, host.program, words))
  return code, get("../out"), get("../err")
end
local DOMAINS = "--domain a=text/a --domain b=text/b "

-- Paths and sizes of all files below a folder, as text.
local function listing(path)
  local lines, bytes = {}, 0
  local function walk(at)
    for name in lfs.dir(at) do
      local below = at .. "/" .. name
      local info = lfs.symlinkattributes(below)
      if name ~= "." and name ~= ".." then
        lines[#lines + 1] = ("%s %s %d %d"):format(below, info.mode, info.size, info.modification)
        if info.mode == "directory" then walk(below) else bytes = bytes + info.size end
      end
    end
  end
  walk(path)
  table.sort(lines)
  return table.concat(lines, "\n"), bytes
end

-- A dry run with --json, which must leave everything as it was.
local function planned(words)
  local before = listing(folder)
  local code, out, err = recipe(DOMAINS .. "--dry-run --json " .. (words or ""))
  assert.equal(0, code, err)
  assert.equal("", err)
  assert.equal(before, (listing(folder)))
  assert.matches("^[^\n]+\n$", out)
  return assert(json.decode(out)), out
end

local function stages(plan, key)
  local list = {}
  for i, stage in ipairs(plan.stages) do list[i] = stage[key] end
  return list
end

describe("a dry run", function()
  setup(function()
    local parent = helper.tmpdir()
    folder = parent .. "/here"
    assert(lfs.mkdir(folder))
    put("r.lua", RECIPE)
    for _, name in ipairs { "a", "b" } do
      assert(system.make_folder(folder .. "/text/" .. name))
      for i = 1, 80 do
        put(("text/%s/%d"):format(name, i), ("%s %d has words of its own\n"):format(name, i):rep(9))
      end
    end
  end)

  before_each(function() system.remove_tree(folder .. "/runs") end)

  it("writes nothing, and foretells what the run does", function()
    local plan = planned("--save-every 2")
    assert.same({ "seed", "branches/a", "branches/b", "mix" }, stages(plan, "name"))
    assert.same({ { "a", "b" }, { "a" }, { "b" }, { "a", "b" } }, stages(plan, "text"))
    assert.same({ 6, 4, 4, 3 }, stages(plan, "steps"))
    assert.same({ 6, 4, 4, 3 }, stages(plan, "left"))
    assert.equal(0, (recipe(DOMAINS .. "--save-every 2")))
    for _, stage in ipairs(plan.stages) do
      local done = assert(json.decode(get("runs/r/" .. stage.name .. "/done.json")))
      assert.equal(done.tokens, stage.tokens)
      assert.equal(done.flops, stage.flops)
      local model = assert(require("moelua.family").load(folder .. "/runs/r/" .. stage.name ..
        "/model"))
      assert.same({ model:count() }, { stage.parameters, stage.active })
    end
    local _, bytes = listing(folder .. "/runs")
    assert.is_true(math.abs(plan.disk.kept - bytes) < bytes / 10,
      ("%d foretold, %d written"):format(plan.disk.kept, bytes))
    -- States of three floats a parameter: two kept and the next one, in both branches.
    assert.equal(plan.disk.kept + math.max(2 * 12 * plan.stages[1].parameters,
      12 * plan.stages[4].parameters), plan.disk.most)
    assert.equal(4, plan.evaluations)
    assert.is_true(plan.seconds.total > 0 and plan.memory.total < plan.memory.available)
    assert.same({ "a", "b" }, { plan.data[1].name, plan.data[2].name })
    assert.same({ 80, "text/a" }, { plan.data[1].files, plan.data[1].from })
  end)

  it("counts only what is left", function()
    assert.equal(0, (recipe(DOMAINS)))
    local plan = planned()
    assert.same({ 0, 0, 0, 0 }, stages(plan, "left"))
    assert.same({ 0, 0, 0 }, { plan.tokens, plan.flops, plan.seconds.training })
    assert.same({ 6, 4, 4, 3 }, stages(planned("--fresh"), "left"))
    os.remove(folder .. "/runs/r/mix/done.json")
    os.remove(folder .. "/runs/r/branches/b/done.json")
    assert(system.make_folder(folder .. "/runs/r/branches/b/state"))
    put("runs/r/branches/b/state/step-00000001.safetensors", "")
    put("runs/r/branches/b/state/step-00000003.safetensors", "")
    plan = planned()
    assert.same({ 0, 0, 1, 3 }, stages(plan, "left"))
    assert.equal(1 * 2 * 16, plan.stages[3].tokens)
    local _, out = recipe(DOMAINS .. "--dry-run")
    assert.matches("\nbranches/a +a +done ", out)
    assert.matches("\nbranches/b +b +1 of 4 ", out)
  end)

  it("is text for people", function()
    local code, out, err = recipe(DOMAINS .. "--dry-run --quiet")
    assert.same({ 0, "" }, { code, err })
    assert.matches("^plan r: R in runs/r\n\nstage +text +steps +parameters +active +tokens +FLOPs +"
      .. "time\nseed +a, b +6 ", out)
    assert.matches("\ndata +a: [%d.]+ k tokens of [%d.]+ kB in 80 files below text/a\n", out)
    assert.matches("\ntime +about %d+s: training %d+s at [%d.]+ .?FLOP/s, evaluating 4 models ",
      out)
    assert.matches("\nmemory +[%d.]+ .B: this process [%d.]+ .B, 2 branches at a time [%d.]+ .B "
      .. "each; available ", out)
    assert.matches("\ndisk +[%d.]+ .B more, [%d.]+ .B while it runs; free [%d.]+ .B\n", out)
    assert.matches("\nnothing was written %(%-%-dry%-run%)\n$", out)
  end)

  it("refuses what the run would refuse", function()
    local function same(words)
      local dry = { recipe(words .. " --dry-run") }
      assert.is_false(system.exists(folder .. "/runs"))
      assert.same({ recipe(words) }, dry)
      system.remove_tree(folder .. "/runs")
      return table.unpack(dry)
    end
    assert.same({ 2, "", "moelua: r: --k is 4: too many\n" }, { same(DOMAINS .. "--k 4") })
    assert.equal(66, (same("--domain a=nowhere")))
    assert.equal(65, (same(DOMAINS .. "--context 100000")))
    assert.equal(1, (same(DOMAINS .. "--quiet --batch 0")))
    assert.equal(0, (recipe(DOMAINS)))
    local dry = { recipe(DOMAINS .. "--k 3 --dry-run") }
    assert.same({ 1, "" }, { dry[1], dry[2] })
    assert.matches("runs/r was made with other options: k was 2, now 3\n", dry[3], 1, true)
    assert.same({ recipe(DOMAINS .. "--k 3") }, dry)
  end)

  -- A plan in this process.
  local function rehearse(opt)
    local opts = { domain = { "a=" .. folder .. "/text/a", "b=" .. folder .. "/text/b" }, seed = 1,
      out = folder .. "/runs/x", save_every = 100, dry_run = true, context = 16, name = "x" }
    for k, v in pairs(opt or {}) do opts[k] = v end
    local plan = study.open(opts, { recipe = "x", title = "X", about = "" })
    local model = require("moelua.model").new { dim = 8, layers = 1, heads = 1, hidden = 8,
      vocab = 256, context = 16 }
    local before = model.embedding:totable()
    plan:train("seed", model, { data = plan.domains, steps = 2, batch = 2 })
    plan:branch(model, { steps = 10, batch = 2, workers = opts.workers })
    assert.same(before, model.embedding:totable())
    return plan:facts()
  end

  it("tries what fits into memory at once: a micro-batch", function()
    local trial = require("moelua.trial")
    local step, tried = trial.step, {}
    local _ <close> = setmetatable({}, { __close = function() trial.step = step end })
    trial.step = function(_, batch)
      tried[#tried + 1] = batch
      return { seconds = 5, memory = 7 }
    end
    local plan = study.open({ domain = { "a=" .. folder .. "/text/a" }, seed = 1, name = "x",
      out = folder .. "/runs/x", save_every = 100, dry_run = true, context = 16 },
      { recipe = "x", title = "X", about = "" })
    local m = require("moelua.model").new { dim = 8, layers = 1, heads = 1, hidden = 8, vocab = 256,
      context = 16 }
    local cost = plan:train("seed", m,
      { data = plan.domains, steps = 2, batch = 6, accumulate = 3 })
    assert.same({ 2 }, tried)
    assert.equal(2 * 3 * 5, cost.seconds)
    assert.equal(2 * 6 * 16, cost.tokens)
  end)

  it("tries routers as training asks them, and leaves them as they were", function()
    local nn, trial = require("moelua.nn"), require("moelua.trial")
    for _, router in ipairs { { kind = "base" }, { kind = "domain", domains = { "x", "y" } },
        { kind = "topk", k = 1, gate = "sigmoid", bias = { rate = 0.5 } }, { kind = "switch" } } do
      local model = require("moelua.model").new { dim = 8, layers = 1, heads = 1, vocab = 16,
        context = 6, ffn = { kind = "moe", hidden = 4, experts = 2, router = router } }
      local before = nn.fingerprint(model)
      assert.is_true(trial.step(model, 3, 6, "f32").seconds > 0)
      assert.equal(before, nn.fingerprint(model), router.kind)
    end
  end)

  it("divides the processors among the branches", function()
    local cpus = system.cpus
    finally(function() system.cpus = cpus end)
    system.cpus = function() return 4 end
    local function together(workers)
      local plan = rehearse { workers = workers }
      return plan.memory.workers,
        (plan.seconds.training - plan.stages[1].seconds) / plan.stages[2].seconds
    end
    local function check(expected, workers, given)
      local used, times = together(given)
      assert.equal(workers, used)
      helper.close(times, expected)
    end
    check(2, 2, nil)            -- two side by side, each on half of the processors
    check(2, 1, 1)              -- one after the other, each on all
    system.cpus = function() return 3 end
    check(3, 2, 2)              -- one processor each; the third has nothing to do
  end)

  it("warns when memory or disk will not do", function()
    local free, available = machine.disk_free, machine.memory_available
    finally(function() machine.disk_free, machine.memory_available = free, available end)
    machine.disk_free = function() return 1000 end
    machine.memory_available = function() return 2000 end
    local plan = rehearse()
    assert.equal(2, #plan.warnings)
    assert.matches("^[%d.]+ .B of memory are needed, 2.00 kB are there$", plan.warnings[1])
    assert.matches("^[%d.]+ .B of disk are needed, 1.00 kB are there$", plan.warnings[2])
    assert.matches("\nwarning   [%d.]+ .B of memory are needed", plan_text.format(plan))
  end)

  it("knows this machine", function()
    assert.is_true(machine.memory_available() > 1e6)
    assert.is_true(machine.memory_used() > 1e6)
    assert.is_true(machine.disk_free("no/such/folder") >= 0)
    assert.is_true(machine.disk_free("/no/such/folder") >= 0)
  end)
end)

describe("the text of a plan", function()
  it("names the folder that files share", function()
    assert.equal("/a/b", plan_text.common_folder { "/a/b/c", "/a/b/d/e" })
    assert.equal("/a", plan_text.common_folder { "/a/bc/x", "/a/bd/x" })
    assert.equal("/a/b/c", plan_text.common_folder { "/a/b/c" })
    assert.equal("/", plan_text.common_folder { "/a/x", "/b/x" })
    assert.equal(".", plan_text.common_folder { "a", "b" })
  end)

  it("shows bytes in three digits", function()
    assert.same({ "0 B", "999 B", "1.00 kB", "51.5 MB" }, { plan_text.bytes(0),
      plan_text.bytes(999.4), plan_text.bytes(1000), plan_text.bytes(51506236) })
  end)
end)
