-- merge/manifest.lua: merge.json, which says what a merged model was made of and what was written,
-- so that it can be made again and checked.

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local expect = require("moelua.expect")
local folders = require("moelua.folder")

local json, system = core.json, core.system

local manifest = {}

manifest.NAME = "merge.json"

-- The files of a model whose bytes the merge has read.
local function data_files(path)
  if not folders.is_one(path) then return { path } end
  local list = {}
  for _, name in ipairs(folders.names(path)) do
    if name:find("%.safetensors$") or name == "config.json" or name == "tokenizer.json" then
      list[#list + 1] = path .. "/" .. name
    end
  end
  return list
end

--- What tells a model on disk from others without reading it: names, sizes and times of its files.
---@param path string
---@param hashed boolean read it all the same, and add the hash of every file
---@return table[] list of { path, size, modified, hash }
function manifest.input(path, hashed)
  local list = json.array({})
  for _, file in ipairs(data_files(path)) do
    list[#list + 1] = { path = file, size = system.file_size(file),
      modified = require("lfs").attributes(file, "modification"),
      hash = hashed and assert(system.hash_file(file)) or nil }
  end
  return list
end

--- The files of a finished merge: { name, size, hash }. `known` has the hashes of those that were
--- counted while they were written.
function manifest.outputs(folder, names, known)
  local list = json.array({})
  for _, name in ipairs(names) do
    local path = folder .. "/" .. name
    list[#list + 1] = { name = name, size = system.file_size(path),
      hash = known[name] or assert(system.hash_file(path)) }
  end
  return list
end

--- Writes the manifest; it is the last file of a merge, whose presence says that all are there.
function manifest.write(folder, facts)
  return system.write(folder .. "/" .. manifest.NAME, json.encode(facts, { indent = 2 }) .. "\n")
end

--- The manifest of a folder; nil, message, code when there is none, or a damaged one.
function manifest.read(folder)
  local path = folder .. "/" .. manifest.NAME
  local text, message, code = system.read(path)
  if not text then return nil, message, code end
  local facts, reason = json.decode(text)
  if type(facts) == "table" and type(facts.outputs) == "table" then return facts end
  return nil, ("%s: no manifest of a merge: %s"):format(path, reason or "it lists no outputs"),
    "format"
end

-- ---- checking ---------------------------------------------------------------------------------

-- The hash of a checkpoint stands in itself, where its digits count as zeros.
local function hash_of(path)
  if not path:find("%.safetensors$") then return system.hash_file(path) end
  local file <close>, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local whole
  whole, message, code = file:verify()
  if not whole then return nil, message, code end
  return file:metadata().checksum
end

-- What is wrong with a file; nil when nothing is.
local function check_file(folder, output)
  if type(output) ~= "table" or type(output.name) ~= "string" or output.name:find("/") then
    return "the manifest has an output without a name"
  end
  local path = folder .. "/" .. output.name
  local size = system.file_size(path)
  if not size then return output.name .. " is missing" end
  if size ~= output.size then
    return ("%s has %d bytes, %s were written"):format(output.name, size, tostring(output.size))
  end
  local hash, message = hash_of(path)
  if not hash then return message end
  if hash ~= output.hash then return output.name .. " is not what was written" end
end

--- Checks a merged model against the manifest beside it: every file is there and has the bytes that
--- were written.
---@param folder string of a finished merge
---@return boolean? whole
---@return string? message
---@return string? code "format" when a file is damaged, "missing" without a manifest
function manifest.verify(folder)
  expect(type(folder) == "string", "verify", "folder", "the path of a merged model", folder)
  local facts, message, code = manifest.read(folder)
  if not facts then return nil, message, code end
  local wrong = {}
  for _, output in ipairs(facts.outputs) do wrong[#wrong + 1] = check_file(folder, output) end
  if #wrong == 0 then return true end
  return nil, ("verify: %s: %s"):format(folder, table.concat(wrong, "; ")), "format"
end

return manifest
