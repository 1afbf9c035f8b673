-- Tables for the terminal: aligned columns, numbers to the right, units in the header, the best
-- value of each column marked with `*`, never wider than asked. Returns text; prints nothing.

local display = require("moelua.display")
local cut, pad, plain = display.cut, display.pad, display.plain

local text_table = {}

local function raise(...)
  return require("moelua.core").raise(...)
end

local MISSING = "-"
local NARROWEST = 12                               -- words keep this much of themselves
local GAP = "  "
local UNBOUNDED = 1 << 20

-- Cells -----------------------------------------------------------------------------------

local PREFIXES = { "", " k", " M", " G", " T", " P", " E", " Z", " Y" }

-- A count in three digits with its prefix: 1638400 -> "1.64 M". Integers below 1000 stay whole.
function text_table.si(value)
  local size, index = math.abs(value), 1
  while size >= 999.5 and index < #PREFIXES do
    size, index = size / 1000, index + 1
  end
  if index == 1 and value == math.floor(value) then return string.format("%d", value) end
  local decimals = size >= 99.95 and 0 or size >= 9.995 and 1 or 2
  local text = string.format("%." .. decimals .. "f", size)
  return (value < 0 and "-" or "") .. text .. PREFIXES[index]
end

local function number_text(value, column)
  local format = column.format
  if format == "si" then return text_table.si(value) end
  if type(format) == "function" then return plain(format(value)) end
  if format then return string.format(format, value) end
  local whole = column.whole
  if whole == nil then whole = math.type(value) == "integer" end
  return string.format(whole and "%d" or "%.3f", value)
end

local function check_finite(value, column, row)
  if value == value and value ~= math.huge and value ~= -math.huge then return end
  raise("text_table.format: row %d, column %q is not a finite number: %s", row, column.name,
    tostring(value))
end

-- Strings, booleans and numbers show themselves; anything else, nil included, counts as missing.
local function cell_text(value, column, row)
  if type(value) == "number" then
    check_finite(value, column, row)
    return number_text(value, column)
  end
  if type(value) == "string" or value == true then return plain(value) end
  return MISSING
end

-- Columns ---------------------------------------------------------------------------------

local BEST = { min = true, max = true }

local function check_best(best)
  if best and not BEST[best] then
    raise("text_table.format: unknown best: %s\nhint: \"min\", \"max\" or false", tostring(best))
  end
  return best
end

local function values_of(column, rows)
  local values = {}
  for index, row in ipairs(rows) do
    local value = row[column.key]
    if value == nil then value = row[column.place] end
    values[index] = value
  end
  return values
end

-- Is it a column of numbers, how many has it, and are all of them integers?
local function is_numeric(values, count)
  local numbers, whole = 0, true
  for index = 1, count do
    if type(values[index]) == "string" then return false end
    if type(values[index]) == "number" then
      numbers, whole = numbers + 1, whole and math.type(values[index]) == "integer"
    end
  end
  return numbers > 0, numbers, whole
end

-- The shown text of the best value; nil when there is nothing to compare. Values that read the
-- same are equally good: a reader cannot see more than the table shows.
local function best_text(column, values, count)
  local best
  for index = 1, count do
    local value = values[index]
    if type(value) == "number" then
      local better = best == nil or column.best == "min" and value < best
        or column.best == "max" and value > best
      if better then best = value end
    end
  end
  return best and number_text(best, column)
end

local function mark_best(made, column, values, count)
  local best = best_text(column, values, count)
  for index = 1, count do
    local won = type(values[index]) == "number" and made.cells[index] == best
    made.cells[index] = made.cells[index] .. (won and "*" or " ")
  end
end

