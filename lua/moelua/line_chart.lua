-- Loss curves as inline SVG, the first figure of a report. Colours come
-- from the page's style sheet (classes s1..s8, tick, axis, ...), so that one drawing serves light,
-- dark and paper; lines also differ in dashes and end marks, so that colour never speaks alone.

local svg = require("moelua.svg")

local line_chart = {}

local element, number = svg.element, svg.number

local function raise(...)
  return require("moelua.core").raise(...)
end

local SERIES = 8                                   -- classes s1..s8 in the style sheet
local DASHES = { "7 3", "2 2.5", "10 3 2 3", "4 2", "12 4", "7 2 2 2 2 2", "1.5 4" }
local WIDTH, HEIGHT = 960, 400
local PLOT = { left = 64, top = 14, bottom = 344 } -- right depends on the labels
local LABEL_SIZE, LABEL_GAP = 12, 15
local BOLD = 1.17                                  -- how much wider than regular letters

-- Marks -----------------------------------------------------------------------------------

local MARKS = {
  function(x, y) return element("circle", { cx = x, cy = y, r = 3.6 }) end,
  function(x, y)
    return element("rect", { x = x - 3.2, y = y - 3.2, width = 6.4, height = 6.4 })
  end,
  function(x, y)
    return element("path", { d = svg.path { { x, y - 4.4 }, { x + 4.2, y + 3 }, { x - 4.2, y + 3 } }
      .. "Z" })
  end,
  function(x, y)
    return element("path", { d = svg.path { { x, y - 4.6 }, { x + 4.6, y }, { x, y + 4.6 },
      { x - 4.6, y } } .. "Z" })
  end,
  function(x, y)
    return element("path", { d = svg.path { { x, y + 4.4 }, { x + 4.2, y - 3 }, { x - 4.2, y - 3 } }
      .. "Z" })
  end,
}

local function mark(curve, x, y)
  local shape = MARKS[(curve.index - 1) % #MARKS + 1](x, y)
  return element("g", { class = "mark s" .. curve.class }, shape)
end

-- Line style of a curve: solid first, dashes from the second on; `dashed` overrides either way.
local function styled(curve, index)
  local dashed = curve.dashed
  if dashed == nil then dashed = index > 1 end
  local dash = dashed and DASHES[(math.max(index, 2) - 2) % #DASHES + 1] or false
  return {
    name = tostring(curve.name or ("curve " .. index)), points = curve.points or {},
    index = index, class = (index - 1) % SERIES + 1, dash = dash,
  }
end

-- Checked curves --------------------------------------------------------------------------

local function check_points(curve)
  for place, point in ipairs(curve.points) do
    if type(point) ~= "table" then
      raise("report.html: point %d of curve %q is not a pair {x, y}: %s", place, curve.name,
        tostring(point))
    end
    for axis = 1, 2 do
      svg.finite(point[axis], string.format("report.html: %s of point %d of curve %q",
        axis == 1 and "x" or "y", place, curve.name))
    end
  end
end

local function bounds(curves, axis)
  local low, high = math.huge, -math.huge
  for _, curve in ipairs(curves) do
    for _, point in ipairs(curve.points) do
      low, high = math.min(low, point[axis]), math.max(high, point[axis])
    end
  end
  return low, high
end

local KINDS = { linear = true, log = true, auto = true }

-- Losses fall steeply, then slowly: a logarithmic axis shows both parts, so "auto" takes it when
-- the values span a factor of three or more.
local function axis_kind(asked, low, high, name)
  asked = asked or "auto"
  if not KINDS[asked] then
    raise("report.html: unknown scale of the %s axis: %s\nhint: linear, log or auto", name,
      tostring(asked))
  end
  if asked == "log" and low <= 0 then
    raise("report.html: the %s axis is logarithmic, but a curve has the value %s", name,
      svg.number(low))
  end
  if asked ~= "auto" then return asked end
  return name == "y" and low > 0 and high / low >= 3 and "log" or "linear"
end

-- A little air around the values; a single value gets an interval of its own.
local function padded(kind, low, high, share)
  if kind == "log" then
    local factor = low == high and 1.2 or (high / low) ^ share
    return low / factor, high * factor
  end
  local air = low == high and math.max(math.abs(low) * 0.1, 0.5) or (high - low) * share
  return low - air, high + air
end

-- Axes ------------------------------------------------------------------------------------

local function axis(kind, low, high, share, count)
  local out = { kind = kind }
  out.low, out.high = padded(kind, low, high, share)
  if share == 0 and low < high then out.low, out.high = low, high end
  if kind == "log" then
    out.ticks = svg.log_ticks(out.low, out.high, count + 2)
  else
    out.ticks = svg.ticks(out.low, out.high, count)
  end
  local reference = kind == "log" and out.ticks[1] or out.high
  out.divisor, out.unit = svg.magnitude(math.abs(reference))
  if kind == "log" and out.ticks[#out.ticks] / out.ticks[1] >= 1e4 then
    out.divisor, out.unit = 1, nil
  end
  out.labels = svg.tick_labels(out.ticks, out.divisor)
  return out
end

local function axis_label(given, made)
  local notes = {}
  if made.unit then notes[1] = made.unit end
  if made.kind == "log" then notes[#notes + 1] = "log scale" end
  if #notes == 0 then return svg.escape(given) end
  return svg.escape(given .. " (" .. table.concat(notes, ", ") .. ")")
end

local function draw_axes(frame, labels, out)
  local x, y = frame.x, frame.y
  for index, tick in ipairs(y.ticks) do
    local at = frame.to_y(tick)
    out[#out + 1] = element("line", { class = "grid", x1 = PLOT.left, x2 = frame.right, y1 = at,
      y2 = at })
    out[#out + 1] = element("text", { class = "tick", x = PLOT.left - 8, y = at + 4,
      ["text-anchor"] = "end" }, svg.escape(y.labels[index]))
  end
  for index, tick in ipairs(x.ticks) do
    local at = frame.to_x(tick)
    out[#out + 1] = element("line", { class = "axis", x1 = at, x2 = at, y1 = PLOT.bottom,
      y2 = PLOT.bottom + 5 })
    out[#out + 1] = element("text", { class = "tick", x = at, y = PLOT.bottom + 19,
      ["text-anchor"] = "middle" }, svg.escape(x.labels[index]))
  end
  out[#out + 1] = element("line", { class = "axis", x1 = PLOT.left, x2 = frame.right,
    y1 = PLOT.bottom, y2 = PLOT.bottom })
  local middle = (PLOT.left + frame.right) / 2
  out[#out + 1] = element("text", { class = "label", x = middle, y = PLOT.bottom + 44,
    ["text-anchor"] = "middle" }, axis_label(labels.x, x))
  local centre = (PLOT.top + PLOT.bottom) / 2
  out[#out + 1] = element("text", { class = "label", ["text-anchor"] = "middle",
    transform = string.format("translate(14 %s) rotate(-90)", number(centre)) },
    axis_label(labels.y, y))
