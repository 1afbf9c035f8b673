-- The drawing helpers: tick positions, labels, scales, escaping, label spreading, colours.

local svg = require("moelua.svg")

describe("svg", function()
  it("puts ticks on round positions inside the range", function()
    assert.are.same({ 0, 2, 4, 6, 8, 10 }, (svg.ticks(0, 10, 5)))
    assert.are.same({ 2, 2.5, 3 }, (svg.ticks(1.9, 3.2, 4)))
    local ticks, step = svg.ticks(-0.3, 0.3, 6)
    assert.are.equal(7, #ticks)
    assert.are.equal(0, ticks[4])
    assert.is_true(math.abs(step - 0.1) < 1e-12)
    assert.are.same({ 5 }, (svg.ticks(5, 5, 4)))
  end)

  it("puts ticks of a logarithmic axis on familiar numbers", function()
    assert.are.same({ 1.5, 2, 3, 4, 5, 6, 8 }, svg.log_ticks(1.2, 8.4, 8))
    assert.are.same({ 1, 10, 100, 1000, 1e4, 1e5 }, svg.log_ticks(1, 1e5, 8))
    assert.are.same({ 1, 2, 5, 10, 20, 50, 100 }, svg.log_ticks(1, 100, 8))
    assert.is_true(#svg.log_ticks(1e-300, 1e300, 8) <= 8)
    assert.are.same({ 2, 2.2, 2.4, 2.6 }, svg.log_ticks(1.95, 2.65, 8))
  end)

  it("labels ticks with as many decimals as they need", function()
    assert.are.same({ "0.0", "0.5", "1.0" }, svg.tick_labels({ 0, 0.5, 1 }))
    assert.are.same({ "1", "2", "3" }, svg.tick_labels({ 1e6, 2e6, 3e6 }, 1e6))
    assert.are.same({ "1.5", "2", "3" }, svg.tick_labels({ 1.5, 2, 3 }))
    assert.are.same({ "10⁰", "10³", "10⁶" }, svg.tick_labels({ 1, 1e3, 1e6 }))
  end)

  it("names the magnitude of large numbers", function()
    local divisor, name = svg.magnitude(1638400)
    assert.are.equal(1e6, divisor)
    assert.are.equal("millions", name)
    assert.are.equal("10¹²", select(2, svg.magnitude(3.2e12, "power")))
    assert.are.equal(1, (svg.magnitude(9999)))
    assert.are.equal("10⁻³", svg.power_of_ten(-3))
  end)

  it("maps data to pixels linearly and logarithmically", function()
    local linear = svg.scale("linear", 0, 10, 100, 0)
    assert.are.equal(100, linear(0))
    assert.are.equal(75, linear(2.5))
    local log = svg.scale("log", 1, 100, 0, 200)
    assert.is_true(math.abs(log(10) - 100) < 1e-9)
  end)

  it("writes coordinates and paths briefly", function()
    assert.are.equal("M1 2.5L3 -4", svg.path { { 1, 2.5 }, { 3, -4.0 } })
    assert.are.equal("0", svg.number(-0.001))
    assert.are.equal("100", svg.number(100))
  end)

  it("escapes markup, control characters and bytes that are not UTF-8", function()
    assert.are.equal("&lt;a href=&quot;x&quot;&gt; &amp; &#39;", svg.escape("<a href=\"x\"> & '"))
    assert.are.equal("a b", svg.escape("a\0b"))
    assert.are.equal("a\u{FFFD}b\u{FFFD}", svg.escape("a\xffb\xc3"))
    assert.are.equal("naïve", svg.escape("naïve"))
  end)

  it("cuts a text that is too wide between letters", function()
    assert.are.equal("short", svg.fit("short", 12, 100))
    local cut = svg.fit("äöüäöüäöüäöüäöüäöü", 12, 50)
    assert.is_truthy(utf8.len(cut))
    assert.is_truthy(cut:find("…$"))
    assert.is_true(svg.text_width(cut, 12) <= 50)
  end)

  it("spreads labels apart and keeps the order and the room", function()
    assert.are.same({ 10, 50 }, svg.spread({ 10, 50 }, 15, 0, 100))
    assert.are.same({ 42.5, 57.5 }, svg.spread({ 50, 50 }, 15, 0, 100))
    assert.are.same({ 70, 85, 100 }, svg.spread({ 99, 99, 100 }, 15, 0, 100))
    local many = svg.spread({ 1, 2, 40, 41, 42, 90 }, 15, 0, 100)
    for index = 2, #many do assert.is_true(many[index] - many[index - 1] >= 15 - 1e-9) end
  end)

  it("thins a long curve without losing its extremes", function()
    local points = {}
    for index = 1, 50000 do points[index] = { index / 100, 0 } end
    points[30001][2] = 9
    local thin = svg.thin(points)
    local highest = 0
    for _, point in ipairs(thin) do highest = math.max(highest, point[2]) end
    assert.is_true(#thin <= 4 * 501)
    assert.are.equal(9, highest)
    assert.are.same(points[1], thin[1])
    assert.are.same(points[#points], thin[#thin])
  end)

  it("shades from light to dark, and the other way on a dark page", function()
    local function brightness(colour)
      local total = 0
      for pair in colour:sub(2):gmatch("%x%x") do total = total + tonumber(pair, 16) end
      return total
    end
    for step = 1, 10 do
      local before, after = (step - 1) / 10, step / 10
      assert.is_true(brightness(svg.shade(after)) < brightness(svg.shade(before)))
      assert.is_true(brightness(svg.shade(after, true)) > brightness(svg.shade(before, true)))
    end
  end)
end)
