-- branch.lua: train copies of one model on different domains, each in a process of its own.
--
-- A branch is a run folder with a job.json: checkpoint, token file, options. The worker
-- (`program --worker FOLDER`) locks the folder, trains, and leaves model/ and done.json; it needs
-- nothing else, so the same folders serve a job array on a cluster. Branches never talk to each
-- other. One that fails is started again from its last state; the others never notice.

local core = require("moelua.core")
local corpora = require("moelua.corpora")
local error_text = require("moelua.error_text")
local expect = require("moelua.expect")
local family = require("moelua.family")
local nn = require("moelua.nn")
local options = require("moelua.options")
local progress = require("moelua.progress")
local run = require("moelua.run")
local train_options = require("moelua.train_options")
local worker = require("moelua.worker")
local system, json, raise, check = core.system, core.json, core.raise, run.check

local ATTEMPTS = 3
local POLL = 0.2        -- seconds between looks at the folders
local TO_SAVE = 60      -- seconds that workers have to save their states when the run is stopped

local declared = {
  out = { "string", required = true },      -- folder of the branches
  workers = "integer",                      -- processes at a time; default: one per branch, at
                                            -- most two per processor
  options = { "table", {} },                -- of moe.train; or write them beside these
  modules = { "table", {} },                -- Lua modules that a worker requires first
  quiet = { "boolean", false },
  fresh = { "boolean", false },
}

-- A worker would find a wrong option out as well, but only after it has been started.
local function check_training(training)
  local complete = { data = {} }
  for k, v in pairs(training) do
    if k == "data" then raise("branch: there is no option 'data': each domain has its own") end
    complete[k] = v
  end
  train_options.check("branch", complete)
end

-- Everything that is no option of branch() goes to moe.train. Functions cannot cross.
local function split_options(given)
  local own, training = {}, {}
  for k, v in pairs(given or {}) do (declared[k] and own or training)[k] = v end
  own = options.check("branch", own, declared)
  for k, v in pairs(own.options) do training[k] = v end
  for k, v in pairs(training) do
    if type(v) == "function" or type(v) == "userdata" then
      raise("branch: option '%s' is a %s, which cannot be handed to another process\n" ..
        "hint: put it into a module and name that in modules = {...}", k, type(v))
    end
  end
  check_training(training)
  training.precision = training.precision or core.precision()     -- another process asks its own
  if own.workers and own.workers < 1 then
    raise("branch: workers must be at least 1, not %d", own.workers)
  end
  return own, training
end

-- The names of the domains, which become folders.
local function sorted_names(domains)
  expect(type(domains) == "table" and not corpora.is_one(domains), "branch", "domains",
    "{ name = corpus }", domains)
  for name in pairs(domains) do
    if type(name) ~= "string" or not name:match("^[^/._][^/]*$") then
      raise("branch: a domain cannot be named '%s'\nhint: no /, and no . or _ in front", name)
    end
  end
  local names = corpora.names(domains, "branch: domain '%s'")
  if #names == 0 then raise("branch: no domains given") end
  return names
end

-- What a job asks for, apart from paths: the parameters of the seed, the text, the options.
local function meaning(job)
  local asked = { start = job.start, modules = job.modules, data = { [job.name] = job.identity } }
  for k, v in pairs(job.options) do
    if not train_options.incidental[k] then asked[k] = v end
  end
  return asked
end

-- Leaves a job for a worker, and its text where that lies in no file; not when it is done.
local function write_job(folder, name, seed, corpus, training, modules)
  local cached = corpus.path ~= nil
  local path = cached and corpus.path or folder .. "/data.safetensors"
  local job = { name = name, model = seed.path, start = seed.start, data = { [name] = path },
    identity = run.identity(corpus), options = training, modules = json.array(modules) }
  local before = run.read(folder .. "/job.json")
  if before then run.same(folder, meaning(before), meaning(job)) end
  if run.finished(folder) then return end
  check(system.make_folder(folder))
  if not cached then check(corpus:save(path)) end
  check(system.write(folder .. "/job.json", json.encode(job, { indent = 2 }) .. "\n"))
