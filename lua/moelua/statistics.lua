-- statistics.lua: what a few repetitions of an experiment say: means, Student's t-intervals, and
-- differences between two arms that are paired by seed.

local expect = require("moelua.expect")

local statistics = {}

local function check(where, list)
  expect(type(list) == "table" and #list > 0, where, "list", "a list of numbers", list)
  for _, x in ipairs(list) do expect(type(x) == "number", where, "list", "numbers", x) end
end

--- The mean.
---@param list number[]
---@return number
function statistics.mean(list)
  check("statistics.mean", list)
  local sum = 0.0
  for _, x in ipairs(list) do sum = sum + x end
  return sum / #list
end

--- The standard deviation of a sample (n - 1 in the denominator); nil for a single number.
---@param list number[]
---@return number?
function statistics.deviation(list)
  check("statistics.deviation", list)
  if #list < 2 then return nil end
  local mean, sum = statistics.mean(list), 0.0
  for _, x in ipairs(list) do sum = sum + (x - mean) ^ 2 end
  return math.sqrt(sum / (#list - 1))
end

-- The probability of |T| <= sqrt(n) tan(angle) for n degrees of freedom: a finite sum in the angle
-- (Abramowitz and Stegun 26.7.3 and 26.7.4), all of whose terms are positive.
local function within(angle, n)
  local sine, cosine = math.sin(angle), math.cos(angle)
  local odd = n % 2 == 1
  local term, sum = odd and cosine or 1.0, 0.0
  for i = odd and 3 or 2, n, 2 do
    sum = sum + term
    term = term * cosine ^ 2 * (i - 1) / i
  end
  return odd and 2 / math.pi * (angle + sine * sum) or sine * sum
end

--- Student's t for a two-sided interval: |T| stays below it with probability `level` (0.95).
---@param degrees integer of freedom, from 1 on
---@param level number?
---@return number
function statistics.quantile(degrees, level)
  level = level or 0.95
  expect(math.type(degrees) == "integer" and degrees > 0, "statistics.quantile", "degrees",
    "a whole number above 0", degrees)
  expect(type(level) == "number" and level > 0 and level < 1, "statistics.quantile", "level",
    "a number between 0 and 1", level)
  local low, high = 0.0, math.pi / 2
  for _ = 1, 60 do
    local middle = (low + high) / 2
    if within(middle, degrees) < level then low = middle else high = middle end
  end
  return math.sqrt(degrees) * math.tan((low + high) / 2)
end

--- The 95 % interval of a mean: { mean, half, n }, from mean - half to mean + half. A single number
--- has none: half is nil.
---@param list number[]
---@return { mean: number, half: number?, n: integer }
function statistics.interval(list)
  check("statistics.interval", list)
  local deviation, half = statistics.deviation(list), nil
  if deviation then half = statistics.quantile(#list - 1) * deviation / math.sqrt(#list) end
  return { mean = statistics.mean(list), half = half, n = #list }
end

--- The interval of the differences a[i] - b[i] of two lists in the same order of seeds.
---@param a number[]
---@param b number[]
---@return { mean: number, half: number?, n: integer }
function statistics.paired(a, b)
  check("statistics.paired", a)
  check("statistics.paired", b)
  expect(#a == #b, "statistics.paired", "b", ("a list of %d"):format(#a), b)
  local differences = {}
  for i, x in ipairs(a) do differences[i] = x - b[i] end
  return statistics.interval(differences)
end

--- What an interval says about "below zero": true, false (it is above), or nil when it is not
--- resolved, because the interval includes zero or there is none.
---@param interval { mean: number, half: number? }
---@return boolean?
function statistics.below_zero(interval)
  expect(type(interval) == "table" and type(interval.mean) == "number", "statistics.below_zero",
    "interval", "what statistics.interval returns", interval)
  if not interval.half or math.abs(interval.mean) <= interval.half then return nil end
  return interval.mean < 0
end

--- As people write it: "0.012 ± 0.004", "0.012" without an interval.
---@param interval { mean: number, half: number? }
---@param format string? of one number; "%+.3f" shows the sign of the mean
---@return string
function statistics.text(interval, format)
  format = format or "%.3f"
  local mean = format:format(interval.mean)
  if not interval.half then return mean end
  return ("%s ± %s"):format(mean, format:gsub("%+", ""):format(interval.half))
end

return statistics
