-- checkpoint_writer.lua: writes a checkpoint tensor by tensor, so that a model larger than the
-- memory can be merged, converted or split. A folder gets model.safetensors, or shards and their
-- index; shards replace the old ones only when all of them are finished.

local lfs = require("lfs")

local core = require("moelua.core")

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

-- What the header of a part will say.
local function plan_of(part)
  local plan = {}
  for _, entry in ipairs(part) do plan[entry.name] = { dtype = entry.dtype, shape = entry.shape } end
  return plan
end

-- Publishing ------------------------------------------------------------------------------

-- Removes what the new checkpoint has replaced: files of the old one that would be taken for a
-- part of it, or loaded instead.
local function remove_stale(path, new)
  for name in lfs.dir(path) do
    local ours = name == writer.SINGLE or name == writer.INDEX or name:find(SHARD)
    if ours and not new[name] then
      local done, message, code = system.remove_tree(path .. "/" .. name)
      if not done then return nil, message, code end
    end
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

-- Moves the finished shards into place, then the index, then removes what is left of the old
-- checkpoint.
local function publish_shards(self)
  local new = { [writer.INDEX] = true }
  for _, name in ipairs(self.files) do
    local done, message, code = system.rename(self.staging .. "/" .. name, self.path .. "/" .. name)
    if not done then return nil, message, code end
    new[name] = true
  end
  local text = index_text(self.parts, self.files)
  local done, message, code = system.write(self.path .. "/" .. writer.INDEX, text)
  if not done then return nil, message, code end
  return remove_stale(self.path, new)
end

-- Writing ---------------------------------------------------------------------------------

local function abandon(self)
  if self.file then getmetatable(self.file) end
  self.file, self.parts = nil, nil
  if self.staging then system.remove_tree(self.staging) end
end

return writer
