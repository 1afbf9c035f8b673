-- assembly_record.lua: what an assembly remembers of a finished file, so that a run that was killed
-- can go on: the hash of its plan and inputs, the hashes of file and tensors, the figures.

local core = require("moelua.core")

local files, json, system = core.checkpoint, core.json, core.system

local record = {}

local SUFFIX = ".done"

-- Inputs ----------------------------------------------------------------------------------

local function each_source(entry, visit)
  local function with_others(source)
    visit(source)
    for _, other in ipairs(source.others or {}) do visit(other) end
  end
  for _, source in ipairs(entry.sources or {}) do with_others(source) end
  for _, source in ipairs(entry.masks or {}) do with_others(source) end
  if entry.base then with_others(entry.base) end
end

--- The files that the entries read: path -> { size, mtime }.
function record.inputs(entries)
  local inputs = {}
  for _, entry in ipairs(entries) do
    each_source(entry, function(source)
      local path = source.file and source.file:path()
      if path and not inputs[path] then
        local about = require("lfs").attributes(path) or {}
        inputs[path] = { size = about.size, mtime = about.modification }
      end
    end)
  end
  return inputs
end

-- Bytes of an element, on average over a block.
local function width(source)
  if source.tensor then return 4 end
  local info = assert(source.file:info(source.name))
  local elements = 1
  for _, size in ipairs(info.shape) do elements = elements * size end
  return elements > 0 and info.bytes / elements or 0
end

--- Bytes that an entry reads, once each.
function record.bytes_read(entry)
  local elements, bytes = 1, 0
  for _, size in ipairs(entry.shape) do elements = elements * size end
  local function add(source) bytes = bytes + elements * width(source) end
  for _, source in ipairs(entry.sources or {}) do add(source) end
  if entry.base then add(entry.base) end
  return math.tointeger(bytes // 1)
end

-- The plan --------------------------------------------------------------------------------

-- What a source is, in values that JSON knows.
local function described(source)
  local others
  for i, other in ipairs(source.others or {}) do
    others = others or {}
    others[i] = described(other)
  end
  return { path = source.file and source.file:path(), name = source.name, first = source.first,
    shape = source.shape, tensor = source.tensor and source.tensor:hash(),
    rows = source.rows and source.rows:hash(), from = source.from and source.from:hash(),
    others = others }
end

local function described_list(list)
  if not list then return nil end
  local result = {}
  for i, source in ipairs(list) do result[i] = described(source) end
  return result
end

local function described_entry(entry)
  return { name = entry.name, dtype = entry.dtype, shape = entry.shape, method = entry.method,
    params = entry.params, seed = entry.seed, stream = entry.stream, cast = entry.cast,
    make = entry.make and (entry.key and tostring(entry.key) or "made"),
    base = entry.base and described(entry.base), sources = described_list(entry.sources),
    masks = described_list(entry.masks) }
end

--- A hash of all that the result depends on.
function record.key(entries, parts, metadata, inputs)
  local list, sizes = {}, {}
  for i, entry in ipairs(entries) do list[i] = described_entry(entry) end
  for i, part in ipairs(parts) do sizes[i] = #part end
  return system.hash(json.encode { core.version, list, sizes, metadata, inputs })
end

-- Records ---------------------------------------------------------------------------------

--- What is known of a finished file; nil when it is not finished, or belongs to another plan.
function record.read(staging, name, key)
  local path = staging .. "/" .. name
  local text = system.exists(path) and system.exists(path .. SUFFIX) and system.read(path .. SUFFIX)
  local done = text and json.decode(text)
  if type(done) ~= "table" or done.key ~= key or type(done.tensors) ~= "table"
    or done.size ~= system.file_size(path) then
    return nil
  end
  done.resumed = true
  return done
end

--- Does the folder hold anything that a run with this key can go on from?
function record.any(staging, names, key)
  for _, name in ipairs(names) do
    if record.read(staging, name, key) then return true end
  end
  return false
end

--- Remembers a file that was finished.
function record.write(staging, name, key, tensors)
  local path = staging .. "/" .. name
  local file <close>, message, code = files.open(path)
  if not file then return nil, message, code end
  for tensor, figures in pairs(tensors) do
    figures.hash = figures.hash or file:hash(tensor)        -- of those that were made
  end
  local done = { key = key, hash = file:metadata().checksum, size = system.file_size(path),
    tensors = tensors }
  local written
  written, message, code = system.write(path .. SUFFIX, json.encode(done) .. "\n")
  if not written then return nil, message, code end
  return done
end

return record
