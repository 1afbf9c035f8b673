-- branch.lua: train copies of one model on different domains, each in a process of its own.
--
-- A branch is a run folder with a job.json: checkpoint, token file, options. The worker
-- (`program --worker FOLDER`) locks the folder, trains, and leaves model/ and done.json; it needs
-- nothing else, so the same folders serve a job array on a cluster. Branches never talk to each
-- other. One that fails is started again from its last state; the others never notice.

local core = require("moelua.core")
local data = require("moelua.data")
local family = require("moelua.family")
local options = require("moelua.options")
local progress = require("moelua.progress")
local run = require("moelua.run")
local train = require("moelua.train")
local system, json, raise, check = core.system, core.json, core.raise, run.check

local branch = {}

local ATTEMPTS = 3
local POLL = 0.2        -- seconds between looks at the folders

local declared = {
  out = { "string", required = true },      -- folder of the branches
  workers = "integer",                      -- processes at a time; default: one per branch, at
                                            -- most two per processor
  options = { "table", {} },                -- of moe.train; or write them beside these
  modules = { "table", {} },                -- Lua modules that a worker requires first
  quiet = { "boolean", false },
  fresh = { "boolean", false },
}

-- Everything that is no option of branch() goes to moe.train. Functions cannot cross.
local function split_options(given)
  local own, training = {}, {}
  for k, v in pairs(given or {}) do
    if type(v) == "function" or type(v) == "userdata" then
      raise("branch: option '%s' is a %s, which cannot be handed to another process\n" ..
        "hint: put it into a module and name that in modules = {...}", k, type(v))
    end
    (declared[k] and own or training)[k] = v
  end
  own = options.check("branch", own, declared)
  for k, v in pairs(own.options) do training[k] = v end
  return own, training
end

local function sorted_names(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- The token file of a corpus, where a worker finds it.
local function token_file(corpus, folder)
  if corpus.path then return corpus.path end
  local path = folder .. "/data.safetensors"
  check(corpus:save(path))
  return path
end

local function write_job(folder, name, seed_path, corpus, training, modules)
  check(system.make_folder(folder))
  local job = { name = name, model = seed_path, data = { [name] = token_file(corpus, folder) },
    options = training, modules = json.array(modules) }
  local text = json.encode(job, { indent = 2 }) .. "\n"
  local path = folder .. "/job.json"
  local before = system.read(path)
  if before and before ~= text then
    raise("%s was made with other options\nhint: --fresh starts over, --out names another folder",
      folder)
  end
  check(system.write(path, text))
end

--- What a worker does: the job of `folder`, here in this process.
function branch.work(folder, quiet)
  local job = check(json.decode(check(system.read(folder .. "/job.json"))))
  for _, name in ipairs(job.modules) do require(name) end
  local corpora = {}
  for name, path in pairs(job.data) do corpora[name] = check(data.open(path, name)) end
  local opts = { data = corpora, out = folder, name = job.name, quiet = quiet }
  for k, v in pairs(job.options) do opts[k] = v end
  return train(check(family.load(job.model)), opts)
end

-- ---- workers ------------------------------------------------------------------------------------------

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

local function start(job, host)
  job.attempts = job.attempts + 1
  os.remove(job.folder .. "/worker.log")
  job.process = check(system.spawn({ host.program, "--worker", job.folder, tostring(host.pid),
    stdout = job.folder .. "/worker.log", stderr = job.folder .. "/worker.log",
    env = { MOELUA_THREADS = tostring(job.threads) } }))
end

-- Looks after one running worker; true when its branch is finished.
local function tend(job, host, rows)
  local status = job.process:wait(0)
  local entry = last_entry(job.folder)
  if entry then rows:update(job.name, entry.step, { loss = entry.loss, tokens = entry.tokens }) end
  if not status then return false end
  if status.exited == 0 and run.finished(job.folder) then return true end
  if job.attempts >= ATTEMPTS then
    raise("branch '%s' failed %d times; the last worker ended with %s:\n%s", job.name, ATTEMPTS,
      status.exited and "status " .. status.exited or "signal " .. tostring(status.signaled),
      tail(job.folder .. "/worker.log"))
  end
  rows:note(("%s: worker ended early, starting it again from its last state"):format(job.name))
  start(job, host)
  return false
end

local function stop_all(running)
  for _, job in ipairs(running) do
    job.process:kill(15)
    job.process:wait(5)
    job.process:kill(9)
    job.process:wait()
  end
end

local function tend_all(waiting, workers, host, rows)
  local running = {}
  local ok, message = pcall(function()
    while #waiting > 0 or #running > 0 do
      while #waiting > 0 and #running < workers do
        running[#running + 1] = table.remove(waiting, 1)
        start(running[#running], host)
      end
      for i = #running, 1, -1 do
        if tend(running[i], host, rows) then table.remove(running, i) end
      end
      system.sleep(POLL)
    end
  end)
  if not ok then
    stop_all(running)
    error(message, 0)
  end
end

-- ---- the call -----------------------------------------------------------------------------------------

-- Where workers find the seed model.
local function seed_path(seed, folder)
  if type(seed) == "string" then return seed end
  if seed.path then return seed.path end
  check(seed:save(folder .. "/seed"))
  return seed.path
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
  local rows <close> = progress.rows(names)
  tend_all(waiting, workers, host, rows)
  rows:done()
end

--- experts = moe.branch(seed, { name = corpus, ... }, { steps = 400, out = "runs/x/branches" })
-- Returns the trained models by name; summary, curve and so on of each in expert.summary. Without
-- a command line around (an embedding host) the branches run in this process, one after another.
function branch.branch(seed, domains, given)
  local own, training = split_options(given)
  if own.fresh and system.exists(own.out) then check(system.remove_tree(own.out)) end
  check(system.make_folder(own.out))
  local names, path = sorted_names(domains), seed_path(seed, own.out)
  if #names == 0 then raise("branch: no domains given") end
  for _, name in ipairs(names) do
    write_job(own.out .. "/" .. name, name, path, domains[name], training, own.modules)
  end
  local waiting = unfinished(names, own)
  local has_host, host = pcall(require, "moelua.host")
  if has_host and #waiting > 0 then
    run_workers(waiting, own, training, host)
  else
    for _, job in ipairs(waiting) do branch.work(job.folder, own.quiet) end
  end
  local experts = {}
  for _, name in ipairs(names) do
    local folder = own.out .. "/" .. name
    experts[name] = check(family.load(folder .. "/model"))
    experts[name].summary = run.finished(folder)
  end
  return experts
end

return setmetatable(branch, {
  __call = function(_, ...) return branch.branch(...) end,
})