end

-- ---- workers ----------------------------------------------------------------------------------

-- The last step in a log that is being written. Logs grow long: only the end is read.
local function last_entry(folder)
  local file = io.open(folder .. "/log.jsonl")
  if not file then return nil end
  file:seek("set", math.max(0, file:seek("end") - 8192))
  local found
  for line in file:read("a"):gmatch("([^\n]*)\n") do
    local entry = json.decode(line)
    if entry and entry.loss then found = entry end
  end
  file:close()
  return found
end

local function tail(path)
  local text = system.read(path) or ""
  return text:sub(-1500):gsub("%s+$", "")
end

local function spawn(job, host)
  job.attempts = job.attempts + 1
  os.remove(job.folder .. "/worker.log")
  job.process = check(system.spawn({ host.program, "--worker", job.folder, tostring(host.pid),
    stdout = job.folder .. "/worker.log", stderr = job.folder .. "/worker.log",
    env = { MOELUA_THREADS = tostring(job.threads) } }))
end

-- A worker that no interrupt can hide from stop_all.
local function start(job, host) core.uninterrupted(spawn, job, host) end

-- Exit statuses of failures that another attempt would only repeat, and their codes.
local final = { [3] = "diverged", [65] = "format", [66] = "missing", [69] = "unsupported",
  [74] = "full" }

local function describe_failure(job, status)
  local said = tail(job.folder .. "/worker.log")
  if said == "" then said = job.folder .. "/worker.log is empty" end      -- as on a full disk
  local times = job.attempts == 1 and "once" or job.attempts .. " times"
  return ("branch '%s' failed %s; the last worker ended with %s:\n%s"):format(job.name, times,
    status.exited and "status " .. status.exited or "signal " .. status.signaled, said)
end

-- Looks after one running worker; true when it is over, with job.failure when it failed for good.
local function tend(job, host, rows)
  local status = job.process:wait(0)
  local entry = last_entry(job.folder)
  if entry then rows:update(job.name, entry.step, { loss = entry.loss, tokens = entry.tokens }) end
  if not status then return false end
  if status.exited == 0 and run.finished(job.folder) then return true end
  local code = final[status.exited]
  if code or job.attempts >= ATTEMPTS then
    job.failure = { message = describe_failure(job, status), code = code }
    return true
  end
  rows:note(("%s: worker ended early; it is started again"):format(job.name))
  start(job, host)
  return false
end

-- How a process ended that has until `deadline`; a signal to us may end a wait early.
local function wait_until(process, deadline)
  repeat
    local left = math.max(0, deadline - system.clock())
    local status = process:wait(left)
    if status then return status end
  until left == 0
  process:kill(9)
  return process:wait()
end

