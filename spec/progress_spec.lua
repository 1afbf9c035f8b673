-- progress_spec.lua: what a running job shows, with a clock and a terminal made for the purpose.
local progress = require("moelua.progress")

-- A terminal of the given width; screen.text() is everything written to it since the last call.
local function new_screen(live, width, color)
  local screen, parts = { now = 100 }, {}
  screen.out = {
    write = function(_, ...) parts[#parts + 1] = table.concat({ ... }) end,
    flush = function() end,
  }
  function screen.text()
    local text = table.concat(parts)
    parts = {}
    return text
  end
  function screen.options(options)
    options.out = screen.out
    options.clock = function() return screen.now end
    options.host = { live = live, color = color, width = function() return width end }
    return options
  end
  return screen
end

describe("progress at a terminal", function()
  it("shows nothing in the first second", function()
    local screen = new_screen(true, 120)
    local line = progress.new(screen.options { name = "seed", total = 100 })
    line:update(1)
    screen.now = 100.9
    line:update(2)
    assert.equal("", screen.text())
    screen.now = 101.1
    line:update(3)
    assert.not_equal("", screen.text())
  end)

  it("shows name, count, bar, loss, speed and time to go", function()
    local screen = new_screen(true, 120)
    local line = progress.new(screen.options { name = "seed", total = 2000 })
    screen.now = 110
    line:update(1240, { loss = 2.91449, tokens = 44000 })
    assert.equal("\r\27[Kseed  1,240/2,000  62%  |############--------|  loss 2.914  "
      .. "4.4k tok/s  eta 6s", screen.text())
  end)

  it("does not count what was done before it started", function()
    local screen = new_screen(true, 70)
    local line = progress.new(screen.options { name = "seed", total = 2000, start = 1000 })
    screen.now = 101
    line:update(1100, { tokens = 444400 })
    assert.equal("\r\27[Kseed  1,100/2,000  55%", screen.text())
    screen.now = 102
    line:update(1200, { tokens = 448800, loss = 2 })
    assert.matches("1,200/2,000  60%%  loss 2.000  4%.4k tok/s  eta 8s$", screen.text())
  end)

  it("takes speeds from the last seconds", function()
    local screen = new_screen(true, 120)
    local line = progress.new(screen.options { name = "a", total = 100000 })
    for second = 1, 40 do
      screen.now = 100 + second
      line:update(second <= 20 and second or 20 + (second - 20) * 100)
    end
    screen.text()
    screen.now = 141
    line:update(2120)
    assert.matches("  100 step/s  eta 16m19s$", screen.text())
  end)

  it("draws at most ten times a second", function()
    local screen = new_screen(true, 120)
    local line = progress.new(screen.options { name = "a", total = 1000 })
    screen.now = 102
    local drawn = 0
    for step = 1, 200 do
      screen.now = screen.now + 0.01
      line:update(step)
      if screen.text() ~= "" then drawn = drawn + 1 end
    end
    assert.is_true(drawn >= 17 and drawn <= 20, drawn)
  end)

  it("cuts the line to the width", function()
    local screen = new_screen(true, 20)
    local line = progress.new(screen.options { name = "a-long-name", total = 1000 })
    screen.now = 105
    line:update(10, { loss = 1 })
    local text = screen.text():gsub("^\r\27%[K", "")
    assert.equal("a-long-name  10/1,0", text)
    assert.equal(19, #text)
  end)

  it("makes the name bold where colour is wanted", function()
    local screen = new_screen(true, 40, true)
    local line = progress.new(screen.options { name = "seed", total = 10 })
    screen.now = 105
    line:update(5)
    assert.matches("^\r\27%[K\27%[1mseed\27%[0m  5/10  50%%  1 step/s  eta 5s$", screen.text())
  end)

  it("prints notes above the line", function()
    local screen = new_screen(true, 40)
    local line = progress.new(screen.options { name = "a", total = 10 })
    line:note("before")
    assert.equal("before\n", screen.text())
    screen.now = 102
    line:update(5)
    local drawn = screen.text()
    line:note("saved")
    assert.equal("\r\27[Jsaved\n" .. drawn, screen.text())
  end)

  it("ends with its last state, or with the text", function()
    local screen = new_screen(true, 40)
    local line = progress.new(screen.options { name = "a", total = 10 })
    line:update(10, { loss = 0.5 })
    screen.now = 175
    line:done()
    assert.equal("a  10/10 100%  loss 0.500  0.133 step/s  1m15s\n", screen.text())
    line:update(11)
    line:done()
    assert.equal("", screen.text())
    line = progress.new(screen.options { name = "a", total = 10 })
    line:done("a: done")
    assert.equal("a: done\n", screen.text())
  end)

  it("redraws several rows in place", function()
    local screen = new_screen(true, 40)
    local rows = progress.rows(screen.options { "code", "prose", total = 10 })
    screen.now = 102
    rows:update("prose", 4)
    assert.equal("\r\27[Kcode   0/10   0%\n\27[Kprose  4/10  40%  2 step/s  eta 3s", screen.text())
    screen.now = 104
    rows:update("code", 1)
    assert.matches("^\r\27%[1A\27%[Kcode   1/10  10%%", screen.text())
    rows:done()
    assert.matches("^\r\27%[1A\27%[Jcode [^\n]*\nprose [^\n]*\n$", screen.text())
  end)

  it("leaves no half-drawn line behind an error", function()
    local screen = new_screen(true, 40)
    pcall(function()
      local line <close> = progress.new(screen.options { name = "a", total = 10 })
      screen.now = 102
      line:update(5)
      screen.text()
      error("stop")
    end)
    assert.equal("\r\27[J", screen.text())
  end)
end)

describe("progress elsewhere", function()
  it("prints plain lines, one per tenth", function()
    local screen = new_screen(false, 80, true)
    local line = progress.new(screen.options { name = "a", total = 100 })
    local lines = 0
    for step = 1, 100 do
      screen.now = screen.now + 1
      line:update(step)
      local text = screen.text()
      if text ~= "" then lines = lines + 1 end
      assert.is_nil(text:find("[\r\27]"))
    end
    assert.equal(10, lines)
  end)

  it("prints a line after thirty silent seconds", function()
    local screen = new_screen(false, 80)
    local line = progress.new(screen.options { name = "a", total = 1000000 })
    screen.now = 129
    line:update(1)
    assert.equal("", screen.text())
    screen.now = 130
    line:update(2)
    assert.matches("^a  2/1,000,000   0%%  .*\n$", screen.text())
  end)

  it("shows nothing when it is asked to be quiet, or without a command line", function()
    local screen = new_screen(false, 80)
    local line = progress.new(screen.options { name = "a", total = 10, quiet = true })
    screen.now = 200
    line:update(5)
    line:note("note")
    line:done("done")
    assert.equal("", screen.text())
    local found = package.loaded["moelua.host"]
    local preload = package.preload["moelua.host"]
    package.loaded["moelua.host"], package.preload["moelua.host"] = nil, nil
    line = progress.new { name = "a", total = 10, out = screen.out }
    package.loaded["moelua.host"], package.preload["moelua.host"] = found, preload
    line:done("done")
    assert.equal("", screen.text())
  end)
end)

describe("progress of a finished job away from a terminal", function()
  it("is one line with its time, not repeated at the end", function()
    local screen = new_screen(false, 80)
    local rows = progress.rows(screen.options { "a", "bb", total = 10 })
    screen.now = 110
    rows:update("bb", 10, { loss = 1 })
    assert.equal("bb  10/10 100%  loss 1.000  1 step/s  10s\n", screen.text())
    screen.now = 120
    rows:update("a", 10, { loss = 2 })
    rows:done()
    assert.equal("a   10/10 100%  loss 2.000  0.5 step/s  20s\n", screen.text())
  end)

  it("appears at the end when the job was over in no time", function()
    local screen = new_screen(false, 80)
    local line = progress.new(screen.options { name = "a", total = 2 })
    line:update(2)
    assert.equal("", screen.text())
    line:done()
    assert.equal("a  2/2 100%  0s\n", screen.text())
  end)
end)
