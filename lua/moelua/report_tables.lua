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

local function table_of(caption, header, rows, class)
  local grid = element("table", { class = class or false }, {
    element("thead", nil, element("tr", nil, header)), element("tbody", nil, rows) })
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

local COUPLED = " †"

local function results_caption(arms, columns)
  local missing, compared, repeated, coupled = false, false, false, false
  for _, column in ipairs(columns) do compared = compared or column.best ~= nil end
  for _, arm in ipairs(arms) do
    repeated, coupled = repeated or arm.interval, coupled or arm.coupled
    for _, column in ipairs(columns) do missing = missing or column.read(arm) == nil end
  end
  return "Held-out bits per byte; lower is better."
    .. (compared and " The best value of each column is bold. Bars show the mean, from zero." or "")
    .. (repeated and " After the mean of the seeds: its 95 % interval." or "")
    .. (missing and " A dash: not measured." or "")
    .. (coupled and COUPLED .. " The loss depends on the other sequences of the batch: measured in"
      .. " fixed groups from different documents." or "")
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
    rows[index] = row_of(arm.name .. (arm.coupled and COUPLED or ""), cells)
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
  return table_of(escape(given.title), header, rows, "narrow")
end

-- Routing ---------------------------------------------------------------------------------

local function fixed(count)
  return function(value) return string.format("%." .. count .. "f", value) end
end

local function percent(value) return string.format("%.1f", value * 100) end

-- Figures of a layer; a column that no layer has a number for is left out.
local FIGURES = {
  { field = "max_over_mean", name = "max/mean", format = fixed(2) },
  { field = "cv", name = "CV", format = fixed(2) },
  { field = "entropy", name = "entropy", unit = "nats", format = fixed(2) },
  { field = "dropped", name = "dropped", unit = "% of slots", format = percent },
  { field = "dead", name = "dead", unit = "% of experts", format = percent },
  { field = "mutual_information", name = "information", unit = "bits", format = fixed(3) },
}

-- The load as one bar for each expert, with a line where all would end if it were even.
local function load_cell(load)
  local width, height, most, bars = 160, 26, 0, {}
  for _, share in ipairs(load) do most = math.max(most, share) end
  local step = width / #load
  for expert, share in ipairs(load) do
    local tall = most > 0 and share / most * height or 0
    bars[expert] = element("rect", { x = (expert - 1) * step, y = height - tall,
      width = step * (step >= 4 and 0.8 or 1), height = tall }, element("title", nil,
      string.format("expert %d: %.1f %%", expert, share * 100)))
  end
  local even = most > 0 and height - height / (#load * most) or height
  bars[#bars + 1] = element("line", { x1 = 0, x2 = width, y1 = even, y2 = even })
  return element("td", { class = "load" }, element("svg", { role = "img", preserveAspectRatio =
    "none", viewBox = string.format("0 0 %d %d", width, height),
    ["aria-label"] = string.format("load of %d experts", #load) }, bars))
end

local function figure_cell(value, column, layer)
  if not value then return DASH end
  svg.finite(value, string.format("report.html: %s of layer %d", column.name, layer))
  return element("td", nil, column.format(value))
end

local function used_figures(list)
  local used = {}
  for _, column in ipairs(FIGURES) do
    local found = false
    for _, entry in ipairs(list) do found = found or entry.figures[column.field] ~= nil end
    if found then used[#used + 1] = column end
  end
  return used
end

local ROUTING_CAPTION = "How each mixture layer uses its experts on held-out text, every domain "
  .. "with the same weight."

-- What the columns mean, below the table.
local EXPLAINED = {
  { "max/mean", "the load of the busiest expert over an even share" },
  { "CV", "the standard deviation of the loads over their mean, 0 when even" },
  { "entropy", "of a token's expert probabilities, 0 when the router is sure, ln N of N experts "
    .. "when it has no preference" },
  { "dropped", "slots beyond the capacity of their expert" },
  { "dead", "experts with less than a hundredth of an even share" },
  { "information", "what the expert of a slot tells of the domain of its token, 0 when all domains "
    .. "are routed alike, log₂ of their number when each has experts of its own" },
  { "load", "a bar for each expert; the line is an even share" },
}

local function explanation()
  local out = {}
  for index, entry in ipairs(EXPLAINED) do
    out[index] = element("strong", nil, entry[1]) .. ": " .. escape(entry[2])
  end
  return element("p", { class = "terms" }, table.concat(out, "; ") .. ".")
end

-- Figures of the mixture layers: a list by layer, each as routing.statistics gives them or false.
-- nil when no layer has any.
function report_tables.routing(statistics, caption)
  local list, header, rows = {}, { header_cell("layer"), header_cell("experts") }, {}
  for layer, figures in ipairs(statistics) do
    if figures then list[#list + 1] = { layer = layer, figures = figures } end
  end
  if #list == 0 then return nil end
  local columns = used_figures(list)
  for _, column in ipairs(columns) do
    header[#header + 1] = header_cell(column.name, column.unit)
  end
  header[#header + 1] = header_cell("load", "by expert", "load")
  for index, entry in ipairs(list) do
    local figures = entry.figures
    local cells = { element("td", nil, tostring(#figures.load)) }
    for _, column in ipairs(columns) do
      cells[#cells + 1] = figure_cell(figures[column.field], column, entry.layer)
    end
    cells[#cells + 1] = load_cell(figures.load)
    rows[index] = row_of(entry.layer, cells)
  end
  return table_of(escape(caption or ROUTING_CAPTION), header, rows, "narrow") .. explanation()
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
