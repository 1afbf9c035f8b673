-- screen.lua: a terminal for specs. It knows the sequences that progress.lua writes, and no other;
-- text that is too long for a line goes on in the next one, as in real terminals, and is broken
-- anew when the width changes.
local screen = {}

local Screen = {}
Screen.__index = Screen

--- A terminal of so many columns and rows. `screen.wraps` counts the lines that were too long.
function screen.new(width, height)
  return setmetatable({ width = width, height = height, lines = { {} }, x = 0, y = 1, top = 1,
    wraps = 0 }, Screen)
end

-- Columns of a letter, told independently of display.lua.
local function columns(code)
  if code == 0x301 then return 0 end
  return (code >= 0x4E00 and code <= 0x9FFF or code >= 0x1F600 and code <= 0x1F64F) and 2 or 1
end

local function down(self)
  self.y = self.y + 1
  self.lines[self.y] = self.lines[self.y] or {}
  self.top = math.max(self.top, self.y - self.height + 1)
end

local function put(self, letter)
  local size = columns(utf8.codepoint(letter))
  if size == 0 then
    local cells = self.lines[self.y]
    cells[self.x] = cells[self.x] .. letter
    return
  end
  if self.x + size > self.width then
    self.lines[self.y].goes_on, self.wraps = true, self.wraps + 1
    down(self)
    self.x = 0
  end
  local cells = self.lines[self.y]
  for i = #cells + 1, self.x do cells[i] = " " end
  cells[self.x + 1] = letter
  if size == 2 then cells[self.x + 2] = "" end
  self.x = self.x + size
end

local function clear_from(cells, x)
  for i = #cells, x + 1, -1 do cells[i] = nil end
  cells.goes_on = nil
end

local sequences = {
  A = function(self, n) self.y = math.max(self.top, self.y - math.max(n, 1)) end,
  J = function(self, n)
    assert(n == 0)
    clear_from(self.lines[self.y], self.x)
    for i = self.y + 1, #self.lines do self.lines[i] = nil end
  end,
  K = function(self, n)
    assert(n == 0)
    clear_from(self.lines[self.y], self.x)
  end,
  m = function(_, n) assert(n == 0 or n == 1) end,
}

--- Takes what a program writes.
function Screen:write(...)
  local text, place = table.concat({ ... }), 1
  assert(utf8.len(text), "not UTF-8")
  while place <= #text do
    local number, final = text:match("^\27%[(%d*)(%a)", place)
    local letter = text:match("^" .. utf8.charpattern, place)
    if final then
      assert(sequences[final], "unknown sequence")(self, tonumber(number) or 0)
      place = place + 3 + #number
    else
      if letter == "\r" then
        self.x = 0
      elseif letter == "\n" then
        self.x = 0
        down(self)
      else
        assert(letter:byte() >= 32, "unknown control character")
        put(self, letter)
      end
      place = place + #letter
    end
  end
end

function Screen.flush() end

--- Another width: lines are broken anew; the cursor stays at the beginning of its line.
function Screen:resize(width)
  assert(self.x == 0)
  local old, row = self.lines, self.y
  self.width, self.lines, self.y = width, {}, nil
  local goes_on = false
  for i, cells in ipairs(old) do
    if not goes_on then self.lines[#self.lines + 1] = {} end
    if i == row then self.y = #self.lines end
    for _, cell in ipairs(cells) do
      local line = self.lines[#self.lines]
      if #line == width then
        line.goes_on = true
        line = {}
        self.lines[#self.lines + 1] = line
      end
      line[#line + 1] = cell
    end
    goes_on = cells.goes_on
  end
  self.top = math.max(1, #self.lines - self.height + 1)
end

--- All lines from the first that was ever written, without blanks at their ends and without the
--- empty ones below.
function Screen:text()
  local out = {}
  for i, cells in ipairs(self.lines) do out[i] = table.concat(cells):gsub(" +$", "") end
  return (table.concat(out, "\n"):gsub("\n+$", ""))
end

return screen
