-- The report page and its two figures: numbers, escaping, missing data, and that the markup is
-- well formed and needs nothing from outside.

local report = require("moelua.report")
local heat_map = require("moelua.heat_map")
local line_chart = require("moelua.line_chart")

-- A checker of its own, so that the page is not judged by what wrote it --------------------

local VOID = { meta = true, br = true, hr = true }

local function bare_ampersand(text)
  return text:gsub("&%w+;", ""):gsub("&#%d+;", ""):find("&") ~= nil
end

local function check_attributes(text, where)
  local seen = {}
  local rest = text:gsub('%s+([%w:-]+)="([^"<>]*)"', function(name, value)
    assert(not seen[name], where .. ": attribute twice: " .. name)
    assert(not bare_ampersand(value), where .. ": bare & in " .. name)
    seen[name] = true
    return ""
  end)
  assert(rest:match("^%s*/?$"), where .. ": malformed attributes: " .. rest)
end

-- Walks all tags of a fragment; returns how often each element occurs.
local function count_tags(markup)
  local stack, count, at = {}, {}, 1
  markup = markup:gsub("^<!DOCTYPE html>\n", ""):gsub("<style>.-</style>", "")
  while true do
    local from, to, slash, name, rest = markup:find("<(/?)([%a][%w]*)([^>]*)>", at)
    local text = markup:sub(at, (from or 0) - 1)
    assert(not text:find("[<>]"), "stray bracket in text: " .. text)
    assert(not bare_ampersand(text), "bare & in text: " .. text)
    if not from then break end
    if slash == "/" then
      assert(table.remove(stack) == name, "closes what is not open: " .. name)
    else
      check_attributes(rest, name)
      count[name] = (count[name] or 0) + 1
      if not rest:find("/$") then
        assert(not VOID[name], "void element left open: " .. name)
        stack[#stack + 1] = name
      end
    end
    at = to + 1
  end
  assert(#stack == 0, "left open: " .. table.concat(stack, " "))
  return count
end

local function occurrences(text, part)
  local count, at = 0, 1
  while true do
    local from, to = text:find(part, at, true)
    if not from then return count end
    count, at = count + 1, to + 1
  end
end

local function refuses(message, call, ...)
  local ok, caught = pcall(call, ...)
  assert.is_false(ok)
  assert.is_truthy(tostring(caught):find(message, 1, true), tostring(caught))
end

local function example()
  return {
    recipe = "btx", seed = 1,
    arms = {
      { name = "seed", tokens = 1638400, flops = 3.2e12, seconds = 31.25,
        metric = { code = 2.31, prose = 2.75 }, mean = 2.53 },
      { name = "mixed", tokens = 2457600, flops = 7.5e12, seconds = 120,
        metric = { code = 1.7, prose = 2.24 }, mean = 1.97 },
    },
    claims = { { name = "first", holds = true, detail = "by 0.56" },
      { name = "second", holds = false }, { name = "third" } },
  }
end

local function example_parts()
  return {
    title = "A run", about = "What was done.", command = "moelua recipes/btx.lua --seed 1",
    curves = { { name = "seed", points = { { 0, 8 }, { 100, 2.5 } } },
      { name = "mixed", points = { { 100, 2.5 }, { 200, 2 } }, dashed = true } },
    heat = { { domain = "code", rows = { { 0.25, 0.75 }, { 0.5, 0.5 } } },
      { domain = "prose", rows = { { 0.1, 0.9 }, { 0.625, 0.375 } } } },
    experts = { "one", "two" }, config = { { "dim", 128 }, { "lr", 3e-3 } },
    versions = { { "moelua", "0.1.0" } }, notes = { "Remember this." },
  }
end

describe("line_chart.draw", function()
  local axes = { x = "tokens", y = "loss" }

  it("is nil without a point", function()
    assert.is_nil(line_chart.draw({}, axes))
    assert.is_nil(line_chart.draw({ { name = "empty", points = {} } }, axes))
  end)

  it("draws a single point as a mark without a line", function()
    local drawing = line_chart.draw({ { name = "one", points = { { 3, 2 } } } }, axes)
    count_tags(drawing)
    local chart = drawing:match('<svg aria%-label="loss against tokens".*')
    assert.are.equal(0, occurrences(chart, 'class="curve'))
    assert.are.equal(1, occurrences(chart, 'class="mark'))
  end)

  it("tells curves apart by dashes and marks", function()
    local curves = {}
    for index = 1, 6 do
      curves[index] = { name = "c" .. index, points = { { 0, 1 }, { 1, index } } }
    end
    local key, seen = line_chart.draw(curves, axes):match("^<ul.-</ul>"), {}
    for dash in key:gmatch('stroke%-dasharray="([^"]*)"') do
      assert.is_nil(seen[dash])
      seen[dash] = true
    end
    assert.are.equal(5, occurrences(key, "stroke-dasharray"))
  end)

  it("keeps an empty curve in the legend and says so", function()
    local drawing = line_chart.draw({ { name = "full", points = { { 1, 2 } } },
      { name = "late", points = {} } }, axes)
    assert.is_truthy(drawing:find("late (no points)", 1, true))
  end)

  it("takes a logarithmic loss axis for a steep fall and says so", function()
    local steep = line_chart.draw({ { name = "a", points = { { 0, 8 }, { 1, 2 } } } }, axes)
    assert.is_truthy(steep:find("loss (log scale)", 1, true))
    local flat = line_chart.draw({ { name = "a", points = { { 0, 2.5 }, { 1, 2 } } } }, axes)
    assert.is_nil(flat:find("log scale", 1, true))
  end)

  it("names all curves that end at the border, at least a line apart", function()
    local curves = {}
    for index = 1, 14 do
      curves[index] = { name = "arm" .. index, points = { { 0, 3 }, { 1, 2 + index / 1000 } } }
    end
    local heights, pattern = {}, '<text class="name s%d" x="[%d.]+" y="([%d.]+)"'
    for y in line_chart.draw(curves, axes):gmatch(pattern) do
      heights[#heights + 1] = tonumber(y)
    end
    table.sort(heights)
    assert.are.equal(14, #heights)
    for index = 2, 14 do assert.is_true(heights[index] - heights[index - 1] > 14.9) end
  end)

  it("refuses what cannot be drawn", function()
    local function draw(point, more)
      return line_chart.draw({ { name = "bad", points = { { 1, 2 }, point } } }, more or axes)
    end
    refuses('report.html: y of point 2 of curve "bad" is not a finite number: ', draw, { 2, 0 / 0 })
    refuses('report.html: x of point 2 of curve "bad" is not a finite number: inf', draw,
      { math.huge, 1 })
    refuses('report.html: point 2 of curve "bad" is not a pair {x, y}: 5', draw, 5)
    refuses("report.html: the x axis is logarithmic, but a curve has the value 0", draw, { 0, 1 },
      { x = "x", y = "y", x_scale = "log" })
    refuses("report.html: unknown scale of the y axis: cubic\nhint: linear, log or auto", draw,
      { 2, 1 }, { x = "x", y = "y", y_scale = "cubic" })
  end)
end)

describe("heat_map.draw", function()
  it("writes every share in percent into its cell", function()
    local drawing = heat_map.draw(example_parts().heat, { "one", "two" })
    count_tags(drawing)
    for _, number in ipairs { "25.0", "75.0", "10.0", "90.0", "62.5", "37.5" } do
      assert.are.equal(1, occurrences(drawing, ">" .. number .. "</text>"))
    end
    assert.are.equal(2, occurrences(drawing, ">50.0</text>"))
    assert.is_truthy(drawing:find("code, layer 1, expert two: 75.0 %", 1, true))
    assert.is_truthy(drawing:find("even: 50 %", 1, true))
  end)

  it("shows layers without experts and of different sizes", function()
    local drawing = heat_map.draw { { domain = "code", rows = { {}, { 0.5, 0.5 }, false,
      { 0.2, 0.3, 0.5 } } } }
    count_tags(drawing)
    assert.are.equal(2, occurrences(drawing, "no experts"))
    assert.are.equal(5, occurrences(drawing, "<title>"))
  end)

  it("leaves numbers out where they would not fit", function()
    local row = {}
    for expert = 1, 64 do row[expert] = 1 / 64 end
    local drawing = heat_map.draw { { domain = "code", rows = { row } } }
    assert.are.equal(0, occurrences(drawing, 'class="lo"') + occurrences(drawing, 'class="hi"'))
    assert.are.equal(64, occurrences(drawing, "<title>"))
  end)

  it("is nil without a share and refuses what is none", function()
    assert.is_nil(heat_map.draw {})
    assert.is_nil(heat_map.draw { { domain = "code", rows = { {}, false } } })
    refuses('report.html: heat map of "code": layer 1, expert 2 is not a finite number: ',
      heat_map.draw, { { domain = "code", rows = { { 0.5, 0 / 0 } } } })
    refuses('report.html: heat map of "code": layer 1, expert 1 is negative: -0.5',
      heat_map.draw, { { domain = "code", rows = { { -0.5 } } } })
  end)
end)

describe("report.html", function()
  it("is one well-formed page that asks for nothing from outside", function()
    local page = report.html(example(), example_parts())
    local count = count_tags(page)
    assert.are.equal(1 + 8, count.title)         -- the page, and a tip on each heat cell
    assert.are.equal(1, count.h1)
    assert.are.equal(2, count.table)
    assert.are.equal("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\" />",
      page:sub(1, 62))
    for _, outside in ipairs { "<script", "src=", "url(", "http", "@import", "<link" } do
      assert.is_nil(page:find(outside, 1, true))
    end
    assert.is_truthy(page:find("prefers-color-scheme:dark", 1, true))
    assert.is_truthy(page:find("@media print", 1, true))
  end)

  it("says what came out, in numbers", function()
    local page = report.html(example(), example_parts())
    assert.is_truthy(page:find("<strong>mixed</strong> reaches 1.970 bits per byte on the mean of "
      .. "the domains, the lowest of 2 arms; next is <em>seed</em> with 2.530. 1 of 3 claims hold, "
      .. "1 not resolved.", 1, true))
    assert.is_truthy(page:find("<td>2.310</td>", 1, true))
    assert.is_truthy(page:find("<td><strong>1.700</strong></td>", 1, true))
    assert.are.equal(3, occurrences(page, "<td><strong>"))
    assert.is_truthy(page:find("<td>1.64</td><td>3.20</td><td>31.2</td>", 1, true))
    assert.is_truthy(page:find("<small>millions</small>", 1, true))
    assert.is_truthy(page:find("<small>10¹²</small>", 1, true))
    assert.is_truthy(page:find("<dt>lr</dt><dd>0.003</dd>", 1, true))
    assert.is_truthy(page:find("<dt>seed</dt><dd>1</dd>", 1, true))
  end)

  it("marks claims as holding, failing and open", function()
    local page = report.html(example(), {})
    local signs = { ["✓"] = "holds", ["✗"] = "does not hold", ["?"] = "is not resolved" }
    for sign, word in pairs(signs) do
      assert.are.equal(1, occurrences(page, ">" .. sign .. "</span>"))
      assert.are.equal(1, occurrences(page, ">" .. word .. "</span>"))
    end
  end)

  it("gives the same bytes for the same input", function()
    local first = report.html(example(), example_parts())
    assert.are.equal(first, report.html(example(), example_parts()))
  end)

  it("shows a dash for what was not measured and bolds ties alike", function()
    local results = example()
    results.arms[1].metric.prose, results.arms[1].mean = nil, nil
    results.arms[2].metric.code = 2.3101
    local page = report.html(results, {})
    assert.are.equal(2, occurrences(page, '<td class="none">–</td>'))
    assert.are.equal(2, occurrences(page, "<strong>2.310</strong>"))
    assert.is_nil(page:find("<strong>2.240</strong>", 1, true))
    assert.is_truthy(page:find("A dash: not measured.", 1, true))
  end)

  it("marks arms whose loss depends on their batch", function()
    local results = example()
    assert.is_nil(report.html(results, {}):find("†", 1, true))
    results.arms[1].coupled = true
    local page = report.html(results, {})
    assert.equal(1, occurrences(page, "seed †</th>"))
    assert.equal(1, occurrences(page, "† The loss depends on the other sequences of the batch"))
  end)

  it("shows the interval of a mean over seeds, and says what it is", function()
    local results = example()
    results.arms[1].interval = 0.0125
    local page = report.html(results, example_parts())
    assert.equal(1, occurrences(page, "<td>2.530 ± 0.013</td>"))
    assert.equal(1, occurrences(page, "After the mean of the seeds: its 95 % interval."))
    assert.is_nil(report.html(example(), {}):find("±", 1, true))
    results.arms[1].interval = 0 / 0
    refuses("the interval of arm \"seed\"", report.html, results, {})
  end)

  it("has more tables when they are given", function()
    local parts = example_parts()
    parts.tables = { { title = "until a < b", columns = { "arm", { name = "steps",
      format = "%.1f" } }, rows = { { "one & two", 0.25 }, { "none" } } } }
    local page = report.html(example(), parts)
    count_tags(page)
    assert.is_truthy(page:find("until a &lt; b", 1, true))
    assert.is_truthy(page:find('<th scope="row">one &amp; two</th><td>0.2</td>', 1, true))
    assert.is_truthy(page:find('<th scope="row">none</th><td>-</td>', 1, true))
    assert.is_nil(report.html(example(), example_parts()):find("More tables", 1, true))
  end)

  it("shows the figures of each mixture layer", function()
    local statistics = { false, { load = { 0.25, 0.75, 0, 0 }, max_over_mean = 3, cv = 1.2247,
      entropy = 0.5, dropped = 0.125, dead = 0.5, mutual_information = 0.0625 },
      { load = { 0.5, 0.5 }, max_over_mean = 1, cv = 0, dropped = 0, dead = 0,
        mutual_information = 1 } }
    local page = report.html({}, { statistics = statistics, captions = { statistics = "A < B" } })
    local count = count_tags(page)
    assert.equal(6, count.rect)
    assert.is_truthy(page:find('<th scope="row">2</th><td>4</td><td>3.00</td><td>1.22</td>' ..
      "<td>0.50</td><td>12.5</td><td>50.0</td><td>0.062</td>", 1, true))
    assert.is_truthy(page:find('<th scope="row">3</th><td>2</td><td>1.00</td><td>0.00</td>' ..
      '<td class="none">–</td><td>0.0</td><td>0.0</td><td>1.000</td>', 1, true))
    assert.is_truthy(page:find("A &lt; B", 1, true))
    assert.is_truthy(page:find("<title>expert 2: 75.0 %</title>", 1, true))
    assert.is_nil(report.html({}, { statistics = { false } }):find("<table", 1, true))
    statistics[2].cv = 0 / 0
    refuses("report.html: CV of layer 2 is not a finite number: ", report.html, {},
      { statistics = statistics })
  end)

  it("orders domains as asked, and the others by name", function()
    local results = { arms = { { name = "a", metric = { x = 1, b = 2, c = 3 } } } }
    local page = report.html(results, { domains = { "x" } })
    local order, pattern = {}, '<th class="domain" scope="col">(%w+)</th>'
    for name in page:gmatch(pattern) do order[#order + 1] = name end
    assert.are.same({ "x", "b", "c", "mean" }, order)
  end)

  it("makes a page of nothing at all", function()
    local page = report.html({}, {})
    assert.are.equal(1, count_tags(page).h1)
    assert.is_truthy(page:find("No arm has a mean yet.", 1, true))
    local empty = report.html({}, { curves = {}, heat = {}, config = {}, notes = {} })
    assert.is_truthy(empty:find("No loss has been logged.", 1, true))
    assert.are.equal(1, occurrences(empty, "<h2>"))
  end)

  it("escapes every text that it is given", function()
    local evil = "<b>\"&'"
    local parts = { title = evil, about = evil, result = evil, domains = { evil }, command = evil,
      curves = { { name = evil, points = { { 1, 2 }, { 2, 1 } } } }, axes = { x = evil, y = evil },
      heat = { { domain = evil, rows = { { 1, 0 } } } }, experts = { evil, evil }, notes = evil,
      config = { { evil, evil }, { evil, { evil, evil } } }, versions = { [evil] = evil },
      seed = evil,
      claims = { { name = evil, detail = evil, holds = true } },
      captions = { results = evil, curves = evil, heat = evil, compute = evil } }
    local page = report.html({ recipe = evil, arms = { { name = evil, tokens = 1,
      metric = { [evil] = 1, other = 2 }, mean = 1.5 } } }, parts)
    count_tags(page)
    assert.is_nil(page:find("<b>", 1, true))
  end)

  it("refuses numbers that are none and parts that it does not know", function()
    local function with(change)
      local results, parts = example(), example_parts()
      change(results, parts)
      return report.html(results, parts)
    end
    refuses('report.html: domain "code" of arm "seed" is not a finite number: ', with,
      function(results) results.arms[1].metric.code = 0 / 0 end)
    refuses('report.html: the mean of arm "mixed" is not a finite number: inf', with,
      function(results) results.arms[2].mean = math.huge end)
    refuses('report.html: flops of arm "seed" is not a finite number: ', with,
      function(results) results.arms[1].flops = 0 / 0 end)
    refuses("report.html: unknown part: curve\nhint: about, axes,", with,
      function(_, parts) parts.curve = {} end)
    refuses("report.html: unknown field of axes: z\nhint: x, x_scale, y, y_scale", with,
      function(_, parts) parts.axes = { z = 1 } end)
    refuses("report.html: config must be a list of {key, value}: text", with,
      function(_, parts) parts.config = "text" end)
  end)
end)
