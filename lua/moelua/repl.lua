-- repl.lua: the interactive session. Reading and writing are injected, so that it runs at a
-- terminal, over a socket and in a test alike.
--
--   require("moelua.repl").run {
--     read = function(prompt) end,      -- a line; nil at the end; nil, "interrupted" to start over
--     write = function(...) end,        -- default io.write
--     remember = function(entry) end,   -- what was entered, complete; default: nothing
--     traceback = function(err) end,    -- message handler; default debug.traceback
--   }

local repl = {}

local NAME = "=stdin"

local help_text = [[
Type an expression to see its value, or any Lua statement.
  moe.randn(2, 3)        moe is require("moelua")
  x = moe.ones(4)        globals stay; locals end with their line
  help("softmax")        what a function does; help("ops") and help("nn") list what there is
  Ctrl-C stops what runs, Ctrl-D ends the session
]]

local function read_standard_input(write)
  return function(prompt)
    write(prompt)
    return io.read()
  end
end

local function plain_traceback(err)
  if type(err) ~= "string" then return err end
  return debug.traceback(err, 2)
end

-- What lines see: all globals, and `moe` and `help` besides. Assignments make true globals.
local function environment(write)
  local moe = require("moelua")
  local function help(...)
    if moe.help and select("#", ...) > 0 then return moe.help(...) end
    write(help_text)
  end
  local extra = { moe = moe, help = help }
  return setmetatable({}, {
    __index = function(_, name)
      local value = _G[name]
      if value == nil then return extra[name] end
      return value
    end,
    __newindex = _G,
  })
end

local function new(options)
  local write = options.write or io.write
  return {
    write = write,
    read = options.read or read_standard_input(write),
    remember = options.remember or function() end,
    traceback = options.traceback or plain_traceback,
    env = environment(write),
  }
end

-- An expression is tried first, so that `1 + 1` shows its value.
local function compile(session, text)
  local chunk = load("return " .. text, NAME, "t", session.env)
  if chunk then return chunk end
  return load(text, NAME, "t", session.env)
end

-- Only a statement that ends too early is worth another line.
local function incomplete(message)
  return message:sub(-5) == "<eof>"
end

-- Reads one complete entry. Returns its text and its chunk, or its text and nil, message; nil at
-- the end of input; "" when the user started over.
local function enter(session)
  local text, why = session.read("> ")
  while text do
    local chunk, message = compile(session, text)
    if chunk or not incomplete(message) then return text, chunk, message end
    local line
    line, why = session.read(">> ")
    if not line and why ~= "interrupted" then return text, nil, message end
    text = line and text .. "\n" .. line
  end
  if why == "interrupted" then
    session.write("\n")
    return ""
  end
end

local LONGEST, DEEPEST = 10, 3     -- entries of a table that are shown, tables in tables

local show_table

local function inner(value, depth)
  if type(value) == "string" then return ("%q"):format(value) end
  return show_table(value, depth)
end

-- { 1, 2, a = 3 }: the list, then the other keys in order, cut short where it gets long. Objects
-- show themselves.
function show_table(value, depth)
  if type(value) ~= "table" or getmetatable(value) ~= nil then return tostring(value) end
  if depth > DEEPEST then return "{ ... }" end
  local parts, keys, count = {}, {}, rawlen(value)
  for i = 1, math.min(count, LONGEST + 1) do parts[i] = inner(value[i], depth + 1) end
  for key in next, value do
    local listed = math.type(key) == "integer" and key >= 1 and key <= count
    if not listed then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i = 1, math.min(#keys, LONGEST + 1) do
    local name = tostring(keys[i])
    local word = type(keys[i]) == "string" and name:find("^[%a_][%w_]*$")
    if not word then name = "[" .. name .. "]" end
    parts[#parts + 1] = name .. " = " .. inner(value[keys[i]], depth + 1)
  end
  if #parts == 0 then return "{}" end
  local rest = #parts > LONGEST and ", ..." or ""
  return "{ " .. table.concat(parts, ", ", 1, math.min(#parts, LONGEST)) .. rest .. " }"
end

-- Values side by side, or below each other where one takes several lines.
local function show(session, results)
  if results.n == 0 then return end
  local texts = {}
  for i = 1, results.n do texts[i] = show_table(results[i], 1) end
  local lines = table.concat(texts):find("\n", 1, true)
  session.write(table.concat(texts, lines and "\n" or "\t"), "\n")
end

local function describe(err)
  if type(err) == "table" and err.message ~= nil then err = err.message end
  return require("moelua.error_text").tell(tostring(err))
end

-- Runs the chunk and shows its results; showing may fail too, in somebody's __tostring.
local function evaluate(session, chunk)
  local ok, err = xpcall(function() show(session, table.pack(chunk())) end, session.traceback)
  if not ok then session.write(describe(err), "\n") end
end

-- One entry, read and run. False at the end of input.
local function turn(session)
  local text, chunk, message = enter(session)
  if not text then return false end
  if text:find("%S") then session.remember(text) end
  if chunk then
    evaluate(session, chunk)
  elseif message then
    session.write(message, "\n")
  end
  return true
end

function repl.run(options)
  local session = new(options or {})
  session.write("moe is require(\"moelua\"); help() says more; Ctrl-D ends\n")
  repeat
    local ok, more = pcall(turn, session)
    -- A Ctrl-C that comes between two entries starts over like one at the prompt.
    if not ok and more ~= "interrupted!" then error(more, 0) end
    if not ok then session.write("\n") end
  until not more
  session.write("\n")
end

return repl
