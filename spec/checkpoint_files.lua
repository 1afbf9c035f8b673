-- checkpoint_files.lua: what the specs of checkpoints share: small files and their bytes.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local helper = require("spec.helper")

local files = {}

files.folder = helper.tmpdir()
local serial = 0

--- A path that nothing has used yet.
function files.fresh_path(suffix)
  serial = serial + 1
  return ("%s/%d%s"):format(files.folder, serial, suffix or ".safetensors")
end

--- Writes a file and returns its path. Nothing here has to survive a power cut, so that the
--- thousands of small files cost no flush each: some file systems flush one that is truncated.
function files.write(content, path)
  path = path or files.fresh_path()
  os.remove(path)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(content))
  return path
end

--- A file with this header and data.
function files.compose(header, data)
  return string.pack("<I8", #header) .. header .. (data or "")
end

function files.open_bytes(content) return core.checkpoint.open(files.write(content)) end

--- The description of a tensor in a header.
function files.entry(dtype, shape, first, last)
  return ('{"dtype":"%s","shape":%s,"data_offsets":[%s,%s]}'):format(dtype, shape, first, last)
end

--- Saves the tensors and opens the file again.
function files.saved(tensors, ...)
  local path = files.fresh_path()
  assert(checkpoint.save(path, tensors, ...))
  return assert(checkpoint.open(path)), path
end

function files.u8(data) return { dtype = "U8", shape = { #data }, data = data } end

--- Names in a folder, sorted.
function files.listed(path)
  local names = {}
  for name in require("lfs").dir(path) do
    if name ~= "." and name ~= ".." then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

return files
