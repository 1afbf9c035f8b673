-- What a text is cut into, what of it is left out, and into which split it falls.
local core = require("moelua.core")
local split_of = require("spec.helper").split_of

local KB = 1024

local function documents(text)
  local parts = {}
  for i, document in ipairs(core.text.documents(text)) do
    parts[i] = text:sub(document.first, document.last)
  end
  return parts
end

describe("documents", function()
  it("of a short text are the text", function()
    assert.same({ "a\n\nb" }, documents("a\n\nb"))
    assert.same({}, documents(""))
    assert.same({}, documents(" \n\t\n"))
  end)

  it("end at the first blank line after 64 KB", function()
    local head = ("x"):rep(63) .. "\n\n"
    local text = head:rep(1100) .. "tail"
    local parts = documents(text)
    assert.equal(2, #parts)
    assert.equal(text, table.concat(parts))
    assert.equal(65 * 1009, #parts[1])
    assert.is_true(65 * 1008 < 64 * KB and #parts[1] >= 64 * KB)
  end)

  it("take white space for a blank line, and a line at exactly 64 KB", function()
    local text = ("x"):rep(64 * KB - 1) .. "\n \t\r\n" .. ("y"):rep(100)
    assert.same({ 64 * KB + 4, 100 }, { #documents(text)[1], #documents(text)[2] })
  end)

  it("are cut hard at 128 KB without one", function()
    local parts = documents(("x"):rep(300 * KB))
    assert.same({ 128 * KB, 128 * KB, 44 * KB }, { #parts[1], #parts[2], #parts[3] })
    assert.equal(1, #documents(("x"):rep(128 * KB)))
  end)

  it("are split by their hash mod 20", function()
    local counts = { test = 0, validation = 0, train = 0 }
    for i = 1, 500 do
      local text = "document " .. i
      local document = core.text.documents(text)[1]
      assert.equal(split_of(text), document.split)
      assert.equal(core.system.hash(text), ("%016x"):format(document.hash))
      counts[document.split] = counts[document.split] + 1
    end
    assert.is_true(counts.test > 10 and counts.test < 40)
    assert.is_true(counts.validation > 10 and counts.validation < 40)
    assert.equal(500, counts.test + counts.validation + counts.train)
  end)
end)

describe("licence comments", function()
  local function strip(text) return documents(text)[1] end

  it("are dropped in every style", function()
    for _, comment in ipairs({
      "/* SPDX-License-Identifier: MIT */\n", "/*\n * COPYRIGHT x\n */\n", "// License: x\n// y\n",
      "# Copyright x\n#\n# y\n", "-- licence x\n", "--[[ Licence\n x ]]\n", "$( Copyright $)\n",
      "#!/bin/sh\n# copyright\n", "\n\n  /* licensed */\n\n\n", "  // spdx\n  // more\n",
    }) do
      assert.equal("  code\n", strip(comment .. "  code\n"), comment)
    end
  end)

  it("are dropped several in a row", function()
    assert.equal("int x;", strip("// SPDX: MIT\n/* Copyright A */\n\n/* Copyright B */ int x;")
      :gsub("^ ", ""))
  end)

  it("end with the first comment of another kind", function()
    local text = "/* about */\n/* Copyright */\nint x;"
    assert.equal(text, strip(text))
    text = "/* about */\n/* Copyright */\n"
    assert.equal(text, strip("// licence\n" .. text))
  end)

  it("are told from directives, code and open comments", function()
    for _, text in ipairs({
      "#include <license.h>\n", "#ifndef COPYRIGHT_H\n", "int copyright;\n", "/* copyright\n",
      "x = 1 // licence\n", "/ licence\n",
    }) do
      assert.equal(text, strip(text))
    end
  end)

  it("alone leave no document", function()
    assert.same({}, documents("/* Copyright */\n\n"))
  end)

  it("stay in the middle of a document", function()
    local text = "int x;\n/* Copyright */\n"
    assert.equal(text, strip(text))
  end)
end)
