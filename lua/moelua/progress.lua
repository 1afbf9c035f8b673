-- progress.lua: what a running job shows on stderr.
--
--   local line = progress.new { name = "seed", total = 400, quiet = opt.quiet }
--   line:update(step, { loss = 2.91, tokens = 512000 })    -- tokens: all so far
--   line:note("saved step 200")
--   line:done()                                            -- or line:done("seed: loss 2.3")
--
--   local rows = progress.rows { "code", "math", total = 200 }    -- one line each
--   rows:update("math", step, { loss = 1.9 })
--
-- At a terminal the lines are drawn over, at most ten times a second; elsewhere a plain line
-- appears every 10 % or 30 s. Work of less than a second shows nothing until it is done, and
-- without a command line around (no moelua.host) nothing is shown at all.

local display = require("moelua.display")
local system = require("moelua.core").system

local progress = {}

local REDRAW, PLAIN_EVERY, PATIENCE = 0.1, 30, 1
local WINDOW, SAMPLE_EVERY, STALL = 15, 0.5, 5
local BAR, WITH_BAR = 20, 79      -- columns of the bar, and of a line that has one

local Progress = {}
Progress.__index = Progress

-- Formats -------------------------------------------------------------------------------------

local function grouped(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local function short(n)
  if n < 999.5 then return ("%.0f"):format(n) end
  if n < 999950 then return ("%.1fk"):format(n / 1e3) end
  return ("%.1fM"):format(n / 1e6)
end

local function token_rate(n) return short(n) .. " tok/s" end

--- Seconds for people: 5s, 1m05s, 2h03m, 4d01h.
---@param seconds number
---@return string
function progress.duration(seconds)
  local s = math.max(0, math.floor(seconds + 0.5))
  if s < 60 then return ("%ds"):format(s) end
  if s < 3600 then return ("%dm%02ds"):format(s // 60, s % 60) end
  if s < 86400 then return ("%dh%02dm"):format(s // 3600, s // 60 % 60) end
  return ("%dd%02dh"):format(s // 86400, s // 3600 % 24)
end
local duration = progress.duration

-- Rows ----------------------------------------------------------------------------------------

-- A row that begins with the display is timed from there. What a row without a start had done when
-- it is first heard of took who knows how long.
local function new_row(name, total, start)
  local tokens = start == 0 and 0 or nil    -- how many a continued job has seen is not known
  local shown = start and total and total > 0 and math.floor(10 * start / total) or 0
  return { name = display.plain(name), total = total, step = start or 0, tokens = tokens,
    samples = {}, shown = shown }
end

local function is_over(row) return row.total ~= nil and row.step >= row.total end

-- Remembers when the row was where, for speeds over the last seconds.
local function sample(row, now)
  local samples = row.samples
  local last = samples[#samples]
  if last and now - last.time < SAMPLE_EVERY then return end
  samples[#samples + 1] = { time = now, step = row.step, tokens = row.tokens }
  if samples[3] and now - samples[2].time > WINDOW then table.remove(samples, 1) end
end

-- Takes over news of a row. A job that was started again from its last state goes back.
local function note_step(row, now, step, info)
  if step < row.step or info.tokens and not row.tokens then row.samples = {} end
  if step ~= row.step or not row.changed then row.changed = now end
  row.step, row.loss, row.tokens = step, info.loss or row.loss, info.tokens or row.tokens
  if is_over(row) and not row.ended then row.ended = now end
  sample(row, now)
end

-- Steps and tokens per second up to the last step that was heard of; nil while nothing can be said.
-- Who has not been heard of for long is getting slower.
local function speeds(row, now)
  local first = row.samples[1]
  if not first or row.step <= first.step then return nil end
  local seconds = math.max(row.changed, now - STALL) - first.time
  if seconds < SAMPLE_EVERY then return nil end
  local more = first.tokens and row.tokens - first.tokens or 0
  return (row.step - first.step) / seconds, more > 0 and more / seconds or nil
end

-- The text of a row -----------------------------------------------------------------------------

local function share(row)
  return row.total and ("%3d%%"):format(math.floor(100 * row.step / math.max(row.total, 1)))
end

local function bar(row)
  if not row.total or row.total < 1 then return nil end
  local full = math.floor(BAR * math.min(1, row.step / row.total))
  return "|" .. ("#"):rep(full) .. ("-"):rep(BAR - full) .. "|"
end

-- How fast it goes and how long it takes: to its end, or from its beginning when that was reached.
local function timing(self, row, now)
  local steps, tokens = speeds(row, row.ended or now)
  local rate = tokens and self.rate(tokens) or steps and ("%.3g step/s"):format(steps)
  if is_over(row) then return rate, duration((row.ended or now) - self.started) end
  return rate, steps and row.total and "eta " .. duration((row.total - row.step) / steps)
end

-- What there is to say, and which of it gives way first when a line is short. The last part to
-- stay is how much is done.
local ORDER = { "bar", "loss", "rate", "time" }
local GIVES_WAY = { "bar", "rate", "loss", "time", "count" }

local function join(name, parts)
  local both = parts.count and parts.share
  local list = { name, both and parts.count .. " " .. parts.share or parts.count or parts.share }
  for _, key in ipairs(ORDER) do list[#list + 1] = parts[key] end
  return table.concat(list, "  ")
end

-- Counts of one display stand below each other.
local function count(row)
  if not row.total then return grouped(row.step) end
  local total = grouped(row.total)
  return ("%" .. #total .. "s/%s"):format(grouped(row.step), total)
end

local function parts_of(self, row, now)
  local rate, time = timing(self, row, now)
  return { count = count(row), share = share(row), rate = rate, time = time,
    loss = row.loss and ("loss %.3f"):format(row.loss) }
end

-- Away from a terminal lines have no end.
local function whole_line(self, row, now)
  return join(display.pad(row.name, self.name_width), parts_of(self, row, now))
end

-- The columns that names have in a line of so many: all they need, or a third of the line.
local function name_room(self, columns)
  local least = math.min(12, columns - 6)       -- "  100%" stays beside it
  return math.max(1, math.min(self.name_width, math.max(least, columns // 3)))
end

local function fits(name, list, columns)
  for _, parts in ipairs(list) do
    if display.width(join(name, parts)) > columns then return false end
  end
  return true
end

-- Takes away from all rows alike until each fits the columns beside the name.
local function shorten(name, list, columns)
  for _, key in ipairs(GIVES_WAY) do
    if fits(name, list, columns) then return end
    for _, parts in ipairs(list) do
      if key ~= "count" or parts.share then parts[key] = nil end
    end
  end
end

-- The rows as lines of at most `columns`: each the name, padded, and the rest.
local function fitted_lines(self, rows, columns)
  local room, now, lists, lines = name_room(self, columns), self:now(), {}, {}
  for i, row in ipairs(rows) do
    lists[i] = parts_of(self, row, now)
    lists[i].bar = columns >= WITH_BAR and not is_over(row) and bar(row) or nil
  end
  shorten((" "):rep(room), lists, columns)
  for i, row in ipairs(rows) do
    local name = display.pad(display.cut(row.name, room), room)
    lines[i] = { name, display.cut(join(name, lists[i]), columns):sub(#name + 1) }
  end
  return lines
end

-- Drawing -------------------------------------------------------------------------------------

-- The rows that a terminal has room for when there are more than that: first those that move.
local function visible(self, capacity)
  if #self.list <= capacity then return self.list, 0 end
  local moving, others = {}, {}
  for _, row in ipairs(self.list) do
    local into = row.step > 0 and not is_over(row) and moving or others
    into[#into + 1] = row
  end
  table.move(others, 1, #others, #moving + 1, moving)
  return table.move(moving, 1, capacity - 1, 1, {}), #self.list - math.max(capacity - 1, 0)
end

-- The lines to draw, each narrower than the terminal: the last column is left free, because some
-- terminals go to the next line after it.
local function lines_of(self)
  local columns = math.max(self.host.width() - 1, 1)
  local capacity = math.max(self.host.height() - 1, 0)
  local rows, more = visible(self, capacity)
  local lines = fitted_lines(self, rows, columns)
  for i, line in ipairs(lines) do
    local name, rest = line[1], line[2]
    local width = display.width(name .. rest)
    if self.host.color then name = "\27[1m" .. name .. "\27[0m" end
    lines[i] = { text = name .. rest, width = width }
  end
  if more > 0 and capacity > 0 then
    local text = display.cut(("and %d more"):format(more), columns)
    lines[#lines + 1] = { text = text, width = display.width(text) }
  end
  return lines
end

-- The cursor rests on the line below the rows, so that whatever ends the process leaves a clean
-- line behind. This takes it up to the first row. A terminal that has become narrower since has
-- broken the rows into several lines.
local function home(self)
  local up, width = 0, self.host.width()
  for _, line in ipairs(self.drawn or {}) do
    up = up + math.max(1, (line.width + width - 1) // width)
  end
  return up > 0 and ("\r\27[%dA"):format(up) or "\r"
end

-- Writes the text, if any, and the rows below it, over what was drawn before: in one piece, which
-- does not flicker. What was longer before is cleared.
local function draw(self, text)
  local out = { home(self) }
  if text then out[2] = "\27[J" .. text .. "\n" end
  self.drawn = lines_of(self)
  for _, line in ipairs(self.drawn) do out[#out + 1] = line.text .. "\27[K\n" end
  self.out:write(table.concat(out) .. "\27[J")
  self.out:flush()
  self.last_draw = self:now()
end

local function erase(self)
  if self.drawn then self.out:write(home(self), "\27[J") end
  self.drawn = nil
end

local function draw_if_due(self, now)
  local since = now - (self.last_draw or self.started)
  if since >= (self.last_draw and REDRAW or PATIENCE) then draw(self) end
end

-- Away from a terminal: a line when another tenth is done, or after a long silence.
local function print_if_due(self, row, now)
  local tenth = row.total and row.total > 0 and math.floor(10 * row.step / row.total) or 0
  local silence = now - (row.last_print or self.started)
  if silence < PATIENCE or (tenth <= row.shown and silence < PLAIN_EVERY) then return end
  row.shown, row.last_print, row.told = tenth, now, is_over(row)
  self.out:write(whole_line(self, row, now), "\n")
  self.out:flush()
end

-- How the jobs ended, but for those of which it was told.
local function last_lines(self)
  local lines, now = {}, self:now()
  if self.live then
    local fitted = fitted_lines(self, self.list, math.max(self.host.width() - 1, 1))
    for i, line in ipairs(fitted) do lines[i] = table.concat(line) end
    return lines
  end
  for _, row in ipairs(self.list) do
    if not row.told then lines[#lines + 1] = whole_line(self, row, now) end
  end
  return lines
end

-- Public --------------------------------------------------------------------------------------

local function find_host(options)
  if options.host then return options.host end
  local found, host = pcall(require, "moelua.host")
  return found and host or nil
end

local function new(options, names, start)
  local host = find_host(options)
  local self = setmetatable({
    list = {}, by_name = {}, name_width = 0,
    out = options.out or io.stderr,
    clock = options.clock or system.clock,
    last = -math.huge, behind = 0,
    host = host,
    rate = options.rate or token_rate,
    silent = options.quiet or not host,
    live = host and host.live,
  }, Progress)
  self.started = self:now()
  for i, name in ipairs(names) do
    local row = new_row(name, options.total, start)
    self.list[i], self.by_name[name] = row, row
    self.name_width = math.max(self.name_width, display.width(row.name))
    if start then sample(row, self.started) end
  end
  return self
end

-- Seconds that never go back, whatever the clock does.
function Progress:now()
  local time = self.clock() + self.behind
  if time < self.last then
    self.behind = self.behind + self.last - time
    time = self.last
  end
  self.last = time
  return time
end

local function update(self, row, step, info)
  if self.silent then return end
  local now = self:now()
  note_step(row, now, step, info or {})
  if self.live then draw_if_due(self, now) else print_if_due(self, row, now) end
end

--- Prints a line of its own above the live ones.
---@param text string
function Progress:note(text)
  if self.silent then return end
  if self.drawn then return draw(self, text) end
  self.out:write(text, "\n")
  self.out:flush()
end

--- Ends the display. At a terminal the live lines give way to the text, or stay as they ended.
---@param text string? default: the last state
function Progress:done(text)
  if self.silent then return end
  erase(self)
  for _, line in ipairs(text and {} or last_lines(self)) do self.out:write(line, "\n") end
  if text then self.out:write(text, "\n") end
  self.out:flush()
  self.silent = true
end

-- `local line <close> = progress.new { ... }`: an error leaves no half-drawn line behind.
function Progress:__close()
  if self.silent then return end
  erase(self)
  self.out:flush()
end

--- One job. Options: name, total (steps; may be missing), start (the step that a continued job
--- starts from, default 0), rate (a function that makes text of the tokens of a second), quiet,
--- out (a file).
---@param options table
function progress.new(options)
  local self = new(options, { options.name or "" }, options.start or 0)
  self.update = function(_, step, info) update(self, self.list[1], step, info) end
  return self
end

--- Jobs that run side by side, one line each. Options: the names as a list, total, quiet, out.
---@param options table
function progress.rows(options)
  local self = new(options, options)
  self.update = function(_, name, step, info) update(self, self.by_name[name], step, info) end
  return self
end

return progress
