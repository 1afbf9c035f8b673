-- report.lua: the rows of the benchmark as a table for the terminal, or for RESULTS.md.

local text_table = require("moelua.text_table")

local report = {}

local function number(value) return value and ("%.4g"):format(value) or "" end
local function share(row)
  return row.percent_of_peak and ("%.1f %% %s"):format(row.percent_of_peak, row.yardstick) or ""
end
local function times(value) return value and ("%.2f x"):format(value) or "" end

local function verdict(row)
  if row.error then return "failed" end
  if row.holds == nil then return "" end
  return row.holds and "yes" or "no"
end

local columns = {
  { "workload", function(row) return row.workload end },
  { "type", function(row) return row.precision or "" end },
  { "median", function(row) return number(row.value) end, right = true },
  { "unit", function(row) return row.unit or "" end },
  { "of the limit", share },
  { "1 to all threads", function(row) return times(row.speedup) end, right = true },
  { "PyTorch", function(row) return number(row.torch) end, right = true },
  { "ratio", function(row) return times(row.ratio) end, right = true },
  { "aim", function(row) return times(row.aim) end, right = true },
  { "target", function(row) return row.target or "" end },
  { "holds", verdict },
}

-- The columns that say anything, with their cells.
local function filled(rows, list)
  local shown = {}
  for _, column in ipairs(list) do
    local cells, any = {}, false
    for i, row in ipairs(rows) do
      cells[i] = column[2](row)
      any = any or cells[i] ~= ""
    end
    if any then shown[#shown + 1] = { name = column[1], cells = cells, right = column.right } end
  end
  return shown
end

--- Lines for the terminal.
function report.text(rows)
  local shown, names, lines = filled(rows, columns), {}, {}
  for c, column in ipairs(shown) do names[c] = column.name end
  for i = 1, #rows do
    lines[i] = {}
    for c, column in ipairs(shown) do lines[i][c] = column.cells[i] end
  end
  return text_table.format(names, lines)
end

-- What it took before, and how many times faster it is now.
local function with_before(list, before)
  if not before then return list end
  local function old(row) return before[row.workload .. (row.precision or "")] end
  local more = table.move(list, 1, #list, 1, {})
  table.insert(more, 4, { "before", function(row) return number(old(row)) end, right = true })
  return more
end

local ABOUT = [[
# Results

As `scripts/dev bench --markdown` printed them: medians of interleaved repeats, shares of limits
that were measured in the same minutes (f32, bf16, amx: arithmetic that never leaves the registers;
read, adamw: memory), PyTorch at its best beside it (the fastest of eager and compiled, of slices,
grouped products and transformers' own block), with as many threads.
]]

--- The rows in Markdown. facts: lines about the machine. before: values by workload and precision,
--- or nil.
function report.markdown(rows, facts, before)
  local shown, lines = filled(rows, with_before(columns, before)), { ABOUT }
  for _, fact in ipairs(facts) do lines[#lines + 1] = "- " .. fact end
  lines[#lines + 1] = ""
  local function line(cell)
    local cells = {}
    for c, column in ipairs(shown) do cells[c] = cell(column) end
    lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
  end
  line(function(column) return column.name end)
  line(function(column) return column.right and "---:" or "---" end)
  for i = 1, #rows do line(function(column) return column.cells[i] end) end
  return table.concat(lines, "\n")
end

--- Why figures are missing or targets missed, a line each.
function report.remarks(rows)
  local lines = {}
  local function remark(row, ...)
    lines[#lines + 1] = ("%s%s: %s"):format(row.workload,
      row.precision and ", " .. row.precision or "", (...):format(select(2, ...)))
  end
  for _, row in ipairs(rows) do
    if row.error then remark(row, "%s", row.error) end
    if row.torch_error then remark(row, "PyTorch: %s", row.torch_error) end
    if row.busy then remark(row, "the yardstick moved by %.0f %% meanwhile", row.busy) end
  end
  return lines
end

return report
