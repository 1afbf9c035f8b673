-- server.lua: a process that answers requests, line by line. What it writes to stderr goes to a
-- file. One that has ended starts again with the next request: a crash costs one answer.
--
--   local torch = server.new({ "python", "torch_worker.py" }, "torch.log")
--   local answer, message = torch:ask({ run = "x" })      -- a table, or a line as it is
--   torch:close()

local core = require("moelua.core")
local system, json = core.system, core.json

local server = {}
server.__index = server

local LEAVE = 5               -- seconds that a process has to end by itself
local KILL = 9

local function quoted(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

-- Two pipes with names, which are gone as soon as both sides have opened them.
local function make_pipes()
  local paths = {}
  for i = 1, 2 do
    paths[i] = os.tmpname()
    os.remove(paths[i])
    local made = assert(system.spawn({ "mkfifo", "-m", "600", paths[i] })):wait()
    if made.exited ~= 0 then error("no pipe can be made at " .. paths[i], 0) end
  end
  return paths[1], paths[2]
end

--- A server that starts with its first request. env: variables to set, as for system.spawn.
---@param command string[]
---@param log string the file for what it writes to stderr
---@param env table?
function server.new(command, log, env)
  return setmetatable({ command = command, log = log, env = env }, server)
end

function server:start()
  local words = {}
  for i, word in ipairs(self.command) do words[i] = quoted(word) end
  local requests, answers = make_pipes()
  self.process = assert(system.spawn({ "sh", "-c", ("exec %s < %s > %s"):format(
    table.concat(words, " "), quoted(requests), quoted(answers)), stderr = self.log,
    env = self.env }))
  -- Also open for reading, so that a request to a process that has just ended hurts nobody.
  self.requests = assert(io.open(requests, "r+"))
  self.answers = assert(io.open(answers, "r"))
  os.remove(requests)
  os.remove(answers)
end

local function is_running(self) return self.process and not self.process:wait(0) end

--- The answer to a request, decoded; nil and a message when it is an error, or when there is none.
---@param request table|string
---@return table?, string?
function server:ask(request)
  if not is_running(self) then self:start() end
  self.requests:write(type(request) == "string" and request or json.encode(request), "\n")
  self.requests:flush()
  local line = self.answers:read("l")
  if not line then
    self:close()
    return nil, ("%s ended: see %s"):format(self.command[1]:match("[^/]*$"), self.log)
  end
  local answer, message = json.decode(line)
  if answer and answer.error then return nil, answer.error end
  return answer, message
end

--- Ends the process.
function server:close()
  if not self.process then return end
  self.requests:close()
  self.answers:close()
  if not self.process:wait(LEAVE) then
    self.process:kill(KILL)
    self.process:wait()
  end
  self.process = nil
end

return server
