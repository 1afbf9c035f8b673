-- stubs.lua: writes lua/moelua/meta/moelua.d.lua, what editors with the Lua language server know
-- about moelua. Everything comes from manual.lua: op records, function records, doc comments.
--
--   scripts/dev stubs                       writes the file
--   moelua scripts/stubs.lua FILE           writes it there

local moe = require("moelua")
local core = require("moelua.core")
local manual = require("moelua.manual")

local HEADER = [[
---@meta moelua
-- Written by `scripts/dev stubs` from the records of the ops and the doc comments; do not edit.

local moe = {}
]]

-- Types of signatures, as the language server calls them.
local TYPES = { tensor = "moelua.Tensor", itensor = "moelua.Tensor", any = "moelua.Tensor",
  float = "moelua.Tensor", operand = "moelua.Tensor|number", tensors = "moelua.Tensor[]",
  int = "integer", dim = "integer", index = "integer", num = "number", bool = "boolean" }
local OPERATORS = { "add", "sub", "mul", "div", "pow" }

-- Words after which the language server takes a parameter for syntax.
local RESERVED = { ["end"] = true, ["function"] = true, ["repeat"] = true }

local out = {}
local function put(fmt, ...) out[#out + 1] = select("#", ...) > 0 and fmt:format(...) or fmt end

local function type_of(kind)
  local words = kind:match("^{(.*)}$")
  if words then return (words:gsub("[^|]+", "\"%0\"")) end
  return TYPES[kind] or kind
end

-- ---- records: functions in C ------------------------------------------------------------------

-- The list of parameters as it stands between the parentheses.
local function put_parameters(params)
  local names = {}
  for i, p in ipairs(params) do
    if p.type == "sizes" then
      put("---@param ... integer|integer[]|table")
      names[i] = "..."
    else
      local default = p.default and (" default %s"):format(p.default) or ""
      local mark = p.optional and p.name ~= "..." and "?" or ""
      put("---@param %s%s %s%s", p.name, mark, type_of(p.type), default)
      names[i] = RESERVED[p.name] and p.name .. "_" or p.name
    end
  end
  return table.concat(names, ", ")
end

local function put_record(owner, name, record)
  local params, results = manual.parse(record.sig)
  put("")
  for _, line in ipairs(manual.wrapped(record.doc)) do put("--- %s", line) end
  local list = put_parameters(params)
  for _, result in ipairs(results) do put("---@return %s", type_of(result)) end
  put("function %s.%s(%s) end", owner, name, list)
end

-- Functions whose first parameter is a tensor are methods as well.
local function is_method(record)
  local first = manual.parse(record.sig)[1]
  return first ~= nil and type_of(first.type):find("^moelua%.Tensor") ~= nil
    and first.type ~= "tensors"
end

local function put_tensor()
  put("\n---@class moelua.Tensor")
  for _, name in ipairs(OPERATORS) do
    put("---@operator %s(moelua.Tensor|number): moelua.Tensor", name)
  end
  put("---@operator unm: moelua.Tensor")
  put("local Tensor = {}")
  for _, class in ipairs { "Scope", "Checkpoint" } do
    put("\n---@class moelua.%s", class)
    put("local %s = {}", class)
  end
  for _, name in ipairs(manual.names()) do
    local record = manual.record(name)
    local owner, method = name:match("^(%w+)%.(.+)$")
    if owner then
      put_record(owner, method, record)
    elseif is_method(record) then
      put_record("Tensor", name, record)
      put("moe.%s = Tensor.%s", name, name)
    else
      put_record("moe", name, record)
    end
  end
end

-- ---- doc comments: functions in Lua -----------------------------------------------------------

-- Annotations go on without a dash; prose has one blank.
local function put_comment(comment)
  for _, line in ipairs(comment) do
    put("%s", line:find("^@") and "---" .. line or line == "" and "---" or "--- " .. line)
  end
end

local function put_function(owner, name, f)
  local known = manual.lua_function(f)
  if not known then return end
  put("")
  put_comment(known.comment)
  local colon = known.method and ":" or "."
  put("function %s%s%s(%s) end", owner, colon, name, table.concat(known.params, ", "))
end

local function put_class(owner, name, class)
  local init = manual.lua_function(class.init)
  put("")
  put_comment(manual.class_comment(class))
  put("---@class %s", class.__name)
  local params = {}
  for i, p in ipairs(init and init.params or {}) do params[i] = p .. "?: any" end
  put("---@overload fun(%s): %s", table.concat(params, ", "), class.__name)
  put("local %s = {}", name)
  put("%s.%s = %s", owner, name, name)
  for _, key in ipairs(manual.keys(class)) do
    if type(class[key]) == "function" and key ~= "init" then put_function(name, key, class[key]) end
  end
end

local function put_module(name, module)
  put("\n---@class moelua.%s", name)
  local meta = getmetatable(module)
  if type(meta) == "table" and meta.__call then put("---@overload fun(...: any): any") end
  put("local %s = {}", name)
  put("moe.%s = %s", name, name)
  for _, key in ipairs(manual.keys(module)) do
    if type(module[key]) == "function" then
      put_function(name, key, module[key])
    elseif manual.is_class(module[key]) then
      put("\ndo")
      put_class(name, key, module[key])
      put("end")
    end
  end
end

local function put_annotated(module)
  for _, class in ipairs(manual.annotated(module)) do
    put("\ndo")
    put_comment(class.comment)
    put("local %s = {}", class.name)
    for _, method in ipairs(class.methods) do
      put("")
      put_comment(method.comment)
      put("function %s:%s(%s) end", class.name, method.name, method.args)
    end
    put("end")
  end
end

-- ---- the file ---------------------------------------------------------------------------------

local function put_lua_surface()
  local modules = {}
  for _, name in ipairs(manual.keys(moe)) do
    local value = moe[name]
    if name ~= "ops" and type(value) == "table" then
      modules[#modules + 1] = name
      put_module(name, value)
    elseif type(value) == "function" and not manual.record(name) then
      put_function("moe", name, value)
    elseif type(value) ~= "function" and type(value) ~= "table" then
      put("\n---@type %s\nmoe.%s = nil", type(value), name)
    end
  end
  for _, name in ipairs(modules) do put_annotated(name) end
end

put("%s", (HEADER:gsub("\n$", "")))
put_tensor()
put_lua_surface()
put("\nreturn moe\n")
local path = arg[1] or arg[0]:gsub("scripts/[^/]*$", "") .. "lua/moelua/meta/moelua.d.lua"
assert(core.system.make_folder(path:match("^(.*)/") or "."))
assert(core.system.write(path, table.concat(out, "\n")))
