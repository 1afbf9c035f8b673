-- merge/entries.lua: the tensors of a result as the assembly takes them (assembly.lua): shapes and
-- types are compared, and every parameter gets its value for this tensor.

local inputs = require("moelua.merge.inputs")
local methods = require("moelua.merge.methods")
local run = require("moelua.run")
local tensors = require("moelua.merge.tensors")
local values = require("moelua.merge.values")

local entries = {}

-- ---- types ------------------------------------------------------------------------------------

local FLOATS = { F32 = true, F16 = true, BF16 = true }
local INTEGERS = { BOOL = true, U8 = true, I8 = true, U16 = true, I16 = true, U32 = true,
  I32 = true, U64 = true, I64 = true }

-- What a value of the type is stored as when nobody says: quantised ones fit into F16, those of
-- eight bits into BF16, and more than F32 is never computed.
local function kept_as(dtype)
  if FLOATS[dtype] then return dtype end
  if dtype == "F64" then return "F32" end
  return dtype:find("^F8") and "BF16" or "F16"
end

-- The smallest type that holds the values of all inputs.
local function promoted(tensor)
  local dtype
  for _, input in ipairs(tensor.inputs) do
    local kept = kept_as(input.info.dtype)
    if dtype and dtype ~= kept then kept = "F32" end
    dtype = kept
  end
  return dtype
end

-- ---- checks -----------------------------------------------------------------------------------

local function shape_text(shape) return "[" .. table.concat(shape, " x ") .. "]" end

local function same_shape(a, b, from)
  if #a ~= #b then return false end
  for i = from or 1, #a do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- The headers of all inputs; false when one is missing, which is a problem unless the tensor is
-- one that can be computed.
local function find_inputs(tensor, found)
  local has
  for _, input in ipairs(tensor.inputs) do
    input.info = input.name and input.model:info(input.name)
    if input.info then has = has or input end
  end
  for _, input in ipairs(tensor.inputs) do
    if not input.info then
      if not inputs.is_computed(tensor.name) then
        found:add("missing " .. input.model.path .. has.model.path, ("`%s` has no tensor `%s`, " ..
          "`%s` has"):format(input.model.path, tensor.name, has.model.path))
      end
      return false
    end
  end
  return true
end

-- Rows of tokens may differ when it is said how they are united.
local function check_shapes(tensor, united, found)
  local first = tensor.inputs[1]
  for _, input in ipairs(tensor.inputs) do
    local a, b = first.info.shape, input.info.shape
    if not same_shape(a, b, united and 2 or 1) then
      local rows = #a == 2 and #b == 2 and a[2] == b[2] and first.model.vocab == a[1]
      found:add(("shape %s %s %s"):format(first.model.path, input.model.path, rows), (
        "tensor `%s` is %s in `%s`, %s in `%s`%s"):format(tensor.name, shape_text(a),
        first.model.path, shape_text(b), input.model.path, rows and "\nhint: their vocabularies " ..
        "differ: tokenizer_source: union, base or the path of a model says which the result has"
        or ""))
      return false
    end
  end
  return true
end

-- Buffers of integers are not merged: all models must have the same one.
local function same_integers(tensor, found)
  local first = tensor.inputs[1]
  local data = first.model.file:raw(first.name)
  for _, input in ipairs(tensor.inputs) do
    if input.info.dtype ~= first.info.dtype or input.model.file:raw(input.name) ~= data then
      found:add(nil, ("tensor `%s` holds integers, which are not merged, and differs between " ..
        "`%s` and `%s`"):format(tensor.name, first.model.path, input.model.path))
      return false
    end
  end
  return true
end

-- ---- parameters -------------------------------------------------------------------------------

-- The value of a parameter: of the source, of its slice, of the module or of everything.
local function lookup(stage, slice, source, name, tensor_name, t)
  for _, level in ipairs { source and source.parameters or {}, slice.parameters or {},
      stage.module_parameters or {}, stage.parameters or {} } do
    local setting, value = level[name], nil
    if setting ~= nil then value = values.at(setting, tensor_name, t) end
    if value ~= nil then return value end
  end
