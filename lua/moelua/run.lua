-- run.lua: a run is a folder. config.json says what was asked, log.jsonl what happened, state/ how
-- to go on, done.json that it is finished. The same request again continues; another one in the
-- same folder is an error.

local core = require("moelua.core")
local lfs = require("lfs")
local system, json, raise = core.system, core.json, core.raise

local run = {}
local Run = {}
Run.__index = Run

local KEEP = 2      -- states

-- Turns nil, message, code into an error that the command line understands.
local function check(ok, message, code)
  if not ok then error({ message = message, code = code }, 0) end
  return ok
end
run.check = check

local function differing_key(a, b)
  local keys = {}
  for k in pairs(a) do keys[k] = true end
  for k in pairs(b) do keys[k] = true end
  local list = {}
  for k in pairs(keys) do list[#list + 1] = k end
  table.sort(list)
  for _, k in ipairs(list) do
    if json.encode({ a[k] }) ~= json.encode({ b[k] }) then return k, a[k], b[k] end
  end
end

-- The folder was made for `config`, or becomes that.
local function agree(folder, config)
  local path = folder .. "/config.json"
  if not system.exists(path) then
    check(system.write(path, json.encode(config, { indent = 2 }) .. "\n"))
    return
  end
  local before = check(json.decode(check(system.read(path))))
  local key, was, is = differing_key(before, json.decode(json.encode(config)))
  if key then
    raise("%s was made with other options: %s was %s, now %s\n" ..
      "hint: --fresh starts over, --out names another folder", folder, key,
      json.encode({ was }):sub(2, -2), json.encode({ is }):sub(2, -2))
  end
end

--- Opens the folder of a run, made if need be. `config` is plain data: everything that the result
-- depends on. opts.fresh empties the folder first. Raises when another process works in it.
function run.open(folder, config, opts)
  if opts and opts.fresh and system.exists(folder) then check(system.remove_tree(folder)) end
  check(system.make_folder(folder))
  local lock, message, code = system.lock(folder .. "/lock")
  if not lock then
    if code == "busy" then
      message = folder .. " is in use by another process\nhint: wait for it, or --out another folder"
    end
    check(nil, message, code)
  end
  agree(folder, config)
  return setmetatable({ folder = folder, lock = lock }, Run)
end

--- Lets go of the folder.
function Run:close()
  if self.lock then self.lock:release() end
  self.lock = nil
end

--- Appends one object to the log.
function Run:log(entry) check(system.append(self.folder .. "/log.jsonl", json.encode(entry) .. "\n")) end

--- The log of a folder as a list of objects; a torn last line does not count.
function run.read_log(folder)
  local list, text = {}, system.read(folder .. "/log.jsonl")
  for line in (text or ""):gmatch("([^\n]*)\n") do
    local entry = json.decode(line)
    if entry then list[#list + 1] = entry end
  end
  return list
end

-- Forgets what was logged after `step`: those steps will be done again.
function Run:rewind_log(step)
  local path = self.folder .. "/log.jsonl"
  if not system.exists(path) then return end
  local kept = {}
  for _, entry in ipairs(run.read_log(self.folder)) do
    if not entry.step or entry.step <= step then kept[#kept + 1] = json.encode(entry) .. "\n" end
  end
  check(system.write(path, table.concat(kept)))
end

-- ---- states -------------------------------------------------------------------------------------

local function state_files(folder)
  local list = {}
  if not system.exists(folder .. "/state") then return list end
  for name in lfs.dir(folder .. "/state") do
    if name:match("^step%-%d+%.safetensors$") then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

--- Saves tensors by name and a table of plain data; keeps the last two states.
function Run:save_state(step, tensors, facts)
  check(system.make_folder(self.folder .. "/state"))
  local name = ("%s/state/step-%08d.safetensors"):format(self.folder, step)
  check(core.checkpoint.save(name, tensors, { facts = json.encode(facts) }))
  local files = state_files(self.folder)
  for i = 1, #files - KEEP do os.remove(self.folder .. "/state/" .. files[i]) end
end

--- The newest state that can be read: a checkpoint and the facts; nil when there is none.
function Run:load_state()
  local files = state_files(self.folder)
  for i = #files, 1, -1 do
    local file = core.checkpoint.open(self.folder .. "/state/" .. files[i])
    local facts = file and json.decode(file:metadata().facts or "")
    if facts then return file, facts end
  end
end

-- ---- the end ------------------------------------------------------------------------------------

--- What finish() left, or nil while the run is not finished.
function run.finished(folder)
  local text = system.read(folder .. "/done.json")
  return text and json.decode(text)
end

--- Marks the run as finished; `summary` is plain data. The states are not needed any more.
function Run:finish(summary)
  check(system.write(self.folder .. "/done.json", json.encode(summary, { indent = 2 }) .. "\n"))
  check(system.remove_tree(self.folder .. "/state"))
end

return run
