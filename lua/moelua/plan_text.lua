-- plan_text.lua: the plan of a recipe (plan.lua) as text for people.

local progress = require("moelua.progress")
local text_table = require("moelua.text_table")
local duration = progress.duration

local plan_text = {}

--- Bytes in three digits: 8.02 MB.
function plan_text.bytes(n)
  local text = text_table.si(math.floor(n + 0.5))
  return text:find("%a$") and text .. "B" or text .. " B"
end
local bytes = plan_text.bytes

--- The path of the only file, or the folder that all are below.
function plan_text.common_folder(files)
  if #files == 1 then return files[1] end
  local folder = files[1]:match("^(.*/)") or ""
  for _, path in ipairs(files) do
    while path:sub(1, #folder) ~= folder do folder = folder:match("^(.*/)[^/]*/$") or "" end
  end
  return folder == "" and "." or folder == "/" and folder or folder:sub(1, -2)
end

local function steps(stage)
  if stage.left == 0 then return "done" end
  if stage.left == stage.steps then return ("%d"):format(stage.steps) end
  return ("%d of %d"):format(stage.left, stage.steps)
end

local function time_text(seconds) return seconds > 0 and duration(math.max(seconds, 1)) or "-" end

-- Whether two stages are runs of the same arm of a comparison.
local function alike(a, b)
  local folder = a.name:match("^(.*)/")
  return folder and b.name:match("^(.*)/") == folder and a.parameters == b.parameters and
    table.concat(a.text, ",") == table.concat(b.text, ",")
end

-- Lists of successive stages that are alike.
local function groups(stages)
  local list = {}
  for i, stage in ipairs(stages) do
    if i > 1 and alike(stages[i - 1], stage) then table.insert(list[#list], stage)
    else list[#list + 1] = { stage } end
  end
  return list
end

-- The steps of each: "3 x 100, 3 x 400".
local function all_steps(group)
  local parts, count = {}, {}
  for _, stage in ipairs(group) do
    local text = steps(stage)
    if not count[text] then parts[#parts + 1] = text end
    count[text] = (count[text] or 0) + 1
  end
  for i, text in ipairs(parts) do
    if count[text] > 1 and text ~= "done" then parts[i] = ("%d x %s"):format(count[text], text) end
  end
  return table.concat(parts, ", ")
end

-- Stages that are alike share a row.
local function stage_row(group)
  local first, tokens, flops, seconds = group[1], 0, 0, 0
  for _, stage in ipairs(group) do
    tokens, flops = tokens + stage.tokens, flops + stage.flops
    seconds = seconds + stage.seconds
  end
  local name = #group > 1 and first.name:match("^(.*)/") or first.name
  return { name, table.concat(first.text, ", "), all_steps(group), first.parameters,
    first.active, tokens, flops, time_text(seconds) }
end

local function stage_table(plan)
  local columns = { "stage", "text", "steps", { name = "parameters", format = "si" },
    { name = "active", format = "si" }, { name = "tokens", format = "si" },
    { name = "FLOPs", format = "si" }, { name = "time", right = true } }
  local rows = {}
  for i, group in ipairs(groups(plan.stages)) do rows[i] = stage_row(group) end
  rows[#rows + 1] = { "all", "", "", nil, nil, plan.tokens, plan.flops,
    time_text(plan.seconds.training) }
  return text_table.format(columns, rows)
end

local function data_line(corpus)
  local files = corpus.files > 1 and ("%d files below "):format(corpus.files) or ""
  return ("%s: %s tokens of %s in %s%s"):format(corpus.name, text_table.si(corpus.tokens),
    bytes(corpus.bytes), files, corpus.from)
end

local function time_line(plan)
  local seconds = plan.seconds
  local rate = seconds.training > 0 and (" at %sFLOP/s"):format(
    text_table.si(math.floor(plan.flops / seconds.training))) or ""
  return ("about %s: training %s%s, evaluating %d models %s, preparing text %s"):format(
    time_text(seconds.total), time_text(seconds.training), rate, plan.evaluations,
    time_text(seconds.evaluation), time_text(seconds.preparing))
end

local function memory_line(memory)
  local text = bytes(memory.process)
  if memory.workers > 0 then
    text = ("%s: this process %s, %d branch%s at a time %s each"):format(bytes(memory.total), text,
      memory.workers, memory.workers == 1 and "" or "es", bytes(memory.worker))
  end
  return memory.available and text .. "; available " .. bytes(memory.available) or text
end

local function disk_line(disk)
  return ("%s more, %s while it runs; free %s"):format(bytes(disk.kept), bytes(disk.most),
    bytes(disk.free))
end

--- The text, without a last newline.
---@param plan table what Plan:facts returns
---@return string
function plan_text.format(plan)
  local out = { ("plan %s: %s in %s"):format(plan.recipe, plan.title, plan.out), "",
    stage_table(plan), "" }
  local function add(label, text) out[#out + 1] = ("%-8s  %s"):format(label, text) end
  for i, corpus in ipairs(plan.data) do add(i == 1 and "data" or "", data_line(corpus)) end
  add("time", time_line(plan))
  add("memory", memory_line(plan.memory))
  add("disk", disk_line(plan.disk))
  for _, warning in ipairs(plan.warnings) do add("warning", warning) end
  out[#out + 1] = "nothing was written (--dry-run)"
  return table.concat(out, "\n")
end

return plan_text
