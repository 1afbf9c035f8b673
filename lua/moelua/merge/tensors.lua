-- merge/tensors.lua: which tensors the result of a stage has, and from where in the models each
-- comes. Slices are stacked: the layers of the result are numbered through.
--
-- A tensor: { name, slice, t, layer, rest, inputs }, an input: { source, model, name }, in the
-- order of the sources of the slice; the name is missing where the model has no such tensor.

local inputs = require("moelua.merge.inputs")
local methods = require("moelua.merge.methods")

local tensors = {}

-- "slices[2]", or nothing when there is one made of `models`.
local function where_of(stage, index)
  return stage.source.models and "" or ("slices[%d]: "):format(index)
end

-- ---- models of a slice ------------------------------------------------------------------------

--- The base model of a slice; nil when there is none.
function tensors.base_of(stage, slice) return slice.base or stage.base end

--- Whether the source stands apart from the others as what they differ from.
function tensors.is_base(stage, slice, source)
  local method = methods.table[stage.method]
  if not method then return source.model == tensors.base_of(stage, slice) end
  return method.base ~= "input" and source.model == tensors.base_of(stage, slice)
end

local function plural(n, word) return ("%d %s%s"):format(n, word, n == 1 and "" or "s") end

local function amount(models, count)
  local least, most = models[1], models[2]
  if least == most then return plural(least, "model") end
  return count < least and "at least " .. plural(least, "model") or "at most " .. plural(most,
    "model")
end

local function check_base(stage, slice, where, found, has_base)
  local base = tensors.base_of(stage, slice)
  if not base then
    found:add("base", ("%s%s needs a base model\nhint: base_model names it"):format(where,
      stage.method))
  elseif not has_base then
    found:add(nil, ("%s%s needs the base model `%s` among the sources"):format(where, stage.method,
      base))
  end
end

-- Whether the method can work on so many models.
local function check_models(stage, slice, where, found)
  local method, others, has_base = methods.table[stage.method], 0, false
  for _, source in ipairs(slice.sources) do
    if tensors.is_base(stage, slice, source) then has_base = true else others = others + 1 end
  end
  if not method then return end
  if method.base == "needed" then check_base(stage, slice, where, found, has_base) end
  if others >= method.models[1] and others <= method.models[2] then return end
  local beside = has_base and " beside its base" or ""
  found:add(nil, ("%s%s takes %s%s, there %s %d"):format(where, stage.method,
    amount(method.models, others), beside, others == 1 and "is" or "are", others))
end

-- ---- layers -----------------------------------------------------------------------------------

-- The layers that a source gives: first, count; nil when the model has no such ones.
local function range_of(source, model, where, found)
  local range = source.range or { 0, model.layers }
  if range[2] > model.layers then
    found:add(nil, ("%slayers %d to %d of `%s` are asked for, it has %s"):format(where, range[1],
      range[2] - 1, model.path, plural(model.layers, "layer")))
    return nil
  end
  return range[1], range[2] - range[1]
end

-- The first layer of each source, and how many layers all of them give.
local function ranges_of(slice, models, where, found)
  local firsts, count, whose = {}, nil, nil
  for i, source in ipairs(slice.sources) do
    local model = models[source.model]
    local first, length = range_of(source, model, where, found)
    if not first then return nil end
    if count and length ~= count then
      found:add(nil, ("%s%s of `%s`, %s of `%s`: as many are expected of both"):format(where,
        plural(count, "layer"), whose, plural(length, "layer"), model.path))
      return nil
    end
    firsts[i], count, whose = first, length, model.path
  end
  return firsts, count or 0
end

-- All keys of the tables, sorted.
local function union(tables)
  local seen, list = {}, {}
  for _, each in ipairs(tables) do
    for key in pairs(each) do
      if not seen[key] then list[#list + 1] = key end
      seen[key] = true
    end
  end
  table.sort(list)
  return list
end

local function add_layer(list, slice, models, firsts, offset, place)
  local t = place.count > 1 and place.index / (place.count - 1) or 1
  local layers = {}
  for i, source in ipairs(slice.sources) do
    layers[i] = models[source.model].inside[firsts[i] + place.index]
  end
  for _, rest in ipairs(union(layers)) do
    local from = {}
    for i, source in ipairs(slice.sources) do
      from[i] = { source = source, model = models[source.model], name = layers[i][rest] }
    end
    list[#list + 1] = { name = ("%s.%d.%s"):format(place.prefix, offset + place.index, rest),
      slice = slice, t = t, layer = offset + place.index, rest = rest, inputs = from }
  end
end

-- ---- outside of layers ------------------------------------------------------------------------

-- What comes before the layers belongs to the first slice, what comes after them to the last.
local function comes_first(name) return name:find("embed") ~= nil or name:find("wpe") ~= nil or
  inputs.is_embedding(name) end

local function add_outside(list, slice, models, first)
  local names = {}
  for i, source in ipairs(slice.sources) do
    names[i] = {}
    for _, name in ipairs(models[source.model].outside) do
      if comes_first(name) == first then names[i][name] = true end
    end
  end
  for _, name in ipairs(union(names)) do
    local from = {}
    for i, source in ipairs(slice.sources) do
      local model = models[source.model]
      from[i] = { source = source, model = model, name = model:find(name) }
    end
    list[#list + 1] = { name = name, slice = slice, t = 0, rest = name, inputs = from }
  end
end

--- All tensors of the result, and where each of its layers comes from.
---@param stage table of config.lua
---@param models table reference -> model of inputs.lua
---@param template table the model whose configuration the result has
---@param found table of problems.lua
---@return table[] tensors
---@return table[] layers { model, layer } of each layer of the result: the first source's
function tensors.list(stage, models, template, found)
  local list, layers, slices = {}, {}, stage.slices
  add_outside(list, slices[1], models, true)
  for i, slice in ipairs(slices) do
    local where = where_of(stage, i)
    check_models(stage, slice, where, found)
    local firsts, count = ranges_of(slice, models, where, found)
    local offset = #layers
    for index = 0, (count or 0) - 1 do
      add_layer(list, slice, models, firsts, offset, { index = index, count = count,
        prefix = template.prefix })
      layers[#layers + 1] = { model = models[slice.sources[1].model], layer = firsts[1] + index }
    end
  end
  add_outside(list, slices[#slices], models, false)
  return list, layers
end

return tensors
