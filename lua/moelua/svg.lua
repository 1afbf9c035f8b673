-- Small helpers for drawing: text and tags, number words, axis ticks, scales, paths, label
-- spreading and the heat map's colours. What is drawn is the business of line_chart and heat_map.
-- Pure Lua: the same input gives the same bytes on every platform that prints doubles alike.

local svg = {}

local function raise(...)
  return require("moelua.core").raise(...)
end

-- Text and tags ---------------------------------------------------------------------------

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
  ["'"] = "&#39;" }

-- Bytes that are not UTF-8 become U+FFFD one by one, so that a path or a document name with
-- stray bytes cannot make the page unreadable.
local function repaired(text)
  local out, at = {}, 1
  while true do
    local _, bad = utf8.len(text, at)
    if not bad then break end
    out[#out + 1] = text:sub(at, bad - 1) .. "\u{FFFD}"
    at = bad + 1
  end
  return table.concat(out) .. text:sub(at)
end

-- Text that may stand between tags or in a quoted attribute. Control characters, which HTML
-- forbids even escaped, become spaces.
function svg.escape(text)
  text = repaired(tostring(text))
  return (text:gsub("[%z\1-\8\11\12\14-\31\127]", " "):gsub("[&<>\"']", ENTITIES))
end

-- A coordinate with at most two decimals and no trailing zeros.
function svg.number(value)
  local text = string.format("%.2f", value):gsub("0+$", ""):gsub("%.$", "")
  return text == "-0" and "0" or text
end

local function attribute_value(value)
  if type(value) == "number" then return svg.number(value) end
  return svg.escape(value)
end

-- `<name key="value">content</name>`; keys sorted, values escaped, content taken as markup.
-- Content nil closes the tag in itself; false values leave the attribute out.
function svg.element(name, attributes, content)
  local keys = {}
  for key, value in pairs(attributes or {}) do
    if value ~= false then keys[#keys + 1] = key end
  end
  table.sort(keys)
  local parts = { "<" .. name }
  for _, key in ipairs(keys) do
    parts[#parts + 1] = string.format(' %s="%s"', key, attribute_value(attributes[key]))
  end
  local head = table.concat(parts)
  if content == nil then return head .. " />" end
  if type(content) == "table" then content = table.concat(content) end
  return head .. ">" .. content .. "</" .. name .. ">"
end

-- Widths of letters in units of the font size, a little on the generous side.
local function letter_width(code)
  if code >= 0x2E80 then return 1 end
  local letter = code < 128 and string.char(code) or "n"
  if letter:find("[ijlt.,:;'|!%[%]() I]") then return 0.32 end
  if letter:find("[mwMW@%%]") then return 0.88 end
  return letter:find("%u") and 0.68 or 0.57
end

-- The estimated width of a text set in a sans-serif face of that size; no font is asked.
function svg.text_width(text, size)
  local width = 0
  for _, code in utf8.codes(repaired(text)) do width = width + letter_width(code) end
  return width * size
end

-- The text, cut with an ellipsis to the number of pixels it may take.
function svg.fit(text, size, limit)
  text = repaired(text)
  if svg.text_width(text, size) <= limit then return text end
  local count = utf8.len(text)
  repeat
    count = count - 1
    local cut = text:sub(1, utf8.offset(text, count + 1) - 1):gsub("%s+$", "") .. "…"
    if count <= 1 or svg.text_width(cut, size) <= limit then return cut end
  until false
end

-- Numbers ---------------------------------------------------------------------------------

-- Returns the value when it is a finite number; anything else is the caller's mistake.
function svg.finite(value, what)
  if type(value) ~= "number" or value ~= value or value == math.huge or value == -math.huge then
    raise("%s is not a finite number: %s", what, tostring(value))
  end
  return value
end

local DIGITS = { [0] = "⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹" }

-- "10¹⁵"
function svg.power_of_ten(exponent)
  local digits = string.format("%d", exponent):gsub(".", function(letter)
    return letter == "-" and "⁻" or DIGITS[tonumber(letter)]
  end)
  return "10" .. digits
end

local WORDS = { [3] = "thousands", [6] = "millions", [9] = "billions", [12] = "trillions" }

-- The power of 1000 in which a value reads best: its divisor and its name, or 1 and nil below
-- ten thousand. style "power" names it 10⁶ where the default says millions.
function svg.magnitude(value, style)
  if value < 1e4 then return 1, nil end
  local exponent = 0
  while value >= 10 ^ (exponent + 3) and exponent < 300 do exponent = exponent + 3 end
  local name = style ~= "power" and WORDS[exponent] or svg.power_of_ten(exponent)
  return 10.0 ^ exponent, name
end

-- Scales ----------------------------------------------------------------------------------

-- The largest of 1, 2, 5 times a power of ten that still gives about `count` intervals.
local function nice_step(span, count)
  local raw = span / count
  local base = 10.0 ^ math.floor(math.log(raw, 10))
  for _, factor in ipairs { 1, 2, 5 } do
    if raw <= factor * base * 1.0001 then return factor * base end
  end
  return 10 * base
end

-- Round positions inside [low, high], about `count` intervals, ascending; second result: step.
-- Steps below one divide by a whole number, so that 0.3 never comes out as 0.30000000000000004.
function svg.ticks(low, high, count)
  if high <= low then return { low }, 1 end
  local step = nice_step(high - low, count or 5)
  local ticks = {}
  local first = math.ceil(low / step - 1e-9)
  local last = math.floor(high / step + 1e-9)
  local parts = step < 1 and math.floor(1 / step + 0.5) or nil
  for index = first, last do
    ticks[#ticks + 1] = parts and index / parts or index * step + 0.0
  end
  return ticks, step
end

local LOG_STEPS = { { 1, 1.5, 2, 3, 4, 5, 6, 8 }, { 1, 2, 5 }, { 1, 3 }, { 1 } }

local function decade_ticks(low, high, factors, stride)
  local ticks = {}
  local first, last = math.floor(math.log(low, 10)), math.ceil(math.log(high, 10))
  for exponent = first, last do
    for _, factor in ipairs(factors) do
      local tick = factor * 10.0 ^ exponent
      local inside = tick >= low * (1 - 1e-9) and tick <= high * (1 + 1e-9)
      if inside and exponent % stride == 0 then ticks[#ticks + 1] = tick end
    end
  end
  return ticks
end

-- Positions for a logarithmic axis: the densest familiar pattern of at most `most` ticks; a span
-- too short for any of them gets linear ticks.
function svg.log_ticks(low, high, most)
  most = most or 8
  local ticks
  for _, factors in ipairs(LOG_STEPS) do
    ticks = decade_ticks(low, high, factors, 1)
    if #ticks <= most then break end
  end
  local stride = 1
  while #ticks > most do
    stride = stride + 1
    ticks = decade_ticks(low, high, { 1 }, stride)
  end
  if #ticks >= 4 or high / low >= 10 then return ticks end
  return (svg.ticks(low, high, math.max(3, most // 2)))
end

-- As many decimals as the closest two ticks need to differ, the same for the whole axis.
local function tick_decimals(ticks)
  for decimals = 0, 6 do
    local exact = true
    for _, tick in ipairs(ticks) do
      local shown = tonumber(string.format("%." .. decimals .. "f", tick))
      exact = exact and math.abs(shown - tick) <= 1e-6 * math.max(1e-6, math.abs(tick))
    end
    if exact then return decimals end
  end
  return 6
end

local function evenly_spaced(ticks)
  local step = #ticks > 1 and ticks[2] - ticks[1] or 0
  for index = 2, #ticks do
    if math.abs(ticks[index] - ticks[index - 1] - step) > 1e-6 * step then return false end
  end
  return true
end

-- One label per tick: the same decimals all along an even axis, as few as each needs on an uneven
-- one, and 10ⁿ over many decades.
function svg.tick_labels(ticks, divisor)
  local shown, labels = {}, {}
  for index, tick in ipairs(ticks) do shown[index] = tick / (divisor or 1) end
  local low, high = shown[1] or 0, shown[#shown] or 0
  local decades = low > 0 and high / low >= 1e4
  local format = evenly_spaced(shown) and "%." .. tick_decimals(shown) .. "f" or "%.6g"
  for index, value in ipairs(shown) do
    local exponent = decades and math.floor(math.log(value, 10) + 0.5)
    labels[index] = exponent and svg.power_of_ten(exponent) or string.format(format, value)
  end
  return labels
end

-- A function from data in [low, high] to pixels in [from, to]; kind "linear" or "log".
function svg.scale(kind, low, high, from, to)
  local warp = kind == "log" and math.log or function(value) return value end
  local start, span = warp(low), warp(high) - warp(low)
  return function(value) return from + (warp(value) - start) / span * (to - from) end
end

-- Paths and labels ------------------------------------------------------------------------

-- "M1 2L3 4" for a list of {x, y} pixels.
function svg.path(points)
  local out = {}
  for index, point in ipairs(points) do
    local letter = index == 1 and "M" or "L"
    out[index] = letter .. svg.number(point[1]) .. " " .. svg.number(point[2])
  end
  return table.concat(out)
end

local function column_points(bucket, out)
  local low, high = 1, 1
  for index, point in ipairs(bucket) do
    if point[2] < bucket[low][2] then low = index end
    if point[2] > bucket[high][2] then high = index end
  end
  local last = -1
  for _, index in ipairs { 1, math.min(low, high), math.max(low, high), #bucket } do
    if index > last then out[#out + 1] = bucket[index] end
    last = math.max(last, index)
  end
end

-- A long curve with first, lowest, highest and last point of every pixel column: it looks the
-- same, spikes included, and a run of a million steps stays a small file.
function svg.thin(points, most)
  if #points <= (most or 2000) then return points end
  local out, bucket, column = {}, {}, nil
  for _, point in ipairs(points) do
    local here = math.floor(point[1])
    if here ~= column and #bucket > 0 then
      column_points(bucket, out)
      bucket = {}
    end
    column = here
    bucket[#bucket + 1] = point
  end
  column_points(bucket, out)
  return out
end

-- Moves ascending positions apart to at least `gap`, each as near to its wish as the others
-- allow, inside [low, high] where they fit: runs that collide are merged around their mean.
function svg.spread(wanted, gap, low, high)
  local groups = {}
  for _, wish in ipairs(wanted) do
    local group = { centre = wish, count = 1 }
    groups[#groups + 1] = group
    while true do
      local half = (group.count - 1) * gap / 2
      group.centre = math.max(low + half, math.min(high - half, group.centre))
      local before = groups[#groups - 1]
      if not before then break end
      local reach = (before.count + group.count) * gap / 2
      if group.centre - before.centre >= reach - 1e-9 then break end
      local count = before.count + group.count
      before.centre = (before.centre * before.count + group.centre * group.count) / count
      before.count, group = count, before
      groups[#groups] = nil
    end
  end
  local out = {}
  for _, group in ipairs(groups) do
    for place = 1, group.count do
      out[#out + 1] = group.centre + (place - (group.count + 1) / 2) * gap
    end
  end
  return out
end

-- Colour ----------------------------------------------------------------------------------

local function channel(linear)
  linear = math.max(0, math.min(1, linear))
  local encoded = linear <= 0.0031308 and 12.92 * linear or 1.055 * linear ^ (1 / 2.4) - 0.055
  return math.floor(encoded * 255 + 0.5)
end

-- OKLab lightness, chroma and hue (radians) as #rrggbb: in this space equal steps look equal.
local function oklch(light, chroma, hue)
  local a, b = chroma * math.cos(hue), chroma * math.sin(hue)
  local l = (light + 0.3963377774 * a + 0.2158037573 * b) ^ 3
  local m = (light - 0.1055613458 * a - 0.0638541728 * b) ^ 3
  local s = (light - 0.0894841775 * a - 1.2914855480 * b) ^ 3
  return string.format("#%02x%02x%02x",
    channel(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    channel(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    channel(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s))
end

local BLUE = math.rad(250)

-- One blue hue, its lightness linear in t in [0, 1]: from paper to ink on a light page, from
-- night to light on a dark one, so that more always stands out more.
function svg.shade(t, dark)
  t = math.max(0, math.min(1, t))
  if dark then return oklch(0.26 + 0.56 * t, 0.02 + 0.08 * t, BLUE) end
  return oklch(0.975 - 0.565 * t, 0.005 + 0.105 * t, BLUE)
end

return svg
