-- arm_tables.lua: the tables of a study, for the terminal (text_table.lua) and for the report:
-- { title, columns, rows }. A column that no arm has a value for is left out.

local statistics = require("moelua.statistics")

local arm_tables = {}

-- Columns: { name, read = function(arm), format, best }.
local function make(title, arms, columns)
  local kept, rows = {}, {}
  for i in ipairs(arms) do rows[i] = {} end
  for _, column in ipairs(columns) do
    local used = false
    for _, arm in ipairs(arms) do used = used or column.read(arm) ~= nil end
    if used then kept[#kept + 1] = column end
    for i, arm in ipairs(used and arms or {}) do rows[i][#kept] = column.read(arm) end
  end
  return { title = title, columns = kept, rows = rows }
end

local function name_of(arm) return arm.name end

local function field(name, path, format)
  local function read(arm) return arm[path] end
  return { name = name, read = read, format = format, best = false }
end

-- Bits per byte of each domain, the mean, and what it cost. `best` marks the lowest, or nothing.
local function losses(title, names, arms, best)
  local columns = { { name = "model", read = name_of } }
  for _, domain in ipairs(names) do
    columns[#columns + 1] = { name = domain, best = best,
      read = function(arm) return arm.metric[domain] end }
  end
  columns[#columns + 1] = { name = "mean", best = best, read = function(arm) return arm.mean end }
  columns[#columns + 1] = field("±", "interval")
  columns[#columns + 1] = field("tokens", "tokens", "si")
  columns[#columns + 1] = field("FLOPs", "flops", "si")
  columns[#columns + 1] = { name = "seconds", format = "%.0f", best = false,
    read = function(arm) return arm.seeds and arm.seconds end }
  columns[#columns + 1] = { name = "coupled",
    read = function(arm) return arm.coupled and "to its batch" or nil end }
  return make(title, arms, columns)
end

--- The table of all arms that predict, measured on a split.
function arm_tables.results(names, arms, split)
  local title = ("held-out text (%s split), bits per byte; FLOPs and tokens from the first step on")
    :format(split)
  local seeds = arms[1] and arms[1].seeds
  if seeds and #seeds > 1 then
    title = ("%s;\nmeans of %d seeds, ± 95 %% interval"):format(title, #seeds)
  end
  return losses(title, names, arms, "min")
end

--- Arms that see later text.
function arm_tables.apart(names, arms)
  return losses("Not causal: these see later text, so their loss predicts nothing", names, arms,
    false)
end

--- Sizes, the chosen rates, and FLOPs with what choosing took; nil for arms without seeds.
function arm_tables.choices(arms)
  if not (arms[1] and arms[1].seeds) then return nil end
  return make("Parameters in all and of a token, the rate chosen on the validation split, and " ..
    "FLOPs with what choosing it took", arms, { { name = "model", read = name_of },
      field("parameters", "parameters", "si"), field("active", "active", "si"),
      field("rate", "rate", "%g"), { name = "with tuning", format = "si", best = false,
        read = function(arm) return arm.tuning and arm.flops + arm.tuning.flops end } })
end

--- Which arms have the first or last rate of their grid: a better one may lie beyond it. A
--- sentence, or nil.
function arm_tables.edges(arms)
  local list = {}
  for _, arm in ipairs(arms) do
    local rates = arm.rates or {}
    local first, last = rates[1], rates[#rates]
    if first and (arm.rate == first.rate or arm.rate == last.rate) then
      list[#list + 1] = ("%s %g"):format(arm.name, arm.rate)
    end
  end
  return #list > 0 and "Rates at the edge of the grid: " .. table.concat(list, ", ") .. "." or nil
end

-- A figure of the routing with its interval.
local function figure(name, key, format)
  return { name = name, read = function(arm)
    return arm[key] and statistics.text(arm[key], format)
  end }
end

--- Figures of the routing, means over the mixture layers; nil when no arm has any.
function arm_tables.routing(arms)
  local list = {}
  for _, arm in ipairs(arms) do
    if arm.cv then list[#list + 1] = arm end
  end
  if #list == 0 then return nil end
  return make("Routing on held-out text, mean of the mixture layers; and in training", list, {
    { name = "model", read = name_of }, figure("max/mean", "max_over_mean", "%.2f"),
    figure("load cv", "cv"), figure("dead", "dead"), figure("entropy", "entropy"),
    figure("information", "mutual_information"), figure("largest cv", "training_cv"),
    figure("dropped", "training_dropped") })
end

-- A ratio with its interval, or that it was not reached, or not with all seeds.
local function ratio(name, key)
  return { name = name, read = function(arm)
    local reach = arm.reach
    if not reach[key] then return "not reached" end
    local text = statistics.text(reach[key], "%.2f")
    if reach.seeds == #arm.seeds then return text end
    return ("%s (%d of %d seeds)"):format(text, reach.seeds, #arm.seeds)
  end }
end

--- How soon each arm had the loss of a reference; nil when nothing was asked.
function arm_tables.reach(arms)
  local list = {}
  for _, arm in ipairs(arms) do
    if arm.reach then list[#list + 1] = arm end
  end
  if #list == 0 then return nil end
  return make(("Until the final validation loss of '%s', as shares of what that took"):format(
    list[1].reach.reference), list, { { name = "model", read = name_of }, ratio("steps", "steps"),
      ratio("FLOPs", "flops"), ratio("time", "seconds") })
end

return arm_tables
