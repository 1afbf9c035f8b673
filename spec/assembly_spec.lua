-- Checkpoints made of others, a tensor at a time.
local core = require("moelua.core")
local assembly = require("moelua.assembly")
local checkpoint = require("moelua.checkpoint")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local system = core.system

local function model(seed)
  core.manual_seed(seed)
  local path = made.fresh_path()
  assert(checkpoint.save(path, { a = core.randn(7, 5), b = core.randn(33):to("bf16"),
    ids = core.tensor({ 1, 2, 3 }, "i32") }))
  return assert(core.checkpoint.open(path))
end

local function entries_of(x, y)
  return {
    { name = "a", dtype = "F32", shape = { 7, 5 }, method = "linear",
      sources = { x:source("a"), y:source("a") }, params = { weight = { 0.25, 0.75 } } },
    { name = "b", dtype = "BF16", shape = { 33 }, method = "copy", sources = { x:source("b") } },
    { name = "ids", dtype = "I32", shape = { 3 }, method = "copy", sources = { y:source("ids") } },
    { name = "wide", dtype = "F32", shape = { 33 }, method = "copy", sources = { x:source("b") } },
    { name = "made", dtype = "F16", shape = { 2, 2 }, make = function()
      return core.ones(2, 2)
    end },
  }
end

describe("an assembly", function()
  local x, y, out
  before_each(function()
    x, y, out = model(1), model(2), made.fresh_path() .. ".d"
  end)
  after_each(function() system.remove_tree(out) end)

  it("writes what was asked for", function()
    local told = {}
    local summary = assert(assembly.write(out, entries_of(x, y), { on_tensor = function(entry, f)
      told[entry.name] = f
    end }))
    local file <close> = assert(checkpoint.open(out))
    assert.same({ "a", "b", "ids", "made", "wide" }, file:names())
    local a, b = x:tensor("a"), y:tensor("a")
    helper.close(file:tensor("a"), (a * 0.25 + b * 0.75):totable(), 1e-6)
    assert.equal(x:raw("b"), file:raw("b"))
    assert.equal(y:raw("ids"), file:raw("ids"))
    assert.equal("F32", file:info("wide").dtype)
    helper.close(file:tensor("wide"), x:tensor("b"):totable(), 0)
    helper.close(file:tensor("made"), { { 1, 1 }, { 1, 1 } }, 0)
    assert.is_true(file:verify())
    assert.equal(file:metadata().checksum, summary.files["model.safetensors"])
    for name, hash in pairs(summary.tensors) do
      assert.equal(file:hash(name), hash)
      assert.equal(hash, told[name].hash)
    end
    assert.equal(140 + 66 + 12 + 132 + 8, summary.bytes_written)
    assert.equal(280 + 66 + 12 + 66, summary.bytes_read)
    assert.same({ "model.safetensors" }, require("moelua.folder").names(out))
  end)

  it("cuts files as they should be", function()
    local summary = assert(assembly.write(out, entries_of(x, y), { max_shard_size = 150 }))
    local file <close> = assert(checkpoint.open(out))
    assert.same({ "a", "b", "ids", "made", "wide" }, file:names())
    assert.equal(x:raw("b"), file:raw("b"))
    assert.is_true(file:verify())
    assert.is_string(summary.files["model-00001-of-00003.safetensors"])
  end)

  it("goes on after the last finished file", function()
    local list, opt = entries_of(x, y), { max_shard_size = 150 }
    assert(assembly.write(out, list, opt))
    local whole <close> = assert(checkpoint.open(out))
    local other = made.fresh_path() .. ".d"
    local broken = entries_of(x, y)
    broken[5].make = function() error("stop") end
    assert.is_false((pcall(assembly.write, other, broken, opt)))
    assert.is_true(assembly.unfinished(other))
    local calls = 0
    local summary = assert(assembly.write(other, list, { max_shard_size = 150,
      on_tensor = function() calls = calls + 1 end }))
    assert.equal(1, summary.resumed)
    assert.equal(5, calls)
    local file <close> = assert(checkpoint.open(other))
    for _, name in ipairs(file:names()) do assert.equal(whole:raw(name), file:raw(name)) end
    assert.is_false(assembly.unfinished(other))
    system.remove_tree(other)
  end)

  it("does not go on with another plan", function()
    local list, opt = entries_of(x, y), { max_shard_size = 150 }
    local broken = entries_of(x, y)
    broken[5].make = function() error("stop") end
    assert.is_false((pcall(assembly.write, out, broken, opt)))
    list[1].params.weight = { 0.5, 0.5 }
    assert.equal(0, assert(assembly.write(out, list, opt)).resumed)
  end)

  it("refuses entries that make no sense", function()
    local function fails(text, change)
      local list = entries_of(x, y)
      change(list)
      local got = tostring((select(2, pcall(assembly.write, out, list))))
      assert.truthy(got:find(text, 1, true), got)
    end
    fails("`a` needs either a method or make", function(list) list[1].method = nil end)
    fails("`b` occurs twice", function(list) list[1].name = "b" end)
    fails("merge: `a`: no method \"lienar\"\nhint: did you mean 'linear'?", function(list)
      list[1].method = "lienar"
    end)
    fails("merge: `a`: weight has 1 numbers for 2 models", function(list)
      list[1].params.weight = { 1 }
    end)
    fails("merge: `a`: linear needs weight", function(list) list[1].params = nil end)
    fails("merge: `a`: linear has no parameter \"density\"\nhint: it has weight normalize",
      function(list) list[1].params.density = 1 end)
    fails("merge: `a`: sources[2]: [7 x 5] are merged, this is [33]", function(list)
      list[1].sources[2] = x:source("b")
    end)
  end)

  it("takes memory as people write it", function()
    assert.equal(512 * 2 ^ 20, assembly.bytes("512M"))
    assert.equal(1.5 * 2 ^ 30, assembly.bytes("1.5 GB"))
    assert.equal(1000, assembly.bytes(1000))
    assert.truthy(tostring(select(2, pcall(assembly.bytes, "much"))):find('not "much"', 1, true))
  end)
end)
