-- states.lua: what a run goes on from: state/step-00000400.safetensors and the one before it.
--
-- A state holds tensors by name and a table of plain data, the facts, in its metadata; a checksum
-- covers all of it. One that is damaged is set aside under another name, so that keeping the last
-- two never means keeping a damaged one and removing the last that is whole.

local core = require("moelua.core")
local folders = require("moelua.folder")
local system, json = core.system, core.json

local states = {}

states.KEEP = 2

local function path_of(folder, name) return folder .. "/state/" .. name end

--- The file names of the states of a run folder, the oldest first.
function states.names(folder)
  local list = {}
  if not system.exists(folder .. "/state") then return list end
  for _, name in ipairs(folders.names(folder .. "/state")) do
    if name:match("^step%-%d+%.safetensors$") then list[#list + 1] = name end
  end
  return list
end

--- The step of the newest state, whether it is whole or not; nil when there is none.
function states.newest_step(folder)
  local names = states.names(folder)
  local step = #names > 0 and names[#names]:match("%d+")
  return step and math.tointeger(tonumber(step)) or nil
end

-- ---- saving -----------------------------------------------------------------------------------

--- Saves a state and removes all but the last two; true, or nil, message, code.
function states.save(folder, step, tensors, facts)
  local ok, message, code = system.make_folder(folder .. "/state")
  if not ok then return nil, message, code end
  ok, message, code = core.checkpoint.save(
    path_of(folder, ("step-%08d.safetensors"):format(step)), tensors,
    { facts = json.encode(facts), checksum = "" })
  if not ok then return nil, message, code end
  local names = states.names(folder)
  for i = 1, #names - states.KEEP do os.remove(path_of(folder, names[i])) end
  return true
end

-- ---- loading ----------------------------------------------------------------------------------

-- A state that is whole, as a checkpoint and its facts; otherwise nil, message, code.
local function open(path)
  local file, message, code = core.checkpoint.open(path)
  if not file then return nil, message, code end
  local whole, facts
  whole, message, code = file:verify()
  if whole then
    facts, message, code = json.decode(file:metadata().facts or "")
    if facts then return file, facts end
    message = ("%s: its facts cannot be read: %s"):format(path, message)
  end
  file:close()
  return nil, message, code
end

local function set_aside(folder, name)
  return system.rename(path_of(folder, name), path_of(folder, "damaged-" .. name))
end

local function all_damaged(folder, reasons)
  return nil, ("%s: no state is whole:\n  %s\nhint: --fresh starts over from the beginning"):format(
    folder, table.concat(reasons, "\n  ")), "format"
end

-- The newest state that is whole: file, facts, names and reasons of the newer ones, which are not.
local function newest(folder)
  local names, damaged, reasons = states.names(folder), {}, {}
  for i = #names, 1, -1 do
    local file, facts, code = open(path_of(folder, names[i]))
    if file then return file, facts, damaged, reasons end
    if code ~= "format" then return nil, facts, code end
    damaged[#damaged + 1], reasons[#reasons + 1] = names[i], facts
  end
  if #names == 0 then return nil end
  return all_damaged(folder, reasons)
end

--- The newest state that is whole: a checkpoint, its facts and the reasons why newer ones, set
--- aside by now, are not. Nil when there is no state; nil, message, code when none is whole or one
--- could not be looked at.
function states.load(folder)
  local file, facts, damaged, reasons = newest(folder)
  if not file then return nil, facts, damaged end
  for _, name in ipairs(damaged) do
    local done, message, code = set_aside(folder, name)
    if not done then return nil, message, code end
  end
  return file, facts, reasons
end

return states
