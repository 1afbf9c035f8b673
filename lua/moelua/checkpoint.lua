-- checkpoint.lua: tensors by name, without a model.
--
--   local file = assert(moe.checkpoint.open("model.safetensors"))     -- or a folder, or a .gguf
--   file:names()  file:info("lm_head.weight")  file:tensor("lm_head.weight")  file:metadata()
--   assert(moe.checkpoint.save("out.safetensors", { ["a.weight"] = w }, { format = "pt" }))
--
-- A folder holds model.safetensors, or shards that model.safetensors.index.json lists. Files are
-- mapped: opening reads headers alone, and a tensor keeps its file for itself.

local core = require("moelua.core")
local folder = require("moelua.folder")
local options = require("moelua.options")
local shards = require("moelua.shards")
local writer = require("moelua.checkpoint_writer")

local files, raise, system = core.checkpoint, core.raise, core.system

local checkpoint = {}

local SINGLE, INDEX = writer.SINGLE, writer.INDEX

local function check_path(where, path)
  if type(path) ~= "string" or path == "" then
    raise("%s: path must be a string that is not empty, not %s", where,
      core.describe(path))
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

local MOST_PARTS = 4096

-- A file, and with the first part of a GGUF file that was split all others.
local function open_file(path)
  local file, message, code = files.open(path)
  local count = file and file:metadata("split.count")
  if math.type(count) ~= "integer" or count < 2 or count > MOST_PARTS then
    return file, message, code
  end
  local total = file:metadata("split.tensors.count")
  file:close()
  return shards.open_parts(path, count, total)
end

--- Opens a checkpoint for reading. Only headers are read; the data is mapped when it is used.
--- The result has the methods
---   names() -> sorted list           info(name) -> { dtype = "BF16", shape = {2, 3}, bytes = 12 }
---   tensor(name, dtype?) -> Tensor   f32 for floats, i32 for integers and booleans; dtype may ask
---                                    for "bf16" or "f16"
---   raw(name) -> string              metadata(key?) -> table, or the value of a key: strings, and
---                                    in GGUF numbers, booleans and lists too
---   source(name) -> { file, name }   where its numbers lie       close()
---   verify() -> true                 when every byte is the one that was written, as the checksum
---                                    in the metadata says; else nil, message, "format"
--- of which those that take a name return nil, message, "missing" when there is no such tensor.
--- Quantised tensors (of GGUF) are floats: they are dequantised when they are asked for.
---@param path string a .safetensors or .gguf file (of several parts the first), or a folder that
---  holds model.safetensors or an index of shards
---@return table? checkpoint
---@return string? message
---@return string? code
function checkpoint.open(path)
  check_path("checkpoint.open", path)
  if folder.is_one(path) then return open_folder(path) end
  return open_file(path)
end

-- Writing ---------------------------------------------------------------------------------

-- The format is what transformers refuses to load without; the writer fills the checksum in.
local function complete(where, metadata, checksum)
  if metadata ~= nil and type(metadata) ~= "table" then
    raise("%s: metadata must be a table, not %s", where, core.describe(metadata))
  end
  local result = { format = "pt" }
  for key, value in pairs(metadata or {}) do result[key] = value end
  if checksum then result.checksum = "" end
  return result
end

local function is_file(path) return path:find("%.safetensors$") ~= nil end

local function check_limit(where, path, limit)
  if not limit then return end
  if limit < 1 then raise("%s: max_shard_size must be positive, not %d", where, limit) end
  if is_file(path) then
    raise("%s: %s is one file, which max_shard_size cannot split\n"
      .. "hint: give the path of a folder", where, path)
  end
end

--- Begins a checkpoint that is written tensor by tensor, for what does not fit into memory at once.
--- The result has the methods names() -> the order of the tensors, put(name, tensor or bytes),
--- close(), which makes the checkpoint appear, and abandon(). Leaving the scope of a `<close>`
--- variable abandons what was not closed.
---@param path string as for save
---@param plan table name -> { dtype = "BF16", shape = {2, 3} }, the dtype as the file will have it
---@param metadata table? as for save
---@param given table? max_shard_size and checksum as for save
---@return table? writer
---@return string? message
---@return string? code
function checkpoint.create(path, plan, metadata, given)
  check_path("checkpoint.create", path)
  local opt = options.check("checkpoint.create", given,
    { max_shard_size = "integer", checksum = "boolean" })
  if type(plan) ~= "table" then
    raise("checkpoint.create: the plan must be a table, not %s", core.describe(plan))
  end
  check_limit("checkpoint.create", path, opt.max_shard_size)
  metadata = complete("checkpoint.create", metadata, opt.checksum)
  if is_file(path) then return files.create(path, plan, metadata) end
  return writer.open(path, plan, metadata, opt.max_shard_size)
end

local function save_folder(path, tensors, metadata, opt)
  local plan = {}
  for name, value in pairs(tensors) do
    plan[name] = files.describe(tostring(name), value, opt.dtype)
  end
  local file <close>, message, code = writer.open(path, plan, metadata, opt.max_shard_size)
  if not file then return nil, message, code end
  for _, name in ipairs(file:names()) do
    local value = tensors[name]
    local done, why, kind = file:put(name, type(value) == "table" and value.data or value)
    if not done then return nil, why, kind end
  end
  return file:close()
end

--- Writes a checkpoint. A path that ends in .safetensors becomes one file; any other becomes a
--- folder with model.safetensors or, beyond max_shard_size, shards and their index. Files appear
--- whole or not at all, and whatever was there before stays until then.
---@param path string
---@param tensors table name -> Tensor, or { dtype = "U8", shape = {3}, data = "abc" }
---@param metadata table? strings by strings; `format = "pt"` unless given
---@param given table? dtype = "f32", "bf16" or "f16" for all tensors of floats (default: as they
---  are); max_shard_size = bytes of data in a file of a folder (default 5e9); checksum = true for
---  files that verify() can check: the metadata gets the XXH3-128 of the file as `checksum`
---@return boolean? done
---@return string? message
---@return string? code
function checkpoint.save(path, tensors, metadata, given)
  check_path("checkpoint.save", path)
  local opt = options.check("checkpoint.save", given,
    { dtype = { { "f32", "bf16", "f16" } }, max_shard_size = "integer", checksum = "boolean" })
  if type(tensors) ~= "table" then
    raise("checkpoint.save: tensors must be a table, not %s", core.describe(tensors))
  end
  check_limit("checkpoint.save", path, opt.max_shard_size)
  metadata = complete("checkpoint.save", metadata, opt.checksum)
  if is_file(path) then return files.save(path, tensors, metadata, { dtype = opt.dtype }) end
  return save_folder(path, tensors, metadata, opt)
end

return checkpoint
