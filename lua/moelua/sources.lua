-- sources.lua: the files that a corpus is made of. Paths become a sorted list of files, whatever
-- order the system lists them in, and a fingerprint that changes when a file does.

local core = require("moelua.core")
local expect = require("moelua.expect")
local raise, system = core.raise, core.system

local sources = {}

-- ---- listing ----------------------------------------------------------------------------------

-- Order of bytes. Lua's own `<` follows the locale of the host, and the order decides the stream.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function check_match(match)
  if match and not pcall(string.find, "", match) then
    raise("corpus: match is no Lua pattern: %q", match)
  end
end

local function join(folder, name)
  return folder:sub(-1) == "/" and folder .. name or folder .. "/" .. name
end

-- Adds the files below a folder. Hidden entries are left out, and links to folders, which could
-- lead in circles. Returns how many files there were, or nil and a message.
local function walk(folder, match, files)
  local lfs = require("lfs")           -- where it is needed, see folder.lua
  local opened, iterate, state, control, closing = pcall(lfs.dir, folder)
  if not opened then return nil, ("corpus: %s"):format(iterate) end
  local seen = 0
  for name in iterate, state, control, closing do
    local path = join(folder, name)
    local mode = name:sub(1, 1) ~= "." and lfs.symlinkattributes(path, "mode")
    if mode == "link" and lfs.attributes(path, "mode") == "directory" then mode = nil end
    if mode == "directory" then
      local more, message = walk(path, match, files)
      if not more then return nil, message end
      seen = seen + more
    elseif mode == "file" or mode == "link" then
      seen = seen + 1
      if not match or name:find(match) then files[#files + 1] = path end
    end
  end
  return seen
end

local function add_folder(folder, match, files)
  local had = #files
  local seen, message = walk(folder, match, files)
  if not seen then return nil, message, "io" end
  if #files > had then return true end
  if seen == 0 then
    return nil, ("corpus: the folder holds no files: %s"):format(folder), "missing"
  end
  local text = "corpus: no file name matches %q: %s holds %d file%s"
  return nil, text:format(match, folder, seen, seen == 1 and "" or "s"), "missing"
end

local function add_path(path, match, files)
  expect(type(path) == "string", "corpus", "path", "a string", path)
  local mode, reason = require("lfs").attributes(path, "mode")
  if not mode then
    local code = system.exists(path) and "io" or "missing"
    if code == "io" then return nil, ("corpus: %s"):format(reason), code end
    return nil, ("corpus: no such file or folder: %s"):format(path), code
  end
  if mode == "directory" then return add_folder(path, match, files) end
  if mode ~= "file" then
    return nil, ("corpus: neither file nor folder but a %s: %s"):format(mode, path), "io"
  end
  files[#files + 1] = path
  return true
end

local function without_repeats(files)
  local kept = {}
  for _, path in ipairs(files) do
    if path ~= kept[#kept] then kept[#kept + 1] = path end
  end
  return kept
end

--- The files of a corpus, sorted by path.
---@param path string|string[] files and folders
---@param match string? Lua pattern that the names of files in folders must match
---@return string[]? files
---@return string? message
---@return string? code
function sources.list(path, match)
  check_match(match)
  local files = {}
  for _, each in ipairs(type(path) == "table" and path or { path }) do
    local ok, message, code = add_path(each, match, files)
    if not ok then return nil, message, code end
  end
  if #files == 0 then raise("corpus: path is an empty list") end
  table.sort(files, before)
  return without_repeats(files)
end

-- ---- reading ----------------------------------------------------------------------------------

--- A hash of paths, sizes and times of change, by which a token file knows its sources.
---@param files string[]
---@return string
function sources.fingerprint(files)
  local lfs, lines = require("lfs"), {}
  for i, path in ipairs(files) do
    local info = lfs.attributes(path) or {}
    lines[i] = ("%s\0%s\0%s\n"):format(path, info.size, info.modification)
  end
  return system.hash(table.concat(lines))
end

--- The content of a file; .gz and .dz are uncompressed.
---@param path string
---@return string? text
---@return string? message
---@return string? code
function sources.read(path)
  local compressed = path:find("%.[gd]z$")
  local text, message, code = (compressed and system.read_gzip or system.read)(path)
  if not text then return nil, "corpus: " .. message, code end
  return text
end

-- ---- packages ---------------------------------------------------------------------------------

local function installed_files(package)
  local lines = {}
  local pipe = io.popen(("dpkg -L '%s' 2>/dev/null"):format(package))
  if not pipe then return nil end
  for line in pipe:lines() do lines[#lines + 1] = line end
  return pipe:close() and lines
end

--- The files that a Debian package installed and whose path matches a Lua pattern, sorted. Without
--- the package: nil, message with a hint, "missing".
---@param package string as "libc6-dev"
---@param pattern string? as "%.h$"
---@return string[]? files
---@return string? message
---@return string? code
function sources.package_files(package, pattern)
  if type(package) ~= "string" or not package:find("^%w[%w%+%-%.:]*$") then
    raise("package_files: no name of a package: %s", tostring(package))
  end
  local lines = installed_files(package)
  if not lines then
    return nil, ("package_files: the package is not installed: %s\nhint: apt-get install %s")
      :format(package, package), "missing"
  end
  local lfs, files = require("lfs"), {}
  for _, path in ipairs(lines) do
    local wanted = not pattern or path:find(pattern)
    if wanted and lfs.attributes(path, "mode") == "file" then files[#files + 1] = path end
  end
  if #files == 0 then
    local text = "package_files: no file of %s matches %q"
    return nil, text:format(package, pattern or ""), "missing"
  end
  table.sort(files, before)
  return files
end

return sources
