-- merge/plan_text.lua: the plan of a merge as text for people, and as plain data for --json.

local core = require("moelua.core")
local machine = require("moelua.machine")
local progress = require("moelua.progress")
local text_table = require("moelua.text_table")
local bytes = require("moelua.plan_text").bytes

local plan_text = {}

-- ---- words ------------------------------------------------------------------------------------

local function shape_text(shape) return table.concat(shape, " x ") end

local function sorted(counts)
  local keys = {}
  for key in pairs(counts) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if counts[a] ~= counts[b] then return counts[a] > counts[b] end
    return a < b
  end)
  return keys
end

-- "201 ties, 90 copy"
local function counts_text(counts)
  local parts = {}
  for i, key in ipairs(sorted(counts)) do parts[i] = ("%d %s"):format(counts[key], key) end
  return table.concat(parts, ", ")
end

local function method_text(method) return type(method) == "function" and "function" or method end

-- The name of a model in a table: the end of its path.
local function short(path) return path:match("[^/]+$") or path end

-- ---- tables -----------------------------------------------------------------------------------

local function models_table(self)
  local rows = {}
  for i, model in ipairs(self.models) do
    rows[i] = { short(model.path), model.hf.model_type or "-", model.layers, model.parameters,
      counts_text(model.dtypes), model.vocab, bytes(model.bytes) }
  end
  local total = self.totals
  rows[#rows + 1] = { "result", self.config.model_type or "-", #self.layers, total.parameters,
    counts_text(self.dtypes), self.vocabulary and self.vocabulary.size or self.template.vocab,
    bytes(total.bytes_written) }
  return text_table.format({ "model", "family", "layers", { name = "parameters", format = "si" },
    "tensors", "vocabulary", { name = "bytes", right = true } }, rows)
end

-- Numbers that a parameter has in several tensors: "0.5", or "0.2..0.8".
local function range_text(range)
  if type(range.least) ~= "number" then return tostring(range.least) end
  if range.least == range.most then return ("%g"):format(range.least) end
  return ("%g..%g"):format(range.least, range.most)
end

local function widen(ranges, key, value)
  local range = ranges[key]
  if not range then
    ranges[key] = { least = value, most = value }
  elseif type(value) == "number" and type(range.least) == "number" then
    range.least, range.most = math.min(range.least, value), math.max(range.most, value)
  end
end

local function note_parameters(ranges, params)
  for name, value in pairs(params) do
    if type(value) ~= "table" then widen(ranges, name, value) end
    for i, each in ipairs(type(value) == "table" and value or {}) do
      widen(ranges, ("%s %d"):format(name, i), each)
    end
  end
end

