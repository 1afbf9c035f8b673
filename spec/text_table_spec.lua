-- Tables for the terminal: exact text, marks, missing values, and the promised width.

local text_table = require("moelua.text_table")

local COLUMNS = { "arm", { name = "code", unit = "bits/byte" },
  { name = "mean", unit = "bits/byte" }, { name = "tokens", format = "si", best = false } }

local ROWS = { { "seed", 2.31, 2.53, 1638400 }, { "mixture", 1.7, nil, 2457600 },
  { "dense", 1.802, 2.1, 12 } }

local function widest(text)
  local width = 0
  for line in (text .. "\n"):gmatch("(.-)\n") do width = math.max(width, utf8.len(line)) end
  return width
end

local function refuses(message, ...)
  local ok, caught = pcall(text_table.format, ...)
  assert.is_false(ok)
  assert.is_truthy(tostring(caught):find(message, 1, true), tostring(caught))
end

describe("text_table.format", function()
  it("aligns words left and numbers right, with units and marks", function()
    assert.are.equal(table.concat({
      "arm           code        mean   tokens",
      "         bits/byte   bits/byte",
      "seed         2.310       2.530   1.64 M",
      "mixture      1.700*          -   2.46 M",
      "dense        1.802       2.100*      12",
    }, "\n"), text_table.format(COLUMNS, ROWS, { best = "min", width = 80 }))
  end)

  it("marks nothing unless asked, and the highest when asked for it", function()
    assert.is_nil(text_table.format(COLUMNS, ROWS, { width = 80 }):find("*", 1, true))
    local text = text_table.format({ "a", "score" }, { { "x", 1 }, { "y", 3 }, { "z", 3 } },
      { best = "max", width = 80 })
    assert.are.equal("a  score\nx      1\ny      3*\nz      3*", text)
  end)

  it("marks all values that read the same as the best, and none that stands alone", function()
    local text = text_table.format({ { name = "v", format = "%.1f" } },
      { { 1.01 }, { 1.04 }, { 2 } }, { best = "min", width = 80 })
    assert.are.equal("  v\n1.0*\n1.0*\n2.0", text)
    assert.are.equal("  v\n1.0", text_table.format({ { name = "v", format = "%.1f" } }, { { 1 } },
      { best = "min", width = 80 }))
  end)

  it("reads rows by key too", function()
    local text = text_table.format({ "arm", { name = "bits", key = "mean" } },
      { { arm = "a", mean = 2.5 }, { arm = "b" } }, { width = 80 })
    assert.are.equal("arm   bits\na    2.500\nb        -", text)
  end)

  it("shows all numbers of a column alike", function()
    assert.are.equal("    x\n1.000\n2.500", text_table.format({ "x" }, { { 1 }, { 2.5 } },
      { width = 80 }))
    assert.are.equal("x\n5\nhalf", text_table.format({ "x" }, { { 5 }, { "half" } },
      { width = 80 }))
  end)

  it("shows a header alone for no rows", function()
    assert.are.equal("a  b", text_table.format({ "a", "b" }, {}, { width = 80 }))
  end)

  it("never passes the width, whatever it is", function()
    local long = { { ("word "):rep(20), 2.31, 2.5, 5 }, { "ünïcödé " .. ("é"):rep(50), 1.7, 1, 6 } }
    for width = 1, 100 do
      local text = text_table.format(COLUMNS, long, { best = "min", width = width })
      assert.is_true(widest(text) <= width, width .. ":\n" .. text)
      assert.is_truthy(utf8.len(text))
    end
  end)

  it("shortens words before it moves columns below", function()
    local rows = { { "a name of some length", 1, 2, 3 } }
    local text = text_table.format(COLUMNS, rows, { width = 45 })
    assert.is_truthy(text:find("a name of some…", 1, true))
    assert.are.equal(2, select(2, text:gsub("\n", "\n")))
    local below = text_table.format(COLUMNS, rows, { width = 30 })
    assert.is_truthy(below:find("\n\narm", 1, true))
  end)

  it("keeps one line per row and counts wide letters", function()
    local text = text_table.format({ "a", "b" }, { { "x\ny", 1 }, { "漢字", 2 } }, { width = 80 })
    assert.are.equal("a     b\nx y   1\n漢字  2", text)
  end)

  it("puts words to the right when asked", function()
    local text = text_table.format({ "a", { name = "time", right = true } },
      { { "x", "1m05s" }, { "y", "-" } }, { width = 80 })
    assert.are.equal("a   time\nx  1m05s\ny      -", text)
  end)

  it("hands out the texts of its cells, without marks", function()
    assert.are.same({ { "seed", "mixture" }, { "2.310", "1.700" }, { "2.530", "-" },
      { "1.64 M", "2.46 M" } }, text_table.cells(COLUMNS, { ROWS[1], ROWS[2] }))
  end)

  it("refuses what is not a finite number", function()
    refuses('text_table.format: row 2, column "mean" is not a finite number: ', { "arm", "mean" },
      { { "a", 1.5 }, { "b", 0 / 0 } }, { width = 80 })
    refuses('text_table.format: row 1, column "mean" is not a finite number: -inf',
      { "arm", "mean" }, { { "a", -math.huge } }, { width = 80 })
  end)

  it("refuses options and columns that it does not know", function()
    refuses("text_table.format: unknown option \"bset\"\nhint: best, width", { "a" }, {},
      { bset = 1 })
    refuses("text_table.format: unknown best: least\nhint: \"min\", \"max\" or false", { "a" }, {},
      { best = "least" })
    refuses("text_table.format: width must be a positive number: wide", { "a" }, {},
      { width = "wide" })
    refuses("text_table.format: column 1 has no name", { {} }, {}, {})
    refuses("text_table.format: no columns", {}, {}, {})
  end)
end)

describe("text_table.si", function()
  it("writes three digits and a prefix", function()
    local cases = { [0] = "0", [12] = "12", [999] = "999", [1000] = "1.00 k", [1638400] = "1.64 M",
      [999600] = "1.00 M", [3.2e15] = "3.20 P", [-45600] = "-45.6 k", [0.5] = "0.50",
      [123.4] = "123" }
    for value, text in pairs(cases) do assert.are.equal(text, text_table.si(value)) end
  end)
end)
