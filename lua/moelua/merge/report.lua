-- merge/report.lua: what the merge did to each tensor: report.html for people, and one line of
-- merge.jsonl for each tensor.
--
-- figures, as the assembly counts them while it reads: cosine and distance (a list by model: of its
-- values with the base, or with the mean of all without one; the length of the difference over
-- that of the reference), agreement (the share of elements where all differences have one sign),
-- kept (a list by model: the share of the elements that count), hash (of the result).

local core = require("moelua.core")
local html = require("moelua.report").html

local report = {}

local json = core.json

-- ---- lines ------------------------------------------------------------------------------------

local function list_of(values)
  return values and json.array(table.move(values, 1, #values, 1, {}))
end

-- JSON has no numbers that are not finite.
local function finite(list)
  for i, value in ipairs(list or {}) do
    if value ~= value or math.abs(value) == math.huge then list[i] = json.null end
  end
  return list
end

--- What is known of a merged tensor, as plain data.
---@param entry table of entries.lua
---@param figures table of the assembly
function report.line(entry, figures)
  local from = json.array({})
  for i, input in ipairs(entry.others) do from[i] = input.model.path end
  -- Differences of two models from their own mean never have one sign.
  local agreement = entry.base_input and figures.agreement or nil
  if agreement ~= agreement then agreement = nil end
  return { name = entry.name, kind = entry.kind, layer = entry.layer, dtype = entry.dtype,
    shape = list_of(entry.shape), parameters = entry.params,
    method = type(entry.method) == "function" and "function" or entry.method, models = from,
    base = entry.base_input and entry.base_input.model.path,
    cosine = finite(list_of(figures.cosine)), distance = finite(list_of(figures.distance)),
    kept = finite(list_of(figures.kept)), agreement = agreement, hash = figures.hash }
end

-- ---- tables -----------------------------------------------------------------------------------

local function mean(list)
  local sum, count = 0, 0
  for _, value in ipairs(list or {}) do
    if type(value) == "number" then sum, count = sum + value, count + 1 end
  end
  return count > 0 and sum / count or nil
end

local function least(list)
  local best
  for _, value in ipairs(list or {}) do
    if type(value) == "number" then best = math.min(best or value, value) end
  end
  return best
end

local function share(value) return ("%.1f %%"):format(100 * value) end

local COLUMNS = { { name = "cosine", format = "%.4f" }, { name = "least", format = "%.4f" },
  { name = "distance", format = "%.4f" }, { name = "one sign", format = share },
  { name = "kept", format = share } }

local function columns(first)
  return table.move(COLUMNS, 1, #COLUMNS, #first + 1, first)
end

-- Figures of tensors of one kind, averaged over them and over the models.
local function kind_row(kind)
  local lists = { cosine = {}, least = {}, distance = {}, agreement = {}, kept = {} }
  local function put(name, value)
    if type(value) == "number" then table.insert(lists[name], value) end
  end
  for _, line in ipairs(kind) do
    put("cosine", mean(line.cosine))
    put("least", least(line.cosine))
    put("distance", mean(line.distance))
    put("agreement", line.agreement)
    put("kept", mean(line.kept))
  end
  return { kind[1].kind, #kind, mean(lists.cosine), least(lists.least), mean(lists.distance),
    mean(lists.agreement), mean(lists.kept) }
end

local function kinds_table(lines)
  local order, by_kind, rows = {}, {}, {}
  for _, line in ipairs(lines) do
    if not by_kind[line.kind] then
      order[#order + 1], by_kind[line.kind] = line.kind, {}
    end
    table.insert(by_kind[line.kind], line)
  end
  for i, kind in ipairs(order) do rows[i] = kind_row(by_kind[kind]) end
  return { title = "By kind of tensor: cosine of the models with the base (where there is none, " ..
    "with their mean), the least of them, the length of the differences over that of the base, " ..
    "elements where all differences have one sign, elements that are kept.",
    columns = columns { "tensors", { name = "number" } }, rows = rows }
end

local function tensors_table(lines)
  local rows = {}
  for i, line in ipairs(lines) do
    rows[i] = { line.name, line.method, mean(line.cosine), least(line.cosine), mean(line.distance),
      line.agreement, mean(line.kept) }
  end
  return { title = "Every tensor.", columns = columns { "tensor", "method" }, rows = rows }
end

--- The summary by kind of tensor: { title, columns, rows } as text_table has them.
report.summary = kinds_table

--- The page.
---@param name string of the model
---@param lines table[] of report.line
---@param facts { about: string, config: table, versions: table, command: string?, seed: integer }
---@return string
function report.html(name, lines, facts)
  return html({ recipe = "merge", arms = {} }, { title = name, result = facts.result,
    about = facts.about, tables = { kinds_table(lines), tensors_table(lines) },
    config = facts.config, command = facts.command, seed = facts.seed })
end

return report
