-- merge.lua: merges models into one, as mergekit does, in bounded memory.
--
--   assert(moe.merge("merge.yml", { out = "merged" }))
--   assert(moe.merge { method = "ties", base_model = "base", out = "merged",
--     models = { { model = "a", parameters = { weight = 0.5 } },
--                { model = "b", parameters = { weight = 0.3 } } },
--     parameters = { density = 0.5 } })
--
-- The configuration becomes stages (merge/config.lua, merge/stages.lua), each stage a plan from
-- headers (merge/plan.lua), and each plan a folder (merge/execute.lua).

local assembly = require("moelua.assembly")
local core = require("moelua.core")
local execute = require("moelua.merge.execute")
local folders = require("moelua.folder")
local inputs = require("moelua.merge.inputs")
local machine = require("moelua.machine")
local manifest = require("moelua.merge.manifest")
local methods = require("moelua.merge.methods")
local options = require("moelua.options")
local plan_text = require("moelua.merge.plan_text")
local planner = require("moelua.merge.plan")
local problems = require("moelua.merge.problems")
local rates = require("moelua.merge.rates")
local run = require("moelua.run")
local stages = require("moelua.merge.stages")

local bytes, json, system = require("moelua.plan_text").bytes, core.json, core.system

local merge = { verify = manifest.verify, methods = methods }

local declared = {
  out = "string",
  memory = { "string|integer", "512M" },
  seed = { "integer", 1 },
  max_shard_size = "integer",
  plan = { "boolean", false },
  allow_crimes = { "boolean", false },
  hash_inputs = { "boolean", false },
  fresh = { "boolean", false },
  quiet = { "boolean", false },
}

local INNER = ".merge"          -- in the folder of the result: its lock, and stages on the way

-- ---- reading ----------------------------------------------------------------------------------

