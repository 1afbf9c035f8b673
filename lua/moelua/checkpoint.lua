-- checkpoint.lua: tensors by name, without a model.
--
--   local file = assert(moe.checkpoint.open("model.safetensors"))     -- or a folder
--   file:names()  file:info("lm_head.weight")  file:tensor("lm_head.weight")  file:metadata()
--   assert(moe.checkpoint.save("out.safetensors", { ["a.weight"] = w }, { format = "pt" }))
--
-- A folder holds model.safetensors, or shards that model.safetensors.index.json lists. Files are
-- mapped: opening reads headers alone, and a tensor keeps its file for itself.

local lfs = require("lfs")

local core = require("moelua.core")
local options = require("moelua.options")
local shards = require("moelua.shards")

local files, json, raise, system = core.checkpoint, core.json, core.raise, core.system

local checkpoint = {}

local SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
local SHARD = "^model%-%d%d%d%d%d%-of%-%d%d%d%d%d%.safetensors$"

-- Where shards are written before they replace the old ones.
local STAGING = ".moelua-saving"

local function check_path(where, path)
  if type(path) ~= "string" or path == "" then
    raise("%s: path must be a string that is not empty, not %s", where,
      path == "" and '""' or type(path))
  end
  return path
end

-- Reading ---------------------------------------------------------------------------------

local function open_folder(path)
  if system.exists(path .. "/" .. SINGLE) then return files.open(path .. "/" .. SINGLE) end
  if system.exists(path .. "/" .. INDEX) then return shards.open(path, INDEX) end
  return nil, ("checkpoint.open: %s: no checkpoint\nhint: the folder has neither %s nor %s")
    :format(path, SINGLE, INDEX), "missing"
end

--- Opens a checkpoint for reading. Only headers are read; the data is mapped when it is used.
--- The result has the methods
---   names() -> sorted list           info(name) -> { dtype = "BF16", shape = {2, 3}, bytes = 12 }
---   tensor(name, dtype?) -> Tensor   f32 for floats, i32 for integers and booleans; dtype may ask
---                                    for "bf16" or "f16"
---   raw(name) -> string              metadata() -> table of strings         close()
--- of which those that take a name return nil, message, "missing" when there is no such tensor.
---@param path string a .safetensors file, or a folder that holds one or an index of shards
---@return table? checkpoint
---@return string? message
---@return string? code
function checkpoint.open(path)
  check_path("checkpoint.open", path)
  if lfs.attributes(path, "mode") == "directory" then return open_folder(path) end
  return files.open(path)
end

-- Writing ---------------------------------------------------------------------------------

-- What transformers refuses to load without.
local function with_format(metadata)
  local result = { format = "pt" }
  for key, value in pairs(metadata or {}) do result[key] = value end
  return result
end

