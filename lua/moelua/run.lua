-- run.lua: a run is a folder. config.json says what was asked, log.jsonl what happened, state/ how
-- to go on (states.lua), done.json that it is finished. The same request again continues; another
-- one in the same folder is an error.

local core = require("moelua.core")
local folders = require("moelua.folder")
local states = require("moelua.states")
local system, json, raise = core.system, core.json, core.raise

local run = {}
local Run = {}
Run.__index = Run

local Failure = { __name = "moelua.Failure" }
function Failure:__tostring() return self.message end

--- Raises an expected failure as { message, code }: the command line makes an exit code of the
--- code, and everybody else reads the message.
function run.fail(message, code)
  if code == "interrupted" then error("interrupted!", 0) end     -- as everything else raises it
  error(setmetatable({ message = message, code = code }, Failure), 0)
end

--- Ends a recipe that was used wrongly: the command line prints the message and exits with 2.
function run.refuse(fmt, ...) error({ exit = 2, message = fmt:format(...) }, 0) end

-- How to go on after a failure that is not the fault of the run; nil when it is.
local function remedy(code, from)
  if code == "full" then return "free some space, then the same command again goes on" .. from end
  if code == "io" then return "when that is repaired, the same command again goes on" .. from end
end

-- Raises a failure with what is known to be safe and with how to go on.
local function fail_with(message, code, kept, from)
  local hint = remedy(code, from or "")
  if kept then message = message .. "\n" .. kept end
  if hint and not message:find("\nhint: ", 1, true) then message = message .. "\nhint: " .. hint end
  run.fail(message, code)
end

--- Turns nil, message, code into such an error; returns anything else.
local function check(ok, message, code)
  if not ok then fail_with(message, code) end
  return ok
end
run.check = check

--- The object in a JSON file of a run; nil when there is no such file. A damaged one is a failure,
--- never a file that is not there: the run would start over.
function run.read(path)
  local text, message, code = system.read(path)
  if code == "missing" then return nil end
  local value, reason = json.decode(check(text, message, code))
  if type(value) ~= "table" then
    run.fail(("%s: %s\nhint: put back what was there; --fresh starts over"):format(path,
      reason or "no JSON object"), "format")
  end
  return value
end

--- What tells a corpus from others: its text, wherever that came from.
function run.identity(corpus)
  return { hash = corpus.hash, tokenizer = corpus:metadata().tokenizer,
    documents = corpus:documents(), tokens = corpus:tokens() }
end

