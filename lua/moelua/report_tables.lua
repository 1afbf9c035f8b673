-- The two tables of a report: what each arm reached and what it cost. Numbers are aligned on
-- their digits, what was not measured is a dash.

local svg = require("moelua.svg")
local text_table = require("moelua.text_table")

local report_tables = {}

local element, escape = svg.element, svg.escape

local DASH = element("td", { class = "none" }, "–")

-- Table of results ------------------------------------------------------------------------

-- Bits per byte as the whole report shows them.
function report_tables.bits(value)
  return string.format("%.3f", value)
end

local bits = report_tables.bits

-- The shown text of the lowest value of a column; nil when there is nothing to compare it with.
local function lowest(arms, read)
  local best, count = math.huge, 0
  for _, arm in ipairs(arms) do
    local value = read(arm)
    if value then best, count = math.min(best, value), count + 1 end
  end
  return count > 1 and bits(best) or nil
end

-- `half`: of the interval around the value, if there is one.
local function value_cell(value, best, half)
  if not value then return DASH end
  local text = bits(value)
  return element("td", nil, (text == best and element("strong", nil, text) or text)
    .. (half and " ± " .. bits(half) or ""))
end

-- Bars start at zero: their lengths compare as the numbers do.
local function bar_cell(value, highest, best)
  if not value then return element("td", { class = "bar" }, "") end
  local length = highest > 0 and math.max(0, value) / highest * 128 or 0
  local class = bits(value) == best and "best"
  local bar = element("rect", { width = length, height = 10, class = class })
  return element("td", { class = "bar" },
    element("svg", { viewBox = "0 0 128 10", ["aria-hidden"] = "true" }, bar))
end

local function header_cell(name, unit, class)
  local small = unit and element("small", nil, escape(unit)) or ""
  return element("th", { scope = "col", class = class or false }, escape(name) .. small)
end

local function row_of(name, cells)
  return element("tr", nil, { element("th", { scope = "row" }, escape(name)), table.concat(cells) })
end

local function table_of(caption, header, rows)
  local grid = element("table", nil, { element("thead", nil, element("tr", nil, header)),
    element("tbody", nil, rows) })
  return element("figure", nil, element("figcaption", { class = "above" }, caption)
    .. element("div", { class = "scroll" }, grid))
end

-- Columns of the results: one per domain, then the mean.
local function result_columns(arms, domains)
  local columns = {}
  for index, domain in ipairs(domains) do
    columns[index] = { name = domain, read = function(arm) return arm.metric[domain] end }
  end
  columns[#columns + 1] = { name = "mean", read = function(arm) return arm.mean end,
    half = function(arm) return arm.interval end }
  for _, column in ipairs(columns) do column.best = lowest(arms, column.read) end
  return columns
end

local function results_caption(arms, columns)
  local missing, compared, repeated = false, false, false
  for _, column in ipairs(columns) do compared = compared or column.best ~= nil end
  for _, arm in ipairs(arms) do
    repeated = repeated or arm.interval
    for _, column in ipairs(columns) do missing = missing or column.read(arm) == nil end
  end
  return "Held-out bits per byte; lower is better."
    .. (compared and " The best value of each column is bold. Bars show the mean, from zero." or "")
    .. (repeated and " After the mean of the seeds: its 95 % interval." or "")
    .. (missing and " A dash: not measured." or "")
end

-- The table per domain; nil without arms. caption replaces the usual one.
function report_tables.results(arms, domains, caption)
  if #arms == 0 then return nil end
  local columns, header, rows = result_columns(arms, domains), { header_cell("arm") }, {}
  for _, column in ipairs(columns) do
    header[#header + 1] = header_cell(column.name, nil, "domain")
  end
  header[#header + 1] = element("td", { class = "bar" }, "")
  local highest = 0
  for _, arm in ipairs(arms) do highest = math.max(highest, arm.mean or 0) end
  for index, arm in ipairs(arms) do
    local cells = {}
    for place, column in ipairs(columns) do
      cells[place] = value_cell(column.read(arm), column.best, column.half and column.half(arm))
    end
    cells[#cells + 1] = bar_cell(arm.mean, highest, columns[#columns].best)
    rows[index] = row_of(arm.name, cells)
  end
  caption = caption and escape(caption) or results_caption(arms, columns)
  return table_of(caption, header, rows)
end

-- A table as it stands in the terminal: { title, columns, rows }.
function report_tables.plain(given)
  local header, columns, rows = {}, text_table.cells(given.columns, given.rows), {}
  for place, column in ipairs(given.columns) do
    header[place] = header_cell(type(column) == "table" and column.name or column)
  end
  for index = 1, #given.rows do
    local cells = {}
    for place = 2, #columns do
      cells[place - 1] = element("td", nil, escape(columns[place][index]))
    end
    rows[index] = row_of(columns[1][index], cells)
  end
  return table_of(escape(given.title), header, rows)
end

-- Compute ---------------------------------------------------------------------------------

local COMPUTE = {
  { field = "tokens", name = "tokens", style = "words" },
  { field = "flops", name = "FLOPs", style = "power" },
  { field = "seconds", name = "time", unit = "seconds" },
}

-- Three digits, or all digits of an integer part that has more.
local function three_digits(value)
  if value == 0 then return "0" end
  local decimals = 2 - math.floor(math.log(math.abs(value), 10) + 1e-12)
  return string.format("%." .. math.max(0, math.min(6, decimals)) .. "f", value)
end

local function compute_column(arms, kind)
  local highest
  for _, arm in ipairs(arms) do
    local value = arm[kind.field]
    if value then highest = math.max(highest or 0, value) end
  end
  if not highest then return nil end
  local divisor, unit = 1, kind.unit
  if not unit then divisor, unit = svg.magnitude(highest, kind.style) end
  return { name = kind.name, unit = unit, field = kind.field, divisor = divisor }
end

-- Tokens, FLOPs and seconds of the arms; nil when none of them is known.
function report_tables.compute(arms, caption)
  local columns, header, rows = {}, { header_cell("arm") }, {}
  for _, kind in ipairs(COMPUTE) do columns[#columns + 1] = compute_column(arms, kind) end
  if #columns == 0 then return nil end
  for _, column in ipairs(columns) do
    header[#header + 1] = header_cell(column.name, column.unit)
  end
  for index, arm in ipairs(arms) do
    local cells = {}
    for place, column in ipairs(columns) do
      local value = arm[column.field]
      cells[place] = value and element("td", nil, three_digits(value / column.divisor)) or DASH
    end
    rows[index] = row_of(arm.name, cells)
  end
  return table_of(escape(caption or "What the training of each arm took."), header, rows)
end

return report_tables