end

local function missing(stage, tensor, input, name, found)
  if not input then
    found:add("no " .. name, ("tensor `%s`: parameter '%s' is missing: %s needs it"):format(
      tensor.name, name, stage.method))
  elseif input.source.added then
    found:add("no " .. name .. input.model.path, (
      "tensor `%s`: the base model `%s` has no '%s': for %s it is a model like the others\n" ..
      "hint: list it among the models, or leave base_model out"):format(tensor.name,
      input.model.path, name, stage.method))
  else
    found:add("no " .. name .. input.model.path, ("model `%s`, tensor `%s`: parameter '%s' is " ..
      "missing: %s needs it for every model"):format(input.model.path, tensor.name, name,
      stage.method))
  end
end

-- What a method needs of each model beside its base: { weight = { 0.5, 0.3 } }.
local function each_parameter(stage, method, tensor, others, found)
  local params = {}
  for name in pairs(method.each) do params[name] = {} end
  for i, input in ipairs(others) do
    local own = {}
    for name, rule in pairs(method.each) do
      local value = lookup(stage, tensor.slice, input.source, name, input.name, tensor.t)
      if value == nil then value = rule.default end
      if value == nil and rule.required then missing(stage, tensor, input, name, found) end
      params[name][i], own[name] = value, value
    end
    local complaint = methods.together(stage.method, own)
    if complaint then
      found:add(complaint .. input.model.path, ("model `%s`, tensor `%s`: %s"):format(
        input.model.path, tensor.name, complaint))
    end
  end
  return params
end

local function known_parameters(stage, method, tensor, others, found)
  local params = each_parameter(stage, method, tensor, others, found)
  for name, rule in pairs(method.whole) do
    local value = lookup(stage, tensor.slice, nil, name, tensor.name, tensor.t)
    if value == nil then value = rule.default end
    if value == nil and rule.required then missing(stage, tensor, nil, name, found) end
    params[name] = value
  end
  return params
end

-- For a method of the user's own: what any model has is looked up for each of them, everything
-- else for all.
local function free_parameters(stage, tensor, others)
  local params = {}
  for _, level in ipairs { stage.parameters or {}, stage.module_parameters or {},
      tensor.slice.parameters or {} } do
    for name in pairs(level) do
      params[name] = lookup(stage, tensor.slice, nil, name, tensor.name, tensor.t)
    end
  end
  for _, input in ipairs(others) do
    for name in pairs(input.source.parameters or {}) do params[name] = {} end
  end
  for i, input in ipairs(others) do
    for name, list in pairs(params) do
      if type(list) == "table" then
        list[i] = lookup(stage, tensor.slice, input.source, name, input.name, tensor.t)
      end
    end
  end
  return params
end

-- ---- entries ----------------------------------------------------------------------------------

