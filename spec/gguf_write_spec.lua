-- The GGUF writer: what it writes is what the reader reads, and the bytes of the reference.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local gguf = require("spec.gguf_files")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local files, json, system = core.checkpoint, core.json, core.system

-- Writes { name = { dtype, tensor or bytes, shape } } and opens it again.
local function written(tensors, metadata)
  local path, plan = made.fresh_path(".gguf"), {}
  for name, t in pairs(tensors) do
    plan[name] = { dtype = t[1], shape = t[3] or t[2]:shape() }
  end
  local writer <close> = assert(files.create_gguf(path, plan, metadata or {}))
  for _, name in ipairs(writer:names()) do assert(writer:put(name, tensors[name][2])) end
  assert(writer:close())
  return assert(checkpoint.open(path)), path
end

local function refused(text, ...)
  local ok, message = pcall(files.create_gguf, made.fresh_path(".gguf"), ...)
  assert.is_false(ok)
  assert.truthy(message:find(text, 1, true), message)
end

describe("the GGUF writer", function()
  it("writes the same bytes as anybody", function()
    local w = core.tensor({ { 1, 2, 3 }, { 4, 5, 6 } })
    local _, path = written({ w = { "F32", w }, a = { "F16", core.tensor({ 1, 2 }) } },
      { ["k.text"] = "abc", ["k.number"] = 7 })
    assert.equal(gguf.compose { pairs = { gguf.pair("k.number", "u32", 7),
      gguf.pair("k.text", "str", "abc") }, tensors = {
      { "a", "F16", { 2 }, string.pack("<I2I2", 0x3c00, 0x4000) },
      { "w", "F32", { 3, 2 }, string.pack("<ffffff", 1, 2, 3, 4, 5, 6) } } }, system.read(path))
  end)

  it("quantises to the bytes of the reference", function()
    for _, case in ipairs(json.decode(assert(system.read("spec/golden/ggml_quant_golden.json")))) do
      if case.type == "q8_0" then
        local x = {}
        for at = 1, #case.x_f32le // 2, 4 do
          x[#x + 1] = string.unpack("<f", gguf.unhex(case.x_f32le), at)
        end
        local t = core.tensor(x)
        assert.equal(gguf.unhex(case.quantised), written({ t = { "Q8_0", t } }):raw("t"))
        local rows = t:reshape(8, 32):transpose(1, 2):contiguous():transpose(1, 2)
        assert.equal(gguf.unhex(case.quantised), written({ t = { "Q8_0", rows } }):raw("t"))
      end
    end
  end)

  it("writes tensors of many blocks and of 16 bits", function()
    local x = core.randn(300, 320, { seed = 1 })
    local file = written { q = { "Q8_0", x }, h = { "Q8_0", x:to("bf16") }, b = { "BF16", x },
      f = { "F32", x } }
    assert.equal(x:to("f32"):bytes(), file:tensor("f"):bytes())
    assert.equal(x:to("bf16"):bytes(), file:tensor("b", "bf16"):bytes())
    for r = 1, 300, 37 do
      local row, got = x:select(1, r):totable(), file:tensor("q"):select(1, r):totable()
      for i = 1, 320 do assert.near(row[i], got[i], 0.02) end
    end
    local narrow = written { q = { "Q8_0", x:to("bf16"):to("f32") } }
    assert.equal(narrow:raw("q"), file:raw("h"))
  end)

  it("writes bytes of any type, scalars and tensors without elements", function()
    local file = written { k = { "Q4_K", ("x"):rep(288), { 2, 256 } },
      s = { "F32", core.tensor(3) }, z = { "F16", core.zeros(0, 4) },
      i = { "I32", core.arange(3):to("i32") } }
    assert.equal(("x"):rep(288), file:raw("k"))
    assert.same({ dtype = "Q4_K", shape = { 2, 256 }, bytes = 288 }, file:info("k"))
    assert.equal(3, file:tensor("s"):item())
    assert.same({ 0, 4 }, file:info("z").shape)
    assert.same({ 0, 1, 2 }, file:tensor("i"):totable())
  end)

  it("chooses the types of metadata that readers expect", function()
    local values = { yes = true, no = false, text = "a\0b\255", n = 4294967295, m = -1,
      x = 0.5, words = { "a", "bc" }, ids = { 1, -2, 3 }, scores = { -1.5, 2.0, 3.25 },
      flags = { true, false } }
    local file, path = written({}, values)
    assert.same(values, file:metadata())
    local bytes = system.read(path)
    for _, pair in ipairs { { "n", "u32", 4294967295 }, { "m", "i64", -1 }, { "x", "f32", 0.5 },
      { "ids", "i32", { 1, -2, 3 } }, { "scores", "f32", { -1.5, 2, 3.25 } } } do
      assert.truthy(bytes:find(gguf.pair(table.unpack(pair)), 1, true), pair[1])
    end
    assert.same({ 1.0, 2.5 }, written({}, { k = { 1, 2.5 } }):metadata("k"))
  end)

  it("keeps the old file until the new one is whole", function()
    local _, path = written { a = { "F32", core.ones(2) } }
    do
      local plan = { b = { dtype = "F32", shape = { 1 } } }
      local writer <close> = assert(files.create_gguf(path, plan, {}))
      assert.same({ "b" }, writer:names())
    end
    assert.same({ "a" }, assert(checkpoint.open(path)):names())
  end)

  it("refuses what the format cannot hold", function()
    local function one(dtype, ...) return { t = { dtype = dtype, shape = { ... } } } end
    refused("rows that are no whole blocks of Q8_0", one("Q8_0", 64, 31), {})
    refused("tensor `t` is U16, which GGUF does not have", one("U16", 1), {})
    refused("has 5 dimensions, more than 4", one("F32", 1, 1, 1, 1, 1), {})
    refused("too large", one("F32", 1 << 61, 4), {})
    refused("is longer than 63 bytes", { [("n"):rep(64)] = { dtype = "F32", shape = {} } }, {})
    refused("is empty", {}, { [""] = 1 })
    refused("metadata `k` is an empty list", {}, { k = {} })
    refused("metadata `k` is a function, which a file cannot hold", {}, { k = print })
    refused("metadata `k`: value 2 is string, unlike those before it", {}, { k = { 1, "a" } })
    refused("metadata `k`: value 1 is table, unlike", {}, { k = { {} } })
    refused("metadata `k`: value 1 does not fit into i32", {}, { k = { 1 << 31 } })
    refused("the plan must be a table", 1, {})
    refused("metadata must be a table", {}, 1)
    local ok, message = pcall(files.create, made.fresh_path(), one("Q8_0", 32), {})
    assert.is_false(ok)
    assert.truthy(message:find("is Q8_0, which safetensors do not have", 1, true))
  end)

  it("refuses values that Q8_0 cannot hold", function()
    for _, x in ipairs { 1 / 0, -1 / 0, 0 / 0, 1e7 * 127 } do
      local writer <close> = assert(files.create_gguf(made.fresh_path(".gguf"),
        { t = { dtype = "Q8_0", shape = { 32 } } }, {}))
      local list = {}
      for i = 1, 32 do list[i] = i == 7 and x or 1 end
      local ok, message = pcall(writer.put, writer, "t", core.tensor(list))
      assert.is_false(ok)
      assert.truthy(message:find("`t` holds a value that is not finite or too large", 1, true))
    end
    local tiny = core.full(1e-42, 32)
    helper.close(written({ t = { "Q8_0", tiny } }):tensor("t"), core.zeros(32))
  end)
end)
