-- The report of a run folder: one HTML page that needs nothing beside itself. It holds the table
-- per domain, the claims, loss curves, the routing heat map, the compute of each arm and all that
-- is needed to repeat the run. The same input gives the same bytes: no clock, no host name.

local heat_map = require("moelua.heat_map")
local line_chart = require("moelua.line_chart")
local style = require("moelua.report_style")
local tables = require("moelua.report_tables")
local svg = require("moelua.svg")

local report = {}

local element, escape, bits = svg.element, svg.escape, tables.bits

local function raise(...)
  return require("moelua.core").raise(...)
end

-- Input -----------------------------------------------------------------------------------

local PARTS = { "about", "axes", "captions", "claims", "command", "config", "curves", "domains",
  "experts", "heat", "notes", "result", "seed", "statistics", "tables", "title", "versions" }

local AXES = { "x", "x_scale", "y", "y_scale" }
local CAPTIONS = { "compute", "curves", "heat", "results", "statistics" }

local function check_keys(given, names, what)
  local known = {}
  for _, key in ipairs(names) do known[key] = true end
  for key in pairs(given) do
    if not known[key] then
      raise("report.html: unknown %s: %s\nhint: %s", what, tostring(key), table.concat(names, ", "))
    end
  end
end

-- The number, nil when it was not measured (JSON null included), an error when it is no number
-- that a table can show.
local function measured(value, arm, what)
  if type(value) ~= "number" then return nil end
  return svg.finite(value, string.format("report.html: %s of arm %q", what, arm))
end

-- Arms with checked numbers: { name, metric = {domain = number}, mean, interval, tokens, flops,
-- seconds }.
local function checked_arms(results)
  local arms = {}
  for index, given in ipairs(results.arms or {}) do
    local name = tostring(given.name or ("arm " .. index))
    local arm = { name = name, metric = {}, mean = measured(given.mean, name, "the mean"),
      interval = measured(given.interval, name, "the interval"), coupled = given.coupled == true }
    for _, field in ipairs { "tokens", "flops", "seconds" } do
      arm[field] = measured(given[field], name, field)
    end
    local metric = type(given.metric) == "table" and given.metric or {}
    for domain, value in pairs(metric) do
      arm.metric[domain] = measured(value, name, string.format("domain %q", tostring(domain)))
    end
    arms[index] = arm
  end
  return arms
end

