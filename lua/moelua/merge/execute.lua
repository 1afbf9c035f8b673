-- merge/execute.lua: a planned stage becomes a folder: the tensors through assembly.lua, then the
-- files beside them, the report, and last the manifest.

local assembly = require("moelua.assembly")
local card = require("moelua.merge.card")
local core = require("moelua.core")
local manifest = require("moelua.merge.manifest")
local progress = require("moelua.progress")
local report = require("moelua.merge.report")
local result = require("moelua.merge.result")
local run = require("moelua.run")
local text_table = require("moelua.text_table")
local tokens = require("moelua.merge.tokens")
local bytes = require("moelua.plan_text").bytes

local json, system, check = core.json, core.system, run.check

local execute = {}

-- ---- entries of the assembly ------------------------------------------------------------------

-- The tensor that a function of the user's makes of those of the models, all f32.
local function call(entry)
  local list, base = {}, entry.base and core.checkpoint.read(entry.base)
  for i, source in ipairs(entry.sources) do list[i] = core.checkpoint.read(source) end
  local made = core.no_grad(entry.method, list, base, entry.params, entry.name)
  local shape = type(made) == "userdata" and made:shape() or {}
  if table.concat(shape, " x ") ~= table.concat(entry.shape, " x ") then
    core.raise("merge: the method made [%s] of tensor `%s`, which is [%s]", table.concat(shape,
      " x "), entry.name, table.concat(entry.shape, " x "))
  end
  return made
end

local function assembled(entry, opt, identity)
  if type(entry.method) == "function" then
    return { name = entry.name, dtype = entry.dtype, shape = entry.shape, key = identity,
      make = function() return call(entry) end }
  end
  return { name = entry.name, dtype = entry.dtype, shape = entry.shape, method = entry.method,
    sources = entry.sources, base = entry.base, params = entry.params, cast = entry.cast,
    seed = opt.seed }
end

-- ---- the tensors ------------------------------------------------------------------------------

-- Writes the tensors; returns the summary of the assembly and a line of each for the report.
local function write_tensors(plan, folder, opt, identity)
  local list, by_name, lines, written = {}, {}, {}, 0
  for i, entry in ipairs(plan.entries) do
    if entry.united then tokens.complete(entry, plan.vocabulary) end
    list[i], by_name[entry.name] = assembled(entry, opt, identity), entry
  end
  local bar <close> = progress.new { name = plan.stage.name or "merge", total = #list,
    quiet = opt.quiet, rate = function(n) return bytes(n) .. "/s" end }
  local summary, message, code = assembly.write(folder, list, { memory = opt.memory,
    max_shard_size = opt.max_shard_size, on_tensor = function(made, figures)
      local entry = by_name[made.name]
      lines[#lines + 1] = report.line(entry, figures)
      written = written + entry.bytes
      bar:update(#lines, { tokens = written })
    end })
  check(summary, message, code)
  bar:done()
  table.sort(lines, function(a, b) return a.name < b.name end)
  return summary, lines
end

-- ---- the files beside them --------------------------------------------------------------------

local function name_of(folder) return folder:match("([^/]+)/*$") or folder end

local function version() return "moelua " .. core.version end

-- The models on disk that any stage has read, each once.
local function input_facts(plans, hashed)
  local list, seen = json.array({}), {}
  for _, plan in ipairs(plans) do
    for _, model in ipairs(plan.models) do
      if not (model.planned or seen[model.path]) then
        list[#list + 1] = { path = model.path, files = manifest.input(model.path, hashed) }
      end
      seen[model.path] = true
    end
  end
  return list
end

local function lines_text(lines)
  local out = {}
  for i, line in ipairs(lines) do out[i] = json.encode(line) .. "\n" end
  return table.concat(out)
end

local function report_page(plan, folder, lines, opt, summary)
  return report.html(name_of(folder), lines, { seed = opt.seed,
    result = ("%d tensors, %s parameters, %s."):format(plan.totals.tensors,
      text_table.si(plan.totals.parameters), bytes(plan.totals.bytes_written)),
    about = ("Merged by %s from %d models."):format(type(plan.stage.method) == "string" and
      plan.stage.method or "a function", #plan.models),
    config = { { "configuration", opt.text }, { "memory", opt.memory },
      { "read", bytes(summary.bytes_read) } } })
end

-- The files that a plan's folder has beside its tensors: name -> bytes.
local function files_of(plan, plans, folder, lines, opt, summary)
  local files = result.files(plan)
  files["config.json"] = json.encode(plan.config, { indent = 2 }) .. "\n"
  files["README.md"] = card.text(name_of(folder), plans, opt.text)
  files["mergekit_config.yml"] = opt.text
  files["merge.jsonl"] = lines_text(lines)
  files["report.html"] = report_page(plan, folder, lines, opt, summary)
  return files
end

local function write_files(files, folder)
  local names = {}
  for name in pairs(files) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do check(system.write(folder .. "/" .. name, files[name])) end
  return names
end

-- The files that are checked later: those of the model. The card is for people to write on. Shards
-- have an index beside them.
local function outputs_of(written, folder, summary)
  local names = {}
  for _, name in ipairs(written) do
    if name ~= "README.md" then names[#names + 1] = name end
  end
  for name in pairs(summary.files) do names[#names + 1] = name end
  local index = "model.safetensors.index.json"
  if system.exists(folder .. "/" .. index) then names[#names + 1] = index end
  table.sort(names)
  return names
end

--- Carries a plan out.
---@param plan table of plan.lua
---@param plans table[] all of the merge, for the card
---@param folder string
---@param opt table options of moe.merge, with `text`, the configuration as YAML
---@param identity string what tells this merge from others
---@return table facts as in the manifest, with `lines` and `table` of the report
function execute.stage(plan, plans, folder, opt, identity)
  check(system.make_folder(folder))
  local summary, lines = write_tensors(plan, folder, opt, identity)
  local files = files_of(plan, plans, folder, lines, opt, summary)
  local names = outputs_of(write_files(files, folder), folder, summary)
  local facts = { version = version(), identity = identity, seed = opt.seed,
    configuration = opt.text, inputs = input_facts(plans, opt.hash_inputs),
    outputs = manifest.outputs(folder, names, summary.files), tensors = plan.totals.tensors,
    parameters = plan.totals.parameters, bytes_read = summary.bytes_read,
    bytes_written = summary.bytes_written, warnings = json.array(plan.warnings) }
  check(manifest.write(folder, facts))
  facts.seconds, facts.lines, facts.table = summary.seconds, lines, report.summary(lines)
  return facts
end

return execute
