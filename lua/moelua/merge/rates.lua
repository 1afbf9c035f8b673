-- merge/rates.lua: how long the arithmetic of a plan takes here: each method merges a sample in
-- memory, and the clock is read.

local core = require("moelua.core")

local rates = {}

local ROWS, COLUMNS = 256, 1024         -- of the sample

local function sources_of(entry, sample)
  local list = {}
  for i = 1, #entry.sources do list[i] = { tensor = sample, shape = { ROWS, COLUMNS } } end
  return list
end

-- Seconds for one element of the result of the entry's method.
local function measure(entry)
  local _ <close> = core.scope()
  local sample = core.randn(ROWS, COLUMNS):to("bf16")
  local job = { name = entry.name, method = entry.method, params = entry.params, dtype = "BF16",
    shape = { ROWS, COLUMNS }, sources = sources_of(entry, sample),
    base = entry.base and { tensor = sample, shape = { ROWS, COLUMNS } }, seed = 1 }
  local started = core.system.clock()
  core.checkpoint.merge(job)
  return (core.system.clock() - started) / (ROWS * COLUMNS)
end

-- One measurement serves all tensors of the same method and number of models.
local function key_of(entry) return ("%s %d"):format(entry.method, #entry.sources) end

local function elements(entry)
  local count = 1
  for _, size in ipairs(entry.shape) do count = count * size end
  return count
end

--- Seconds of arithmetic that the plans take; copies and functions of the user's own are not
--- counted.
---@param plans table[] of plan.lua
---@return number
function rates.seconds(plans)
  local known, sum = {}, 0
  for _, each in ipairs(plans) do
    for _, entry in ipairs(each.entries) do
      if type(entry.method) == "string" and entry.method ~= "copy" then
        local key = key_of(entry)
        known[key] = known[key] or measure(entry)
        sum = sum + known[key] * elements(entry)
      end
    end
  end
  return sum
end

return rates
