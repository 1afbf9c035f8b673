-- merge/values.lua: what a parameter may be written as, and what that is for one tensor.
--
--   0.5                                           the same everywhere
--   [0, 0.5, 1]                                   over the layers, straight lines between these
--   [a, b]                                        words over the layers, in steps
--   [{filter: mlp, value: 0.5}, {value: [0, 1]}]  the first whose filter is a part of the name

local core = require("moelua.core")
local json = core.json

local values = {}

local function is_scalar(value)
  local kind = type(value)
  return kind == "number" or kind == "boolean" or kind == "string"
end

local function is_list(value) return type(value) == "table" and value[1] ~= nil end

local function all(list, kind)
  for _, value in ipairs(list) do
    if type(value) ~= kind then return false end
  end
  return true
end

local function all_scalars(list)
  for _, value in ipairs(list) do
    if not is_scalar(value) then return false end
  end
  return true
end

-- The value at t, from 0 to 1, of a list over the layers.
local function along(list, t)
  local place = t * (#list - 1)
  local i = math.floor(place)
  if not all(list, "number") then return list[i + 1] end
  local part, next_one = place - i, list[math.min(i + 2, #list)]
  return (1 - part) * list[i + 1] + part * next_one
end

local function matches(filter, name)
  return filter == nil or filter == json.null or filter == "*" or name:find(filter, 1, true) ~= nil
end

--- The value for a tensor; nil when there is none for it.
---@param setting any as the configuration has it
---@param name string of the tensor
---@param t number how far down the layers, from 0 to 1
function values.at(setting, name, t)
  if is_scalar(setting) then return setting end
  if not is_list(setting) then return nil end
  if all_scalars(setting) then return along(setting, t) end
  for _, condition in ipairs(setting) do
    if matches(condition.filter, name) then return values.at(condition.value, name, t) end
  end
end

local function check_condition(condition)
  if type(condition) ~= "table" or is_list(condition) then
    return "a list of {filter, value} has an element that is none"
  end
  for key in pairs(condition) do
    if key ~= "filter" and key ~= "value" then
      return ("a condition has no '%s': it is {filter, value}"):format(tostring(key))
    end
  end
  local filter = condition.filter
  if filter ~= nil and filter ~= json.null and type(filter) ~= "string" then
    return "a filter must be a string, a part of the names that it is for"
  end
  local value = condition.value
  if value == nil or value == json.null then return "a condition has no value" end
  if is_scalar(value) or is_list(value) and all_scalars(value) then return nil end
  return "the value of a condition must be one value, or a list of them over the layers"
end

--- What is wrong with how a parameter is written; nil when nothing is.
---@return string?
function values.complaint(setting)
  if is_scalar(setting) then return nil end
  if type(setting) ~= "table" then return "a value is expected" end
  if setting.value ~= nil or setting.filter ~= nil then
    return "{filter, value} must stand in a list"
  end
  if not is_list(setting) then return "a list is expected, and it must not be empty" end
  if all_scalars(setting) then return nil end
  for _, condition in ipairs(setting) do
    local complaint = check_condition(condition)
    if complaint then return complaint end
  end
end

--- Calls f with every single value that a setting has.
function values.each(setting, f)
  if is_scalar(setting) then return f(setting) end
  for _, element in ipairs(setting) do
    values.each(is_scalar(element) and element or element.value, f)
  end
end

return values
