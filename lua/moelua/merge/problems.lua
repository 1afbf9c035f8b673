-- merge/problems.lua: everything that is wrong with a merge, told at once and not one by one.
--
-- A problem that many tensors have is told of the first, with the number of the others.

local Problems = {}
Problems.__index = Problems

--- An empty list. `lines` and `file`: where the tables of a configuration stand, when it was read
--- from a file.
local function new(file, lines)
  return setmetatable({ list = {}, by_key = {}, file = file, lines = lines or {} }, Problems)
end

-- The line of the first key of a table.
local function first_line(lines)
  local first
  for _, line in pairs(lines) do first = math.min(first or line, line) end
  return first
end

--- Where a table of the configuration has its key (nil: where it begins): "merge.yml:12: ", or
--- nothing for Lua tables.
function Problems:place(given, key)
  local lines = self.lines[given] or {}
  local line = lines[key] or first_line(lines)
  return line and ("%s:%d: "):format(self.file, line) or "", line
end

--- Adds a problem. Problems with the same key are the same one in several tensors.
---@param key string? nil: it is one of its own
---@param text string
---@param line integer? of the file
function Problems:add(key, text, line)
  local known = key and self.by_key[key]
  if known then
    known.more = known.more + 1
    return
  end
  local problem = { text = text, more = 0, line = line or math.huge, place = #self.list }
  self.list[#self.list + 1] = problem
  if key then self.by_key[key] = problem end
end

--- Adds a problem of what the table has under the key.
function Problems:at(given, key, fmt, ...)
  local place, line = self:place(given, key)
  self:add(nil, place .. fmt:format(...), line)
end

local function earlier(a, b)
  if a.line ~= b.line then return a.line < b.line end
  return a.place < b.place
end

--- The texts, in the order of the lines, then in that in which they were found.
---@return string[]
function Problems:texts()
  local texts = {}
  table.sort(self.list, earlier)
  for i, problem in ipairs(self.list) do
    local more = problem.more
    -- The number belongs to the sentence, which may be followed by a hint.
    local first, rest = problem.text:match("^([^\n]*)(.*)$")
    texts[i] = more == 0 and problem.text or
      ("%s (and %d more tensor%s)%s"):format(first, more, more == 1 and "" or "s", rest)
  end
  return texts
end

return { new = new }
