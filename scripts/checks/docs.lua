-- docs.lua: is everything public documented? Run as
--   moelua scripts/checks/docs.lua [root of the source tree]
-- Public are the functions that require("moelua") reaches, their options, the methods of its
-- classes, the operations, the functions of the C headers, the options of the program and the
-- chores of scripts/dev. One line `what: what is missing`; the last is `N passed, N failed`.
local core = require("moelua.core")
local manual = require("moelua.manual")
local moe = require("moelua")

local root = arg[1] or "."
local passed, failed = 0, 0

local function check(holds, what, missing)
  if holds then
    passed = passed + 1
  else
    failed = failed + 1
    print(("%s: %s"):format(what, missing))
  end
end

local function read(path)
  local file = assert(io.open(root .. "/" .. path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local stubs = read("lua/moelua/meta/moelua.d.lua")

-- Annotations alone tell types, but not what for.
local function has_prose(comment)
  for _, line in ipairs(comment or {}) do
    if line:find("%a") and not line:find("^@") then return true end
  end
  return false
end

local function check_help(name)
  local text = moe.help(name)
  check(type(text) == "string" and not text:find("^no help for") and #text > #name + 4, name,
    "help() knows nothing about it")
end

local function check_stub(name)
  local last = name:match("[%w_]+$")
  check(stubs:find("[.:]" .. last .. "%(") or stubs:find("[.]" .. last .. " ="), name,
    "lua/moelua/meta lacks it (scripts/dev stubs)")
end

-- ---- Lua: functions, modules, classes ---------------------------------------------------------

local hooks = { fail_allocation = true, philox = true, interrupt = true }     -- of test builds

local function check_function(name, f)
  local record = manual.record(name)
  local known = not record and manual.lua_function(f)
  check(record and record.doc:find("%a") or known and has_prose(known.comment), name,
    "no comment above it")
  check_help(name)
  check_stub(name)
end

-- What a class makes, and how its objects are called, stands above the class itself.
local by_class = { init = true, forward = true, __call = true }

local function check_class(name, class)
  local init = manual.lua_function(class.init)
  check(has_prose(manual.class_comment(class)) or init and has_prose(init.comment), name,
    "no comment above the class")
  check_help(name)
  for _, key in ipairs(manual.keys(class)) do
    local known = type(class[key]) == "function" and not by_class[key]
      and manual.lua_function(class[key])
    if known then
      check(has_prose(known.comment), name .. ":" .. key, "no comment above it")
      check_stub(key)
    end
  end
end

local function check_annotated(module)
  for _, class in ipairs(manual.annotated(module)) do
    for _, method in ipairs(class.methods) do
      local name = class.name .. ":" .. method.name
      check(has_prose(method.comment), name, "no comment above it")
      check(stubs:find("function " .. name .. "(", 1, true), name, "lua/moelua/meta lacks it")
    end
  end
end

local function check_module(name, module)
  check_help(name)
  for _, key in ipairs(manual.keys(module)) do
    local value, path = module[key], name .. "." .. key
    if manual.is_class(value) then
      check_class(path, value)
    elseif type(value) == "function" then
      check_function(path, value)
    end
  end
end

for _, name in ipairs(manual.keys(moe)) do
  local value = moe[name]
  if manual.is_class(value) then
    check_class(name, value)
    check_annotated(name)
  elseif type(value) == "table" and name ~= "ops" then
    check_module(name, value)
    check_annotated(name)
  elseif type(value) == "function" and not hooks[name] then
    check_function(name, value)
  end
end
for _, name in ipairs(manual.names()) do
  check(manual.record(name).doc:find("%a"), name, "its record says nothing")
  check_help(name)
  check_stub(name)
end

-- ---- options: every one is named where its function is described ------------------------------

local declarations = {
  train = { "train_options", "declared" }, evaluate = { "evaluate", "declared" },
  branch = { "branch", "declared" }, ["model.new"] = { "model", "declared" },
  ["data.corpus"] = { "data", "corpus_options" }, optimizer = { "optimizer", "Optimizer.options" },
}

-- The names in the table that a module declares, from its source.
local function declared_in(module, name)
  local lines, names, inside = manual.lines(module), {}, false
  for _, line in ipairs(lines or {}) do
    if inside and line:find("^}") then return names end
    if inside then
      local bare = line:gsub("%-%-.*$", ""):gsub("%b{}", "0"):gsub("%b\"\"", "0")
      for option in bare:gmatch("([%a_][%w_]*) = ") do names[#names + 1] = option end
    end
    local start = line:match("^l?o?c?a?l? ?([%w_.]+) = .*{%s*$")
    if start == name then inside = true end
  end
  return names
end

for path, where in pairs(declarations) do
  local names = declared_in(where[1], where[2])
  check(#names > 0, path, "its options were not found")
  local text = moe.help(path)
  for _, name in ipairs(names) do
    check(text:find("%f[%w_]" .. name .. "%f[^%w_]"), path, "help() does not name option " .. name)
  end
end

-- ---- C headers: a comment above, or one for the group, or beside ------------------------------

local function check_header(path)
  local lines = {}
  for line in (read(path) .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
  local told = false                  -- does the comment above still stand for this line?
  for _, line in ipairs(lines) do
    local name = line:match("^MOE_API.-([%w_]+)%(")
    if name then check(told or line:find("/%*"), path .. ": " .. name, "no comment above it") end
    if line:find("%*/%s*$") and not name then
      told = not line:find("/%* %-%-%-%-")
    elseif not line:find("%S") then
      told = false
    end
  end
end

check_header("core/moe.h")
check_header("lua/moelua.h")

-- ---- the program and scripts/dev --------------------------------------------------------------

local source = read("lua/cli/options.c")
local help = source:match("help_text%[%] =(.-);")
local internal = { worker = true }
for option in source:gmatch('strcmp%(word, "%-%-([%w-]+)"%)') do
  check(internal[option] or help:find("--" .. option, 1, true), "moelua --" .. option,
    "--help does not list it")
end
for letter in source:gmatch("case '(%a)':") do
  check(help:find("  -" .. letter, 1, true), "moelua -" .. letter, "--help does not list it")
end

local dev = read("scripts/dev")
local usage = dev:match("usage%(%) {(.-)\nEND\n")
for words in dev:match("\ncase .-\nesac"):gmatch("\n%s+([^)\n]+)%)") do
  for chore in (" " .. words):gmatch("%s(%a[%w_]*)") do
    check(usage:find("\n  " .. chore .. "%f[%W]"), "scripts/dev " .. chore, "its usage lacks it")
  end
end

check(next(core.ops) ~= nil, "core.ops", "there are no operations")
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0, true)