local function all_keys(a, b)
  local seen, list = {}, {}
  for _, t in ipairs({ a, b }) do
    for k in pairs(t) do
      if not seen[k] then list[#list + 1] = k end
      seen[k] = true
    end
  end
  table.sort(list, function(x, y) return tostring(x) < tostring(y) end)
  return list
end

local function as_text(value)
  return value == nil and "not given" or json.encode({ value }):sub(2, -2)
end

-- The first option that differs, as model.dim, and both values as text; nil when all agree.
local function difference(a, b, prefix)
  for _, k in ipairs(all_keys(a, b)) do
    local was, is = a[k], b[k]
    if type(was) == "table" and type(is) == "table" then
      local name, x, y = difference(was, is, prefix .. k .. ".")
      if name then return name, x, y end
    elseif was ~= is then
      return prefix .. k, as_text(was), as_text(is)
    end
  end
end

-- The identities of the corpora of a configuration by name.
local function texts(config)
  local list = {}
  for name, made in pairs(type(config.data) == "table" and config.data or {}) do
    if type(made) == "table" and made.hash then list[name] = made end
  end
  return list
end

-- In words, the first domain whose text is not what it was; nil when all are.
local function other_text(before, now)
  for _, name in ipairs(all_keys(before, now)) do
    local was, is = before[name], now[name]
    if not was then return ("domain '%s' is new"):format(name) end
    if not is then return ("domain '%s' is missing"):format(name) end
    local counts = "%s documents and %s tokens"
    local had = counts:format(was.documents, was.tokens)
    local has = counts:format(is.documents, is.tokens)
    if had ~= has then return ("domain '%s' had %s, now %s"):format(name, had, has) end
    if was.hash ~= is.hash then
      return ("domain '%s' has %s as before, but not the same ones"):format(name, has)
    end
  end
end

--- Fails unless two requests for the same folder, plain data, ask for the same. `data` in them is
--- { name = identity of the corpus }.
function run.same(folder, before, now)
  now = json.decode(json.encode(now))
  local text = other_text(texts(before), texts(now))
  if text then
    run.fail(("%s was trained on other text: %s\nhint: put the files back; --fresh starts over")
      :format(folder, text))
  end
  local key, was, is = difference(before, now, "")
  if key then
    run.fail(("%s was made with other options: %s was %s, now %s\n" ..
      "hint: --fresh starts over, --out names another folder"):format(folder, key, was, is))
  end
end

--- Fails when the folder was made for another configuration; writes nothing.
function run.compare(folder, config)
  local before = run.read(folder .. "/config.json")
  if before then run.same(folder, before, config) end
end

-- The folder was made for `config`, or becomes that. A finished run needs no states.
local function prepare(folder, config)
  local path = folder .. "/config.json"
  if system.exists(path) then run.compare(folder, config)
  else check(system.write(path, json.encode(config, { indent = 2 }) .. "\n")) end
  if run.finished(folder) then system.remove_tree(folder .. "/state") end
end

-- Stands in a folder while it is emptied. What is left when that is cut short, results without
-- the options that they belong to, is no run: whoever takes the folder next empties it first.
local CLEARING = "clearing"

-- Empties a folder but for its lock, which is ours by now.
local function clear(folder)
  local mark = folder .. "/" .. CLEARING
  check(system.write(mark, ""))
  for _, name in ipairs(folders.names(folder)) do
    if name ~= "lock" and name ~= CLEARING then
      check(system.remove_tree(folder .. "/" .. name))
    end
  end
  check(system.remove_tree(mark))
end

-- Whether a temporary file may go: its writer, who is named in it (checkpoint/output.h), is dead,
-- or had the number that we have now.
local function is_leftover(name, pid)
  local writer = name:match("^%.moelua%-(%d+)%-%x+%.tmp$")
  return writer and (tonumber(writer) == pid or not system.exists("/proc/" .. writer))
end

-- Removes what killed writers left in the folder and in those below it. Whoever holds the lock is
-- the only one who writes there, except where another run has a lock of its own.
local function sweep(folder, inner)
  for _, name in ipairs(folders.names(folder)) do
    local path = folder .. "/" .. name
    if is_leftover(name, system.pid()) then
      os.remove(path)
    elseif not inner and folders.is_one(path) and not system.exists(path .. "/lock") then
      sweep(path, true)
    end
  end
end

--- The lock of a folder, made if need be; opts.fresh empties the folder, unless it holds something
--- that is no run. Raises when another process works in it.
function run.lock(folder, opts)
  local fresh = opts and opts.fresh and system.exists(folder)
  if fresh and #folders.names(folder) > 0 and not system.exists(folder .. "/lock") then
    raise("%s is not the folder of a run: it will not be emptied\n" ..
      "hint: --out names another folder", folder)
  end
  check(system.make_folder(folder))
  local lock, message, code = system.lock(folder .. "/lock")
  if code == "busy" then
    collectgarbage()        -- the lock may be ours: one that an interrupt left without an owner
    lock, message, code = system.lock(folder .. "/lock")
  end
  if not lock then
    if code == "busy" then
      message = folder .. " is in use by another process\n" ..
        "hint: wait for it, or --out another folder"
    end
    run.fail(message, code)
  end
  if fresh or system.exists(folder .. "/" .. CLEARING) then clear(folder) else sweep(folder) end
  return lock
end

--- Opens the folder of a run, made if need be. `config` is plain data: everything that the result
--- depends on. opts.fresh empties the folder first. Raises when another process works in it.
function run.open(folder, config, opts)
  local lock = run.lock(folder, opts)
  local ok, message = pcall(prepare, folder, config)
  if not ok then
    lock:release()
    error(message, 0)
  end
  return setmetatable({ folder = folder, lock = lock }, Run)
end

--- Lets go of the folder.
function Run:close()
  if self.lock then self.lock:release() end
  self.lock = nil
end

Run.__close = Run.close

--- As run.check, for what the run needs to go on: says what is kept, too.
function Run:check(ok, message, code)
  if ok then return ok end
  local step = self.saved
  local kept = step and ("the state of step %d is kept, complete and unchanged"):format(step) or
    "no state was saved before that"
  fail_with(message, code, kept, step and (" from step %d"):format(step) or " from the beginning")
end

--- Appends one object to the log.
function Run:log(entry)
  self:check(system.append(self.folder .. "/log.jsonl", json.encode(entry) .. "\n"))
end

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
local function rewind_log(self, step)
  local path = self.folder .. "/log.jsonl"
  if not system.exists(path) then return end
  local kept = {}
  for _, entry in ipairs(run.read_log(self.folder)) do
    if not entry.step or entry.step <= step then kept[#kept + 1] = json.encode(entry) .. "\n" end
  end
  self:check(system.write(path, table.concat(kept)))
end

-- ---- states -----------------------------------------------------------------------------------

--- Saves tensors by name and a table of plain data; keeps the last two states.
function Run:save_state(step, tensors, facts)
  self:check(states.save(self.folder, step, tensors, facts))
  self.saved = step
end

--- The newest state that is whole: a checkpoint and the facts; nil when there is none. The log ends
--- there, too. Damaged states are told of; when all are, that is an error: a run does not silently
--- start over.
function Run:load_state()
  local file, facts, reasons = states.load(self.folder)
  if not file and facts then run.fail(facts, reasons) end
  self.saved = file and facts.step
  rewind_log(self, self.saved or 0)
  for _, reason in ipairs(reasons or {}) do
    local text = ("%s; set aside, going on from the state before it"):format(reason)
    io.stderr:write("moelua: warning: ", text, "\n")
    self:log({ warning = text })
  end
  return file, facts
end

--- Whether an unfinished run has a state to go on from, or a finished one needs none.
function run.can_continue(folder)
  return run.finished(folder) ~= nil or states.newest_step(folder) ~= nil
end

-- ---- the end ----------------------------------------------------------------------------------

--- What finish() left, or nil while the run is not finished.
function run.finished(folder) return run.read(folder .. "/done.json") end

--- Marks the run as finished; `summary` is plain data. The states are not needed any more; what
--- cannot be removed now is tried again by run.open.
function Run:finish(summary)
  local text = json.encode(summary, { indent = 2 }) .. "\n"
  self:check(system.write(self.folder .. "/done.json", text))
  system.remove_tree(self.folder .. "/state")
end

return run
