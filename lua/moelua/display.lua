-- display.lua: text in columns of a terminal. A letter may have several bytes and take two columns
-- or none; what would move the cursor is no part of a line.

local display = {}

-- First and last of the ranges, in order. Marks stand on the letter before them.
local WIDE = { 0x1100, 0x115F, 0x231A, 0x231B, 0x2329, 0x232A, 0x23E9, 0x23EC, 0x2E80, 0x303E,
  0x3041, 0xA4CF, 0xA960, 0xA97C, 0xAC00, 0xD7A3, 0xF900, 0xFAFF, 0xFE30, 0xFE6F, 0xFF00, 0xFF60,
  0xFFE0, 0xFFE6, 0x1F300, 0x1F64F, 0x1F680, 0x1F6FF, 0x1F900, 0x1FAFF, 0x20000, 0x3FFFD }
local MARKS = { 0x300, 0x36F, 0x483, 0x489, 0x591, 0x5BD, 0x610, 0x61A, 0x64B, 0x65F, 0x93C, 0x93C,
  0x94D, 0x94D, 0xE34, 0xE3A, 0xE47, 0xE4E, 0x1AB0, 0x1AFF, 0x1DC0, 0x1DFF, 0x200B, 0x200F, 0x20D0,
  0x20FF, 0xFE00, 0xFE0F, 0xFE20, 0xFE2F, 0xE0100, 0xE01EF }

local function is_within(ranges, code)
  for i = 1, #ranges, 2 do
    if code < ranges[i] then return false end
    if code <= ranges[i + 1] then return true end
  end
  return false
end

local function letter_width(code)
  if code < 0x300 then return 1 end
  return is_within(MARKS, code) and 0 or is_within(WIDE, code) and 2 or 1
end

--- The text as one line of valid UTF-8: blanks for control characters, ? for bytes that are none.
---@param text any
---@return string
function display.plain(text)
  text = tostring(text):gsub("%c+", " ")
  local place = 1
  while true do
    local _, bad = utf8.len(text, place)
    if not bad then return (text:gsub("\xC2[\x80-\x9F]", " ")) end
    text, place = text:sub(1, bad - 1) .. "?" .. text:sub(bad + 1), bad + 1
  end
end

--- How many columns a text takes.
---@param text string
---@return integer
function display.width(text)
  if not utf8.len(text) then return #text end
  local width = 0
  for _, code in utf8.codes(text) do width = width + letter_width(code) end
  return width
end

--- The text, or as much of its beginning as fits `limit` columns with an ellipsis behind it.
---@param text string
---@param limit integer at least 1
---@return string
function display.cut(text, limit)
  if display.width(text) <= limit then return text end
  local out, width = {}, 0
  for letter in text:gmatch(utf8.len(text) and utf8.charpattern or ".") do
    width = width + display.width(letter)
    if width > limit - 1 then break end
    out[#out + 1] = letter
  end
  return table.concat(out) .. "…"
end

--- The text with blanks behind it, or before it, up to `width` columns.
---@param text string
---@param width integer
---@param right boolean? aligned to the right
---@return string
function display.pad(text, width, right)
  local space = (" "):rep(width - display.width(text))
  return right and space .. text or text .. space
end

return display
