-- faults.lua: a disk that fails at any moment costs a run no more than time. Run as
--   moelua scripts/checks/faults.lua [--only kill,full,broken,interrupted,limit,disk]
--
-- A tiny training run is stopped at every single write, fsync and rename (strace sends SIGKILL or
-- makes the call fail); then a recipe runs out of file size (ulimit -f) and of disk (a small tmpfs,
-- where mount is permitted) at several points. Each time the states that are there must be whole,
-- a failure must say so with status 74 and leave no temporary file, and the same command again must
-- end with the bits of the run that was left alone. The last line is `N passed, N failed`.

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local folders = require("moelua.folder")
local run = require("moelua.run")
local system, json = core.system, core.json

local opt = moe.options {
  name = "faults",
  about = "Lets calls to the system fail one after another in a training run and in a recipe.",
  options = {
    { "only", "kill,full,broken,interrupted,limit,disk", "which parts" },
    { "every", 1, "test every n-th call", min = 1 },
    { "recipe", "recipes/btx.lua --preset tiny --max_bytes 50000", "what runs out of space" },
  },
}

local OUTPUT = 74             -- the exit status for failed output

local work = os.tmpname()
os.remove(work)
assert(system.make_folder(work))

-- ---- commands -----------------------------------------------------------------------------------

-- Runs a line of shell; the exit status (128 and the signal, if one ended it) and stderr.
local function shell(line, ...)
  os.remove(work .. "/err")             -- a process appends to it
  local status = assert(system.spawn({ "/bin/sh", "-c", line:format(...), stdout = "/dev/null",
    stderr = work .. "/err" })):wait()
  return status.exited or 128 + status.signaled, system.read(work .. "/err")
end

local serial = 0
local function new_folder()
  serial = serial + 1
  return ("%s/%d"):format(work, serial)
end

local passed, failed = 0, 0

-- One result; failures are printed with all that is known, successes counted.
local function result(name, problem, said)
  if not problem then
    passed = passed + 1
    return
  end
  failed = failed + 1
  print(("FAILED  %s: %s"):format(name, problem))
  if said and said ~= "" then print((said:gsub("([^\n]+)", "    %1"):gsub("\n$", ""))) end
end

-- ---- the tiny run -------------------------------------------------------------------------------

local job = work .. "/job.lua"
assert(system.make_folder(work .. "/text"))
for i = 1, 40 do
  assert(system.write(("%s/text/%d"):format(work, i), ("the cat sat on mat %d. "):format(i):rep(9)))
end
assert(system.write(job, ([[
  local moe = require("moelua")
  local corpus = assert(moe.data.corpus({ path = %q, cache = %q, tokenizer = "bytes" }))
  local m = moe.model.new({ dim = 8, layers = 1, heads = 2, hidden = 12, vocab = 256, context = 8,
    std = 0.1 })
  m.tokenizer = moe.tokenizer.bytes()
  moe.train(m, { data = corpus, steps = 6, batch = 2, lr = 1e-2, quiet = true, out = arg[1],
    save_every = 2, log_every = 1 })
]]):format(work .. "/text", work .. "/tokens.safetensors")))

local function trained(folder)
  local bytes = system.read(folder .. "/model/model.safetensors")
  return run.finished(folder) and bytes and system.hash(bytes)
end

-- Runs the job under strace; what it traced, too.
local function strace(folder, calls, injection)
  local status, said = shell("exec strace -f -qq -o %s -e trace=%s %s %s %s %s", work .. "/trace",
    calls, injection and "-e inject=" .. injection or "", host.program, job, folder)
  return status, said, system.read(work .. "/trace") or ""
end

