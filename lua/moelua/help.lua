-- help.lua: moe.help(x): what a function is for, from the records of the ops.

local core = require("moelua.core")
local options = require("moelua.options")

local INTRODUCTION = [[
moelua: a workbench for mixture-of-experts language models.

  local moe = require("moelua")
  local x = moe.randn(4, 8)              tensors; x:matmul(w), x:softmax(-1), x + y
  local m = moe.model.new{ ... }         a model; moe.load("folder") reads one
  help("softmax")  help(moe.softmax)     about an operation
  help("ops")                            all of them]]

local function sorted_ops()
  local names = {}
  for name in pairs(core.ops) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function describe(name)
  local op = core.ops[name]
  return ("%s(%s)\n%s"):format(name, op.sig, op.doc)
end

local function list_ops()
  local lines = {}
  for i, name in ipairs(sorted_ops()) do
    lines[i] = ("%-20s %s"):format(name, core.ops[name].doc:match("^[^.:]*"))
  end
  return table.concat(lines, "\n")
end

--- The help text for a topic: an op's name, the function itself, "ops", or nothing.
return function(topic)
  if topic == nil then return INTRODUCTION end
  if topic == "ops" then return list_ops() end
  if type(topic) == "string" and core.ops[topic] then return describe(topic) end
  for _, name in ipairs(sorted_ops()) do
    if core[name] == topic then return describe(name) end
  end
  if type(topic) ~= "string" then return tostring(topic) end
  return ("no help for '%s'%s"):format(topic, options.hint(topic, sorted_ops()))
end