end

-- Direct labels ---------------------------------------------------------------------------

-- Room right of the plot for the names of the curves that end there.
local function gutter(curves)
  local widest = 0
  for _, curve in ipairs(curves) do
    curve.label = svg.fit(curve.name, LABEL_SIZE * BOLD, 190)
    curve.width = svg.text_width(curve.label, LABEL_SIZE * BOLD)
    if #curve.points > 0 then widest = math.max(widest, curve.width) end
  end
  return widest + 24
end

local function place_text(curve, x, y, out)
  local title = curve.label ~= curve.name and element("title", nil, svg.escape(curve.name)) or ""
  out[#out + 1] = element("text", { class = "name s" .. curve.class, x = x, y = y + 4 },
    title .. svg.escape(curve.label))
end

-- Curves that end at the right border are named in the gutter, in the order of their ends.
local function label_gutter(list, frame, out)
  table.sort(list, function(a, b)
    if a.ending[2] ~= b.ending[2] then return a.ending[2] < b.ending[2] end
    return a.index < b.index
  end)
  local wishes = {}
  for index, curve in ipairs(list) do wishes[index] = curve.ending[2] end
  local heights = svg.spread(wishes, LABEL_GAP, PLOT.top, PLOT.bottom)
  for index, curve in ipairs(list) do
    local at, x = heights[index], frame.right + 18
    if math.abs(at - curve.ending[2]) > 2 then
      out[#out + 1] = element("path", { class = "leader", d = svg.path {
        { curve.ending[1] + 6, curve.ending[2] }, { x - 3, at } } })
    end
    place_text(curve, x, at, out)
  end
end

local function overlaps(box, other)
  return box[1] < other[3] and other[1] < box[3] and box[2] < other[4] and other[2] < box[4]
end

-- Where a curve that ends inside the plot could carry its name: offsets from the end of the line.
local function candidates(width)
  return {
    { 9, 0 }, { 9, 14 }, { 9, -14 }, { -width / 2, 16 }, { -width / 2, -16 }, { -width - 4, 16 },
    { -width - 4, -16 }, { 9, 28 }, { 9, -28 }, { -width / 2, 30 }, { -width / 2, -30 },
    { 9, 42 }, { 9, -42 },
  }
end

local function crowding(box, frame)
  local count = 0
  for _, point in ipairs(frame.pixels) do
    local inside = point[1] > box[1] and point[1] < box[3]
    if inside and point[2] > box[2] and point[2] < box[4] then count = count + 1 end
  end
  return count
end

