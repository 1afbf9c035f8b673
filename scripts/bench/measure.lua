-- measure.lua: measures one row of the benchmark: its jobs and the yardstick in turns.
--
--   local measure = require("measure") { ours = , single = , torch = , yardstick = , threads = ,
--     kernels = , limits = { least = , most = , seconds = } }
--   measure:row(row)                 -- an entry of rows.lua -> what is known about it
--   measure:yardstick(kind, ...)     -- rows of the limits themselves
--
-- ours, single, torch and yardstick are servers; single and torch may be absent.

local rounds = require("rounds")
local median = rounds.median

local Measure = {}
Measure.__index = Measure

local YARDSTICK_MS = 100      -- of one measurement of the yardstick
local BUSY = 10               -- percent a yardstick may move within a row

-- ---- contestants --------------------------------------------------------------------------------

-- The limit with so many threads, in FLOPs or bytes per second.
function Measure:limit(name, kind, threads)
  return { name = name, take = function()
    local answer, message = self.workers.yardstick:ask(("%s %d %d"):format(kind, threads,
      YARDSTICK_MS))
    return answer and answer.rate, message
  end }
end

-- What the processor computes with in a precision.
function Measure:peak_of(precision)
  local kernels = self.workers.kernels
  if precision == "f32" then return "f32" end
  return kernels:find("amx") and "amx" or kernels:find("bf16") and "bf16" or "f32"
end

-- Has a worker make a job, and adds it to the contestants. Returns what the worker says, or nil and
-- why it cannot be.
local function enter(contestants, name, worker, job, as)
  local answer, message = worker:ask({ make = job, as = as })
  if not answer then return nil, message end
  contestants[#contestants + 1] = { name = name, take = function()
    local said, why = worker:ask({ run = as })
    return said and said.seconds, why
  end }
  return answer
end

-- Enters whatever the row asks for; tells in `result` what could not be. Returns the contestants
-- and the FLOPs or bytes of the job.
function Measure:enter_all(row, result)
  local workers, list = self.workers, {}
  local function need(name, worker, job, as)
    local answer, message = enter(list, name, worker, job, as)
    result.error = result.error or message
    return answer
  end
  local ours = need("ours", workers.ours, row.job, "job")
  if ours and row.against then need("against", workers.ours, row.against, "against") end
  if ours and row.compute and workers.single then
    need("single", workers.single, row.job, "job")
  end
  if row.torch and workers.torch then
    local torch
    torch, result.torch_error = enter(list, "torch", workers.torch, row.torch, "job")
    if torch then result.torch_way, result.torch_ways = torch.way, torch.tried end
  end
  if row.yardstick then
    result.yardstick = row.yardstick == "peak" and self:peak_of(row.precision) or row.yardstick
    list[#list + 1] = self:limit("limit", result.yardstick, workers.threads)
  end
  return list, ours and ours.work
end

function Measure:drop()
  for _, worker in pairs({ self.workers.ours, self.workers.single, self.workers.torch }) do
    worker:ask({ drop = "job" })
    worker:ask({ drop = "against" })
  end
end

-- ---- figures ------------------------------------------------------------------------------------

-- Milliseconds, or what the job takes of the other one's time.
local function value_of(row, seconds, against)
  if not row.against then return seconds * 1e3 / row.per end
  return seconds / against * (row.unit == "%" and 100 or 1)
end

-- The median seconds, or the rate, of each contestant that took part.
local function medians(samples)
  local found = {}
  for name, list in pairs(samples) do found[name] = list[1] and median(list) end
  return found
end

local function figures(result, row, samples, work)
  local found = medians(samples)
  local ours, torch = found.ours, found.torch
  result.torch = torch and torch * 1e3 / row.per
  if not ours or row.against and not found.against then return end
  result.value = value_of(row, ours, found.against)
  result.ratio = torch and torch / ours
  result.speedup = found.single and found.single / ours
  if not found.limit then return end
  result.percent_of_peak = work and work / ours / found.limit * 100
  local moved = rounds.spread(samples.limit) * 100
  result.busy = moved > BUSY and moved or nil
end

-- What the row promises, in words, and whether what could be measured of it holds.
local function judge(result, row)
  local words, holds = {}, nil
  local function promise(text, value, fine)
    words[#words + 1] = text
    if value then holds = holds ~= false and fine(value) end
  end
  if row.share then
    promise((">= %d %%"):format(row.share), result.percent_of_peak,
      function(value) return value >= row.share end)
  end
  if row.most then
    promise(("<= %g %s"):format(row.most, row.unit), result.value,
      function(value) return value <= row.most end)
  end
  if row.aim then promise("faster", result.ratio, function(value) return value > 1 end) end
  result.target, result.holds = words[1] and table.concat(words, ", "), holds
end

--- What is known about a row; `error` tells what failed.
function Measure:row(row)
  local result = { workload = row.workload, precision = row.precision, unit = row.unit,
    aim = row.aim }
  local contestants, work = self:enter_all(row, result)
  local samples, failed = rounds.run(contestants, self.workers.limits)
  self:drop()
  result.error = result.error or failed.ours or failed.against or failed.single or failed.limit
  result.torch_error = result.torch_error or failed.torch
  figures(result, row, samples, work)
  judge(result, row)
  return result
end

--- Rows of one yardstick, for one thread and for all. What this processor lacks has none.
function Measure:yardstick(kind, what, unit)
  local all, list = self.workers.threads, {}
  for _, threads in ipairs(all > 1 and { 1, all } or { 1 }) do
    local samples, failed = rounds.run({ self:limit("limit", kind, threads) },
      self.workers.limits)
    if failed.limit then return {} end
    list[#list + 1] = { workload = ("%s, %d thread%s"):format(what, threads,
      threads == 1 and "" or "s"), value = median(samples.limit) / 1e9, unit = unit }
  end
  return list
end

return function(workers) return setmetatable({ workers = workers }, Measure) end