-- Ends the workers, which save their states; returns the names of those that did. One that cannot
-- in time is killed, and goes on from an older state.
local function stop_all(running)
  local names = {}
  for _, job in ipairs(running) do
    if job.process then job.process:kill(15) end
  end
  local deadline = system.clock() + TO_SAVE
  for _, job in ipairs(running) do
    local status = job.process and wait_until(job.process, deadline)
    if status and status.exited == 143 and run.can_continue(job.folder) then
      names[#names + 1] = job.name
    end
  end
  table.sort(names)
  return names
end

-- Raises the failures, if any: with a code when all have the same.
local function report(failures)
  if #failures == 0 then return end
  table.sort(failures, function(a, b) return a.message < b.message end)
  local messages, code = {}, failures[1].code
  for i, failure in ipairs(failures) do
    messages[i] = failure.message
    code = failure.code == code and code or nil
  end
  local text = table.concat(messages, "\n\n")
  if code then check(nil, text, code) end
  raise("%s", text)
end

-- Runs the jobs, at most `workers` at a time. One that fails for good does not stop the others.
local function tend_all(waiting, workers, host, rows, running)
  local failures = {}
  while #waiting > 0 or #running > 0 do
    while #waiting > 0 and #running < workers do
      running[#running + 1] = table.remove(waiting, 1)
      start(running[#running], host)
    end
    for i = #running, 1, -1 do
      if tend(running[i], host, rows) then
        failures[#failures + 1] = running[i].failure
        table.remove(running, i)
      end
    end
    if #running > 0 then system.sleep(POLL) end
  end
  rows:done()
  report(failures)
end

-- ---- the call ---------------------------------------------------------------------------------

-- Where workers find the seed model, and its parameters as a fingerprint. A model in memory is
-- written as it is now: what it was once loaded from may differ. No domain can have this name.
local function seed_of(seed, folder)
  if type(seed) == "string" then
    return { path = seed, start = nn.fingerprint(check(family.load(seed))) }
  end
  nn.check_f32("branch", seed)
  return { path = folder .. "/_seed", start = nn.fingerprint(seed), model = seed }
end

local function save_seed(seed)
  if not seed.model then return end
  local before = seed.model.path
  check(seed.model:save(seed.path))
  seed.model.path = before
end

local function unfinished(names, own)
  local list = {}
  for _, name in ipairs(names) do
    local folder = own.out .. "/" .. name
    if not run.finished(folder) then
      list[#list + 1] = { name = name, folder = folder, attempts = 0 }
    end
  end
  return list
end

local function run_workers(waiting, own, training, host)
  local cpus = system.cpus()
  local workers = own.workers or math.min(#waiting, 2 * cpus)
  local names = {}
  for i, job in ipairs(waiting) do
    names[i], job.threads = job.name, math.max(1, cpus // math.min(workers, #waiting))
  end
  names.total, names.quiet = training.steps, own.quiet
  local rows <close>, running = progress.rows(names), {}
  local ok, message = pcall(tend_all, waiting, workers, host, rows, running)
  if not ok then
    local saved = core.uninterrupted(stop_all, running)
    if message == "interrupted!" and #saved > 0 then
      error_text.saved("saved the states of " .. table.concat(saved, ", "), own.out)
    end
    error(message, 0)
  end
end

--- Trains one copy of the seed per domain, each in a process and a run folder of its own:
---   experts = moe.branch(seed, { name = corpus, ... }, { steps = 400, out = "runs/x/branches" })
--- Options: out (the folder of the run folders), workers (processes at a time; default: one per
--- domain, at most two per processor), modules (Lua modules that each worker requires first),
--- quiet, fresh, and those of moe.train, here or in a table `options`. Without a command line
--- around (an embedding host) the branches run in this process, one after another. Raises when a
--- branch has failed three times; the others are finished first. The same call again goes on where
--- the last one stopped.
---@param seed moelua.Model|string a model, or the folder of one
---@param domains table<string, moelua.Corpus>
---@param given table
---@return table<string, moelua.Model> experts each with what moe.train returned in .summary
return function(seed, domains, given)
  expect(type(seed) == "string" or type(seed) == "table" and seed.config, "branch", "seed",
    "a model or the folder of one", seed)
  expect(given == nil or type(given) == "table", "branch", "options", "a table", given)
  local own, training = split_options(given)
  local names = sorted_names(domains)
  local _ <close> = run.lock(own.out, own)
  local start_from = seed_of(seed, own.out)
  for _, name in ipairs(names) do
    write_job(own.out .. "/" .. name, name, start_from, domains[name], training, own.modules)
  end
  local waiting = unfinished(names, own)
  if #waiting > 0 then save_seed(start_from) end
  local has_host, host = pcall(require, "moelua.host")
  if has_host and #waiting > 0 then
    run_workers(waiting, own, training, host)
  else
    for _, job in ipairs(waiting) do worker.run(job.folder, own.quiet) end
  end
  local experts = {}
  for _, name in ipairs(names) do
    local folder = own.out .. "/" .. name
    experts[name] = check(family.load(folder .. "/model"))
    experts[name].summary = run.finished(folder)
  end
  return experts
end

