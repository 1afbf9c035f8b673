-- shards.lua: safetensors files that an index ties together, or the numbered parts of a GGUF file,
-- seen as one checkpoint with the methods of a single file.

local core = require("moelua.core")

local files, json, raise, system = core.checkpoint, core.json, core.raise, core.system

local shards = {}

local Shards = {}
Shards.__index = Shards
Shards.__name = "moelua.Checkpoint"

local function failure(path, text, ...)
  return nil, ("checkpoint.open: %s: " .. text):format(path, ...), "format"
end

-- The index -------------------------------------------------------------------------------

-- A name from the index must stay in its folder.
local function is_file_name(name)
  return type(name) == "string" and name ~= "" and name ~= "." and name ~= ".."
    and not name:find("[/\\\0]")
end

local function read_index(path)
  local text, message, code = system.read(path)
  if not text then return nil, message, code end
  local index, reason = json.decode(text)
  if index == nil then return failure(path, "%s", reason) end
  if type(index) ~= "table" or type(index.metadata) ~= "table"
    or type(index.weight_map) ~= "table" then
    return failure(path, "an index needs the objects `metadata` and `weight_map`")
  end
  for name, file in pairs(index.weight_map) do
    if type(name) ~= "string" or not is_file_name(file) then
      return failure(path, "tensor `%s` is said to be in %s, which is no file name",
        tostring(name), type(file) == "string" and ("%q"):format(file) or type(file))
    end
  end
  return index
end

