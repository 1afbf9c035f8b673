-- study.lua: what a recipe compares: arms, claims, one table, results.json and report.html.
--
--   local study = moe.study.open(opt, { title = ..., about = ... })   -- opens the run folder
--   study:train("seed", model, { data = ..., steps = ... })     -- a stage: runs/NAME/seed
--   study:branch(model, { steps = ... })                        -- stages runs/NAME/branches/...
--   study:arm("seed", model, cost)                              -- a row of the table
--   study:compare { steps = ..., rates = ... }                  -- arms over several seeds
--   study:keep(model)                                           -- runs/NAME/model
--   study:claim("btx beats the seed", holds, detail)
--   study:finish()
--
-- Everything that costs goes through these calls: with --dry-run a plan (plan.lua) takes them.
--
-- results.json: {"recipe", "seed", "arms": [{"name", "tokens", "flops", "seconds",
-- "metric": {domain: bits per byte}, "mean"}], "claims": [{"name", "holds", "detail"}]}; arms over
-- several seeds have "interval", "rate" and "seeds" as well, and those that see later text are
-- listed in "apart".

local core = require("moelua.core")
local lfs = require("lfs")
local arm_tables = require("moelua.arm_tables")
local branch = require("moelua.branch")
local class = require("moelua.class")
local Comparison = require("moelua.comparison")
local cost_of = require("moelua.cost")
local data = require("moelua.data")
local domains = require("moelua.domains")
local error_text = require("moelua.error_text")
local evaluate = require("moelua.evaluate")
local expect = require("moelua.expect")
local family = require("moelua.family")
local options = require("moelua.options")
local Plan = require("moelua.plan")
local report = require("moelua.report")
local run = require("moelua.run")
local text_table = require("moelua.text_table")
local train = require("moelua.train")
local system, json, check, si = core.system, core.json, run.check, text_table.si

local study = {}

local Study = class("Study")

-- Options that change nothing about the stages of a run: more seeds are more stages.
local incidental = { out = true, fresh = true, quiet = true, workers = true, arguments = true,
  json = true, save_every = true, dry_run = true, seeds = true }

-- The options as config.json of the run folder.
local function request(opt)
  local config = {}
  for k, v in pairs(opt) do
    if not incidental[k] then config[k] = v end
  end
  return config
end

-- What a run folder holds before its first stage begins.
local preparations = { ["."] = true, [".."] = true, lock = true, data = true,
  ["config.json"] = true }

-- A folder in which no stage has begun is bound to no options: who mistyped one, and was told so,
-- just types again.
local function is_bound(folder)
  if not system.exists(folder .. "/config.json") then return false end
  for name in lfs.dir(folder) do
    if not preparations[name] then return true end
  end
  return false
end

local function unbind(folder)
  if not system.exists(folder .. "/config.json") or is_bound(folder) then return end
  local lock = run.lock(folder)
  os.remove(folder .. "/config.json")
  lock:release()
end

-- Before the first stage: the text and the folder of the run in one line.
local function introduce(self)
  if self.introduced then return end
  self.introduced = true
  local parts = {}
  for i, name in ipairs(self.names) do
    parts[i] = ("%s %s tokens"):format(name, si(self.domains[name]:tokens()))
  end
  self:say("%s: %s; run folder %s", self.parts.recipe, table.concat(parts, ", "), self.opt.out)
end

