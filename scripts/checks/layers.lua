-- layers.lua: who may include what, and who may end, print or ask. Run as
--   moelua scripts/checks/layers.lua [root of the source tree]
-- One line `file:line: what` per violation; the last line is `N passed, N failed` (in files).
local lfs = require("lfs")

local root = arg[1] or "."

-- A folder of core/ includes only those listed for it. Kernels stay free of tensors, so that
-- another device can bring its own.
local may_include = {
  ["core/base"] = { "core/base" },
  ["core/tensor"] = { "core/base", "core/tensor" },
  ["core/kernels"] = { "core/base", "core/kernels" },
  ["core/tape"] = { "core/base", "core/tensor", "core/kernels", "core/tape" },
  ["core/ops"] = { "core/base", "core/tensor", "core/kernels", "core/tape", "core/ops" },
}
local below_l4 = { "core/base", "core/tensor", "core/kernels", "core/tape", "core/ops" }
may_include["core/checkpoint"] = { "core/checkpoint", table.unpack(below_l4) }
may_include["core/text"] = { "core/text", "core/checkpoint", table.unpack(below_l4) }
may_include["lua"] = { "lua" }
may_include["lua/bind"] = { "lua", "lua/bind", table.unpack(may_include["core/text"]) }
may_include["lua/cli"] = { "lua", "lua/cli", table.unpack(may_include["lua/bind"]) }
may_include["core"] = {}

-- System headers that belong to few.
local header_users = {
  ["lua.h"] = { "lua/bind", "lua/cli" },
  ["lauxlib.h"] = { "lua/bind", "lua/cli" },
  ["lualib.h"] = { "lua/bind", "lua/cli" },
  ["cblas.h"] = { "core/kernels" },
  ["lapacke.h"] = { "core/kernels" },
  ["histedit.h"] = { "lua/cli" },
  ["readline.h"] = { "lua/cli" },
  ["editline/readline.h"] = { "lua/cli" },
  ["signal.h"] = { "lua/cli", "lua/bind", "core/base" },    -- core: the mask of its threads
  ["pcre2.h"] = { "core/text" },
  ["utf8proc.h"] = { "core/text" },
  ["yaml.h"] = { "lua/bind" },
  ["termios.h"] = { "lua/cli" },
  ["setjmp.h"] = {},
  ["assert.h"] = {},
}
local one_user = { ["cblas.h"] = true, ["lapacke.h"] = true }

-- Functions that only the command line may call: the library neither ends the process, nor
-- speaks, nor reads the environment, nor touches signals or the terminal.
local cli_only = {}
for name in ([[exit abort quick_exit atexit printf vprintf fprintf vfprintf puts putchar perror
    signal sigaction getenv secure_getenv setenv isatty tcsetattr setlocale
    longjmp siglongjmp setjmp sigsetjmp assert system popen]]):gmatch("%S+") do
  cli_only[name] = true
end
local streams = { stdout = true, stderr = true, stdin = true }

local violations, checked = {}, 0

local function violation(file, line, text)
  violations[#violations + 1] = { file = file, line = line, text = text }
end

local function contains(list, item)
  for _, each in ipairs(list) do
    if each == item then
      return true
    end
  end
  return false
end

local function exists(path)
  return lfs.attributes(root .. "/" .. path, "mode") == "file"
end

--- "core/kernels/vector/gemm.c" -> "core/kernels"; "core/moe.h" -> "core".
local function layer_of(path)
  return path:match("^(core/[^/]+)/") or path:match("^(lua/[^/]+)/") or path:match("^[^/]+")
end

local function normalise(path)
  local parts = {}
  for part in path:gmatch("[^/]+") do
    if part == ".." then
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts, "/")
end

--- Where the compiler would find `#include "name"` from `file`, or nil.
local function find_header(file, name)
  local folder = file:match("^(.*)/[^/]*$")
  for _, place in ipairs({ folder, "core", "lua", "lua/bind" }) do
    local path = normalise(place .. "/" .. name)
    if exists(path) then
      return path
    end
  end
end

