-- Where numbers lie: runs and rows of stored tensors, read by core.checkpoint.read.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local files = core.checkpoint

local function numbers(n) return core.arange(n) end
local function rows(list) return core.tensor(list, "i32") end

local function message(f, ...) return tostring((select(2, pcall(f, ...)))) end

describe("a source", function()
  local path, file
  setup(function()
    path = made.fresh_path()
    assert(checkpoint.save(path, { stack = numbers(24):reshape(2, 3, 4),
      half = numbers(12):reshape(4, 3):to("bf16"), whole = numbers(12):reshape(4, 3) }))
    file = assert(files.open(path))
  end)
  teardown(function() file:close() end)

  it("is a whole tensor, where it lies", function()
    local source = file:source("whole")
    local x = assert(files.read(source))
    assert.same({ 4, 3 }, x:shape())
    helper.close(x:reshape(12), { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 })
    assert.equal("bf16", files.read(source, "bf16"):dtype())
    assert.equal("f32", files.read(file:source("half")):dtype())
  end)

  it("is a run of elements, as an expert in a stack", function()
    local x = files.read { file = file, name = "stack", first = 12, shape = { 3, 4 } }
    assert.same({ 3, 4 }, x:shape())
    assert.equal(12, x:totable()[1][1])
    assert.equal(23, x:totable()[3][4])
    local half = files.read({ file = file, name = "half", first = 3, shape = { 2, 2 } }, "f16")
    assert.same({ { 3, 4 }, { 5, 6 } }, half:to("f32"):totable())
  end)

  it("gathers rows, -1 being zeros", function()
    local x = files.read { file = file, name = "half", rows = rows { 2, -1, 0, 2, 3 } }
    assert.same({ { 6, 7, 8 }, { 0, 0, 0 }, { 0, 1, 2 }, { 6, 7, 8 }, { 9, 10, 11 } },
      x:totable())
    local y = files.read({ file = file, name = "stack", first = 12, shape = { 2, 4 },
      rows = rows { 2, 0 } }, "bf16")
    assert.same({ { 20, 21, 22, 23 }, { 12, 13, 14, 15 } }, y:to("f32"):totable())
  end)

  it("takes rows from others, in files or in memory", function()
    local own = core.tensor { { -1, -2, -3 } }
    local x = files.read { file = file, name = "half", rows = rows { 0, 0, 1 },
      from = rows { 1, 0, 2 }, others = {
        { tensor = own, rows = rows { 0, 0, 0 } },
        { file = file, name = "whole", rows = rows { 0, 0, 3 } } } }
    assert.same({ { -1, -2, -3 }, { 0, 1, 2 }, { 9, 10, 11 } }, x:totable())
  end)

  it("refuses what lies outside, and says so", function()
    local function fails(text, source)
      local got = message(files.read, source)
      assert.truthy(got:find(text, 1, true), got)
    end
    fails("read: elements 13 to 25 of a tensor of 24", { file = file, name = "stack", first = 13,
      shape = { 3, 4 } })
    fails("read: rows[2] is 4: -1 to 3 can be had", { file = file, name = "half",
      rows = rows { 0, 4 } })
    fails("read: rows[1] is -2", { file = file, name = "half", rows = rows { -2 } })
    fails("read: from[1] is 1, of 0 others", { file = file, name = "half", rows = rows { 0 },
      from = rows { 1 } })
    fails("read: rows and from need a number for each of the 4 rows", { file = file,
      name = "half", shape = { 4, 3 }, rows = rows { 0 } })
    fails("read: first must be an element, counted from 0, not -1", { file = file, name = "half",
      first = -1 })
    fails("read: unknown option 'row'", { file = file, name = "half", row = 1 })
    fails("read: file must be an open Checkpoint, not nil", { name = "half" })
    fails("read: others[1] is I32, which does not go with BF16", { file = file, name = "half",
      from = rows { 1, 0, 0, 0 }, others = { { tensor = rows { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
        12 }:reshape(4, 3) } } })
    local asked = { __index = function() return file end }
    fails("read: a source must be a table without a metatable", setmetatable({}, asked))
    local got, why, code = files.read { file = file, name = "other" }
    assert.is_nil(got)
    assert.equal(("read: %s: no tensor `other`"):format(path), why)
    assert.equal("missing", code)
  end)

  it("does not cut blocks", function()
    local q8 = made.fresh_path(".gguf")
    local writer = assert(files.create_gguf(q8, { w = { dtype = "Q8_0", shape = { 2, 64 } } }, {}))
    assert(writer:put("w", numbers(128):reshape(2, 64)))
    assert(writer:close())
    local blocks <close> = setmetatable({}, { __close = function(t) t.file:close() end })
    blocks.file = assert(files.open(q8))
    local function fails(source)
      source.file, source.name = blocks.file, "w"
      local got = message(files.read, source)
      assert.truthy(got:find("Q8_0 comes in blocks of 32 elements", 1, true), got)
    end
    fails { first = 16, shape = { 64 } }
    fails { shape = { 40 } }
    fails { shape = { 4, 16 }, rows = rows { 0, 1, 2, 3 } }
    assert.same({ 32 }, files.read { file = blocks.file, name = "w", first = 32,
      shape = { 32 } }:shape())
  end)

  it("refuses sizes of nothing whose product overflows", function()
    local huge = 1 << 62
    local empty = made.open_bytes(made.compose(
      ('{"a":{"dtype":"F32","shape":[0,%d,%d],"data_offsets":[0,0]}}'):format(huge, huge)))
    local got = message(files.read, { file = empty, name = "a", rows = rows { -1 } })
    assert.truthy(got:find("shape is too large", 1, true), got)
    empty:close()
  end)
end)