function Study:init(opt, parts)
  self.opt, self.parts = opt, parts
  self.split, self.windows = opt.split or "test", opt.eval_windows
  local sources = domains.sources(opt.domain or {})
  unbind(opt.out)
  self.run = run.open(opt.out, request(opt), { fresh = opt.fresh })
  error_text.when_interrupted(opt.out)
  self.domains = domains.open(sources, opt.out .. "/data", opt.max_bytes, opt.context,
    parts.tokenizer)
  self.names = {}
  for name in pairs(self.domains) do self.names[#self.names + 1] = name end
  table.sort(self.names)
  self.arms, self.apart, self.claims, self.notes = {}, {}, {}, {}
  self.curves, self.heat = {}, {}
end

--- Narration goes to stderr, and not at all with --quiet.
function Study:say(fmt, ...)
  if not self.opt.quiet then io.stderr:write(fmt:format(...), "\n") end
end

--- Wrong usage that only shows when the domains are known: ends the recipe unless `holds`.
function Study:need(holds, fmt, ...)
  if holds then return end
  self.run:close()
  run.refuse("%s: " .. fmt, self.parts.recipe, ...)
end

-- Says what a stage is about to do, or what of it is there already.
local function begin(self, name, model, opts)
  introduce(self)
  local folder = self.opt.out .. "/" .. name
  if run.finished(folder) then return self:say("%s: finished before", name) end
  if run.can_continue(folder) then
    return self:say("%s: continued from its last saved state", name)
  end
  self:say("%s: %s parameters, %d steps", name, si((model:count())), opts.steps)
end

-- Options of moe.train and moe.branch that follow from those of the recipe.
local function complete(self, given, folder)
  return options.merge(given, { out = self.opt.out .. "/" .. folder, quiet = self.opt.quiet,
    context = given.context or self.opt.context,
    seed = given.seed or self.opt.seed, save_every = given.save_every or self.opt.save_every,
    precision = given.precision or self.opt.precision })
end

--- Trains a stage in its own run folder; finished stages are not trained again. Returns its own
-- cost { tokens, flops, seconds, curve }.
function Study:stage(name, model, given)
  local opts = complete(self, given, name)
  opts.name = name
  begin(self, name, model, opts)
  return train(model, opts)
end

--- A stage whose loss curve is shown, from where the cost `before` ended.
function Study:train(name, model, given, before)
  local cost = self:stage(name, model, given)
  self:curve(name, cost.curve, before)
  return cost
end

--- The model of a finished stage.
function Study:trained(name) return check(family.load(self.opt.out .. "/" .. name .. "/model")) end

--- Arms over several seeds, see comparison.lua.
function Study:compare(given)
  self.seeds = self.opt.seeds
  return Comparison(self, given)
end

--- Trains a copy of the model on each domain, in a process of its own (see moe.branch). Returns the
-- experts, and what each cost, in the order of study.names.
function Study:branch(model, given, before)
  local opts = complete(self, given, "branches")
  for _, name in ipairs(self.names) do begin(self, "branches/" .. name, model, opts) end
  local trained = branch(model, self.domains, opts)
  local experts, costs = {}, {}
  for i, name in ipairs(self.names) do
    experts[i], costs[i] = trained[name], trained[name].summary
    self:curve("expert " .. name, costs[i].curve, before)
  end
  return experts, costs
end

--- Keeps the model that the recipe is for in the run folder, as model/.
function Study:keep(model)
  self.model = self.opt.out .. "/model"
  check(model:save(self.model))
end

--- A loss curve for the report, to the right of what was spent before.
function Study:curve(name, points, before)
  local shifted, tokens = {}, before and before.tokens or 0
  for i, p in ipairs(points) do shifted[i] = { p[1] + tokens, p[2] } end
  self.curves[#self.curves + 1] = { name = name, points = shifted }
end

study.sum = cost_of.sum

--- Evaluates a model on the split of the final table. `more`: options of moe.evaluate.
function Study:measure(name, model, more)
  self:say("evaluating %s", name)
  return evaluate(model, self.domains,
    options.merge({ split = self.split, windows = self.windows, context = self.opt.context },
      more or {}))
end

--- Evaluates a model and adds it as a row of the table. `cost` is what it took to make it, from the
-- first step on. Returns the evaluation.
function Study:arm(name, model, cost)
  local result = self:measure(name, model)
  result.arm = { name = name, tokens = cost.tokens, flops = cost.flops, seconds = cost.seconds,
    metric = result.metric, mean = result.mean }
  self:enter(result.arm, true)
  return result
end

--- Adds a row to the table, or to that of the arms whose losses do not compare.
function Study:enter(arm, comparable)
  local list = comparable and self.arms or self.apart
  list[#list + 1] = arm
end

--- The routing of an evaluated mixture for the report: heat map and figures by layer.
function Study:routing(result, experts)
  self.experts, self.statistics = experts, result.statistics
  for _, name in ipairs(self.names) do
    self.heat[#self.heat + 1] = { domain = name, rows = result.routing[name] }
  end
end

--- A claim that the run was to show: holds is true, false, or nil for not resolved.
function Study:claim(name, holds, fmt, ...)
  if holds == nil then holds = json.null end
  self.claims[#self.claims + 1] = { name = name, holds = holds, detail = fmt:format(...) }
end

function Study:find(name)
  for _, arm in ipairs(self.arms) do
    if arm.name == name then return arm end
  end
  core.raise("study: there is no arm '%s'", name)
end

--- Claims that arm `name` has a lower mean than each of the others.
function Study:better(name, others)
  local arm = self:find(name)
  for _, other in ipairs(others) do
    local rival = self:find(other)
    self:claim(("%s beats %s on the mean"):format(name, other), arm.mean < rival.mean,
      "%.3f against %.3f bits per byte", arm.mean, rival.mean)
  end
end

--- Claims that on its own domain each expert is better than the seed and the other experts.
function Study:best_on_own_domain(expert_of)
  for _, domain in ipairs(self.names) do
    local own, best = self:find(expert_of(domain)), nil
    for _, other in ipairs(self.names) do
      local rival = self:find(expert_of(other))
      if other ~= domain and (not best or rival.metric[domain] < best.metric[domain]) then
        best = rival
      end
    end
    local seed = self.arms[1]
    if not best or seed.metric[domain] < best.metric[domain] then best = seed end
    self:claim(("%s is the best on %s among seed and experts"):format(own.name, domain),
      own.metric[domain] < best.metric[domain], "%.3f against %.3f of %s", own.metric[domain],
      best.metric[domain], best.name)
  end
end

-- ---- the end ----------------------------------------------------------------------------------

-- The tables beside the first one.
local function more_tables(self)
  local all = table.move(self.apart, 1, #self.apart, #self.arms + 1, { table.unpack(self.arms) })
  local list = { arm_tables.reach(self.arms) }
  list[#list + 1] = arm_tables.routing(all)
  list[#list + 1] = arm_tables.choices(all)
  if #self.apart > 0 then list[#list + 1] = arm_tables.apart(self.names, self.apart) end
  return list
end

-- How much of the test text the models may have seen: near-duplicates across the splits.
function Study:overlap()
  if self.split ~= "test" then return end
  local parts = {}
  for _, name in ipairs(self.names) do
    parts[#parts + 1] = ("%s %.1f %%"):format(name, 100 * data.shared_lines(self.domains[name]))
  end
  self.notes[#self.notes + 1] = "Test lines that also occur in train: " ..
    table.concat(parts, ", ") .. "."
end

local function command_line()
  local words = { "moelua" }
  for i = 0, #(arg or {}) do words[#words + 1] = arg[i] end
  return table.concat(words, " ")
end

function Study:write(results)
  local out = self.opt.out
  check(system.write(out .. "/results.json", json.encode(results, { indent = 2 }) .. "\n"))
  check(system.write(out .. "/report.html", report.html(results, {
    title = self.parts.title, about = self.parts.about, domains = self.names,
    curves = self.curves, heat = self.heat, experts = self.experts,
    statistics = self.statistics, config = request(self.opt),
    tables = more_tables(self),
    captions = { curves = self.seeds and "The first seed of each arm." or nil },
    versions = { { "moelua", core.version }, { "kernels", core.kernels } },
    command = command_line(), notes = self.notes,
    axes = { x = "training tokens", y = "training loss, bits per byte" } })))
end

local mark = { [true] = "yes", [false] = "no " }

-- Where things are, for programs that read what --json prints.
local function paths(self)
  local out = self.opt.out
  return { out = out, results = out .. "/results.json", report = out .. "/report.html",
    model = self.model }
end

-- The table and the claims.
local function print_text(self)
  local first = arm_tables.results(self.names, self.arms, self.split)
  print(first.title)
  print(text_table.format(first.columns, first.rows))
  local more = more_tables(self)
  for _, given in ipairs(more) do
    print(("\n%s\n%s"):format(given.title, text_table.format(given.columns, given.rows)))
  end
  if #more > 0 then print() end
  for _, claim in ipairs(self.claims) do
    print(("%s  %s: %s"):format(mark[claim.holds] or "?  ", claim.name, claim.detail))
  end
  for _, note in ipairs(self.notes) do print(note) end
  print(("results: %s/results.json, report: %s/report.html"):format(self.opt.out, self.opt.out))
end

--- Writes results.json and report.html, prints the table and the claims.
function Study:finish()
  self:overlap()
  self.notes[#self.notes + 1] = arm_tables.edges(self.arms)
  local results = { recipe = self.opt.name or self.parts.recipe, seed = self.opt.seed,
    arms = self.arms, claims = json.array(self.claims),
    apart = #self.apart > 0 and self.apart or nil }
  self:write(results)
  if self.opt.json then
    print(json.encode(options.merge(results, { paths = paths(self) })))
  else
    print_text(self)
  end
  self.run:close()
  error_text.when_interrupted(nil)
end

--- Opens the run folder opt.out and the domains; with opt.dry_run, a plan in their place. parts:
-- recipe, title, about.
function study.open(opt, parts)
  expect(type(opt) == "table" and type(opt.out) == "string", "study.open", "opt",
    "what moe.options returned", opt)
  expect(type(parts) == "table", "study.open", "parts", "{ recipe, title, about }", parts)
  if opt.dry_run then return Plan(opt, parts, is_bound(opt.out) and request(opt) or nil) end
  return Study(opt, parts)
end

return study