local function make_column(given, place, rows, best)
  if type(given) == "string" then given = { name = given } end
  if type(given) ~= "table" or type(given.name) ~= "string" then
    raise("text_table.format: column %d has no name", place)
  end
  local column = { name = given.name, key = given.key or given.name, place = place,
    format = given.format, best = given.best }
  if column.best == nil then column.best = best end
  check_best(column.best)
  local values = values_of(column, rows)
  local numeric, numbers, whole = is_numeric(values, #rows)
  column.whole = whole
  local made = { name = plain(given.name), unit = plain(given.unit or ""), cells = {},
    right = numeric or given.right }
  for index = 1, #rows do made.cells[index] = cell_text(values[index], column, index) end
  made.marked = numeric and numbers > 1 and column.best and true or false
  if made.marked then mark_best(made, column, values, #rows) end
  return made
end

local function measure(column)
  local room = column.marked and 1 or 0
  local width = math.max(display.width(column.name), display.width(column.unit)) + room
  for _, cell in ipairs(column.cells) do width = math.max(width, display.width(cell)) end
  column.width = width
end

-- Fitting ---------------------------------------------------------------------------------

local function total_width(columns)
  local total = 0
  for _, column in ipairs(columns) do total = total + column.width + #GAP end
  return total - #GAP
end

local function widest_text(columns)
  local found
  for _, column in ipairs(columns) do
    local wide = not column.right and column.width > NARROWEST
    if wide and (not found or column.width > found.width) then found = column end
  end
  return found
end

-- Words give way to numbers: the widest text column is cut until the line fits. Where even that
-- does not help they stay whole, and only a first column over a third of the line is cut.
local function shrink(columns, width)
  local whole = {}
  for index, column in ipairs(columns) do whole[index] = column.width end
  while total_width(columns) > width do
    local column = widest_text(columns)
    if not column then
      for index, each in ipairs(columns) do each.width = whole[index] end
      local first = columns[1]
      local limit = math.max(NARROWEST, width // 3)
      if not first.right then first.width = math.min(first.width, limit) end
      return
    end
    column.width = column.width - 1
  end
end

-- Columns that do not fit side by side go below, each block led by the first column.
local function blocks_of(columns, width)
  local blocks, block = {}, { columns[1] }
  for index = 2, #columns do
    local column = columns[index]
    column.width = math.min(column.width, math.max(1, width))
    if #block > 1 and total_width(block) + #GAP + column.width > width then
      blocks[#blocks + 1] = block
      block = { columns[1] }
    end
    block[#block + 1] = column
  end
  blocks[#blocks + 1] = block
  return blocks
end

-- A last resort for a terminal narrower than one number.
local function bounded(line, width)
  return cut((line:gsub("%s+$", "")), width)
end

local function header_line(block, field)
  local out = {}
  for index, column in ipairs(block) do
    local text = cut(column[field], column.width)
    if column.marked then text = cut(column[field], column.width - 1) .. " " end
    out[index] = pad(text, column.width, column.right)
  end
  return table.concat(out, GAP)
end

local function has_units(block)
  for _, column in ipairs(block) do
    if column.unit ~= "" then return true end
  end
  return false
end

local function render(block, count, width, out)
  out[#out + 1] = bounded(header_line(block, "name"), width)
  if has_units(block) then out[#out + 1] = bounded(header_line(block, "unit"), width) end
  for row = 1, count do
    local cells = {}
    for index, column in ipairs(block) do
      cells[index] = pad(cut(column.cells[row], column.width), column.width, column.right)
    end
    out[#out + 1] = bounded(table.concat(cells, GAP), width)
  end
end

-- The terminal's width when the executable runs us, 80 elsewhere; a file or a pipe has no edge.
local function default_width()
  local ok, host = pcall(require, "moelua.host")
  if not ok or type(host) ~= "table" or not host.width then return 80 end
  return host.is_tty(1) and host.width(1) or UNBOUNDED
end

local OPTIONS = { best = true, width = true }

local function check_options(options)
  for key in pairs(options) do
    if not OPTIONS[key] then
      raise("text_table.format: unknown option %q\nhint: best, width", tostring(key))
    end
  end
  local width = options.width
  if width ~= nil and (type(width) ~= "number" or width < 1) then
    raise("text_table.format: width must be a positive number: %s", tostring(width))
  end
end

-- The texts of the cells, column by column.
function text_table.cells(columns, rows)
  local list = {}
  for place, given in ipairs(columns) do
    list[place] = make_column(given, place, rows, nil).cells
  end
  return list
end

-- Lines of text joined by newlines, without a last one.
-- columns: names or { name, key = name, unit = "", format = "%.3f" | "si" | function, best, right
-- (words to the right) }; rows: lists in the order of the columns, or tables by key; nil shows as
-- "-".
-- options: best = "min" | "max" marks the best value of every column of numbers that does not say
-- otherwise (best = false: none); width: columns of the terminal. A table too wide first shortens
-- its words, then continues below. Numbers that are not finite are refused.
function text_table.format(columns, rows, options)
  options = options or {}
  check_options(options)
  check_best(options.best)
  if #columns == 0 then raise("text_table.format: no columns") end
  local made = {}
  for place, given in ipairs(columns) do
    made[place] = make_column(given, place, rows, options.best)
    measure(made[place])
  end
  local width = math.floor(options.width or default_width())
  shrink(made, width)
  local out = {}
  for index, block in ipairs(blocks_of(made, width)) do
    if index > 1 then out[#out + 1] = "" end
    render(block, #rows, width, out)
  end
  return table.concat(out, "\n")
end

return text_table
