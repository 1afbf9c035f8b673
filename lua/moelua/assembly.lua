-- assembly.lua: writes a checkpoint out of others, a tensor at a time, in bounded memory.
--
--   local summary = assert(assembly.write("out", {
--     { name = "lm_head.weight", dtype = "BF16", shape = { 32000, 576 }, method = "linear",
--       sources = { a:source("lm_head.weight"), b:source("lm_head.weight") },
--       params = { weight = { 0.5, 0.5 } } },
--     { name = "router.weight", dtype = "F32", shape = { 8, 576 }, make = function() ... end },
--   }, { memory = "512M" }))
--
-- What is finished lies in a hidden folder until all of it is there; a run that was killed goes on
-- after its last finished file, when the plan and the files it reads are still the same.

local core = require("moelua.core")
local folder = require("moelua.folder")
local options = require("moelua.options")
local record = require("moelua.assembly_record")
local writer = require("moelua.checkpoint_writer")

local files, raise, system = core.checkpoint, core.raise, core.system

local assembly = {}

-- Sizes -----------------------------------------------------------------------------------

local UNITS = { [""] = 1, K = 2 ^ 10, M = 2 ^ 20, G = 2 ^ 30, T = 2 ^ 40 }

--- The bytes that a size stands for: a number, or a string like "512M" (powers of 1024).
---@param size number|string
---@param where string? the function, for messages
---@return integer
function assembly.bytes(size, where)
  local digits, unit = tostring(size):upper():match("^(%d+%.?%d*)%s*([KMGT]?)I?B?$")
  local bytes = digits and math.tointeger(tonumber(digits) * UNITS[unit] // 1)
  if not bytes or bytes < 1 then
    raise("%s: memory must be bytes, or a string like \"512M\", not %s", where or "assembly.bytes",
      core.describe(size))
  end
  return bytes
end

-- The plan --------------------------------------------------------------------------------

local FIELDS = { name = "string", dtype = "string", shape = "table", method = "string",
  sources = "table", base = "table", masks = "table", params = "table", seed = "integer",
  stream = "string", cast = "string", make = "function", key = "any", about = "any" }

local function check_entry(entry, i)
  local where = ("assembly.write: entry %d"):format(i)
  if type(entry) ~= "table" then raise("%s: a table expected, not %s", where, type(entry)) end
  options.check(where, entry, FIELDS)
  if not entry.name then raise("%s: name is missing", where) end
  if (entry.make ~= nil) == (entry.method ~= nil) then
    raise("%s: `%s` needs either a method or make", where, entry.name)
  end
end

-- name -> entry, all of them checked.
local function by_name(entries)
  local plan = {}
  for i, entry in ipairs(entries) do
    check_entry(entry, i)
    if plan[entry.name] then raise("assembly.write: `%s` occurs twice", entry.name) end
    plan[entry.name] = entry
  end
  return plan
end

local function check_room(out, parts, done)
  local needed = 0
  for i, part in ipairs(parts) do
    for _, planned in ipairs(part) do needed = needed + (done[i] and 0 or planned.bytes) end
  end
  local free, message, code = system.disk_free(out)
  if not free then return nil, message, code end
  if free >= needed then return true end
  return nil, ("assembly.write: %s: %.1f GB needed, %.1f GB free"):format(out, needed / 1e9,
    free / 1e9), "full"
end

-- One file --------------------------------------------------------------------------------

local function put(file, entry, opt)
  if entry.make then
    local scope <close> = core.scope() -- luacheck: ignore 211
    local done, message, code = file:put(entry.name, entry.make())
    if not done then return nil, message, code end
    return {}
  end
  return file:merge(entry.name, entry, { memory = opt.memory, figures = opt.figures })
end

-- Writes one part; returns what its record says.
local function write_part(path, part, plan, opt)
  local file <close>, message, code = files.create(path, writer.plan_of(part), opt.metadata)
  if not file then return nil, message, code end
  local tensors = {}
  for _, name in ipairs(file:names()) do
    local began = system.clock()
    local figures, why, kind = put(file, plan[name], opt)
    if not figures then return nil, why, kind end
    figures.seconds = system.clock() - began
    tensors[name] = figures
    if opt.on_tensor then opt.on_tensor(plan[name], figures) end
  end
  local done
  done, message, code = file:close()
  if not done then return nil, message, code end
  return tensors
end

-- All of it -------------------------------------------------------------------------------

-- Tells of the tensors of a file that an earlier run has finished.
local function retell(part, plan, tensors, opt)
  for _, planned in ipairs(part) do
    if opt.on_tensor then opt.on_tensor(plan[planned.name], tensors[planned.name]) end
  end
end

local function write_parts(staging, parts, names, plan, opt)
  local done = {}
  for i in ipairs(parts) do done[i] = record.read(staging, names[i], opt.key) end
  local enough, message, code = check_room(staging, parts, done)
  if not enough then return nil, message, code end
  for i, part in ipairs(parts) do
    if done[i] then
      retell(part, plan, done[i].tensors, opt)
    else
      local path = staging .. "/" .. names[i]
      local tensors
      tensors, message, code = write_part(path, part, plan, opt)
      if not tensors then return nil, message, code end
      done[i], message, code = record.write(staging, names[i], opt.key, tensors)
      if not done[i] then return nil, message, code end
    end
  end
  return done
end

local function summary_of(parts, names, plan, done, began)
  local summary = { bytes_read = 0, bytes_written = 0, files = {}, tensors = {}, resumed = 0 }
  for i, part in ipairs(parts) do
    summary.files[names[i]] = done[i].hash
    if done[i].resumed then summary.resumed = summary.resumed + 1 end
    for _, planned in ipairs(part) do
      summary.bytes_written = summary.bytes_written + planned.bytes
      summary.bytes_read = summary.bytes_read + record.bytes_read(plan[planned.name])
      summary.tensors[planned.name] = done[i].tensors[planned.name].hash
    end
  end
  summary.seconds = system.clock() - began
  return summary
end

--- Writes a checkpoint into a folder from a list of entries, each with name, dtype ("BF16"), shape
--- and
---   method, sources, base, masks, params, seed, stream, cast: what core.checkpoint.merge makes
---   make = function() -> Tensor: what is small; `key` (a string) says what it depends on
--- Results do not depend on memory, threads or whether the run was interrupted and resumed.
---@param out string the folder, which is made when it is not there
---@param entries table[]
---@param given table? memory = most bytes to work with, as "512M"; metadata = strings by strings;
---  max_shard_size = bytes of data in a file (default 5e9); figures = false leaves out what
---  on_tensor(entry, figures) is told beside the hash and the seconds; resume = false starts over
---@return table? summary { bytes_read, bytes_written, seconds, resumed = number of files,
---  files = hash by file, tensors = hash by name, inputs = { path = { size, mtime } } }: XXH3-128
---  of the bytes of a tensor, and of a file, where the digits in its metadata count as zeros
---@return string? message
---@return string? code
function assembly.write(out, entries, given)
  local where = "assembly.write"
  local opt = options.check(where, given, { memory = "integer|number|string", metadata = "table",
    max_shard_size = "integer", on_tensor = "function", figures = { "boolean", true },
    resume = { "boolean", true } })
  if type(out) ~= "string" or out == "" then raise("%s: out must be a folder", where) end
  if type(entries) ~= "table" then raise("%s: entries must be a list", where) end
  local began, plan = system.clock(), by_name(entries)
  opt.memory = opt.memory and assembly.bytes(opt.memory, where)
  if opt.max_shard_size and opt.max_shard_size < 1 then
    raise("%s: max_shard_size must be positive, not %d", where, opt.max_shard_size)
  end
  opt.metadata = options.merge({ format = "pt" }, opt.metadata or {})
  opt.metadata.checksum = ""
  local parts, names = writer.parts(plan, opt.max_shard_size)
  local inputs = record.inputs(entries)
  opt.key = record.key(entries, parts, opt.metadata, inputs)
  local staging, message, code = writer.stage(out, opt.resume and function(path)
    return record.any(path, names, opt.key)
  end)
  if not staging then return nil, message, code end
  local done
  done, message, code = write_parts(staging, parts, names, plan, opt)
  if not done then
    if not opt.resume then system.remove_tree(staging) end
    return nil, message, code
  end
  local published
  published, message, code = core.uninterrupted(writer.publish, out, parts, names)
  if not published then return nil, message, code end
  local summary = summary_of(parts, names, plan, done, began)
  summary.inputs = inputs
  return summary
end

--- Is there an unfinished run in a folder?
function assembly.unfinished(out) return folder.is_one(writer.staging(out)) end

return assembly