-- File names of the map, sorted.
local function file_names(map)
  local seen, list = {}, {}
  for _, file in pairs(map) do
    if not seen[file] then list[#list + 1] = file end
    seen[file] = true
  end
  table.sort(list)
  return list
end

-- Checks ----------------------------------------------------------------------------------

-- Each file must hold exactly what the index says. Returns the bytes of all tensors.
local function check_tensors(path, map, opened)
  local bytes, found = 0, {}
  for file, shard in pairs(opened) do
    for _, name in ipairs(shard:names()) do
      if map[name] ~= file then
        return failure(path, "%s holds tensor `%s`, which the index does not list there", file,
          name)
      end
      found[name] = true
      bytes = bytes + shard:info(name).bytes
    end
  end
  for name, file in pairs(map) do
    if not found[name] then return failure(path, "%s lacks tensor `%s`", file, name) end
  end
  return bytes
end

local function close_all(opened)
  for _, shard in pairs(opened) do shard:close() end
end

local function open_all(folder, list)
  local opened = {}
  for _, file in ipairs(list) do
    local shard, message, code = files.open(folder .. "/" .. file)
    if not shard then
      close_all(opened)
      return nil, message, code
    end
    opened[file] = shard
  end
  return opened
end

--- Opens the shards of a folder. Raises nothing; fails with nil, message, code when a file is
--- missing or damaged, or does not hold what the index says.
---@param folder string
---@param index_name string the file name of the index
function shards.open(folder, index_name)
  local path = folder .. "/" .. index_name
  local index, message, code = read_index(path)
  if not index then return nil, message, code end
  local map = index.weight_map
  local list = file_names(map)
  local opened
  opened, message, code = open_all(folder, list)
  if not opened then return nil, message, code end
  local bytes
  bytes, message, code = check_tensors(path, map, opened)
  if not bytes then
    close_all(opened)
    return nil, message, code
  end
  local claimed = index.metadata.total_size
  if type(claimed) == "number" and claimed ~= bytes then
    warn(("moelua: %s: total_size is %s, the tensors have %d bytes"):format(path, claimed, bytes))
  end
  return setmetatable({ path = folder, map = map, list = list, opened = opened }, Shards)
end

-- Parts of a GGUF file --------------------------------------------------------------------

-- The names of all parts, by the name of the first: model-00001-of-00003.gguf.
local function part_names(path, count)
  local folder, stem = path:match("^(.-)([^/]*)%-00001%-of%-%d%d%d%d%d%.gguf$")
  if not stem then return nil end
  local list = {}
  for i = 1, count do list[i] = ("%s-%05d-of-%05d.gguf"):format(stem, i, count) end
  return folder == "" and "." or folder:sub(1, -2), list
end

-- Which part has which tensor; nil, message, code when the parts do not fit together.
local function map_parts(path, list, opened, total)
  local map, found = {}, 0
  for i, file in ipairs(list) do
    if opened[file]:metadata("split.no") ~= i - 1
      or opened[file]:metadata("split.count") ~= #list then
      return failure(path, "%s is not part %d of %d", file, i, #list)
    end
    for _, name in ipairs(opened[file]:names()) do
      if map[name] then
        return failure(path, "%s and %s have tensor `%s`", map[name], file, name)
      end
      map[name], found = file, found + 1
    end
  end
  if total and total ~= found then
    return failure(path, "the parts have %d tensors instead of %s", found, tostring(total))
  end
  return map
end

--- Opens all parts of a GGUF file that was split.
---@param path string of the first part
---@param count integer of parts, as the first one says
---@param total integer? of tensors
function shards.open_parts(path, count, total)
  local folder, list = part_names(path, count)
  if not folder then
    return failure(path, "one of %d parts of a model\nhint: open the first one, "
      .. "NAME-00001-of-%05d.gguf", count, count)
  end
  local opened, message, code = open_all(folder, list)
  if not opened then return nil, message, code end
  local map
  map, message, code = map_parts(path, list, opened, total)
  if not map then
    close_all(opened)
    return nil, message, code
  end
  return setmetatable({ path = path, map = map, list = list, opened = opened }, Shards)
end

-- Methods ---------------------------------------------------------------------------------

local function check_open(self, where)
  if getmetatable(self) ~= Shards then
    raise("%s: a Checkpoint is expected, got %s\nhint: call it as file:%s(...)", where, type(self),
      where)
  end
  if not self.opened then raise("%s: the checkpoint was closed", where) end
end

function Shards:names()
  check_open(self, "names")
  local list = {}
  for name in pairs(self.map) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- The shard that holds the tensor.
local function shard_of(self, where, name)
  check_open(self, where)
  if type(name) ~= "string" then raise("%s: name must be a string: got %s", where, type(name)) end
  local file = self.map[name]
  if file then return self.opened[file] end
  local message = ("%s: %s: no tensor `%s`"):format(where, self.path, name)
  local near = core.nearest(name, self:names())
  if near then message = ("%s\nhint: did you mean '%s'?"):format(message, near) end
  return nil, message, "missing"
end

for _, method in ipairs { "info", "tensor", "raw", "source" } do
  Shards[method] = function(self, name, ...)
    local shard, message, code = shard_of(self, method, name)
    if not shard then return nil, message, code end
    return shard[method](shard, name, ...)
  end
end

--- The metadata of all shards, or of one key; the first that has a key decides.
function Shards:metadata(key)
  check_open(self, "metadata")
  if key ~= nil then
    for _, file in ipairs(self.list) do
      local value = self.opened[file]:metadata(key)
      if value ~= nil then return value end
    end
    return nil
  end
  local all = {}
  for i = #self.list, 1, -1 do
    for name, value in pairs(self.opened[self.list[i]]:metadata()) do all[name] = value end
  end
  return all
end

--- Each file knows its own checksum.
function Shards:verify()
  check_open(self, "verify")
  for _, name in ipairs(self.list) do
    local whole, message, code = self.opened[name]:verify()
    if not whole then return nil, message, code end
  end
  return true
end

function Shards:close()
  if self.opened then close_all(self.opened) end
  self.opened = nil
end

Shards.__close = Shards.close

function Shards:__tostring()
  if not self.opened then return ("Checkpoint %s (closed)"):format(self.path) end
  local count = #self:names()
  return ("Checkpoint %s (%d tensor%s in %d files)"):format(self.path, count,
    count == 1 and "" or "s", #self.list)
end

return shards
