-- progress_spec.lua: what a running job shows, with a clock and a terminal made for the purpose.
local display = require("moelua.display")
local progress = require("moelua.progress")
local screens = require("spec.screen")

-- What a display needs, at second 100 and at a terminal of the given size. text() is everything
-- written since the last call; `screen` shows what a terminal makes of it.
local function new_world(live, width, height)
  local world, parts = { now = 100, width = width, height = height or 24, color = false }, {}
  world.screen = screens.new(width, world.height)
  world.out = {
    write = function(_, ...)
      parts[#parts + 1] = table.concat({ ... })
      if live then world.screen:write(...) end
    end,
    flush = function() end,
  }
  function world.text()
    local text = table.concat(parts)
    parts = {}
    return text
  end
  function world.options(options)
    options.out = world.out
    options.clock = function() return world.now end
    options.host = { live = live, color = world.color, width = function() return world.width end,
      height = function() return world.height end }
    return options
  end
  function world.resize(columns)
    world.width = columns
    world.screen:resize(columns)
  end
  return world
end

-- A line of one job at second `seconds`, at a terminal of the width.
local function line_at(width, name, step, total, info, seconds)
  local world = new_world(true, width)
  local line = progress.new(world.options { name = name, total = total })
  world.now = 100 + seconds
  line:update(step, info)
  assert.equal(0, world.screen.wraps)
  return world.screen:text()
end

describe("progress at a terminal", function()
  it("shows nothing in the first second", function()
    local world = new_world(true, 120)
    local line = progress.new(world.options { name = "seed", total = 100 })
    line:update(1)
    world.now = 100.9
    line:update(2)
    assert.equal("", world.text())
    world.now = 101.1
    line:update(3)
    assert.not_equal("", world.text())
  end)

  it("shows name, count, bar, loss, speed and time to go, and leaves the cursor below", function()
    local world = new_world(true, 120)
    local line = progress.new(world.options { name = "seed", total = 2000 })
    world.now = 110
    line:update(1240, { loss = 2.91449, tokens = 44000 })
    assert.equal("\rseed  1,240/2,000  62%  |############--------|  loss 2.914  "
      .. "4.4k tok/s  eta 6s\27[K\n\27[J", world.text())
  end)

  it("says less in less room, and last of all how much is done", function()
    local info = { loss = 2.91449, tokens = 44000 }
    local function at(width) return line_at(width, "seed", 1240, 2000, info, 10) end
    assert.equal("seed  1,240/2,000  62%  |############--------|  loss 2.914  4.4k tok/s  eta 6s",
      at(200))
    assert.equal("seed  1,240/2,000  62%  |############--------|  loss 2.914  4.4k tok/s  eta 6s",
      at(80))
    assert.equal("seed  1,240/2,000  62%  loss 2.914  4.4k tok/s  eta 6s", at(79))
    assert.equal("seed  1,240/2,000  62%  loss 2.914  4.4k tok/s  eta 6s", at(60))
    assert.equal("seed  1,240/2,000  62%  eta 6s", at(40))
    assert.equal("seed   62%", at(20))
    assert.equal("se…   62%", at(10))
    assert.equal("…", at(2))
    assert.equal("…", at(1))
  end)

  it("cuts a long name between letters", function()
    assert.equal("a-long-name…    1%", line_at(20, "a-long-name-of-a-job", 10, 1000, nil, 0.5 + 1))
    assert.equal("漢字漢字漢…    50%", line_at(20, "漢字漢字漢字漢字", 5, 10, nil, 2))
    assert.equal("e\u{301}e\u{301}e\u{301}   50%", line_at(12, "e\u{301}e\u{301}e\u{301}", 5, 10,
      nil, 2))
    assert.equal("a?b c  5", line_at(12, "a\xFFb\27\nc", 5, nil, nil, 2))
  end)

  it("does not count what was done before it started", function()
    local world = new_world(true, 70)
    local line = progress.new(world.options { name = "seed", total = 2000, start = 1000 })
    world.now = 101
    line:update(1100, { tokens = 444400 })
    assert.equal("seed  1,100/2,000  55%", world.screen:text())
    world.now = 102
    line:update(1200, { tokens = 448800, loss = 2 })
    assert.equal("seed  1,200/2,000  60%  loss 2.000  4.4k tok/s  eta 8s", world.screen:text())
  end)

  it("does not count what a branch had done when it is first heard of", function()
    local world = new_world(true, 70)
    local rows = progress.rows(world.options { "code", total = 2000 })
    world.now = 101
    rows:update("code", 1200)
    assert.equal("code  1,200/2,000  60%", world.screen:text())
    world.now = 102
    rows:update("code", 1210)
    assert.equal("code  1,210/2,000  60%  10 step/s  eta 1m19s", world.screen:text())
    world.now = 103                     -- it was started again from an earlier state
    rows:update("code", 1100)
    assert.equal("code  1,100/2,000  55%", world.screen:text())
    world.now = 105
    rows:update("code", 1140)
    assert.equal("code  1,140/2,000  57%  20 step/s  eta 43s", world.screen:text())
  end)

  it("waits some time for the next news before it calls a branch slow", function()
    local world = new_world(true, 70)
    local rows = progress.rows(world.options { "a", total = 100 })
    world.now = 101
    rows:update("a", 10)
    world.now = 103
    rows:update("a", 20)
    world.now = 107
    rows:update("a", 20)
    assert.equal("a   20/100  20%  5 step/s  eta 16s", world.screen:text())
    world.now = 118
    rows:update("a", 20)
    assert.equal("a   20/100  20%  0.833 step/s  eta 1m36s", world.screen:text())
  end)

  it("takes speeds from the last seconds", function()
    local world = new_world(true, 70)
    local line = progress.new(world.options { name = "a", total = 100000 })
    for second = 1, 40 do
      world.now = 100 + second
      line:update(second <= 20 and second or 20 + (second - 20) * 100)
    end
    world.now = 141
    line:update(2120)
    assert.equal("a    2,120/100,000   2%  100 step/s  eta 16m19s", world.screen:text())
  end)

  it("keeps a steady head when the clock jumps", function()
    local world = new_world(true, 70)
    local line = progress.new(world.options { name = "a", total = 100 })
    for step = 1, 10 do
      world.now = world.now + 1
      line:update(step)
    end
    assert.equal("a   10/100  10%  1 step/s  eta 1m30s", world.screen:text())
    world.now = world.now - 86400
    line:update(11)
    world.now = world.now + 1
    line:update(12)
    assert.equal("a   12/100  12%  1.09 step/s  eta 1m21s", world.screen:text())
    line:update(101)
    world.now = world.now + 1
    line:update(101)
    assert.matches("^a  101/100 101%%  .* 11s$", world.screen:text())
  end)

  it("draws at most ten times a second", function()
    local world = new_world(true, 120)
    local line = progress.new(world.options { name = "a", total = 1000 })
    world.now = 102
    local drawn = 0
    for step = 1, 200 do
      world.now = world.now + 0.01
      line:update(step)
      if world.text() ~= "" then drawn = drawn + 1 end
    end
    assert.is_true(drawn >= 17 and drawn <= 20, drawn)
  end)

  it("makes the name bold where colour is wanted", function()
    local world = new_world(true, 40)
    world.color = true
    local line = progress.new(world.options { name = "seed", total = 10 })
    world.now = 105
    line:update(5)
    assert.equal("\r\27[1mseed\27[0m   5/10  50%  1 step/s  eta 5s\27[K\n\27[J", world.text())
  end)

  it("prints notes above the line", function()
    local world = new_world(true, 40)
    local line = progress.new(world.options { name = "a", total = 10 })
    line:note("before")
    assert.equal("before\n", world.text())
    world.now = 102
    line:update(5)
    line:note("saved")
    assert.equal("before\nsaved\na   5/10  50%  2.5 step/s  eta 2s", world.screen:text())
  end)

  it("ends with its last state, or with the text", function()
    local world = new_world(true, 40)
    local line = progress.new(world.options { name = "a", total = 10 })
    line:update(10, { loss = 0.5 })
    world.now = 175
    line:done()
    assert.equal("\ra  10/10 100%  loss 0.500  0s\n", "\r" .. world.text())
    line:update(11)
    line:done()
    assert.equal("", world.text())
    line = progress.new(world.options { name = "a", total = 10 })
    line:done("a: done")
    assert.equal("a: done\n", world.text())
  end)

  it("shows rows in place, and how long each took", function()
    local world = new_world(true, 60)
    local rows = progress.rows(world.options { "code", "prose", total = 10 })
    world.now = 102
    rows:update("prose", 4)
    assert.equal("code    0/10   0%\nprose   4/10  40%", world.screen:text())
    world.now = 104
    rows:update("code", 1)
    rows:update("prose", 10)
    world.now = 109
    rows:update("code", 2)
    assert.equal("code    2/10  20%  0.2 step/s  eta 40s\nprose  10/10 100%  3 step/s  4s",
      world.screen:text())
    rows:done()
    assert.equal("code    2/10  20%  0.2 step/s  eta 40s\nprose  10/10 100%  3 step/s  4s",
      world.screen:text())
  end)

  it("shows as many rows as fit, first those that move", function()
    local world = new_world(true, 40, 4)
    local rows = progress.rows(world.options { "a", "b", "c", "d", "e", total = 10 })
    world.now = 102
    rows:update("d", 5)
    assert.equal("d   5/10  50%\na   0/10   0%\nand 3 more", world.screen:text())
    world.height = 1
    world.now = 103
    rows:update("d", 6)
    assert.equal("", world.screen:text())
    world.height = 6
    world.now = 104
    rows:update("d", 6)
    assert.equal("a   0/10   0%\nb   0/10   0%\nc   0/10   0%\nd   6/10  60%  1 step/s  "
      .. "eta 4s\ne   0/10   0%", world.screen:text())
  end)

  it("leaves no half-drawn line behind an error", function()
    local world = new_world(true, 40)
    pcall(function()
      local line <close> = progress.new(world.options { name = "a", total = 10 })
      world.now = 102
      line:update(5)
      assert.equal("a   5/10  50%  2.5 step/s  eta 2s", world.screen:text())
      error("stop")
    end)
    assert.equal("", world.screen:text())
    assert.same({ 0, 1 }, { world.screen.x, world.screen.y })
  end)

  -- Three rows with notes between them: after every drawing the screen holds the notes and the
  -- rows, in lines of their own, and nothing else.
  local function run_rows(world, resize_to)
    local notes = {}
    local rows = progress.rows(world.options { "code", "a-name-that-is-far-too-long-for-a-line",
      "漢字漢字漢字漢字漢字漢字", total = 500 })
    local function check(count)
      local text = world.screen:text()
      local expected = #notes > 0 and table.concat(notes, "\n") .. "\n" or ""
      assert.equal(expected, text:sub(1, #expected))
      local _, breaks = text:sub(#expected + 1):gsub("\n", "")
      assert.equal(count, breaks + 1, text)
      assert.equal(0, world.screen.wraps)
    end
    for step = 1, 60 do
      world.now = world.now + 0.6
      rows:update("code", step, { loss = 100 / step, tokens = step * 1000 })
      if step % 7 == 0 then
        notes[#notes + 1] = "note " .. step
        rows:note(notes[#notes])
      end
      if step > 1 then check(3) end
      local width = resize_to and resize_to[step]
      if width then world.resize(width) end
    end
    rows:done()
    check(3)
  end

  it("keeps one line per row at every width", function()
    for _, width in ipairs { 8, 20, 40, 60, 80, 200 } do
      run_rows(new_world(true, width))
      run_rows(new_world(true, width, 6))
    end
  end)

  it("leaves nothing behind when the width changes", function()
    run_rows(new_world(true, 100, 60), { [10] = 40, [20] = 20, [21] = 19, [22] = 9, [30] = 33,
      [40] = 200, [50] = 10, [59] = 8 })
  end)
end)

describe("progress elsewhere", function()
  it("prints plain lines, one per tenth", function()
    local world = new_world(false, 80)
    world.color = true
    local line = progress.new(world.options { name = "a", total = 100 })
    local lines = 0
    for step = 1, 100 do
      world.now = world.now + 1
      line:update(step)
      local text = world.text()
      if text ~= "" then lines = lines + 1 end
      assert.is_nil(text:find("[\r\27]"))
    end
    assert.equal(10, lines)
  end)

  it("prints a line after thirty silent seconds, whole", function()
    local world = new_world(false, 20)
    local line = progress.new(world.options { name = ("long"):rep(20), total = 1000000 })
    world.now = 129
    line:update(1)
    assert.equal("", world.text())
    world.now = 130
    line:update(2)
    assert.equal(("long"):rep(20) .. "          2/1,000,000   0%  0.0667 step/s  eta 173d14h\n",
      world.text())
  end)

  it("shows nothing when it is asked to be quiet, or without a command line", function()
    local world = new_world(false, 80)
    local line = progress.new(world.options { name = "a", total = 10, quiet = true })
    world.now = 200
    line:update(5)
    line:note("note")
    line:done("done")
    assert.equal("", world.text())
    local found = package.loaded["moelua.host"]
    local preload = package.preload["moelua.host"]
    package.loaded["moelua.host"], package.preload["moelua.host"] = nil, nil
    line = progress.new { name = "a", total = 10, out = world.out }
    package.loaded["moelua.host"], package.preload["moelua.host"] = found, preload
    line:done("done")
    assert.equal("", world.text())
  end)

  it("tells once, with its time, that a job is finished", function()
    local world = new_world(false, 80)
    local rows = progress.rows(world.options { "a", "bb", total = 10 })
    world.now = 110
    rows:update("bb", 10, { loss = 1 })
    assert.equal("bb  10/10 100%  loss 1.000  10s\n", world.text())
    world.now = 120
    rows:update("a", 10, { loss = 2 })
    rows:done()
    assert.equal("a   10/10 100%  loss 2.000  20s\n", world.text())
  end)

  it("tells at the end of a job that was over in no time", function()
    local world = new_world(false, 80)
    local line = progress.new(world.options { name = "a", total = 2 })
    line:update(2)
    assert.equal("", world.text())
    line:done()
    assert.equal("a  2/2 100%  0s\n", world.text())
  end)
end)

describe("durations", function()
  it("have two parts at most, and are never negative", function()
    local texts = {}
    for i, s in ipairs { -5, 0, 59.6, 61, 3599, 3600, 86399, 86400, 90000 * 100 } do
      texts[i] = progress.duration(s)
    end
    assert.equal("0s 0s 1m00s 1m01s 59m59s 1h00m 23h59m 1d00h 104d04h", table.concat(texts, " "))
  end)
end)

describe("columns of a text", function()
  it("are two for wide letters and none for marks", function()
    assert.equal(6, display.width("漢字é!"))
    assert.equal(1, display.width("e\u{301}"))
    assert.equal(2, display.width("😀"))
    assert.equal("漢…", display.cut("漢字", 3))
    assert.equal("…", display.cut("漢字", 2))
    assert.equal("e\u{301}…", display.cut("e\u{301}xyz", 2))
  end)

  it("hold no control characters and no broken letters", function()
    assert.equal("a b? c", display.plain("a\n\27b\xE6 c"))
    assert.equal("a b", display.plain("a\u{9B}b"))
  end)
end)
