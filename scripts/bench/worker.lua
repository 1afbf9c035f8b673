-- worker.lua: moelua's side of the benchmark: makes and runs workloads on request. The driver
-- starts it, once with all threads and once with one; requests and answers are lines of JSON.
--
--   {"make": job, "as": name}      -> {"work": FLOPs or bytes of one run, or nothing}
--   {"run": name}                  -> {"seconds": of one run}
--   {"drop": name}                 -> {}
--   {}                             -> {"kernels": name, "threads": number}
-- Whatever fails is answered with {"error": text}.

package.path = (arg[0]:match("^(.*/)") or "./") .. "?.lua;" .. package.path

local moe = require("moelua")
local core = require("moelua.core")
local new_workload = require("workloads")
local clock, json = core.system.clock, core.json

local SAMPLE = 0.05           -- seconds that a measurement lasts at least
local WARM = 2                -- runs before the first measurement

local jobs = {}

local function once(job)
  if job.prepare then job.prepare() end
  local began = clock()
  job.run()
  return clock() - began
end

-- Of one run; short ones are repeated.
local function seconds_of(job)
  local spent, count = 0, 0
  repeat
    spent, count = spent + once(job), count + 1
  until spent >= SAMPLE
  return spent / count
end

local answers = {}

function answers.make(job, request)
  local precision = job.kind ~= "decode" and job.precision or "f32"
  moe.precision(precision)
  local made = new_workload(job)
  made.precision = precision
  for _ = 1, WARM do once(made) end
  jobs[request.as] = made
  return { work = made.work }
end

function answers.run(name)
  if not jobs[name] then error(("no job was made as %s"):format(name), 0) end
  moe.precision(jobs[name].precision)
  return { seconds = seconds_of(jobs[name]) }
end

function answers.drop(name)
  jobs[name] = nil
  collectgarbage()
  collectgarbage()
  return {}
end

local function answer(line)
  local request = assert(json.decode(line))
  for verb, f in pairs(answers) do
    if request[verb] then return f(request[verb], request) end
  end
  return { kernels = core.kernels, threads = core.threads }
end

for line in io.lines() do
  local ok, said = pcall(answer, line)
  io.write(json.encode(ok and said or { error = tostring(said) }), "\n")
  io.flush()
end
