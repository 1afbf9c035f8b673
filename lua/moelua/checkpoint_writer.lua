-- checkpoint_writer.lua: writes a checkpoint tensor by tensor, so that a model larger than the
-- memory can be merged, converted or split. A folder gets model.safetensors, or shards and their
-- index; shards replace the old ones only when all of them are finished.

local core = require("moelua.core")
local folder = require("moelua.folder")

local files, json, raise, system = core.checkpoint, core.json, core.raise, core.system

local writer = {
  SINGLE = "model.safetensors",
  INDEX = "model.safetensors.index.json",
  SHARD_SIZE = 5000000000,          -- bytes of data in a file, as the reference splits
}

local SHARD = "^model%-%d%d%d%d%d%-of%-%d%d%d%d%d%.safetensors$"

-- Where shards are written before they replace the old ones.
local STAGING = ".moelua-saving"

local Writer = {}
Writer.__index = Writer
Writer.__name = "moelua.CheckpointWriter"

-- The plan --------------------------------------------------------------------------------

-- Entries { name, dtype, shape, bytes, elements } in order of the names.
local function measured(plan)
  local list = {}
  for name, planned in pairs(plan) do
    if type(name) ~= "string" then
      raise("checkpoint: the name of a tensor must be a string, not %s", tostring(name))
    end
    local entry = files.describe(name, planned)
    entry.name = name
    list[#list + 1] = entry
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- Fills one part after the other: lists of entries of at most `limit` bytes together. A tensor
-- that is larger than that has a part to itself.
local function split(list, limit)
  local parts, size = { {} }, 0
  for _, entry in ipairs(list) do
    if size + entry.bytes > limit and size > 0 then
      parts[#parts + 1] = {}
      size = 0
    end
    table.insert(parts[#parts], entry)
    size = size + entry.bytes
  end
  return parts
end

--- What the header of a part will say: entries have dtype and shape among their fields.
function writer.plan_of(part)
  local plan = {}
  for _, entry in ipairs(part) do plan[entry.name] = entry end
  return plan
end

local function wider(a, b)
  if a.width ~= b.width then return a.width > b.width end
  return a.name < b.name
end

--- Splits a plan into files: lists of { name, dtype, shape, bytes, elements }, in the order of each
--- file, and the names of the files.
---@param plan table name -> { dtype = "BF16", shape = {2, 3} }
---@param limit integer? bytes of data in a file
function writer.parts(plan, limit)
  local parts, names = split(measured(plan), limit or writer.SHARD_SIZE), { writer.SINGLE }
  for i, part in ipairs(parts) do
    table.sort(part, wider)
    if #parts > 1 then names[i] = ("model-%05d-of-%05d.safetensors"):format(i, #parts) end
  end
  return parts, names
end

-- Publishing ------------------------------------------------------------------------------

--- The paths of what a new checkpoint replaces in a folder: files of the old one that would be
--- taken for a part of it, or loaded instead. `new` maps its own names to true.
function writer.stale(path, new)
  local list = {}
  for _, name in ipairs(folder.names(path)) do
    local ours = name == writer.SINGLE or name == writer.INDEX or name:find(SHARD)
    if ours and not new[name] then list[#list + 1] = path .. "/" .. name end
  end
  return list
end

local function remove_stale(path, new)
  for _, name in ipairs(writer.stale(path, new)) do
    local done, message, code = system.remove_tree(name)
    if not done then return nil, message, code end
  end
  return true
end

local function index_text(parts, names)
  local map, bytes, elements = {}, 0, 0
  for i, part in ipairs(parts) do
    for _, entry in ipairs(part) do
      map[entry.name] = names[i]
      bytes, elements = bytes + entry.bytes, elements + entry.elements
    end
  end
  local about = { total_parameters = elements, total_size = bytes }
  return json.encode({ metadata = about, weight_map = map }, { indent = 2 }) .. "\n"
end

--- The hidden folder in which files wait until all of them are finished.
function writer.staging(path) return path .. "/" .. STAGING end

--- Makes the hidden folder; an old one is emptied, unless keep(its path) says otherwise.
---@return string? staging
---@return string? message
---@return string? code
function writer.stage(path, keep)
  local staging = writer.staging(path)
  if not (keep and system.exists(staging) and keep(staging)) then system.remove_tree(staging) end
  local done, message, code = system.make_folder(staging)
  if not done then return nil, message, code end
  return staging
end

--- Moves the finished files from the hidden folder into place, then the index, if there are
--- several, then removes what is left of the old checkpoint. An old index goes first: its shards
--- may have the names of ours, and nobody must read a mixture of both.
function writer.publish(path, parts, names)
  local new, index = {}, path .. "/" .. writer.INDEX
  local done, message, code = system.remove_tree(index)
  if not done then return nil, message, code end
  for _, name in ipairs(names) do
    done, message, code = system.rename(writer.staging(path) .. "/" .. name, path .. "/" .. name)
    if not done then return nil, message, code end
    new[name] = true
  end
  if #parts > 1 then
    new[writer.INDEX] = true
    done, message, code = system.write(index, index_text(parts, names))
    if not done then return nil, message, code end
  end
  system.remove_tree(writer.staging(path))
  return remove_stale(path, new)
end

-- Writing ---------------------------------------------------------------------------------

--- Forgets everything that was written. Closing does so too unless all tensors are there.
function Writer:abandon()
  if self.file then self.file:abandon() end
  if self.staging then system.remove_tree(self.staging) end
  self.parts, self.file, self.staging = nil, nil, nil
end

Writer.__close = Writer.abandon
Writer.__gc = Writer.abandon

local function check_open(self, where)
  if getmetatable(self) ~= Writer then
    raise("%s: a writer is expected, got %s\nhint: call it as writer:%s(...)", where, type(self),
      where)
  end
  if not self.parts then raise("%s: the writer was closed", where) end
end

--- The names in the order in which the tensors have to be put.
function Writer:names()
  check_open(self, "names")
  local list = {}
  for _, part in ipairs(self.parts) do
    for _, entry in ipairs(part) do list[#list + 1] = entry.name end
  end
  return list
end

-- Opens the file of the part that is next.
local function open_part(self)
  local message, code
  local path = (self.staging or self.path) .. "/" .. self.files[self.part]
  local plan = writer.plan_of(self.parts[self.part])
  self.file, message, code = files.create(path, plan, self.metadata)
  self.left = #self.parts[self.part]
  return self.file, message, code
end

-- Gives up after a failure and passes it on.
local function failed(self, message, code)
  self:abandon()
  return nil, message, code
end

-- Finishes the file at hand when all of it is there.
local function finish_part(self)
  if self.left > 0 then return true end
  local file = self.file
  self.file, self.part = nil, self.part + 1
  return file:close()
end

--- Writes the next tensor: a Tensor, or the bytes as a string.
---@return boolean? done
---@return string? message
---@return string? code
function Writer:put(name, value)
  check_open(self, "put")
  if self.part > #self.parts or #self.parts[self.part] == 0 then
    raise("put: all tensors are written, `%s` is too much", tostring(name))
  end
  local done, message, code
  if not self.file then
    done, message, code = open_part(self)
    if not done then return failed(self, message, code) end
  end
  done, message, code = self.file:put(name, value)
  if not done then return failed(self, message, code) end
  self.left = self.left - 1
  done, message, code = finish_part(self)
  if not done then return failed(self, message, code) end
  return true
end

--- Makes the checkpoint appear; all tensors have to be there.
---@return boolean? done
---@return string? message
---@return string? code
function Writer:close()
  check_open(self, "close")
  local done, message, code
  if #self.parts[1] == 0 then         -- nothing to put: the file is a header alone
    done, message, code = open_part(self)
    done = done and finish_part(self)
    if not done then return failed(self, message, code) end
  end
  if self.part <= #self.parts then
    local part = self.parts[self.part]
    local next_one = part[#part - (self.file and self.left or #part) + 1]
    raise("close: tensor `%s` was not written", next_one.name)
  end
  if self.staging then
    done, message, code = core.uninterrupted(writer.publish, self.path, self.parts,
      self.files)
  else
    done, message, code = remove_stale(self.path, { [writer.SINGLE] = true })
  end
  self:abandon()
  return done, message, code
end

--- Plans a checkpoint in a folder, which is made when it is not there.
---@param path string the folder
---@param plan table name -> { dtype = "BF16", shape = {2, 3} }
---@param metadata table strings by strings
---@param limit integer? bytes of data in a file
---@return table? writer
---@return string? message
---@return string? code
function writer.open(path, plan, metadata, limit)
  local parts, names = writer.parts(plan, limit)
  local self = setmetatable({ path = path, metadata = metadata, parts = parts, part = 1,
    files = names }, Writer)
  if #parts > 1 then self.staging = writer.staging(path) end
  local done, message, code
  if self.staging then
    done, message, code = writer.stage(path)
  else
    done, message, code = system.make_folder(path)
  end
  if not done then return failed(self, message, code) end
  return self
end

return writer