-- Entries { name, value, bytes, elements } in order of the names.
local function measured(tensors, dtype)
  local list = {}
  for name, value in pairs(tensors) do
    if type(name) ~= "string" then
      raise("checkpoint.save: the name of a tensor must be a string, not %s", tostring(name))
    end
    local bytes, elements = files.size(value, dtype)
    list[#list + 1] = { name = name, value = value, bytes = bytes, elements = elements }
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- Fills one shard after the other: lists of entries of at most `limit` bytes together. A tensor
-- that is larger than that has a shard to itself.
local function split(list, limit)
  local parts, size = {}, math.huge
  for _, entry in ipairs(list) do
    if size + entry.bytes > limit then
      parts[#parts + 1] = {}
      size = 0
    end
    table.insert(parts[#parts], entry)
    size = size + entry.bytes
  end
  return parts
end

-- Removes what the new checkpoint has replaced: files of the old one that open would take for a
-- part of it, or load instead.
local function remove_stale(path, new)
  for name in lfs.dir(path) do
    local ours = name == SINGLE or name == INDEX or name:find(SHARD)
    if ours and not new[name] then
      local done, message, code = system.remove_tree(path .. "/" .. name)
      if not done then return nil, message, code end
    end
  end
  return true
end

local function save_single(path, tensors, metadata, dtype)
  local done, message, code = files.save(path .. "/" .. SINGLE, tensors, metadata, dtype)
  if not done then return nil, message, code end
  return remove_stale(path, { [SINGLE] = true })
end

local function shard_name(i, n)
  return ("model-%05d-of-%05d.safetensors"):format(i, n)
end

-- Writes all shards into the staging folder; returns the text of their index and their names.
local function stage(staging, parts, metadata, dtype)
  local names, map, bytes, elements = {}, {}, 0, 0
  for i, part in ipairs(parts) do
    local tensors = {}
    names[i] = shard_name(i, #parts)
    for _, entry in ipairs(part) do
      tensors[entry.name], map[entry.name] = entry.value, names[i]
      bytes, elements = bytes + entry.bytes, elements + entry.elements
    end
    local path = staging .. "/" .. names[i]
    local done, message, code = files.save(path, tensors, metadata, dtype)
    if not done then return nil, message, code end
  end
  local about = { total_parameters = elements, total_size = bytes }
  local text = json.encode({ metadata = about, weight_map = map }, { indent = 2 })
  return text .. "\n", names
end

-- Moves the finished shards into place, then the index, then removes what is left of the old
-- checkpoint.
local function publish(path, text, names)
  local new = { [INDEX] = true }
  for _, name in ipairs(names) do
    local from, to = ("%s/%s/%s"):format(path, STAGING, name), path .. "/" .. name
    local done, message, code = system.rename(from, to)
    if not done then return nil, message, code end
    new[name] = true
  end
  local done, message, code = system.write(path .. "/" .. INDEX, text)
  if not done then return nil, message, code end
  return remove_stale(path, new)
end

local function save_shards(path, parts, metadata, dtype)
  local staging = path .. "/" .. STAGING
  system.remove_tree(staging)
  local done, message, code = system.make_folder(staging)
  if not done then return nil, message, code end
  -- An error (or Ctrl-C) must not leave gigabytes behind either.
  local ok, text, names, why = pcall(stage, staging, parts, metadata, dtype)
  if ok and text then done, message, code = publish(path, text, names) end
  system.remove_tree(staging)
  if not ok then error(text, 0) end
  if not text then return nil, names, why end
  return done, message, code
end

local function save_folder(path, tensors, metadata, opt)
  local done, message, code = system.make_folder(path)
  if not done then return nil, message, code end
  local dtype = { dtype = opt.dtype }
  local parts = split(measured(tensors, opt.dtype), opt.max_shard_size or 5000000000)
  if #parts <= 1 then return save_single(path, tensors, metadata, dtype) end
  return save_shards(path, parts, metadata, dtype)
end

--- Writes a checkpoint. A path that ends in .safetensors becomes one file; any other becomes a
--- folder with model.safetensors or, beyond max_shard_size, shards and their index. Files appear
--- whole or not at all, and whatever was there before stays until then.
---@param path string
---@param tensors table name -> Tensor, or { dtype = "U8", shape = {3}, data = "abc" }
---@param metadata table? strings by strings; `format = "pt"` unless given
---@param given table? dtype = "f32", "bf16" or "f16" for all tensors of floats (default: as they
---  are); max_shard_size = bytes of a file in a folder (default 5e9)
---@return boolean? done
---@return string? message
---@return string? code
function checkpoint.save(path, tensors, metadata, given)
  check_path("checkpoint.save", path)
  local opt = options.check("checkpoint.save", given,
    { dtype = { { "f32", "bf16", "f16" } }, max_shard_size = "integer" })
  if type(tensors) ~= "table" then
    raise("checkpoint.save: tensors must be a table, not %s", type(tensors))
  end
  if metadata ~= nil and type(metadata) ~= "table" then
    raise("checkpoint.save: metadata must be a table, not %s", type(metadata))
  end
  if opt.max_shard_size and opt.max_shard_size < 1 then
    raise("checkpoint.save: max_shard_size must be positive, not %d", opt.max_shard_size)
  end
  metadata = with_format(metadata)
  if not path:find("%.safetensors$") then return save_folder(path, tensors, metadata, opt) end
  if opt.max_shard_size then
    raise("checkpoint.save: %s is one file, which max_shard_size cannot split\n"
      .. "hint: give the path of a folder", path)
  end
  return files.save(path, tensors, metadata, { dtype = opt.dtype })
end

return checkpoint
