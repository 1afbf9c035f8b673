-- text_stream.lua: the text of ids that come one by one.
--
-- A character may take several tokens, and a tokenizer may write a token differently at the
-- beginning of a text: text is decoded together with the last id of what went before, and a
-- character is held back until it is whole.

local class = require("moelua.class")

local Stream = class("TextStream")

local RAW = { raw = true, skip_special = true }

-- How many bytes of a text are whole characters, or will never be: all but the beginning of a
-- character at its end.
local function whole(text)
  for back = 1, math.min(3, #text) do
    local byte = text:byte(-back)
    if byte >= 0xC0 then
      local length = byte >= 0xF0 and 4 or byte >= 0xE0 and 3 or 2
      return (back < length and byte < 0xF8) and #text - back or #text
    end
    if byte < 0x80 then break end
  end
  return #text
end

-- The text with U+FFFD for what is no UTF-8: one for the bytes of a character that is cut off, and
-- for every other byte.
local function readable(text)
  local parts, at = {}, 1
  while true do
    local _, bad = utf8.len(text, at)
    if not bad then break end
    parts[#parts + 1] = text:sub(at, bad - 1) .. "\u{FFFD}"
    local _, last = text:find("^[\xC2-\xF4][\x80-\xBF]?[\x80-\xBF]?", bad)
    at = (last or bad) + 1
  end
  return table.concat(parts) .. text:sub(at)
end

--- tokenizer; before: the ids that the text comes after; stop: a text at which it ends, or nil;
--- emit: called with each piece of text that is complete, or nil. Bytes of the byte tokenizer stay
--- as they are.
function Stream:init(tokenizer, before, how)
  self.tokenizer, self.stop, self.emit = tokenizer, how.stop, how.emit
  self.anchor = before[#before]
  self.skipped = #tokenizer:decode({ self.anchor }, RAW)
  self.emitted = 0
end

-- The text after the anchor so far, and whether `stop` has ended it.
local function decoded(self, ids)
  local all = table.move(ids, 1, #ids, 2, { self.anchor })
  local text = self.tokenizer:decode(all, RAW):sub(self.skipped + 1)
  local at = self.stop and text:find(self.stop, 1, true)
  return at and text:sub(1, at - 1) or text, at ~= nil and at ~= false
end

local function send(self, text, last)
  if not self.emit or last <= self.emitted then return end
  local piece = text:sub(self.emitted + 1, last)
  self.emitted = last
  self.emit(self.tokenizer.name == "bytes" and piece or readable(piece))
end

-- How much of a text can be no part of `stop`: that may begin at its end.
local function before_stop(text, stop)
  for n = math.min(#stop - 1, #text), 1, -1 do
    if text:sub(-n) == stop:sub(1, n) then return #text - n end
  end
  return #text
end

--- Takes note of the ids so far; true when they complete `stop`.
function Stream:update(ids)
  if not (self.stop or self.emit) then return false end
  local text, stopped = decoded(self, ids)
  if not stopped then
    local last = self.stop and before_stop(text, self.stop) or #text
    send(self, text, whole(text:sub(1, last)))
  end
  return stopped
end

--- The whole text of the ids; what was held back is sent.
function Stream:finish(ids)
  local text = decoded(self, ids)
  send(self, text, #text)
  return self.tokenizer.name == "bytes" and text or readable(text)
end

return Stream
