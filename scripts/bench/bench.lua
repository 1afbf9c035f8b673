-- bench.lua: how fast moelua is on this machine, as shares of what the machine can do at all.
--
--   scripts/dev bench            a table
--   scripts/dev bench --json     one object per row: workload, value, unit, percent_of_peak,
--                                target, holds
--   scripts/dev bench --smoke    every workload once, no targets: does it still run?
--
-- The yardstick is scripts/bench/peak.c. Workloads and yardstick take turns, and medians are
-- reported, so that a slow moment touches all of them alike. FLOPs are those of moe.flops.
-- Ends with 1 when a target is missed on a machine that was not busy.

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local text_table = require("moelua.text_table")
local system = core.system

local SECONDS = 50            -- no new round that would end later
local ROUNDS = 7              -- at most
local PEAK_MS = 150           -- of one measurement of the peak
local BUSY_SPREAD = 0.15      -- spread of the peak above which the figures are not to be trusted

local asked = {}
for _, word in ipairs(arg) do asked[word] = true end

-- ---- measuring ----------------------------------------------------------------------------------

local here = arg[0]:match("^(.*)/") or "."
local peak_program = os.getenv("MOELUA_PEAK") or here .. "/../../build/bench/peak"

local function temporary(f)
  local path = os.tmpname()
  local ok, result = pcall(f, path)
  os.remove(path)
  return ok and result or error(result, 0)
end

-- GFLOP/s of the yardstick on so many threads, and the name of its instruction set.
local function measure_peak(threads)
  return temporary(function(path)
    local process = assert(system.spawn({ peak_program, tostring(threads), tostring(PEAK_MS),
      stdout = path }))
    local status = process:wait()
    if not status or status.exited ~= 0 then
      error("the peak was not measured\nhint: scripts/dev bench compiles scripts/bench/peak.c", 0)
    end
    local rate, name = assert(system.read(path)):match("^(%S+) (%S+)")
    return { tonumber(rate), name }
  end)
end

local function seconds_of(f)
  local began = system.clock()
  f()
  return system.clock() - began
end

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

local function median(list)
  local s = sorted(list)
  return (s[(#s + 1) // 2] + s[#s // 2 + 1]) / 2
end

-- (largest - smallest) / median
local function spread(list)
  local s = sorted(list)
  return (s[#s] - s[1]) / median(s)
end

-- ---- workloads ----------------------------------------------------------------------------------

local MIXTURE = { kind = "moe", experts = 8, router = { kind = "topk", k = 2 } }

-- A training step on random bytes: forward, backward, AdamW.
local function training_step(config, batch, context)
  config.vocab, config.context = 256, context
  local model = moe.model.new(config)
  local optimizer = moe.optimizer(model, { lr = 1e-4 })
  local ids = (moe.rand(batch, context) * 256):to("i32")
  local function run()
    local _ <close> = moe.scope()
    model:loss(ids, ids, { stats = false }):backward()
    optimizer:step()
  end
  return { run = run, flops = batch * context * moe.flops.per_token(model.config, context) }
end

local workloads = {
  { name = "dense step 288x6, 16 x 256 tokens", target = 40, make = function()
    return training_step({ dim = 288, layers = 6, heads = 6, hidden = 768 }, 16, 256)
  end },
  { name = "mixture step 288x6, 8 experts top-2", make = function()
    return training_step({ dim = 288, layers = 6, heads = 6, hidden = 768, ffn = MIXTURE }, 16, 256)
  end },
  { name = "recipe step 128x4, 32 x 128 tokens", make = function()
    return training_step({ dim = 128, layers = 4, heads = 4, hidden = 352 }, 32, 128)
  end },
  { name = "start-up of moelua -e ''", make = function()
    return { run = function() system.spawn({ host.program, "-e", "" }):wait() end }
  end },
}

-- Runs everything in turn until the time is over. The first run of a workload warms up.
local function measure(rounds)
  local peaks, single, began = {}, {}, system.clock()
  for _, w in ipairs(workloads) do
    w.job, w.seconds = w.make(), {}
    w.job.run()
  end
  for round = 1, rounds do
    local started = system.clock()
    peaks[round] = measure_peak(core.threads)[1]
    single[round] = measure_peak(1)[1]
    for _, w in ipairs(workloads) do w.seconds[round] = seconds_of(w.job.run) end
    local now = system.clock()
    if now - began + (now - started) > SECONDS then break end
  end
  return peaks, single
end

-- ---- reporting ----------------------------------------------------------------------------------

local function peak_row(threads, list)
  return { workload = ("f32 peak, %d thread%s"):format(threads, threads == 1 and "" or "s"),
    value = median(list), unit = "GFLOP/s" }
end

local function row_of(w, peak)
  local seconds = median(w.seconds)
  local row = { workload = w.name, value = seconds * 1e3, unit = "ms" }
  if w.job.flops then row.percent_of_peak = w.job.flops / seconds / 1e9 / peak * 100 end
  if w.target and not asked["--smoke"] then
    row.target, row.holds = w.target, row.percent_of_peak >= w.target
  end
  return row
end

local function make_rows(peaks, single)
  local rows = { peak_row(core.threads, peaks) }
  if core.threads > 1 then rows[2] = peak_row(1, single) end
  for _, w in ipairs(workloads) do rows[#rows + 1] = row_of(w, median(peaks)) end
  return rows
end

local function processor()
  for line in io.lines("/proc/cpuinfo") do
    local name = line:match("^model name%s*:%s*(.+)")
    if name then return name end
  end
  return "unknown processor"
end

local function print_table(rows)
  print(text_table.format({ "workload",
    { name = "median", key = "value", format = "%.1f" }, "unit",
    { name = "of peak", key = "percent_of_peak", format = "%.1f %%" },
    { name = "target", format = ">= %d %%" }, "holds" }, rows))
end

-- Why the figures are not to be trusted, or nil.
local function busy(load_before, peaks)
  local cores = system.cpus()
  if load_before > 0.3 * cores then
    return ("the load was %.1f on %d cores before the start"):format(load_before, cores)
  end
  if spread(peaks) > BUSY_SPREAD then
    return ("the peak moved by %.0f %%"):format(spread(peaks) * 100)
  end
end

local load_before = tonumber(io.lines("/proc/loadavg")():match("^%S+"))
local smoke = asked["--smoke"]
local peaks, single = measure(smoke and 1 or ROUNDS)
local rows = make_rows(peaks, single)
local reason = not smoke and busy(load_before, peaks)
if asked["--json"] then
  for _, row in ipairs(rows) do print(core.json.encode(row)) end
else
  print(("%s, %d threads, kernels %s (peak with %s); medians of %d"):format(processor(),
    core.threads, core.kernels, measure_peak(1)[2], #peaks))
  print_table(rows)
end
if reason then io.stderr:write("the machine was busy: ", reason, "\n") end
for _, row in ipairs(rows) do
  if row.holds == false and not reason then os.exit(1, true) end
end