local function check_own_header(file, line, name)
  if name == "ops.inc" then -- written by CMake from core/ops
    return
  end
  local target = find_header(file, name)
  local from = layer_of(file)
  if target == "core/moe.h" then -- for everybody
    return
  end
  if not target and not header_users[name] then
    violation(file, line, ('"%s" is no header of this tree'):format(name))
  elseif target and not contains(may_include[from], layer_of(target)) then
    violation(file, line, ("%s may not include %s"):format(from, target))
  end
end

local users = {}

local function check_system_header(file, line, name)
  local allowed = header_users[name]
  if not allowed then
    return
  end
  if not contains(allowed, layer_of(file)) then
    violation(file, line, ("<%s> belongs to %s"):format(name,
      #allowed == 0 and "nobody" or table.concat(allowed, " and ")))
  elseif one_user[name] and (users[name] or file) ~= file then
    violation(file, line, ("<%s> already has its one user, %s"):format(name, users[name]))
  end
  users[name] = users[name] or file
end

--- The text without comments and literals, lines kept.
local function strip(text)
  local out, at = {}, 1
  while true do
    local from = text:find("[/\"']", at)
    if not from then
      break
    end
    out[#out + 1] = text:sub(at, from - 1)
    local two = text:sub(from, from + 1)
    local stop
    if two == "/*" then
      stop = select(2, text:find("*/", from + 2, true)) or #text
    elseif two == "//" then
      stop = (text:find("\n", from, true) or #text + 1) - 1
    elseif text:sub(from, from) == "/" then
      stop = from
      out[#out + 1] = "/"
    else
      local quote = text:sub(from, from)
      stop = from + 1
      while stop <= #text and text:sub(stop, stop) ~= quote do
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
      end
    end
    out[#out + 1] = (" "):rep(2) .. text:sub(from, stop):gsub("[^\n]", "")
    at = stop + 1
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

local function check_calls(file, number, line)
  local start = 1
  while true do
    local from, to, name = line:find("([%a_][%w_]*)", start)
    if not from then
      return
    end
    local before, after = line:sub(1, from - 1), line:sub(to + 1)
    local member = before:find("%.%s*$") or before:find("%->%s*$")
    if streams[name] and not member then
      violation(file, number, ("%s belongs to lua/cli"):format(name))
    elseif cli_only[name] and not member and after:find("^%s*%(") then
      violation(file, number, ("%s() belongs to lua/cli"):format(name))
    end
    start = to + 1
  end
end

local function check_file(file)
  checked = checked + 1
  local handle = assert(io.open(root .. "/" .. file, "rb"))
  local text = handle:read("a")
  handle:close()
  local is_cli = layer_of(file) == "lua/cli"

  local number = 0
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    local own = line:match('^%s*#%s*include%s*"([^"]+)"')
    local system = line:match("^%s*#%s*include%s*<([^>]+)>")
    if own then
      check_own_header(file, number, own)
    end
    if own or system then
      check_system_header(file, number, own or system)
    end
  end
  if is_cli then
    return
  end
  number = 0
  for line in (strip(text) .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    check_calls(file, number, line)
  end
end

local function walk(folder)
  local names = {}
  for name in lfs.dir(root .. "/" .. folder) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local path = folder .. "/" .. name
    local mode = lfs.attributes(root .. "/" .. path, "mode")
    if name:sub(1, 1) ~= "." and mode == "directory" then
      walk(path)
    elseif name:find("%.[ch]$") then
      if may_include[layer_of(path)] then
        check_file(path)
      else
        violation(path, 1, layer_of(path) .. " is a folder that the design does not have")
      end
    end
  end
end

walk("core")
walk("lua")

local bad, failed = {}, 0
for _, each in ipairs(violations) do
  print(("%s:%d: %s"):format(each.file, each.line, each.text))
  if not bad[each.file] then
    bad[each.file] = true
    failed = failed + 1
  end
end
if checked == 0 then
  print("no C file found under " .. root)
  failed = 1
end
print(("%d passed, %d failed"):format(math.max(checked - failed, 0), failed))
os.exit(failed == 0, true)