-- Parameters of one kind of tensors: "weight 0.5 0.3, lambda 1".
local function parameters_text(ranges)
  local names, by_name = {}, {}
  for key in pairs(ranges) do names[#names + 1] = key end
  table.sort(names)
  local order = {}
  for _, key in ipairs(names) do
    local name = key:match("^(%S+)")
    if not by_name[name] then order[#order + 1], by_name[name] = name, {} end
    table.insert(by_name[name], range_text(ranges[key]))
  end
  for i, name in ipairs(order) do order[i] = name .. " " .. table.concat(by_name[name], " ") end
  return table.concat(order, ", ")
end

local function kinds_of(self)
  local list, by_key = {}, {}
  for _, entry in ipairs(self.entries) do
    local key = table.concat({ entry.kind, method_text(entry.method), shape_text(entry.shape),
      entry.dtype }, "\0")
    local kind = by_key[key]
    if not kind then
      kind = { name = entry.kind, method = method_text(entry.method), count = 0,
        shape = shape_text(entry.shape), dtype = entry.dtype, ranges = {} }
      list[#list + 1], by_key[key] = kind, kind
    end
    kind.count = kind.count + 1
    note_parameters(kind.ranges, entry.params)
  end
  return list
end

local function kinds_table(self)
  local rows = {}
  for i, kind in ipairs(kinds_of(self)) do
    rows[i] = { kind.name, kind.count, kind.shape, kind.dtype, kind.method,
      parameters_text(kind.ranges) }
  end
  return text_table.format({ "tensors", "number", "shape", "type", "method", "parameters" }, rows)
end

-- ---- text -------------------------------------------------------------------------------------

local DISK_RATE = 1e9           -- bytes per second that a usual disk reads or writes

local function time_line(seconds, total)
  local disk = (total.bytes_read + total.bytes_written) / DISK_RATE
  local function text(s) return s < 1 and "less than 1s" or progress.duration(s) end
  if math.max(seconds, disk) < 1 then return text(0) end
  return ("%s: arithmetic %s, as measured on samples; a disk of 1 GB/s %s"):format(
    text(math.max(seconds, disk)), text(seconds), text(disk))
end

local function stage_lines(self, out)
  out[#out + 1] = models_table(self)
  out[#out + 1] = ""
  out[#out + 1] = kinds_table(self)
  out[#out + 1] = ""
end

--- What all stages together take: { bytes_read, bytes_written, kept, passing, seconds }.
---@param plans table[] of plan.lua, the last makes the result
---@param seconds number of arithmetic
function plan_text.totals(plans, seconds)
  local sum = { bytes_read = 0, bytes_written = 0, seconds = seconds }
  for _, each in ipairs(plans) do
    sum.bytes_read = sum.bytes_read + each.totals.bytes_read
    sum.bytes_written = sum.bytes_written + each.totals.bytes_written
  end
  sum.kept = plans[#plans].totals.bytes_written
  sum.passing = sum.bytes_written
  return sum
end

--- The text, without a last newline.
---@param plans table[] of plan.lua
---@param opt table options of moe.merge
---@param seconds number of arithmetic
function plan_text.format(plans, opt, seconds)
  local total, out = plan_text.totals(plans, seconds), {}
  for _, each in ipairs(plans) do
    out[#out + 1] = ("plan: %s in %s"):format(method_text(each.stage.method), each.stage.name and
      "stage " .. each.stage.name or opt.out or "no folder yet")
    out[#out + 1] = ""
    stage_lines(each, out)
  end
  local function add(label, text) out[#out + 1] = ("%-8s  %s"):format(label, text) end
  add("read", bytes(total.bytes_read))
  add("write", bytes(total.bytes_written))
  add("time", time_line(seconds, total))
  add("memory", ("%s beside the mapped inputs"):format(opt.memory))
  add("disk", ("%s, %s while it runs; free %s"):format(bytes(total.kept), bytes(total.passing),
    bytes(machine.disk_free(opt.out or "."))))
  for _, each in ipairs(plans) do
    for _, warning in ipairs(each.warnings) do add("warning", warning) end
  end
  out[#out + 1] = "nothing was written"
  return table.concat(out, "\n")
end

-- ---- data -------------------------------------------------------------------------------------

local function model_facts(model)
  return { path = model.path, model_type = model.hf.model_type, layers = model.layers,
    parameters = model.parameters, bytes = model.bytes, vocabulary = model.vocab,
    dtypes = model.dtypes }
end

local function entry_facts(entry)
  local from = core.json.array({})
  for i, input in ipairs(entry.inputs) do
    from[i] = { model = input.model.path, name = input.name, dtype = input.info.dtype }
  end
  return { name = entry.name, kind = entry.kind, shape = core.json.array({ table.unpack(
    entry.shape) }), dtype = entry.dtype, method = method_text(entry.method),
    parameters = entry.params, inputs = from }
end

--- The plan as plain data.
function plan_text.facts(plans, opt, seconds)
  local list = core.json.array({})
  for i, each in ipairs(plans) do
    local models, all = core.json.array({}), core.json.array({})
    for k, model in ipairs(each.models) do models[k] = model_facts(model) end
    for k, entry in ipairs(each.entries) do all[k] = entry_facts(entry) end
    list[i] = { name = each.stage.name, method = method_text(each.stage.method), models = models,
      tensors = all, totals = each.totals, config = each.config,
      warnings = core.json.array(each.warnings) }
  end
  return { out = opt.out, stages = list, totals = plan_text.totals(plans, seconds),
    dry_run = true }
end

return plan_text