local function best_place(curve, frame)
  local best, lowest = nil, math.huge
  for rank, offset in ipairs(candidates(curve.width)) do
    local x, y = curve.ending[1] + offset[1], curve.ending[2] + offset[2]
    local box = { x - 2, y - 8, x + curve.width + 2, y + 8 }
    local free = box[1] > PLOT.left and box[3] < frame.right and box[2] > 0
      and box[4] < PLOT.bottom
    for _, taken in ipairs(frame.taken) do free = free and not overlaps(box, taken) end
    local cost = 2 * crowding(box, frame) + rank
    if free and cost < lowest then best, lowest = { x = x, y = y, box = box }, cost end
  end
  return best
end

-- A curve that finds no free place keeps its entry in the legend.
local function label_inside(list, frame, out)
  for _, curve in ipairs(list) do
    local place = best_place(curve, frame)
    if place then
      frame.taken[#frame.taken + 1] = place.box
      place_text(curve, place.x, place.y, out)
    end
  end
end

local function draw_labels(curves, frame, out)
  local right, inside = {}, {}
  for _, curve in ipairs(curves) do
    if #curve.points > 0 then
      local list = curve.ending[1] >= frame.right - 30 and right or inside
      list[#list + 1] = curve
    end
  end
  label_gutter(right, frame, out)
  label_inside(inside, frame, out)
end

-- Curves ----------------------------------------------------------------------------------

-- Points every few pixels along the lines: what a label should keep away from.
local function remember(frame, pixels)
  for index = 2, #pixels do
    local from, to = pixels[index - 1], pixels[index]
    local length = math.abs(to[1] - from[1]) + math.abs(to[2] - from[2])
    local steps = math.max(1, math.floor(length / 4))
    for step = 1, steps do
      local share = step / steps
      frame.pixels[#frame.pixels + 1] = { from[1] + (to[1] - from[1]) * share,
        from[2] + (to[2] - from[2]) * share }
    end
  end
end

local function draw_curve(curve, frame, out)
  local pixels = {}
  for index, point in ipairs(curve.points) do
    pixels[index] = { frame.to_x(point[1]), frame.to_y(point[2]) }
  end
  pixels = svg.thin(pixels)
  curve.ending = pixels[#pixels]
  local box = { curve.ending[1] - 5, curve.ending[2] - 5, curve.ending[1] + 5, curve.ending[2] + 5 }
  frame.taken[#frame.taken + 1] = box
  remember(frame, pixels)
  if #pixels > 1 then
    out[#out + 1] = element("path", { class = "curve s" .. curve.class, d = svg.path(pixels),
      ["stroke-dasharray"] = curve.dash })
  end
end

local function legend(curves)
  local out = {}
  for index, curve in ipairs(curves) do
    local line = element("path", { class = "curve s" .. curve.class, d = "M2 7L38 7",
      ["stroke-dasharray"] = curve.dash })
    local key = element("svg", { class = "key", viewBox = "0 0 46 14", width = 46, height = 14,
      ["aria-hidden"] = "true" }, line .. mark(curve, 38, 7))
    local empty = #curve.points == 0 and " (no points)" or ""
    out[index] = element("li", nil, key .. svg.escape(curve.name .. empty))
  end
  return element("ul", { class = "legend" }, out)
end

local function new_frame(curves, axes)
  local x_low, x_high = bounds(curves, 1)
  local y_low, y_high = bounds(curves, 2)
  local x_kind = axis_kind(axes.x_scale, x_low, x_high, "x")
  local y_kind = axis_kind(axes.y_scale, y_low, y_high, "y")
  local frame = { pixels = {}, taken = {}, right = WIDTH - gutter(curves) }
  frame.x, frame.y = axis(x_kind, x_low, x_high, 0, 8), axis(y_kind, y_low, y_high, 0.05, 6)
  frame.to_x = svg.scale(x_kind, frame.x.low, frame.x.high, PLOT.left, frame.right)
  frame.to_y = svg.scale(y_kind, frame.y.low, frame.y.high, PLOT.bottom, PLOT.top)
  return frame
end

-- Loss curves with legend. curves: list of { name, points = {{x, y}, ...}, dashed = bool? };
-- axes: { x = label, y = label, x_scale, y_scale } with scales "linear", "log" or "auto".
-- Returns markup, or nil when no curve has a point.
function line_chart.draw(curves, axes)
  local list, points = {}, 0
  for index, curve in ipairs(curves) do
    list[index] = styled(curve, index)
    check_points(list[index])
    points = points + #list[index].points
  end
  if points == 0 then return nil end
  local frame, out = new_frame(list, axes), {}
  draw_axes(frame, axes, out)
  for _, curve in ipairs(list) do
    if #curve.points > 0 then draw_curve(curve, frame, out) end
  end
  for _, curve in ipairs(list) do
    if #curve.points > 0 then out[#out + 1] = mark(curve, table.unpack(curve.ending)) end
  end
  draw_labels(list, frame, out)
  local drawing = element("svg", { class = "chart", role = "img",
    ["aria-label"] = axes.y .. " against " .. axes.x,
    viewBox = string.format("0 0 %d %d", WIDTH, HEIGHT) }, out)
  return legend(list) .. element("div", { class = "scroll" }, drawing)
end

return line_chart