-- The domains as given, then those that only the results know, by name.
local function domains_of(arms, given)
  local list, seen, found = {}, {}, {}
  for _, domain in ipairs(given or {}) do
    list[#list + 1], seen[domain] = domain, true
  end
  for _, arm in ipairs(arms) do
    for domain in pairs(arm.metric) do
      if not seen[domain] then found[#found + 1], seen[domain] = domain, true end
    end
  end
  table.sort(found)
  return table.move(found, 1, #found, #list + 1, list)
end

-- A heading with what belongs under it; nothing at all when there is nothing to show.
local function section(title, content)
  if not content or content == "" then return "" end
  return element("section", nil, element("h2", nil, escape(title)) .. content)
end

-- Claims ----------------------------------------------------------------------------------

local SIGNS = { yes = { "✓", "holds" }, no = { "✗", "does not hold" },
  open = { "?", "is not resolved" } }

local function state_of(claim)
  if claim.holds == true then return "yes" end
  return claim.holds == false and "no" or "open"
end

local function claims_section(claims)
  if #claims == 0 then return "" end
  local items = {}
  for index, claim in ipairs(claims) do
    local state = state_of(claim)
    local sign, words = table.unpack(SIGNS[state])
    local detail = type(claim.detail) == "string" and claim.detail ~= ""
      and element("span", { class = "detail" }, escape(claim.detail)) or ""
    items[index] = element("li", { class = state }, {
      element("span", { class = "sign", ["aria-hidden"] = "true" }, sign),
      element("div", nil, { element("strong", nil, escape(claim.name)), " ",
        element("span", { class = "state" }, words), detail }) })
  end
  return section("Claims", element("ul", { class = "claims" }, items))
end

-- The sentence under the title ------------------------------------------------------------

local function ranked(arms)
  local list = {}
  for index, arm in ipairs(arms) do
    if arm.mean then list[#list + 1] = { arm = arm, place = index } end
  end
  table.sort(list, function(a, b)
    if a.arm.mean ~= b.arm.mean then return a.arm.mean < b.arm.mean end
    return a.place < b.place
  end)
  return list
end

local function best_sentence(arms)
  local list = ranked(arms)
  if #list == 0 then return "No arm has a mean yet." end
  local best, next_best = list[1].arm, list[2] and list[2].arm
  local head = string.format("%s reaches %s bits per byte on the mean of the domains",
    element("strong", nil, escape(best.name)), bits(best.mean))
  if not next_best then return head .. "." end
  if bits(next_best.mean) == bits(best.mean) then
    return string.format("%s, level with %s.", head, element("em", nil, escape(next_best.name)))
  end
  return string.format("%s, the lowest of %d arms; next is %s with %s.", head, #list,
    element("em", nil, escape(next_best.name)), bits(next_best.mean))
end

local function claims_sentence(claims)
  if #claims == 0 then return "" end
  local count = { yes = 0, no = 0, open = 0 }
  for _, claim in ipairs(claims) do
    local state = state_of(claim)
    count[state] = count[state] + 1
  end
  local text = string.format(" %d of %d claims hold", count.yes, #claims)
  if #claims == 1 then return " The claim " .. SIGNS[state_of(claims[1])][2] .. "." end
  if count.open > 0 then text = string.format("%s, %d not resolved", text, count.open) end
  return text .. "."
end

-- Figures ---------------------------------------------------------------------------------

local function figure(markup, caption)
  return element("figure", nil, markup .. element("figcaption", nil, escape(caption)))
end

local function curves_section(parts, caption)
  if not parts.curves then return "" end
  local axes = { x = "training tokens", y = "loss, bits per byte" }
  for key, value in pairs(parts.axes or {}) do axes[key] = value end
  local drawing = line_chart.draw(parts.curves, axes)
  if not drawing then
    return section("Loss", element("p", { class = "empty" }, "No loss has been logged."))
  end
  return section("Loss", figure(drawing, caption or "Each curve ends in its own mark."))
end

local function routing_section(parts, captions)
  local drawing = heat_map.draw(parts.heat or {}, parts.experts)
  local caption = captions.heat or "Share of a layer's routing assignments that each expert "
    .. "receives on held-out text of the domain, in percent."
  return section("Routing", (drawing and figure(drawing, caption) or "") ..
    (tables.routing(parts.statistics or {}, captions.statistics) or ""))
end

-- Tables beside the first one: { title, columns, rows }, see text_table.format.
local function tables_section(list, first)
  local out = {}
  for index, given in ipairs(list or {}) do out[index] = tables.plain(given) end
  return section(first and "Tables" or "More tables", table.concat(out))
end

-- How to repeat it ------------------------------------------------------------------------

local function shown(value)
  if type(value) ~= "table" then
    return math.type(value) == "float" and string.format("%.10g", value) or tostring(value)
  end
  local out = {}
  for index, item in ipairs(value) do out[index] = shown(item) end
  return table.concat(out, ", ")
end

-- A list of {key, value}, or a table by name, as the entries of a description list.
local function entries(list, what)
  if type(list) ~= "table" then
    raise("report.html: %s must be a list of {key, value}: %s", what, tostring(list))
  end
  local pairs_list = {}
  for _, entry in ipairs(list) do
    pairs_list[#pairs_list + 1] = { entry[1] or entry.key, entry[2] == nil and entry.value
      or entry[2] }
  end
  local names = {}
  for key in pairs(list) do
    if type(key) == "string" then names[#names + 1] = key end
  end
  table.sort(names)
  for _, key in ipairs(names) do pairs_list[#pairs_list + 1] = { key, list[key] } end
  local out = {}
  for index, entry in ipairs(pairs_list) do
    out[index] = element("div", nil, { element("dt", nil, escape(entry[1])),
      element("dd", nil, escape(shown(entry[2]))) })
  end
  return out
end

local function description(items)
  return #items > 0 and element("dl", { class = "wide" }, items) or ""
end

local function repeat_section(results, parts)
  local out = {}
  if parts.command then out[1] = element("pre", nil, escape(parts.command)) end
  local seed = parts.seed
  if seed == nil then seed = results.seed end
  local list = entries(parts.versions or {}, "versions")
  if seed ~= nil then table.insert(list, 1, entries({ { "seed", seed } }, "seed")[1]) end
  out[#out + 1] = description(list)
  return section("Repeating this run", table.concat(out))
end

local function config_section(config)
  return section("Configuration", description(entries(config or {}, "config")))
end

local function notes_section(notes)
  if not notes or #notes == 0 then return "" end
  if type(notes) == "string" then notes = { notes } end
  local out = {}
  for index, note in ipairs(notes) do
    out[index] = element("p", { class = "note lines" }, escape(note))
  end
  return section("Notes", table.concat(out))
end

-- The page --------------------------------------------------------------------------------

local function head(title)
  return element("head", nil, {
    '<meta charset="utf-8" />',
    '<meta name="viewport" content="width=device-width, initial-scale=1" />',
    element("title", nil, escape(title)), "<style>\n", style, "</style>" })
end

-- One self-contained HTML page for a run.
-- results: { recipe, seed, arms = { { name, tokens, flops, seconds, metric = {domain = bits per
-- byte}, mean, interval } }, claims = { { name, holds = true | false | anything else, detail } } }.
-- parts, all optional: title, result (the sentence under it), about, domains (order of columns),
-- tables ({ title, columns, rows } each), curves and axes (see line_chart), heat and experts (see
-- heat_map), statistics (of the routing by layer, as moe.evaluate has them), claims, config,
-- versions (lists of {key, value}), command, seed, notes (text or list), captions = { results,
-- curves, heat, statistics, compute } in place of the usual ones. What was not measured is shown as
-- a dash; a number that is NaN or infinite, or an unknown part, is an error.
function report.html(results, parts)
  results, parts = results or {}, parts or {}
  check_keys(parts, PARTS, "part")
  check_keys(parts.axes or {}, AXES, "field of axes")
  local captions = parts.captions or {}
  check_keys(captions, CAPTIONS, "caption")
  local arms = checked_arms(results)
  local claims = parts.claims or results.claims or {}
  local title = parts.title or results.recipe or "moelua run"
  local sentence = parts.result and escape(parts.result)
    or best_sentence(arms) .. claims_sentence(claims)
  local about = parts.about and element("p", { class = "about lines" }, escape(parts.about)) or ""
  local body = element("main", nil, {
    element("header", nil, { element("h1", nil, escape(title)),
      element("p", { class = "result" }, sentence), about }),
    section("Results",
      tables.results(arms, domains_of(arms, parts.domains), captions.results)),
    tables_section(parts.tables, #arms == 0), claims_section(claims),
    curves_section(parts, captions.curves),
    routing_section(parts, captions), section("Compute", tables.compute(arms, captions.compute)),
    repeat_section(results, parts), config_section(parts.config), notes_section(parts.notes),
    element("footer", nil, "Written by moelua" ..
      (results.recipe and ", recipe " .. escape(results.recipe) or "") .. ".") })
  return "<!DOCTYPE html>\n" .. element("html", { lang = "en" },
    { head(title), "\n", element("body", nil, body), "\n" }) .. "\n"
end

return report
