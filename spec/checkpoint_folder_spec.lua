-- Checkpoints in folders: one file, or shards and their index.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local json, system = core.json, core.system
local fresh_path, listed, write = made.fresh_path, made.listed, made.write

describe("a folder", function()
  local function tensors_of(n)
    local tensors = {}
    for i = 1, n do tensors["t" .. i] = core.full(i, 10) end
    return tensors
  end

  -- A folder with three shards of two tensors, and the parts of its index.
  local function sharded()
    local path = fresh_path("")
    assert(checkpoint.save(path, tensors_of(6), nil, { max_shard_size = 80 }))
    return path, path .. "/model.safetensors.index.json"
  end

  local function rewrite(path, change)
    local index = json.decode(assert(system.read(path)))
    change(index, index.weight_map)
    write(json.encode(index), path)
  end

  local function refused(path, text, code)
    local file, message, got = checkpoint.open(path)
    assert.is_nil(file)
    assert.equal(code or "format", got)
    assert.truthy(message:find(text, 1, true), message)
  end

  it("holds one file when that is enough", function()
    local path = fresh_path("")
    assert(checkpoint.save(path .. "/deep/er", { a = core.ones(2) }, { k = "v" }))
    assert.same({ "model.safetensors" }, listed(path .. "/deep/er"))
    local file = assert(checkpoint.open(path .. "/deep/er"))
    assert.same({ "a" }, file:names())
    assert.same({ format = "pt", k = "v" }, file:metadata())
  end)

  it("holds shards and an index when it is not", function()
    local path, index = sharded()
    assert.same({ "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors", "model.safetensors.index.json" }, listed(path))
    assert.equal([[
{
  "metadata": {
    "total_parameters": 60,
    "total_size": 240
  },
  "weight_map": {
    "t1": "model-00001-of-00003.safetensors",
    "t2": "model-00001-of-00003.safetensors",
    "t3": "model-00002-of-00003.safetensors",
    "t4": "model-00002-of-00003.safetensors",
    "t5": "model-00003-of-00003.safetensors",
    "t6": "model-00003-of-00003.safetensors"
  }
}
]], system.read(index))
    local file = assert(checkpoint.open(path))
    assert.same({ "t1", "t2", "t3", "t4", "t5", "t6" }, file:names())
    for i = 1, 6 do helper.close(file:tensor("t" .. i):sum(), 10 * i) end
    assert.same({ dtype = "F32", shape = { 10 }, bytes = 40 }, file:info("t4"))
    assert.equal(40, #file:raw("t4"))
    local source = file:source("t4")
    assert.equal("t4", source.name)
    assert.same({ "t3", "t4" }, source.file:names())
    assert.same({ format = "pt" }, file:metadata())
    assert.equal("Checkpoint " .. path .. " (6 tensors in 3 files)", tostring(file))
    local got, message, code = file:tensor("tt3")
    assert.is_nil(got)
    assert.equal("missing", code)
    assert.equal("tensor: " .. path .. ": no tensor `tt3`\nhint: did you mean 't3'?", message)
    file:close()
    local _, raised = pcall(file.names, file)
    assert.truthy(raised:find("names: the checkpoint was closed", 1, true))
  end)

  it("gives a large tensor a shard of its own", function()
    local path = fresh_path("")
    local tensors = { a = core.ones(1), b = core.ones(100), c = core.ones(1), d = core.ones(1) }
    assert(checkpoint.save(path, tensors, nil, { max_shard_size = 8, dtype = "f16" }))
    local map = json.decode(system.read(path .. "/model.safetensors.index.json")).weight_map
    assert.same({ a = "model-00001-of-00003.safetensors", b = "model-00002-of-00003.safetensors",
      c = "model-00003-of-00003.safetensors", d = "model-00003-of-00003.safetensors" }, map)
    assert.equal(206, json.decode(system.read(path .. "/model.safetensors.index.json"))
      .metadata.total_size)
  end)

  it("forgets the checkpoint that was there before, and nothing else", function()
    local path = sharded()
    write("{}", path .. "/config.json")
    assert(checkpoint.save(path, tensors_of(1)))
    assert.same({ "config.json", "model.safetensors" }, listed(path))
    assert(checkpoint.save(path, tensors_of(2), nil, { max_shard_size = 40 }))
    assert.same({ "config.json", "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors", "model.safetensors.index.json" }, listed(path))
    assert.same({ "t1", "t2" }, assert(checkpoint.open(path)):names())
  end)

  it("keeps the old shards when a new one fails", function()
    local path = sharded()
    local before = listed(path)
    local bad = tensors_of(4)
    bad.z = { dtype = "U8", shape = { 2 }, data = "x" }
    assert.is_false((pcall(checkpoint.save, path, bad, nil, { max_shard_size = 40 })))
    assert.same(before, listed(path))
    assert.equal(6, #assert(checkpoint.open(path)):names())
  end)

  -- Saves other values of the same shapes while `f` takes the place of the second renaming.
  local function replaced(path, f)
    local tensors, rename, count = {}, system.rename, 0
    for i = 1, 6 do tensors["t" .. i] = core.full(-i, 10) end
    system.rename = function(...)
      count = count + 1
      if count == 2 then return f(rename, ...) end
      return rename(...)
    end
    local results = table.pack(pcall(checkpoint.save, path, tensors, nil, { max_shard_size = 80 }))
    system.rename = rename
    return table.unpack(results)
  end

  it("is replaced as a whole when an interrupt comes in between", function()
    local path = sharded()
    local ok, message = replaced(path, function(rename, ...)
      core.interrupt()
      return rename(...)
    end)
    assert.same({ false, "interrupted!" }, { ok, message })
    local file = assert(checkpoint.open(path))
    for i = 1, 6 do helper.close(file:tensor("t" .. i):sum(), -10 * i) end
  end)

  it("is none when it could be replaced in part only, never a mixture of two", function()
    local path = sharded()
    local _, done, message, code = replaced(path, function() return nil, "no", "io" end)
    assert.same({ nil, "no", "io" }, { done, message, code })
    refused(path, "no checkpoint", "missing")
  end)

  it("is refused when the index and the files differ", function()
    local path, index = sharded()
    rewrite(index, function(_, map) map.t7 = "model-00003-of-00003.safetensors" end)
    refused(path, "model-00003-of-00003.safetensors lacks tensor `t7`")
    rewrite(index, function(_, map) map.t7, map.t6 = nil, nil end)
    refused(path,
      "model-00003-of-00003.safetensors holds tensor `t6`, which the index does not list")
    rewrite(index, function(_, map) map.t6 = "model-00001-of-00003.safetensors" end)
    refused(path, "tensor `t6`")
    rewrite(index, function(_, map) map.t6 = "model-00004-of-00003.safetensors" end)
    refused(path, "model-00004-of-00003.safetensors", "missing")
  end)

  it("is refused when a shard is damaged or gone", function()
    local path = sharded()
    write("", path .. "/model-00002-of-00003.safetensors")
    refused(path, "(HeaderTooSmall)")
    os.remove(path .. "/model-00002-of-00003.safetensors")
    refused(path, "model-00002-of-00003.safetensors", "missing")
  end)

  it("is refused when the index is none or leads elsewhere", function()
    local path, index = sharded()
    for _, name in ipairs { "../x.safetensors", "/etc/passwd", "a\\b", "..", ".", "", "a\0b" } do
      rewrite(index, function(_, map) map.t1 = name end)
      refused(path, "tensor `t1` is said to be in ")
    end
    rewrite(index, function(_, map) map.t1 = 1 end)
    refused(path, "tensor `t1` is said to be in number, which is no file name")
    write("{", index)
    refused(path, index)
    for _, text in ipairs { "{}", '{"metadata":{}}', '{"weight_map":{}}', "[]",
      '{"metadata":1,"weight_map":{}}', '{"metadata":{},"weight_map":1}' } do
      write(text, index)
      refused(path, "an index needs the objects `metadata` and `weight_map`")
    end
  end)

  it("is opened though the total size is wrong", function()
    local path, index = sharded()
    rewrite(index, function(parts) parts.metadata.total_size = 1 end)
    assert.equal(6, #assert(checkpoint.open(path)):names())
  end)

  it("can be written tensor by tensor", function()
    local path = fresh_path("")
    local plan = { a = { dtype = "U8", shape = { 2 } }, b = { dtype = "BF16", shape = { 3 } },
      c = { dtype = "F32", shape = { 1, 2 } } }
    local writer = assert(checkpoint.create(path, plan, { k = "v" }, { max_shard_size = 8 }))
    assert.same({ "b", "a", "c" }, writer:names())
    assert(writer:put("b", core.tensor { 1, 2, 3 }))
    assert(writer:put("a", "xy"))
    assert.same({ ".moelua-saving" }, listed(path))
    assert(writer:put("c", core.tensor { { 5, 6 } }))
    assert(writer:close())
    assert.same({ "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
      "model.safetensors.index.json" }, listed(path))
    local file = assert(checkpoint.open(path))
    assert.same({ format = "pt", k = "v" }, file:metadata())
    helper.close(file:tensor("b"), { 1, 2, 3 }, 0)
    helper.close(file:tensor("c"), { { 5, 6 } }, 0)
    assert.equal("xy", file:raw("a"))
    assert.is_false((pcall(writer.put, writer, "c", "x")))
  end)

  it("is not there until its writer is closed", function()
    local path = sharded()
    local before = listed(path)
    do
      local writer <close> = assert(checkpoint.create(path,
        { a = { dtype = "U8", shape = { 2 } }, b = { dtype = "U8", shape = { 2 } } }, nil,
        { max_shard_size = 2 }))
      assert(writer:put("a", "xy"))
      local _, message = pcall(writer.close, writer)
      assert.truthy(message:find("close: tensor `b` was not written", 1, true))
      _, message = pcall(writer.put, writer, "a", "xy")
      assert.truthy(message:find("`b` is next, not `a`", 1, true))
      assert(writer:put("b", "xy"))
      _, message = pcall(writer.put, writer, "c", "xy")
      assert.truthy(message:find("all tensors are written, `c` is too much", 1, true))
    end
    assert.same(before, listed(path))
    assert.equal(6, #assert(checkpoint.open(path)):names())
  end)

  it("may hold nothing", function()
    local path = fresh_path("")
    assert(checkpoint.save(path, {}))
    assert.same({}, assert(checkpoint.open(path)):names())
  end)

  it("cannot be where a file is", function()
    local path = fresh_path("")
    write("a file", path)
    local done, _, code = checkpoint.save(path, { a = core.ones(1) })
    assert.is_nil(done)
    assert.equal("io", code)
    assert.equal("io", (select(3, checkpoint.save(path .. "/x", { a = core.ones(1) }))))
    assert.equal("a file", system.read(path))
  end)
end)
