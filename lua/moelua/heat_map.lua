-- The routing heat map of a report as inline SVG: one panel per domain, a row per layer, a
-- column per expert, the number in each cell. Colours run over one hue in even steps of perceived
-- lightness; the light and the dark page each have their own run, chosen by the style sheet.

local svg = require("moelua.svg")

local heat_map = {}

local element = svg.element

local function raise(...)
  return require("moelua.core").raise(...)
end

local LABEL_SIZE = 11.5

-- Checked panels --------------------------------------------------------------------------

local function is_row(row)
  return type(row) == "table" and next(row) ~= nil
end

local function check_row(panel, layer, row)
  for expert, share in pairs(row) do
    if math.type(expert) ~= "integer" or expert < 1 then
      raise("report.html: heat map of %q: layer %d has the expert index %s", panel.domain, layer,
        tostring(expert))
    end
    svg.finite(share, string.format("report.html: heat map of %q: layer %d, expert %d",
      panel.domain, layer, expert))
    if share < 0 then
      raise("report.html: heat map of %q: layer %d, expert %d is negative: %s", panel.domain,
        layer, expert, tostring(share))
    end
  end
end

-- The panel with its number of experts and highest share; rows are checked on the way.
local function measured(given, experts)
  local panel = { domain = tostring(given.domain), rows = given.rows or {}, layers = given.layers,
    names = given.experts or experts or {}, experts = 0, highest = 0 }
  for layer, row in ipairs(panel.rows) do
    if is_row(row) then
      check_row(panel, layer, row)
      for expert, share in pairs(row) do
        panel.experts = math.max(panel.experts, expert)
        panel.highest = math.max(panel.highest, share)
      end
    end
  end
  return panel
end

-- Layout ----------------------------------------------------------------------------------

local function cell_width(experts)
  if experts <= 8 then return 46 end
  if experts <= 16 then return 34 end
  return math.max(9, 640 / experts)
end

-- Cells too narrow for their numbers need no room for them.
local function cell_height(layers, experts)
  if layers <= 16 then return experts <= 16 and 30 or 20 end
  return math.max(9, 480 / layers)
end

local function names_of(panel)
  local names, widest = {}, 0
  for expert = 1, panel.experts do
    names[expert] = svg.fit(tostring(panel.names[expert] or expert), LABEL_SIZE, 96)
    widest = math.max(widest, svg.text_width(names[expert], LABEL_SIZE))
  end
  return names, widest
end

-- Sizes of one panel. Names wider than their column stand aslant over the cells.
local function layout(panel)
  local frame = { cell = cell_width(panel.experts),
    row = cell_height(#panel.rows, panel.experts) }
  local names, widest = names_of(panel)
  frame.names = names
  frame.slanted = widest > frame.cell - 2
  frame.every = frame.cell < 15 and panel.experts > 8 and 8 or 1
  if frame.every > 1 then frame.slanted = false end
  frame.label_width = 0
  for layer = 1, #panel.rows do
    local name = tostring(panel.layers and panel.layers[layer] or layer)
    frame.label_width = math.max(frame.label_width, svg.text_width(name, LABEL_SIZE))
  end
  frame.left = math.max(frame.label_width + 10, svg.text_width("layer", LABEL_SIZE) + 10)
  frame.top = 30 + (frame.slanted and widest * 0.72 + 14 or 18)
  local overhang = frame.slanted and math.max(0, widest * 0.72 + 8 - frame.cell / 2) or 0
  local title = svg.text_width(panel.domain, 14)
  frame.width = math.max(frame.left + panel.experts * frame.cell + overhang, frame.left + title) + 2
  frame.height = frame.top + #panel.rows * frame.row + 2
  frame.numbers = frame.cell >= 28 and frame.row >= 16
  return frame
end

-- Drawing ---------------------------------------------------------------------------------

local function cell_colours(t)
  return string.format("--l:%s;--d:%s", svg.shade(t, false), svg.shade(t, true))
end

local function percent(share, cell)
  return string.format(cell >= 40 and "%.1f" or "%.0f", share * 100)
end

local function draw_cell(panel, frame, layer, expert, out)
  local share = panel.rows[layer][expert]
  if not share then return end
  local x, y = frame.left + (expert - 1) * frame.cell, frame.top + (layer - 1) * frame.row
  local t = share / panel.limit
  local gap = frame.cell >= 20 and 1 or 0
  local tip = string.format("%s, layer %s, expert %s: %.1f %%", panel.domain,
    tostring(panel.layers and panel.layers[layer] or layer),
    tostring(panel.names[expert] or expert), share * 100)
  out[#out + 1] = element("rect", { class = "cell", x = x, y = y, width = frame.cell - gap,
    height = frame.row - gap, style = cell_colours(t) }, element("title", nil, svg.escape(tip)))
  if frame.numbers then
    out[#out + 1] = element("text", { class = t > 0.62 and "hi" or "lo",
      x = x + (frame.cell - gap) / 2, y = y + frame.row / 2 + 3.5 }, percent(share, frame.cell))
  end