-- Tells of all problems at once.
local function refuse(found)
  local texts = found:texts()
  if #texts == 0 then return end
  for i, text in ipairs(texts) do texts[i] = text:gsub("\n", "\n  ") end
  run.fail(#texts == 1 and "merge: " .. texts[1]:gsub("\n  ", "\n") or
    ("merge: %d things are wrong\n  %s"):format(#texts, table.concat(texts, "\n  ")), "format")
end

local function read_file(path)
  local text = run.check(system.read(path))
  local documents, lines = core.yaml.decode(text)
  if not documents then run.fail(("merge: %s: %s"):format(path, lines), "format") end
  return documents, problems.new(path, lines), text
end

-- Plain data without functions, and at the top without the keys of `skip`.
local function plain(value, skip)
  if type(value) == "function" then return "function" end
  if type(value) ~= "table" then return value end
  local new = {}
  for k, v in pairs(value) do
    if not (skip and skip[k]) then new[k == "method" and "merge_method" or k] = plain(v) end
  end
  return new
end

-- Lua tables, which have been checked, as text that mergekit would read; what belongs to the call
-- stands in the first.
local function text_of(documents)
  local texts = {}
  for i, document in ipairs(documents) do
    texts[i] = json.encode(plain(document, i == 1 and declared), { indent = 2 }) .. "\n"
  end
  return table.concat(texts, "---\n")
end

local function option_names()
  local names = {}
  for name in pairs(declared) do names[#names + 1] = name end
  return names
end

-- What a table says for the call, apart from the merge itself.
local function options_in(documents)
  local given = {}
  for name in pairs(declared) do given[name] = documents[1][name] end
  return given
end

-- A table is one merge, or a list of several.
local function documents_of(source)
  if source[1] == nil then return { source } end
  for i, document in ipairs(source) do
    if type(document) ~= "table" then
      core.raise("merge: number %d of the list must be a table, not %s", i, core.describe(document))
    end
  end
  return source
end

-- The stages, the list for problems and the options of a call.
local function read(source, given)
  local documents, found, text
  local from_lua = type(source) == "table"
  if type(source) == "string" then
    documents, found, text = read_file(source)
  elseif from_lua then
    documents, found = documents_of(source), problems.new("", {})
  else
    core.raise("merge: the configuration must be the path of a YAML file or a table, not %s",
      core.describe(source))
  end
  if from_lua and (given == nil or type(given) == "table") then
    given = options.merge(options_in(documents), given or {})
  end
  local opt = options.check("merge", given, declared)
  assembly.bytes(opt.memory, "merge")
  if opt.max_shard_size and opt.max_shard_size < 1 then
    core.raise("merge: max_shard_size must be positive, not %d", opt.max_shard_size)
  end
  local list = stages.read(documents, found, from_lua, from_lua and option_names())
  refuse(found)                 -- what is right has an end, and can be written as text
  opt.text = text or text_of(documents)
  return list, found, opt
end

-- ---- planning ---------------------------------------------------------------------------------

-- Opens models by their paths, each once.
local function opener()
  local opened = {}
  return function(path)
    if opened[path] == nil then
      local model, message = inputs.open(path)
      opened[path] = model or { message = message }
    end
    local model = opened[path]
    if model.message then return nil, model.message end
    return model
  end
end

-- Plans all stages: those on the way stand for models that are not there yet.
local function plan_all(list, found, opt)
  local open, made, plans = opener(), {}, {}
  local function find(reference)
    if made[reference] then return made[reference] end
    return open(reference)
  end
  for i, stage in ipairs(list) do
    plans[i] = planner.make(stage, find, found, opt)
    if #found.list > 0 then return plans, open end
    if stage.name and i < #list then made[stage.name] = planner.model(stage.name, plans[i]) end
  end
  return plans, open
end

local function check_out(plans, opt, found)
  if not opt.out then
    found:add(nil, "out is missing: the folder of the result")
    return
  end
  opt.out = opt.out:gsub("(.)/+$", "%1")
  for _, plan in ipairs(plans) do
    for _, model in ipairs(plan.models) do
      if folders.same(model.path, opt.out) then
        found:add(nil, ("out is `%s`, which is one of the models"):format(model.path))
      end
    end
  end
end

-- ---- carrying out -----------------------------------------------------------------------------

-- What tells a merge from others: its configuration, and the files that it reads.
local function identity_of(plan, opt, known)
  local parts = { core.version, tostring(opt.seed), tostring(opt.max_shard_size) }
  local stage = plan.stage
  parts[#parts + 1] = json.encode({ stage.source and text_of({ stage.source }) or "" })
  if type(stage.method) == "function" then
    parts[#parts + 1] = string.dump(stage.method, true)
  end
  for _, model in ipairs(plan.models) do
    parts[#parts + 1] = known[model.path] or json.encode(manifest.input(model.path, false))
  end
  return system.hash(table.concat(parts, "\0"))
end

-- The facts of a merge that is finished in the folder; nil when it is not.
local function finished(folder, identity)
  local facts = manifest.read(folder)
  return facts and facts.identity == identity and facts or nil
end

local Work = {}
Work.__index = Work

function Work:folder_of(plan)
  local last = plan == self.plans[#self.plans]
  return last and self.opt.out or ("%s/%s/stages/%s"):format(self.opt.out, INNER, plan.stage.name)
end

-- The plan again, with models in place of what stood for them.
function Work:with_models(plan)
  local found = problems.new("", {})
  local again = planner.make(plan.stage, function(reference)
    local stage = self.by_name[reference]
    if not stage then return self.open(reference) end
    local model, message = inputs.open(self:folder_of(stage))
    if model then model.path = reference end
    return model, message
  end, found, self.opt)
  refuse(found)
  return again
end

-- Makes what the plan needs, then it, unless it is there from an earlier time.
function Work:make(plan)
  local folder, identity = self:folder_of(plan), self.identities[plan]
  local done = finished(folder, identity)
  if done then return done end
  local staged = false
  for _, model in ipairs(plan.models) do
    local before = self.by_name[model.path]
    if before then
      self:make(before)
      staged = true
    end
  end
  local ready = staged and self:with_models(plan) or plan
  local facts = execute.stage(ready, self.plans, folder, self.opt, identity)
  self:forget(plan)
  return facts
end

-- Removes the stages that nobody needs any more once the plan is carried out.
function Work:forget(plan)
  for _, model in ipairs(plan.models) do
    local before = self.by_name[model.path]
    if before then
      self.users[before] = self.users[before] - 1
      if self.users[before] == 0 then system.remove_tree(self:folder_of(before)) end
    end
  end
end

local function check_folder(opt, identity)
  local folder = opt.out
  if opt.fresh or not system.exists(folder) then return end
  local before = manifest.read(folder)
  if before and before.identity ~= identity then
    run.fail(("merge: %s holds another merge\nhint: --fresh writes over it, --out names another " ..
      "folder"):format(folder), "format")
  end
  if not before and system.exists(folder .. "/config.json") and
    not system.exists(folder .. "/" .. INNER) then
    run.fail(("merge: %s holds a model that is no merge\nhint: --out names another folder, " ..
      "--fresh writes over it"):format(folder), "format")
  end
end

-- Removes what an earlier merge has left, of which the new one may not write every file.
local function clear(folder)
  local before = manifest.read(folder)
  os.remove(folder .. "/" .. manifest.NAME)
  for _, output in ipairs(before and before.outputs or {}) do
    if type(output.name) == "string" and not output.name:find("/", 1, true) then
      os.remove(folder .. "/" .. output.name)
    end
  end
end

-- Of a run that goes on the assembly knows what is left to be written.
local function check_room(plans, opt)
  if system.exists(opt.out .. "/" .. INNER) then return end
  local needed = 0
  for _, plan in ipairs(plans) do needed = needed + plan.totals.bytes_written end
  local free = machine.disk_free(opt.out)
  if free and needed > free then
    run.fail(("merge: %s: %s are needed, %s are free"):format(opt.out, bytes(needed), bytes(free)),
      "full")
  end
end

local function new_work(plans, open, opt)
  local self = setmetatable({ plans = plans, open = open, opt = opt, by_name = {}, users = {},
    identities = {} }, Work)
  local known = {}
  for i, plan in ipairs(plans) do
    self.identities[plan] = identity_of(plan, opt, known)
    if i < #plans then
      self.by_name[plan.stage.name], self.users[plan] = plan, 0
      known[plan.stage.name] = self.identities[plan]
    end
  end
  for _, plan in ipairs(plans) do
    for _, model in ipairs(plan.models) do
      local before = self.by_name[model.path]
      if before then self.users[before] = self.users[before] + 1 end
    end
  end
  return self
end

-- Makes the result under a lock of its folder.
local function make_locked(work, plan)
  local opt = work.opt
  local inner = opt.out .. "/" .. INNER
  run.check(system.make_folder(inner))
  local lock <close>, message, code = system.lock(inner .. "/lock")
  if code == "busy" then message = opt.out .. " is in use by another process" end
  run.check(lock, message, code)
  clear(opt.out)
  local facts = work:make(plan)
  system.remove_tree(inner)
  return facts
end

local function carry_out(plans, open, opt)
  local work = new_work(plans, open, opt)
  local last = plans[#plans]
  local identity = work.identities[last]
  check_folder(opt, identity)
  local before = not opt.fresh and finished(opt.out, identity)
  if before then return before end
  check_room(plans, opt)
  return make_locked(work, last)
end

-- The plans for who only asked for them.
local function described(plans, opt)
  local seconds = rates.seconds(plans)
  return { stages = plans, text = plan_text.format(plans, opt, seconds),
    facts = plan_text.facts(plans, opt, seconds) }
end

local function go(source, given)
  local list, found, opt = read(source, given)
  local plans, open = plan_all(list, found, opt)
  if not opt.plan then check_out(plans, opt, found) end
  refuse(found)
  if opt.plan then return described(plans, opt) end
  return carry_out(plans, open, opt)
end

--- Merges models. The configuration is the path of a file of YAML, as mergekit reads it, or a
--- table of the same form, in which `method` is short for `merge_method` and may be a function
--- (tensors, base, params, name) -> Tensor of f32 tensors; a table may hold the options, too.
--- Models are Hugging Face directories or .gguf files. The tensors are read, merged in f32 and
--- rounded once, in bounded memory; a run that was cut short goes on where it stopped. Options:
---   out            the folder of the result: model, tokenizer, README.md, merge.json (what it was
---                  made of, hashes of what was written), merge.jsonl and report.html
---   memory         most bytes to work with, default "512M"
---   seed           of the masks of methods that drop elements at random, default 1
---   max_shard_size bytes of tensors in a file, default 5e9
---   plan           true reads headers only and returns the plan: { text, facts, stages }
---   allow_crimes   true merges models of different architectures where names and shapes agree
---   hash_inputs    true adds the hashes of the input files to merge.json: they are read once more
---   fresh          true writes over what the folder holds
---   quiet          true shows no progress
--- What is wrong with the configuration or the models is told all at once.
---@param source string|table
---@param given table?
---@return table? summary what merge.json says, with seconds, and lines and table of the report
---@return string? message
---@return string? code
function merge.merge(source, given)
  local results = table.pack(pcall(go, source, given))
  if results[1] then return table.unpack(results, 2, results.n) end
  local failure = results[2]
  if type(failure) == "table" and failure.code then return nil, failure.message, failure.code end
  error(failure, 0)
end

return merge
