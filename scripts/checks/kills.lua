-- kills.lua: a recipe that is killed at random moments ends as if it had been left alone. Run as
--   moelua scripts/checks/kills.lua [--kills 50] [--per_run 5] [--jobs 1] [--run "RECIPE OPTIONS"]
--
-- One run is left alone. The others get SIGKILL, the program itself or one of its branches, and
-- are started again with the same command until they are finished: metrics, curves and the model
-- must be those of the first, bit for bit. The last line is `N passed, N failed` (in runs).

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local system, json = core.system, core.json

local KILL = 9
local POLL = 0.02             -- seconds between looks at the runs
local PATIENCE = 20           -- times as long as the undisturbed run: then it hangs

local opt = moe.options {
  name = "kills",
  about = "Kills a recipe at random moments; every resumed run must end with the same bits.",
  options = {
    { "run", "recipes/btx.lua --preset smoke", "the recipe and its options" },
    { "kills", 50, "how many in all", min = 1 },
    { "per_run", 5, "how many of them one run gets", min = 1 },
    { "jobs", 1, "runs at the same time", min = 1 },
    { "branches", 0.3, "share of the kills that hit a branch, if one runs", min = 0, max = 1 },
  },
}

-- ---- what a run ends with -----------------------------------------------------------------------

-- Everything in results.json but the time it took.
local function results(folder)
  local found = assert(json.decode(assert(system.read(folder .. "/results.json"))))
  for _, arm in ipairs(found.arms) do arm.seconds = nil end
  return json.encode(found)
end

local function outcome(folder)
  local model = assert(system.read(folder .. "/model/model.safetensors"))
  return results(folder) .. " model " .. system.hash(model)
end

-- ---- processes ----------------------------------------------------------------------------------

local function start(run)
  local command = { host.program }
  for word in opt.run:gmatch("%S+") do command[#command + 1] = word end
  for _, word in ipairs { "--quiet", "--out", run.folder } do command[#command + 1] = word end
  command.stdout, command.stderr = run.folder .. ".out", run.folder .. ".err"
  run.process = assert(system.spawn(command))
  run.began = system.clock()
end

local function children(pid)
  local list = {}
  local text = system.read(("/proc/%d/task/%d/children"):format(pid, pid))
  for child in (text or ""):gmatch("%d+") do list[#list + 1] = child end
  return list
end

local function draw(name, index) return core.uniform(opt.seed, name, index) end

local hits = { program = 0, branch = 0 }

-- Kills the program or, now and then, one of its branches, which the program then starts again.
local function strike(run)
  local branches = children(run.process:pid())
  local count = hits.program + hits.branch
  if #branches > 0 and draw("kills.target", count) < opt.branches then
    hits.branch, run.hurt = hits.branch + 1, true
    os.execute("kill -9 " .. branches[1 + math.floor(draw("kills.branch", count) * #branches)])
  else
    hits.program = hits.program + 1
    run.process:kill(KILL)
  end
  run.left = run.left - 1
end

local function schedule(run, whole)
  local gap = 2 * whole / (opt.per_run + 1)
  run.draws = (run.draws or 0) + 1
  run.moment = system.clock() + gap * draw("kills.moment." .. run.name, run.draws)
end

-- ---- one run ------------------------------------------------------------------------------------

local passed, failed = 0, 0

local function verdict(run, problem)
  run.over = true
  if problem then failed = failed + 1 else passed = passed + 1 end
  print(("%s  run %s: %s"):format(problem and "FAILED" or "ok    ", run.name,
    problem or ("same bits after %d kills"):format(opt.per_run - run.left)))
  if not problem then system.remove_tree(run.folder) end
end

-- What became of a process that is gone: the end, another start, or a failure.
local function ended(run, status, expected)
  if status.exited == 0 then
    local got = outcome(run.folder)
    return verdict(run, got ~= expected and "other results than without kills" or nil)
  end
  local ours = status.signaled == KILL or run.hurt
  run.hurt = false
  if ours then return start(run) end
  verdict(run, ("ended with %s: %s"):format(status.exited or status.signaled,
    system.read(run.folder .. ".err")))
end

local function tend(run, whole, expected)
  local status = run.process:wait(0)
  if status then return ended(run, status, expected) end
  local now = system.clock()
  if run.left > 0 and now >= run.moment then
    strike(run)
    schedule(run, whole)
  elseif now - run.began > PATIENCE * whole then
    run.process:kill(KILL)
    verdict(run, "does not end")
  end
end

-- ---- all of them --------------------------------------------------------------------------------

local function undisturbed()
  local run = { name = "undisturbed", folder = opt.out .. "/undisturbed" }
  start(run)
  local status = run.process:wait()
  if status.exited ~= 0 then error(system.read(run.folder .. ".err"), 0) end
  local whole = system.clock() - run.began
  print(("undisturbed: %.1f s"):format(whole))
  return whole, outcome(run.folder)
end

local function new_run(number, whole)
  local run = { name = tostring(number), folder = ("%s/run-%d"):format(opt.out, number),
    left = opt.per_run }
  start(run)
  schedule(run, whole)
  return run
end

local function sweep(whole, expected)
  local runs, number = {}, 0
  repeat
    local planned = hits.program + hits.branch
    for _, run in ipairs(runs) do planned = planned + run.left end
    while #runs < opt.jobs and planned < opt.kills do
      number, planned = number + 1, planned + opt.per_run
      runs[#runs + 1] = new_run(number, whole)
    end
    for i = #runs, 1, -1 do
      tend(runs[i], whole, expected)
      if runs[i].over then table.remove(runs, i) end
    end
    system.sleep(POLL)
  until #runs == 0 and hits.program + hits.branch >= opt.kills
end

assert(system.make_folder(opt.out))
sweep(undisturbed())
print(("%d kills of the program, %d of a branch"):format(hits.program, hits.branch))
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
