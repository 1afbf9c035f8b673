-- Every method through its YAML, beside what mergekit made of the same tensors.

local core = require("moelua.core")
local helper = require("spec.helper")
local merge = require("moelua.merge")
local checkpoint = require("moelua.checkpoint")

local json, system = core.json, core.system

local golden = assert(json.decode(assert(system.read("spec/golden/mergekit_golden.json"))))
local folder = helper.tmpdir()

-- A model of one matrix [4 x 6].
local function write(name, values)
  local matrix = core.tensor(values):reshape(4, 6)
  assert(checkpoint.save(folder .. "/" .. name, { ["w.weight"] = matrix }))
  assert(system.write(folder .. "/" .. name .. "/config.json", '{"model_type": "matrix"}'))
end

local inputs = golden.inputs
for name, values in pairs(inputs) do write(name, values) end
local near_base, longer = {}, {}
for i, value in ipairs(inputs.base) do
  near_base[i] = math.abs(value - inputs.A[i]) < 0.1 and inputs.A[i] or value
  longer[i] = 1.5 * inputs.A[i]
end
write("near", near_base)
write("longer", longer)

-- The result of a configuration, as a list of numbers.
local function merged(method, base, models, each, whole)
  local out = { ("merge_method: %s\nmodels:\n"):format(method) }
  for i, name in ipairs(models) do
    out[#out + 1] = ("  - model: %s/%s\n    parameters: %s\n"):format(folder, name,
      json.encode(each[i] or {}))
  end
  if base then out[#out + 1] = ("base_model: %s/%s\n"):format(folder, base) end
  out[#out + 1] = "parameters: " .. json.encode(whole or {}) .. "\n"
  local file = folder .. "/m.yml"
  assert(system.write(file, table.concat(out)))
  assert(merge.merge(file, { out = folder .. "/out", fresh = true, quiet = true }))
  local made = assert(checkpoint.open(folder .. "/out")):tensor("w.weight")
  return made:reshape(24):totable()
end

-- What each model of a case has for itself, and what belongs to the whole.
local PER_MODEL = { weight = true, density = true, gamma = true }

local function parameters(params, count)
  local each, whole = {}, {}
  for i = 1, count do each[i] = {} end
  for name, value in pairs(params) do
    if PER_MODEL[name] then
      for i = 1, count do each[i][name] = type(value) == "table" and value[i] or value end
    elseif not ({ models = true, base = true, other = true, note = true })[name] then
      whole[name] = value
    end
  end
  return each, whole
end

-- Which models the case of a method has: base, others.
local function models_of(name, params)
  if params.other then
    return params.base or "base", { params.other == "1.5*A" and "longer" or params.other }
  end
  local list = {}
  for model in (params.models or ""):gmatch("%a+") do list[#list + 1] = model end
  for i = #list + 1, params.weight and #params.weight or 0 do list[i] = ({ "A", "B", "C" })[i] end
  if name:find("^ram") then return "near", list end
  local alone = name:find("^linear") or name:find("^karcher") or
    (name:find("slerp") and not params.base)
  return not alone and "base" or nil, list
end

local METHODS = { "linear", "slerp", "nuslerp", "multislerp", "karcher", "task_arithmetic", "ties",
  "breadcrumbs", "breadcrumbs_ties", "model_stock", "sce", "nearswap", "arcee_fusion", "ram",
  "ramplus_tl" }

-- The longest name of a method that the name of the case begins with.
local function method_of(case)
  local best
  for _, method in ipairs(METHODS) do
    if case:sub(1, #method) == method and (not best or #method > #best) then best = method end
  end
  return best
end

describe("merges through YAML", function()
  local count = 0
  for case, given in pairs(golden.cases) do
    local method = method_of(case)
    if method then
      count = count + 1
      it("give what mergekit gives: " .. case, function()
        local base, models = models_of(case, given.params)
        local each, whole = parameters(given.params, #models)
        helper.close(merged(method, base, models, each, whole), given.out, 2e-6)
      end)
    end
  end

  it("cover the cases that need no mask of mergekit's", function() assert.equal(26, count) end)
end)
