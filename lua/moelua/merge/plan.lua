-- merge/plan.lua: one stage of a merge worked out from headers: every tensor of the result with
-- its inputs and parameters, the config.json, what is read and written, and all that is wrong.

local compatibility = require("moelua.merge.compatibility")
local config = require("moelua.merge.config")
local entries = require("moelua.merge.entries")
local result = require("moelua.merge.result")
local tensors = require("moelua.merge.tensors")
local tokens = require("moelua.merge.tokens")

local plan = {}

local BYTES = { F64 = 8, I64 = 8, U64 = 8, F32 = 4, I32 = 4, U32 = 4, F16 = 2, BF16 = 2, I16 = 2,
  U16 = 2, BOOL = 1, U8 = 1, I8 = 1 }

local function elements(shape)
  local count = 1
  for _, size in ipairs(shape) do count = count * size end
  return count
end

-- ---- models -----------------------------------------------------------------------------------

-- The models of a stage in order, each once; nil when one cannot be opened.
local function open_all(stage, open, found)
  local by_reference, list, complete = {}, {}, true
  config.each_model(stage, function(reference)
    if by_reference[reference] ~= nil then return end
    local model, message = open(reference)
    by_reference[reference] = model or false
    list[#list + 1] = model
    if not model then
      found:add(nil, ("model `%s`: %s"):format(reference, message))
      complete = false
    end
  end)
  return complete and by_reference or nil, list
end

-- The model whose architecture and configuration the result has.
local function template_of(stage, models)
  return models[stage.base or stage.slices[1].base or stage.slices[1].sources[1].model]
end

local function check_models(self, mixed, found)
  for _, model in ipairs(self.models) do
    if model ~= self.template then
      compatibility.check(self.template, model, self.stage.tokenizer ~= nil, mixed, found,
        self.warnings)
    end
  end
end

-- ---- totals -----------------------------------------------------------------------------------

local function measure(self)
  local totals = { tensors = #self.entries, parameters = 0, bytes_read = 0, bytes_written = 0,
    largest = 0 }
  for _, entry in ipairs(self.entries) do
    local count = elements(entry.shape)
    entry.bytes = count * (BYTES[entry.dtype] or 1)
    totals.parameters = totals.parameters + count
    totals.bytes_written = totals.bytes_written + entry.bytes
    totals.largest = math.max(totals.largest, entry.bytes)
    for _, input in ipairs(entry.inputs) do
      totals.bytes_read = totals.bytes_read + input.info.bytes
    end
  end
  self.totals = totals
end

-- How many tensors each method makes, and of what type they are.
local function count_by(list, field)
  local counts = {}
  for _, entry in ipairs(list) do
    local key = type(entry[field]) == "function" and "function" or entry[field]
    counts[key] = (counts[key] or 0) + 1
  end
  return counts
end

-- ---- the plan ---------------------------------------------------------------------------------

local function place_of(list, model)
  for i, each in ipairs(list) do
    if each == model then return i end
  end
end

local function make_entries(self, by_reference, found)
  local list, layers = tensors.list(self.stage, by_reference, self.template, found)
  self.layers = layers
  for _, tensor in ipairs(list) do
    self.entries[#self.entries + 1] = entries.make(self.stage, tensor, self.vocabulary, found)
  end
end

--- Works out a stage. What is wrong is added to `found`; the plan is complete when nothing was.
---@param stage table of config.lua
---@param open function reference -> model of inputs.lua, or nil, message
---@param found table of problems.lua
---@param opt { allow_crimes: boolean? }
---@return table? plan { stage, models, template, entries, layers, config, vocabulary, totals,
---  warnings }
function plan.make(stage, open, found, opt)
  local by_reference, list = open_all(stage, open, found)
  if not by_reference or #list == 0 then return nil end
  local self = { stage = stage, models = list, template = template_of(stage, by_reference),
    entries = {}, warnings = table.move(stage.warnings, 1, #stage.warnings, 1, {}) }
  check_models(self, opt.allow_crimes, found)
  local before = #found.list
  self.vocabulary = tokens.unite(stage.tokenizer, list, place_of(list, self.template),
    stage.base ~= nil, found)
  if #found.list > before then return self end
  make_entries(self, by_reference, found)
  if #found.list > 0 then return self end
  measure(self)
  self.config = result.config(self.template, self.layers, self.entries, self.vocabulary, found)
  self.methods, self.dtypes = count_by(self.entries, "method"), count_by(self.entries, "dtype")
  return self
end

-- ---- results that are not there yet -----------------------------------------------------------

--- The result of a plan as an input of a later one: all that headers would say.
---@param reference string its name
---@param made table the plan
---@return table model, as of inputs.lua but without data
function plan.model(reference, made)
  local inputs = require("moelua.merge.inputs")
  local names, info = {}, {}
  for i, entry in ipairs(made.entries) do
    names[i] = entry.name
    info[entry.name] = { dtype = entry.dtype, shape = entry.shape, bytes = entry.bytes }
  end
  table.sort(names)
  local file = { names = function() return names end, raw = function() return "" end,
    info = function(_, name) return info[name] end,
    source = function(_, name) return { planned = true, name = name } end }
  local opened = { file = file, hf = made.config, tokenizer = function()
    if made.vocabulary then return made.vocabulary.tokenizer end
    return made.template.opened:tokenizer()
  end }
  local model = inputs.of(reference, opened)
  model.planned = true
  return model
end

return plan
