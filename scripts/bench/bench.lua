-- bench.lua: how fast moelua is on this machine: as shares of what the machine can do at all, and
-- beside PyTorch.
--
--   scripts/dev bench            a table; --help lists the options
--   scripts/dev bench --json     one object per row: workload, precision, value, unit, yardstick,
--                                percent_of_peak, speedup (from 1 to all threads), torch,
--                                torch_way, ratio, aim, target, holds, error, busy
--   scripts/dev bench --smoke    every workload once and tiny, no targets: does it still run?
--
-- Each side runs in a process of its own: moelua with all threads and with one, PyTorch, and the
-- yardstick, which shares no code with moelua. They take turns, and medians are reported, so that a
-- slow moment of the machine touches all of them alike. FLOPs are those of moe.flops. Ends with 1
-- when a row fails, or misses its target on a machine that was not busy.

local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local progress = require("moelua.progress")
local new_measure = require("measure")
local report = require("report")
local rows_of = require("rows")
local run = require("moelua.run")
local server = require("server")
local json, system = core.json, core.system

local BUSY_LOAD = 0.3         -- per core, before the start
local SPEEDUP = 0.925         -- per thread that the compute-bound rows must gain: 1.85 for two

local YARDSTICKS = {
  { "f32", "f32 peak", "GFLOP/s" },
  { "bf16", "bf16 peak of vdpbf16ps", "GFLOP/s" },
  { "amx", "bf16 peak of AMX tiles", "GFLOP/s" },
  { "read", "memory, streaming read", "GB/s" },
  { "adamw", "memory, the reads and writes of AdamW", "GB/s" },
}

local opt = moe.options {
  name = "bench",
  about = "Measures moelua against the limits of this machine, and against PyTorch.",
  usage = "scripts/dev bench [options]", trains = false,
  options = {
    { "only", nil, "rows with this, or a pattern, in 'workload, precision'", value = "PATTERN" },
    { "smoke", false, "every workload once and tiny, no targets" },
    { "torch", true, "measure PyTorch too, where scripts/bench/setup-torch has put it" },
    { "seconds", 6, "for the rounds of a row, about", min = 0 },
    { "markdown", false, "the table as scripts/bench/RESULTS.md has it" },
    { "before", nil, "what --json printed earlier, for a column of --markdown", value = "FILE" },
    { "yardstick", nil, "the compiled yardstick (default: bench/yardstick beside the program)",
      value = "FILE" },
  },
}

-- ---- the sides ----------------------------------------------------------------------------------

local function start_workers(log)
  local build = host.program:match("^(.*)/") or "."
  local python = here .. "/.torch/bin/python"
  local us = { host.program, here .. "/worker.lua" }
  local compare = opt.torch and not opt.smoke and system.exists(python)
  return {
    threads = core.threads, kernels = core.kernels,
    limits = opt.smoke and { least = 1, most = 1, seconds = 0 } or
      { least = 3, most = 9, seconds = opt.seconds },
    ours = server.new(us, log),
    single = core.threads > 1 and server.new(us, log, { MOELUA_THREADS = "1" }) or nil,
    yardstick = server.new({ opt.yardstick or build .. "/bench/yardstick" }, log),
    torch = compare and server.new({ python, here .. "/torch_worker.py",
      tostring(core.threads) }, log) or nil,
  }
end

local function stop_workers(workers)
  for _, name in ipairs({ "ours", "single", "yardstick", "torch" }) do
    if workers[name] then workers[name]:close() end
  end
end

-- ---- the rows -----------------------------------------------------------------------------------

-- The compute-bound row that gains least from all threads.
local function least_gain(rows, threads)
  local least
  for _, row in ipairs(rows) do
    least = row.speedup and math.min(least or row.speedup, row.speedup) or least
  end
  if not least then return end
  local target = not opt.smoke and SPEEDUP * threads or nil
  return { workload = ("1 to %d threads, the least of the above"):format(threads), unit = "x",
    value = least, target = target and (">= %.2f x"):format(target),
    holds = target and least >= target }
end

-- Every row, also when one fails.
local function measure_all(workers, wanted)
  local measure, rows = new_measure(workers), {}
  local line = progress.new({ name = "bench", total = #wanted, quiet = opt.quiet or opt.smoke })
  for _, y in ipairs(opt.only and {} or YARDSTICKS) do
    for _, row in ipairs(measure:yardstick(table.unpack(y))) do rows[#rows + 1] = row end
  end
  for i, row in ipairs(wanted) do
    local ok, result = pcall(measure.row, measure, row)
    rows[#rows + 1] = ok and result or
      { workload = row.workload, precision = row.precision, error = tostring(result) }
    line:update(i, {})
  end
  line:done()
  rows[#rows + 1] = least_gain(rows, workers.threads)
  return rows
end

-- ---- what is told -------------------------------------------------------------------------------

local function first_match(path, pattern)
  return (system.read(path) or ""):match(pattern) or "unknown"
end

-- The first line of what a program says.
local function said_by(...)
  local path = os.tmpname()
  local process = system.spawn({ stdout = path, ... })
  if process then process:wait() end
  local text = first_match(path, "[^\n]+")
  os.remove(path)
  return text
end

-- What was measured, a line each.
local function facts(torch)
  local lines = {
    ("%s, %d threads, Linux %s"):format(
      first_match("/proc/cpuinfo", "model name%s*:%s*([^\n]+)"), core.threads,
      first_match("/proc/sys/kernel/osrelease", "^[%d.]+")),
    ("moelua %s, kernels %s, %s"):format(core.version, core.kernels, said_by("cc", "--version")),
  }
  local versions = torch and torch:ask({})
  lines[3] = versions and ("PyTorch %s, transformers %s"):format(versions.pytorch,
    versions.transformers)
  return lines
end

-- Values of an earlier run by workload and precision.
local function earlier(path)
  local values = {}
  for text in io.lines(path) do
    local row = assert(json.decode(text))
    values[row.workload .. (row.precision or "")] = row.value
  end
  return values
end

local function show(rows, torch)
  if opt.json then
    for _, row in ipairs(rows) do print(json.encode(row)) end
  elseif opt.markdown then
    print(report.markdown(rows, facts(torch), opt.before and earlier(opt.before)))
  else
    print(table.concat(facts(torch), "\n") .. "\n")
    print(report.text(rows))
  end
end

local function narrate(rows, torch, load)
  for _, text in ipairs(report.remarks(rows)) do io.stderr:write(text, "\n") end
  if load then
    io.stderr:write(("the machine was busy: a load of %.1f on %d cores before the start\n"):format(
      load, system.cpus()))
  end
  if not torch and not opt.smoke then
    io.stderr:write("PyTorch was not measured: scripts/bench/setup-torch installs it\n")
  end
end

-- A target that is missed on a busy machine tells nothing.
local function has_missed(row, busy) return row.holds == false and not busy and not row.busy end

local wanted = rows_of(opt.only, opt.smoke)
if #wanted == 0 then run.refuse("bench: no row matches '%s'", opt.only) end
local load = not opt.smoke and tonumber(first_match("/proc/loadavg", "^%S+"))
local busy = load and load > BUSY_LOAD * system.cpus() and load
local log = os.tmpname()
local workers = start_workers(log)
local rows = measure_all(workers, wanted)
show(rows, workers.torch)
if not opt.quiet then narrate(rows, workers.torch, busy) end
stop_workers(workers)
local failed, missed = false, false
for _, row in ipairs(rows) do
  failed = failed or row.error or row.torch_error
  missed = missed or has_missed(row, busy)
end
if not failed then os.remove(log) end
if failed or missed then os.exit(1, true) end