-- The base of the tensor, and the other inputs.
local function apart(stage, tensor)
  local base, others = nil, {}
  for _, input in ipairs(tensor.inputs) do
    if not base and tensors.is_base(stage, tensor.slice, input.source) then base = input
    else others[#others + 1] = input end
  end
  return base, others
end

local function source_of(input)
  local source, message, code = input.model.file:source(input.name)
  if not source then run.fail(message, code) end
  source.shape = source.shape or input.info.shape
  return source
end

local function sources_of(list)
  local sources = {}
  for i, input in ipairs(list) do sources[i] = source_of(input) end
  return sources
end

-- A tensor that is one of a model as it is.
local function is_copy(entry)
  local scale = entry.method == "passthrough" and (entry.params.scale[1] or 1)
  return scale == 1 and (not entry.cast or entry.cast == entry.dtype)
end

-- Elements that are kept by magnitude must be some: of short tensors a small share is none.
local function check_kept(stage, tensor, entry, others, found)
  if stage.method ~= "ties" or not entry.params.density then return end
  local count = 1
  for _, size in ipairs(entry.shape) do count = count * size end
  for i, density in ipairs(entry.params.density) do
    if type(density) == "number" and density > 0 and math.floor(density * count) == 0 then
      found:add("none kept" .. i, ("model `%s`, tensor `%s`: density %g of %d elements keeps none")
        :format(others[i].model.path, tensor.name, density, count))
    end
  end
end

-- Which parameter makes the weights of a method sum to one.
local TO_ONE = { linear = "normalize", multislerp = "normalize_weights" }

-- Weights that sum to nothing cannot be made to sum to one: every number would be NaN.
local function check_sum(stage, tensor, entry, found)
  local name, sum = TO_ONE[stage.method], 0
  if not (name and entry.params[name]) then return end
  for i = 1, #entry.sources do
    local weight = entry.params.weight[i]
    if type(weight) ~= "number" then return end         -- that has been told
    sum = sum + weight
  end
  if sum ~= 0 then return end
  found:add("sum of weights", ("tensor `%s`: the weights of its models sum to 0\n" ..
    "hint: %s: false takes them as they are"):format(tensor.name, name))
end

local function merged(stage, tensor, found)
  local method = methods.table[stage.method]
  local base, others = apart(stage, tensor)
  local entry = { name = tensor.name, method = stage.method, cast = stage.dtype,
    dtype = stage.out_dtype or stage.dtype or promoted(tensor), inputs = tensor.inputs,
    base_input = base, others = others, shape = tensor.inputs[1].info.shape }
  entry.params = method and known_parameters(stage, method, tensor, others, found)
    or free_parameters(stage, tensor, others)
  entry.base = base and source_of(base)
  entry.sources = sources_of(others)
  if is_copy(entry) then entry.method, entry.params, entry.cast = "copy", {}, nil end
  check_kept(stage, tensor, entry, others, found)
  check_sum(stage, tensor, entry, found)
  return entry
end

local function copied(tensor)
  local first = tensor.inputs[1]
  return { name = tensor.name, method = "copy", dtype = first.info.dtype, params = {},
    shape = first.info.shape, sources = { source_of(first) }, inputs = { first },
    others = { first } }
end

-- Whether rows of the tensor are tokens that a vocabulary unites.
local function is_united(tensor, vocabulary)
  if not vocabulary or tensor.layer then return false end
  local input = tensor.inputs[1]
  return (inputs.is_embedding(tensor.name) or inputs.is_head(tensor.name)) and
    input.info.shape[1] == input.model.vocab
end

-- Kinds of tensors: the name without the numbers of layer and expert.
local function kind_of(tensor)
  return (tensor.rest:gsub("%f[%d]%d+%f[%D]", "*"):gsub("%.weight$", ""))
end

--- The entry of a tensor; nil when it is left out or when there is a problem with it.
---@param stage table
---@param tensor table of tensors.lua
---@param vocabulary table? { size } of the result, when vocabularies are united
---@param found table of problems.lua
---@return table? entry as of assembly.lua, with inputs, others, base_input, kind, united
function entries.make(stage, tensor, vocabulary, found)
  if not find_inputs(tensor, found) then return nil end
  local united = is_united(tensor, vocabulary)
  if not check_shapes(tensor, united, found) then return nil end
  local entry
  if INTEGERS[tensor.inputs[1].info.dtype] then
    if not same_integers(tensor, found) then return nil end
    entry = copied(tensor)
  else
    entry = merged(stage, tensor, found)
  end
  entry.kind, entry.layer, entry.united = kind_of(tensor), tensor.layer, united
  if united then
    entry.shape = { vocabulary.size, table.unpack(entry.shape, 2) }
    if entry.method == "copy" then entry.method, entry.params = "passthrough", { scale = { 1 } } end
  end
  return entry
end

return entries
