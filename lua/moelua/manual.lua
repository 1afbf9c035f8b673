-- manual.lua: what is known about every public name, for help() and the editor stubs: records of
-- the ops, records of the other functions in C, and doc comments of the Lua modules.

local core = require("moelua.core")
local functions = require("moelua.functions")

local manual = {}

--- The record { sig, doc } of a function in C, or nil.
function manual.record(name) return core.ops[name] or functions[name] end

--- Names of all records, sorted.
function manual.names()
  local names = {}
  for name in pairs(core.ops) do names[#names + 1] = name end
  for name in pairs(functions) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- What a module or class holds, sorted, without metamethods.
function manual.keys(t)
  local names = {}
  for name in pairs(t) do
    if type(name) == "string" and not name:find("^__") then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

--- Text in lines of at most `width` characters. The default is 96: with three dashes and a blank
--- before, as everywhere.
---@param text string
---@param width integer?
---@return string[]
function manual.wrapped(text, width)
  local lines = {}
  width = width or 96
  for word in text:gmatch("%S+") do
    local last = lines[#lines]
    if last and #last + 1 + #word <= width then
      lines[#lines] = last .. " " .. word
    else
      lines[#lines + 1] = word
    end
  end
  return lines
end

-- ---- signatures ---------------------------------------------------------------------------------

-- "dim:dim=-1" -> { name = "dim", type = "dim", default = "-1", optional = true }
local function parse_parameter(text)
  local name, rest = text:match("^([^:]+):(.+)$")
  local kind, default = rest:match("^(.-)=(.*)$")
  kind = kind or rest
  local bare = kind:match("^(.-)%?$")
  return { name = name, type = bare or kind, default = default,
    optional = bare ~= nil or default ~= nil }
end

--- "x:tensor, dim:dim=-1 -> tensor" as a list of parameters and a list of result types.
function manual.parse(sig)
  local left, right = sig:match("^(.-)%s*%->%s*(.*)$")
  local params, results = {}, {}
  for text in (left or sig):gmatch("[^,%s][^,]*") do params[#params + 1] = parse_parameter(text) end
  for text in (right or ""):gmatch("[^,%s][^,]*") do results[#results + 1] = text end
  return params, results
end

-- ---- doc comments -------------------------------------------------------------------------------

local texts = {}

-- The lines of a module's source, or nil.
local function lines_of(module)
  if texts[module] == nil then
    local source, list = core.source(module), nil
    if source then
      list = {}
      for line in (source .. "\n"):gmatch("(.-)\n") do list[#list + 1] = line end
    end
    texts[module] = list or false
  end
  return texts[module]
end
manual.lines = lines_of

--- The comment that ends above line `at`, from its first line with three dashes on, without the
--- dashes of the prose: LuaLS annotations keep their `@`.
function manual.comment(lines, at)
  local first = at
  while first > 1 and lines[first - 1]:find("^%s*%-%-") do first = first - 1 end
  while first < at and not lines[first]:find("^%s*%-%-%-") do first = first + 1 end
  local list = {}
  for i = first, at - 1 do list[#list + 1] = (lines[i]:gsub("^%s*%-%-%-?%s?", "")) end
  return list
end

-- The names between the parentheses of the definition at line `at`.
local function parameters(lines, at)
  local text = table.concat(lines, " ", at, math.min(at + 5, #lines))
  local names = {}
  for name in (text:match("function[^(]*(%b())") or ""):gmatch("[%w_.]+") do
    names[#names + 1] = name
  end
  return names
end

--- A Lua function of ours: { comment = lines, params = names, method = written with a colon }, or
--- nil when it is none.
function manual.lua_function(f)
  local info = debug and debug.getinfo and debug.getinfo(f, "S")
  local module = info and info.source:match("^=moelua/(.*)%.lua$")
  local lines = module and lines_of(module)
  local line = lines and lines[info.linedefined]
  if not line then return nil end
  return { comment = manual.comment(lines, info.linedefined),
    params = parameters(lines, info.linedefined), method = line:find("function[^(]*:") ~= nil }
end

--- The comment above `local NAME = ` in the module that the class's methods come from.
function manual.class_comment(class)
  local info = debug and debug.getinfo and debug.getinfo(class.init, "S")
  local lines = info and lines_of(info.source:match("^=moelua/(.*)%.lua$") or "")
  local start = "local " .. class.__name:match("[%w_]+$") .. " ="
  for at, line in ipairs(lines or {}) do
    if line:sub(1, #start) == start then return manual.comment(lines, at) end
  end
  return {}
end

-- The module's own functions of the class that `---@class` above line `at` declares.
local function methods_of(lines, at, class)
  local list = {}
  for i = at + 1, #lines do
    if lines[i]:find("^local %w+ =") and (lines[i - 1] or ""):find("^%-%-%-@") then break end
    local colon, name, args = lines[i]:match("^function " .. class .. "([.:])([%w_]+)%((.-)%)")
    if name and not name:find("^_") then
      list[#list + 1] = { name = name, comment = manual.comment(lines, i),
        args = colon == ":" and args or args:gsub("^[%w_]+,? ?", "") }
    end
  end
  return list
end

-- Classes of a module that stand in files of their own.
local own_files = { data = "corpus", tokenizer = "tokenizer_class" }

--- Classes that a module declares in annotations, `---@class moelua.Corpus` above `local Corpus =`:
--- a list of { name = "Corpus", comment = lines, methods = { { name, args, comment } } }.
function manual.annotated(module)
  local lines, list = lines_of(own_files[module] or module) or {}, {}
  for at, line in ipairs(lines) do
    local class = line:match("^local (%w+) =")
    if class and (lines[at - 1] or ""):find("^%-%-%-@") then
      local comment = manual.comment(lines, at)
      local name = table.concat(comment, "\n"):match("@class moelua%.(%w+)")
      if name then
        list[#list + 1] = { name = name, comment = comment, methods = methods_of(lines, at, class) }
      end
    end
  end
  return list
end

--- Is the value a class made by class.lua?
function manual.is_class(value)
  return type(value) == "table" and rawget(value, "__index") == value
    and type(rawget(value, "init")) == "function"
end

return manual
