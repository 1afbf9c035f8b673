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

local system = require("moelua.core").system

local progress = {}

local REDRAW, PLAIN_EVERY, PATIENCE = 0.1, 30, 1
local WINDOW, SAMPLE_EVERY = 15, 0.5
local BAR = 20

local Progress = {}
Progress.__index = Progress

-- Formats -------------------------------------------------------------------------------------

local function grouped(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

local function short(n)
  if n < 1000 then return ("%.0f"):format(n) end
  if n < 1e6 then return ("%.1fk"):format(n / 1e3) end
  return ("%.1fM"):format(n / 1e6)
end

local function duration(seconds)
  local s = math.max(0, math.floor(seconds + 0.5))
  if s < 60 then return ("%ds"):format(s) end
  if s < 3600 then return ("%dm%02ds"):format(s // 60, s % 60) end
  return ("%dh%02dm"):format(s // 3600, s // 60 % 60)
end

-- Rows ----------------------------------------------------------------------------------------

local function new_row(name, total, start)
  local tokens = start == 0 and 0 or nil    -- how many a continued job has seen is not known
  local shown = total and total > 0 and math.floor(10 * start / total) or 0
  return { name = name, total = total, step = start, tokens = tokens, samples = {}, shown = shown }
end

-- Remembers when the row was where, for speeds over the last seconds.
local function sample(row, now)
  local samples = row.samples
  local last = samples[#samples]
  if last and now - last.time < SAMPLE_EVERY then return end
  samples[#samples + 1] = { time = now, step = row.step, tokens = row.tokens }
  if samples[3] and now - samples[2].time > WINDOW then table.remove(samples, 1) end
end

-- Steps and tokens per second; nil while nothing can be said.
local function speeds(row, now)
  local first = row.samples[1]
  if not first or now - first.time < SAMPLE_EVERY or row.step <= first.step then return nil end
  local seconds = now - first.time
  local more = first.tokens and row.tokens - first.tokens or 0
  return (row.step - first.step) / seconds, more > 0 and more / seconds or nil
end

local function bar(row)
  local full = math.floor(BAR * math.min(1, row.step / row.total))
  return "|" .. ("#"):rep(full) .. ("-"):rep(BAR - full) .. "|"
end

local function count(row)
  if not row.total then return grouped(row.step) end
  return ("%s/%s %3d%%"):format(grouped(row.step), grouped(row.total),
    math.floor(100 * row.step / math.max(row.total, 1)))
end

-- The text of a row: name, count, bar, loss, speed, time to go.
local function describe(row, now, name_width, with_bar)
  local parts = { ("%-" .. name_width .. "s"):format(row.name), count(row) }
  local function add(fmt, value)
    if value then parts[#parts + 1] = fmt:format(value) end
  end
  local steps, tokens = speeds(row, now)
  local left = row.total and row.total - row.step
  if with_bar and row.total and row.total > 0 then add("%s", bar(row)) end
  add("loss %.3f", row.loss)
  if tokens then
    add("%s tok/s", short(tokens))
  else
    add("%.3g step/s", steps)
  end
  add("eta %s", steps and left and left > 0 and duration(left / steps))
  return table.concat(parts, "  ")
end

-- Drawing -------------------------------------------------------------------------------------

-- The cursor rests at the end of the last row; this takes it to the start of the first one.
local function home(self)
  local up = #self.list - 1
  return up > 0 and ("\r\27[%dA"):format(up) or "\r"
end

local function row_line(self, row, width)
  local now = self.clock()
  local text = describe(row, now, self.name_width, width >= 80):sub(1, math.max(width - 1, 1))
  if not self.host.color then return text end
  local name = text:sub(1, #row.name)
  return "\27[1m" .. name .. "\27[0m" .. text:sub(#name + 1)
end

local function draw(self)
  local lines, width = {}, self.host.width()
  for i, row in ipairs(self.list) do lines[i] = "\27[K" .. row_line(self, row, width) end
  self.out:write(self.drawn and home(self) or "\r", table.concat(lines, "\n"))
  self.out:flush()
  self.drawn, self.last_draw = true, self.clock()
end

local function erase(self)
  if self.drawn then self.out:write(home(self), "\27[J") end
  self.drawn = false
end

local function draw_if_due(self, now)
  local since = self.last_draw and now - self.last_draw or now - self.started
  if since >= (self.last_draw and REDRAW or PATIENCE) then draw(self) end
end

-- How a job ended, and how long it took.
local function last_line(self, row, now)
  return ("%s  %s"):format(describe(row, now, self.name_width, false), duration(now - self.started))
end

-- Away from a terminal: a line when another tenth is done, or after a long silence.
local function print_if_due(self, row, now)
  local tenth = row.total and row.total > 0 and math.floor(10 * row.step / row.total) or 0
  local silence = now - (row.last_print or self.started)
  if silence < PATIENCE or (tenth <= row.shown and silence < PLAIN_EVERY) then return end
  row.shown, row.last_print = tenth, now
  row.told = row.total ~= nil and row.step >= row.total
  self.out:write(row.told and last_line(self, row, now)
    or describe(row, now, self.name_width, false), "\n")
  self.out:flush()
end

-- Public --------------------------------------------------------------------------------------

local function find_host(options)
  if options.host then return options.host end
  local found, host = pcall(require, "moelua.host")
  return found and host or nil
end

local function new(options, names)
  local host = find_host(options)
  local self = setmetatable({
    list = {}, by_name = {}, name_width = 0,
    out = options.out or io.stderr,
    clock = options.clock or system.clock,
    host = host,
    silent = options.quiet or not host,
    live = host and host.live,
  }, Progress)
  self.started = self.clock()
  for i, name in ipairs(names) do
    local row = new_row(name, options.total, options.start or 0)
    self.list[i], self.by_name[name] = row, row
    self.name_width = math.max(self.name_width, #name)
    sample(row, self.started)
  end
  return self
end

local function update(self, row, step, info)
  if self.silent then return end
  local now = self.clock()
  row.step = step
  row.loss = info and info.loss or row.loss
  if info and info.tokens then
    if not row.tokens then row.samples = {} end    -- from here on tokens can be counted
    row.tokens = info.tokens
  end
  sample(row, now)
  if self.live then draw_if_due(self, now) else print_if_due(self, row, now) end
end

--- Prints a line of its own above the live one.
---@param text string
function Progress:note(text)
  if self.silent then return end
  local redraw = self.drawn
  erase(self)
  self.out:write(text, "\n")
  if redraw then draw(self) end
  self.out:flush()
end

--- Ends the display. At a terminal the live lines give way to the text, or stay as they ended.
---@param text string? default: the last state
function Progress:done(text)
  if self.silent then return end
  local now = self.clock()
  erase(self)
  for _, row in ipairs(self.list) do
    if text or not row.told then self.out:write(text or last_line(self, row, now), "\n") end
    if text then break end
  end
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
--- starts from, default 0), quiet, out (a file).
---@param options table
function progress.new(options)
  local self = new(options, { options.name or "" })
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
