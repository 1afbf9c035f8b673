-- machine.lua: how much memory and disk there is, for plans.

local core = require("moelua.core")
local system = core.system

local machine = {}

-- The number behind "Name:" in a file of the system, in bytes; nil where there is no such file.
local function kilobytes(path, name)
  local text = system.read(path)
  local number = text and text:match("\n" .. name .. ":%s+(%d+) kB")
  return number and 1024 * tonumber(number)
end

--- Bytes of memory that could be used now; nil when the system does not tell. What a container
--- may have counts as well.
function machine.memory_available()
  local free = kilobytes("/proc/meminfo", "MemAvailable")
  local limit = tonumber(system.read("/sys/fs/cgroup/memory.max") or "")
  local used = tonumber(system.read("/sys/fs/cgroup/memory.current") or "")
  if limit and used then free = math.min(free or limit, limit - used) end
  return free
end

--- Bytes of memory that this process has had at most; what the tensors have where the system does
--- not tell.
function machine.memory_used()
  return kilobytes("/proc/self/status", "VmHWM") or core.memory().peak
end

--- Bytes free on the disk where the path is, or would be.
function machine.disk_free(path)
  while not system.exists(path) do
    path = path:match("^(.+)/[^/]*$") or path:sub(1, 1) == "/" and "/" or "."
  end
  return system.disk_free(path)
end

return machine