-- Temporary files below a folder.
local function leftovers(folder)
  local list = {}
  for _, name in ipairs(system.exists(folder) and folders.names(folder) or {}) do
    local path = folder .. "/" .. name
    if name:find("^%.moelua") then list[#list + 1] = path end
    if folders.is_one(path) then table.move(leftovers(path), 1, 99, #list + 1, list) end
  end
  return list
end

-- What is wrong with the states of a stopped run: each has to be whole, and one has to be there
-- once a save was complete.
local function bad_state(folder, trace)
  if run.finished(folder) then return nil end
  local count = 0
  for _, name in ipairs(system.exists(folder .. "/state") and folders.names(folder .. "/state") or
    {}) do
    if name:find("^step") then
      local file, message = moe.checkpoint.open(folder .. "/state/" .. name)
      local whole = file and file:verify()
      if not whole then return ("%s: %s"):format(name, message or "its checksum is wrong") end
      count = count + 1
    end
  end
  if count == 0 and trace:find('step%-%d+%.safetensors"%) += 0') then return "no state is left" end
end

local expected

-- The same command again has to end as if nothing had happened.
local function bad_end(folder)
  local status, said = shell("exec %s %s %s", host.program, job, folder)
  if status ~= 0 then return ("resumed, it ends with status %d"):format(status), said end
  if trained(folder) ~= expected then return "resumed, it ends with other weights", said end
  local left = leftovers(folder)
  if #left > 0 then return "resumed, it leaves " .. left[1] end
end

local function check_kill(folder, status, said, trace)
  if status ~= 128 + 9 then return ("the kill did not happen: status %d"):format(status), said end
  local problem = bad_state(folder, trace)
  if problem then return problem, said end
  return bad_end(folder)
end

local function check_failure(folder, status, said, trace)
  if status ~= OUTPUT then return ("status %d, not %d"):format(status, OUTPUT), said end
  local left = leftovers(folder)
  if #left > 0 then return left[1] .. " is left", said end
  local kept = said:find("\nthe state of step %d is kept") or said:find("\nno state was saved") or
    said:find("config.json", 1, true)
  if not kept then return "it does not say what is kept", said end
  if not said:find("\nhint: ") then return "it does not say how to go on", said end
  local problem = bad_state(folder, trace)
  if problem then return problem, said end
  return bad_end(folder)
end

-- How often the undisturbed run makes each call.
local function count_calls(calls)
  local folder, counts = new_folder(), {}
  local status, said, trace = strace(folder, calls)
  assert(status == 0, said)
  for name in trace:gmatch("%d+ +(%w+)%(") do counts[name] = (counts[name] or 0) + 1 end
  assert(trained(folder) == expected, "strace changes the result")
  return counts
end

-- Disturbs each call of a kind in a run of its own.
local function each_call(title, call, count, injection, check)
  local before = failed
  for n = 1, count, opt.every do
    local folder = new_folder()
    local status, said, trace = strace(folder, "rename," .. call,
      ("%s:%s:when=%d"):format(call, injection, n))
    result(("%s at %s %d"):format(title, call, n), check(folder, status, said, trace))
    system.remove_tree(folder)
  end
  print(("%-9s at every %s, %d of them: %s"):format(title, call, count,
    failed == before and "as it should be" or failed - before .. " failed"))
end

local function tiny_runs(parts)
  if not os.execute("strace -V > /dev/null 2>&1") then
    print("strace is not installed: no calls are disturbed")
    return
  end
  local _, said = shell("exec %s %s %s", host.program, job, work .. "/first")
  expected = assert(trained(work .. "/first"), said)        -- and the token file is there
  local counts = count_calls("write,pwrite64,fsync,rename")
  for _, call in ipairs { "write", "pwrite64", "fsync", "rename" } do
    local n = counts[call]
    if parts.kill then each_call("SIGKILL", call, n, "signal=SIGKILL", check_kill) end
    if parts.full and call ~= "rename" then
      each_call("ENOSPC", call, n, "error=ENOSPC", check_failure)
    end
    if parts.broken then each_call("EIO", call, n, "error=EIO", check_failure) end
  end
  if not parts.interrupted then return end
  for _, call in ipairs { "write", "pwrite64", "fsync" } do
    local folder = new_folder()
    local status, told = strace(folder, call, call .. ":error=EINTR:when=1+3")
    result("EINTR at every third " .. call, status ~= 0 and "status " .. status or
      trained(folder) ~= expected and "other weights", told)
  end
end

-- ---- a recipe that runs out of space ------------------------------------------------------------

local function recipe(folder, prefix)
  return shell("%sexec %s %s --quiet --out %s", prefix or "", host.program, opt.recipe, folder)
end

-- results.json but for the time it took, and the model.
local function outcome(folder)
  local text = system.read(folder .. "/results.json")
  local found = text and json.decode(text)
  if not found then return nil end
  for _, arm in ipairs(found.arms) do arm.seconds = nil end
  return json.encode(found) .. system.hash(assert(system.read(folder ..
    "/model/model.safetensors")))
end

-- Sizes in bytes of the files below a folder: the largest and all of them together.
local function sizes(folder)
  local largest, total = 0, 0
  for _, name in ipairs(folders.names(folder)) do
    local path = folder .. "/" .. name
    local a, b = system.file_size(path), nil
    if folders.is_one(path) then a, b = sizes(path) end
    largest, total = math.max(largest, a), total + (b or a)
  end
  return largest, total
end

-- A run that had to end for lack of space, and the one that follows.
local function check_recipe(name, folder, want, status, said)
  if status == 0 then
    return result(name, outcome(folder) ~= want and "it fits, with other results")
  end
  local problem = status ~= OUTPUT and ("status %d, not %d"):format(status, OUTPUT)
  problem = problem or #leftovers(folder) > 0 and leftovers(folder)[1] .. " is left"
  problem = problem or not said:find("hint: [^\n]*same command again") and "no way to go on is told"
  if problem then return result(name, problem, said) end
  print(("%s: %s"):format(name, said:match("moelua: ([^\n]*)")))
  return result(name), true
end

local function resume(name, folder, want)
  local status, said = recipe(folder)
  local same = status == 0 and outcome(folder) == want
  result(name .. ", then with room", not same and ("status %d, or other results"):format(status),
    said)
end

-- States are larger than anything that stays, so that limits above 100 % still hurt.
local function limited_files(want, largest)
  for percent = 20, 200, 30 do
    local folder = new_folder()
    local blocks = largest * percent // 100 // 512
    local name = ("files of at most %d KB"):format(blocks // 2)
    local _, stopped = check_recipe(name, folder, want,
      recipe(folder, ("ulimit -f %d; "):format(blocks)))
    if stopped then resume(name, folder, want) end
    system.remove_tree(folder)
  end
end

-- Calls f(folder) with a disk of so many KB mounted there; false where mount is not permitted.
local function with_disk(kb, f)
  local disk = new_folder()
  assert(system.make_folder(disk))
  if shell("mount -t tmpfs -o size=%dk none %s", kb, disk) ~= 0 then return false end
  local ok, message = pcall(f, disk)
  shell("umount %s", disk)
  if not ok then error(message, 0) end
  return true
end

local function small_disks(want, total)
  for percent = 10, 130, 15 do
    local kb = total * percent // 100 // 1024
    local mounted = with_disk(kb, function(disk)
      local name, folder = ("a disk of %d KB"):format(kb), disk .. "/run"
      local _, stopped = check_recipe(name, folder, want, recipe(folder))
      if stopped and shell("mount -o remount,size=64m %s", disk) == 0 then
        resume(name, folder, want)
      end
    end)
    if not mounted then return print("mount is not permitted: no small disk is tried") end
  end
end

local function recipes(parts)
  local folder = new_folder()
  local status, said = recipe(folder)
  assert(status == 0, said)
  local want, largest, total = outcome(folder), sizes(folder)
  if parts.limit then limited_files(want, largest) end
  if parts.disk then small_disks(want, total) end
end

local parts = {}
for part in opt.only:gmatch("%a+") do parts[part] = true end
local ok, message = pcall(function()
  if parts.kill or parts.full or parts.broken or parts.interrupted then tiny_runs(parts) end
  if parts.limit or parts.disk then recipes(parts) end
end)
system.remove_tree(work)
if not ok then result("the check itself", tostring(message)) end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and passed > 0, true)
