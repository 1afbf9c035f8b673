-- help.lua: moe.help(x): what a function is for, from the records of the functions in C and the doc
-- comments of the Lua modules.

local core = require("moelua.core")
local manual = require("moelua.manual")
local options = require("moelua.options")

local INTRODUCTION = [[
moelua: a workbench for mixture-of-experts language models.

  local moe = require("moelua")
  local x = moe.randn(4, 8)              tensors; x:matmul(w), x:softmax(-1), x + y
  local m = moe.model.new{ ... }         a model; moe.load("folder") reads one
  help("softmax")  help(moe.train)       about a function
  help("model:generate")                 about a method of models
  help("ops")  help("nn")                all operations, all there is in moe.nn]]

local function describe(name)
  local record = manual.record(name)
  return ("%s(%s)\n%s"):format(name, record.sig, table.concat(manual.wrapped(record.doc), "\n"))
end

-- Prose as it is; parameters and results as indented lines.
local function readable(comment)
  local lines = {}
  for _, line in ipairs(comment) do
    line = line:gsub("^@param%s+", "  "):gsub("^@return%s+", "  returns "):gsub("^@", "  ")
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

local function describe_lua(name, f)
  local known = manual.lua_function(f)
  if not known then return name end
  local text = readable(known.comment)
  return ("%s(%s)%s"):format(name, table.concat(known.params, ", "),
    text ~= "" and "\n" .. text or "")
end

local function first_sentence(text) return (text .. " "):match("^(.-)[.:]%s") or text end

local function list_ops()
  local lines = {}
  for i, name in ipairs(manual.keys(core.ops)) do
    lines[i] = ("%-20s %s"):format(name, first_sentence(core.ops[name].doc))
  end
  return table.concat(lines, "\n")
end

-- A module or class: its own comment, and what it holds.
local function describe_table(name, t)
  local lines = {}
  if manual.is_class(t) then
    lines[1] = describe_lua(name, t.init)
    local about = readable(manual.class_comment(t))
    if about ~= "" then lines[2] = about end
  end
  for _, key in ipairs(manual.keys(t)) do
    local known = type(t[key]) == "function" and key ~= "init" and manual.lua_function(t[key])
    local comment = known and known.comment
      or manual.is_class(t[key]) and manual.class_comment(t[key])
    if comment then
      lines[#lines + 1] = ("  %-20s %s"):format(key, first_sentence(comment[1] or ""))
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or name
end

local function describe_value(name, value)
  if type(value) == "function" then return describe_lua(name, value) end
  if type(value) == "table" then return describe_table(name, value) end
  return ("%s = %s"):format(name, tostring(value))
end

local function models() return require("moelua").model.Model end

-- The help for the function of that name that all models have, or nil.
local function describe_method(name)
  local f = models()[name:gsub("^[Mm]odel[.:]", "")]
  local known = type(f) == "function" and manual.lua_function(f)
  if not known then return nil end
  return describe_lua(("Model%s%s"):format(known.method and ":" or ".", name:match("[%w_]+$")), f)
end

-- "nn.Linear" -> the value in moe, or nil.
local function find(path)
  local value = require("moelua")
  for key in path:gsub("^moe%.", ""):gmatch("[^.:]+") do
    if type(value) ~= "table" then return nil end
    value = value[key]
  end
  return value
end

-- The path under which moe holds the value, looking one level deep.
local function path_of(value)
  local moe = require("moelua")
  for _, name in ipairs(manual.keys(moe)) do
    if moe[name] == value then return name end
  end
  for _, name in ipairs(manual.keys(moe)) do
    for key, inner in pairs(type(moe[name]) == "table" and moe[name] or {}) do
      if inner == value then return ("%s.%s"):format(name, tostring(key)) end
    end
  end
end

local function by_name(name)
  if name == "ops" then return list_ops() end
  if manual.record(name) then return describe(name) end
  local value = find(name)
  if value ~= nil then return describe_value(name, value) end
  local method = describe_method(name)
  if method then return method end
  local names = manual.names()
  for _, t in ipairs({ require("moelua"), models() }) do
    table.move(manual.keys(t), 1, 1000, #names + 1, names)
  end
  local near = options.nearest(name, names)
  return ("no help for '%s'\nhint: %s"):format(name,
    near and ("did you mean '%s'?"):format(near) or "help(\"ops\") lists all operations")
end

--- The help text for a topic: the name of a function, class or module ("softmax", "nn.Linear"), the
--- thing itself, "ops" for a list, or nothing for a first overview.
return function(topic)
  if topic == nil then return INTRODUCTION end
  if type(topic) == "string" then return by_name(topic) end
  local path = (type(topic) == "function" or type(topic) == "table") and path_of(topic)
  if path and manual.record(path) then return describe(path) end
  if path then return describe_value(path, topic) end
  for name, f in pairs(models()) do
    if f == topic then return describe_method(name) or tostring(topic) end
  end
  if type(topic) == "function" and manual.lua_function(topic) then
    return describe_lua("function", topic)
  end
  return tostring(topic)
end