end

local function draw_row(panel, frame, layer, out)
  local y = frame.top + (layer - 0.5) * frame.row + 4
  local every = math.max(1, math.ceil(13 / frame.row))
  if (layer - 1) % every == 0 then
    local name = tostring(panel.layers and panel.layers[layer] or layer)
    out[#out + 1] = element("text", { class = "tick", x = frame.left - 8, y = y,
      ["text-anchor"] = "end" }, svg.escape(name))
  end
  if is_row(panel.rows[layer]) then
    for expert = 1, panel.experts do draw_cell(panel, frame, layer, expert, out) end
  else
    out[#out + 1] = element("text", { class = "tick faint", x = frame.left + 4, y = y },
      "no experts")
  end
end

local function draw_names(panel, frame, out)
  for expert = 1, panel.experts do
    if (expert - 1) % frame.every == 0 then
      local x = frame.left + (expert - 0.5) * frame.cell
      local name = svg.escape(frame.names[expert])
      local place = { class = "tick", x = x, y = frame.top - 7, ["text-anchor"] = "middle" }
      if frame.slanted then
        place = { class = "tick", transform = string.format("translate(%s %s) rotate(-45)",
          svg.number(x), svg.number(frame.top - 7)) }
      end
      out[#out + 1] = element("text", place, name)
    end
  end
end

local function draw_panel(panel, frame)
  local out = {}
  out[1] = element("text", { class = "panel", x = frame.left, y = 14 }, svg.escape(panel.domain))
  out[2] = element("text", { class = "tick faint", x = frame.left - 8, y = frame.top - 7,
    ["text-anchor"] = "end" }, "layer")
  draw_names(panel, frame, out)
  for layer = 1, #panel.rows do draw_row(panel, frame, layer, out) end
  return element("svg", { class = "heat", role = "img", width = frame.width,
    height = frame.height, ["aria-label"] = "routing shares for " .. panel.domain,
    viewBox = string.format("0 0 %s %s", svg.number(frame.width), svg.number(frame.height)) }, out)
end

-- Key of the colours: a run from zero to the limit, with the even split marked where all panels
-- have the same number of experts.
local function legend(limit, experts)
  local out, steps, width = {}, 48, 240
  for step = 1, steps do
    out[step] = element("rect", { class = "cell", x = 30 + (step - 1) * width / steps, y = 4,
      width = width / steps + 0.5, height = 12, style = cell_colours((step - 0.5) / steps) })
  end
  local function label(share, text)
    local x = 30 + share / limit * width
    out[#out + 1] = element("line", { class = "axis", x1 = x, x2 = x, y1 = 16, y2 = 21 })
    out[#out + 1] = element("text", { class = "tick", x = x, y = 34, ["text-anchor"] = "middle" },
      text)
  end
  label(0, "0")
  label(limit, string.format("%.3g %%", limit * 100))
  local even = experts and 1 / experts
  if even and even > 0.3 * limit and even < 0.75 * limit then
    label(even, string.format("even: %.3g %%", even * 100))
  end
  return element("svg", { class = "heat", role = "img", viewBox = "0 0 310 40", width = 310,
    height = 40, ["aria-label"] = "colour scale of the shares" }, out)
end

-- The common colour limit: the highest share, but at least twice an even split, so that balanced
-- routing looks balanced instead of filling the whole scale with noise.
local function common_limit(panels)
  local limit, experts = 0, panels[1].experts
  for _, panel in ipairs(panels) do
    limit = math.max(limit, panel.highest, panel.experts > 1 and 2 / panel.experts or 0)
    if panel.experts ~= experts then experts = nil end
  end
  local grain = limit > 0.2 and 20 or 100
  return math.max(1, math.ceil(limit * grain - 1e-9)) / grain, experts
end

-- Panels side by side, wrapped where the page is narrow, and the key of the colours.
-- heat: list of { domain, rows = {layer}{expert} = share, experts = names?, layers = names? };
-- experts: names of the experts for panels without their own. A row that is empty or false is a
-- layer without experts. Returns markup, or nil when no panel has a share.
function heat_map.draw(heat, experts)
  local panels = {}
  for _, given in ipairs(heat) do
    local panel = measured(given, experts)
    if panel.experts > 0 then panels[#panels + 1] = panel end
  end
  if #panels == 0 then return nil end
  local limit, count = common_limit(panels)
  local out = {}
  for index, panel in ipairs(panels) do
    panel.limit = limit
    out[index] = element("div", { class = "scroll" }, draw_panel(panel, layout(panel)))
  end
  return element("div", { class = "panels" }, out) .. legend(limit, count)
end

return heat_map
