-- Element types of checkpoints: what tensors become in files, and files in tensors.
local core = require("moelua.core")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local saved = made.saved

local function bits(value)
  return string.unpack("<I4", string.pack("<f", value))
end

-- A number by its bits as an f32.
local function float(pattern) return (string.unpack("<f", string.pack("<I4", pattern))) end

describe("element types", function()
  -- What a file with one such tensor gives as numbers.
  local function loaded(dtype, format, values, as)
    local data = ""
    for _, value in ipairs(values) do data = data .. string.pack(format, value) end
    local file = saved { x = { dtype = dtype, shape = { #values }, data = data } }
    local x, message, code = file:tensor("x", as)
    if not x then return nil, message, code end
    return x:totable(), x:dtype()
  end

  it("turn into f32", function()
    local inf, tiny = math.huge, 2.0 ^ -149
    local got, dtype = loaded("F32", "<f", { 1, -2.5, inf, -inf, 0, tiny, float(0x7f7fffff) })
    assert.same({ 1, -2.5, inf, -inf, 0, tiny, float(0x7f7fffff) }, got)
    assert.equal("f32", dtype)
    assert.same({ 1, -0.5, inf, tiny }, (loaded("F64", "<d", { 1, -0.5, inf, tiny })))
    assert.same({ 1, -2, inf, -inf, 2.0 ^ -133, float(0x7f7f0000) },
      (loaded("BF16", "<I2", { 0x3f80, 0xc000, 0x7f80, 0xff80, 0x0001, 0x7f7f })))
    assert.same({ 1, -2, inf, -inf, 65504, 2.0 ^ -24, 1023 * 2.0 ^ -24, 2.0 ^ -14, -2.0 ^ -24 },
      (loaded("F16", "<I2",
        { 0x3c00, 0xc000, 0x7c00, 0xfc00, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x8001 })))
    for dtype_name, pattern in pairs { BF16 = 0x7fc1, F16 = 0x7e01 } do
      local nan = loaded(dtype_name, "<I2", { pattern })[1]
      assert.is_true(nan ~= nan)
    end
    assert.equal(-inf, 1 / loaded("F16", "<I2", { 0x8000 })[1])
  end)

  it("turn into i32 when they fit", function()
    local limits = { BOOL = { "B", 0, 1 }, U8 = { "B", 0, 255 }, I8 = { "b", -128, 127 },
      I16 = { "<i2", -32768, 32767 }, U16 = { "<I2", 0, 65535 },
      I32 = { "<i4", -2147483648, 2147483647 }, U32 = { "<I4", 0, 2147483647 },
      I64 = { "<i8", -2147483648, 2147483647 }, U64 = { "<I8", 0, 2147483647 } }
    for dtype, limit in pairs(limits) do
      local got, as = loaded(dtype, limit[1], { limit[2], limit[3], 1 })
      assert.same({ limit[2], limit[3], 1 }, got, dtype)
      assert.equal("i32", as)
    end
  end)

  it("refuse to be cut", function()
    for dtype, case in pairs { U32 = { "<I4", 2147483648 }, I64 = { "<i8", -2147483649 },
      U64 = { "<I8", -1 } } do
      local got, message, code = loaded(dtype, case[1], { 5, case[2] })
      assert.is_nil(got)
      assert.equal("unsupported", code)
      assert.equal(("tensor `x`: element 2 of %s [2] does not fit into i32\n"
        .. "hint: raw() gives its bytes"):format(dtype), message)
    end
  end)

  it("of which no tensor can be had are data", function()
    local sizes = { F4 = 4, F6_E2M3 = 6, F6_E3M2 = 6, F8_E5M2 = 8, F8_E4M3 = 8, F8_E8M0 = 8,
      F8_E4M3FNUZ = 8, F8_E5M2FNUZ = 8, C64 = 64 }
    for dtype, size in pairs(sizes) do
      local data = ("\1\2\3\4\5\6\7\8"):sub(1, size)
      local file = saved { x = { dtype = dtype, shape = { 8 }, data = (data:rep(8)):sub(1, size) } }
      assert.same({ dtype = dtype, shape = { 8 }, bytes = size }, file:info("x"))
      assert.equal(size, #file:raw("x"))
      local tensor, message, code = file:tensor("x")
      assert.is_nil(tensor)
      assert.equal("unsupported", code)
      local want = ("tensor `x` is %s, which cannot become f32"):format(dtype)
      assert.truthy(message:find(want, 1, true))
    end
  end)

  it("can stay narrow", function()
    local file = saved({ x = core.tensor { 1, -2.5, 0.1 } }, nil, { dtype = "bf16" })
    local x = file:tensor("x", "bf16")
    assert.equal("bf16", x:dtype())
    assert.equal("BF16", file:info("x").dtype)
    assert.same(file:tensor("x"):totable(), x:to("f32"):totable())
    local half = file:tensor("x", "f16")
    assert.equal("f16", half:dtype())
    helper.close(half:to("f32"), { 1, -2.5, 0.1 }, 1e-2)
    assert.equal("unsupported", (select(3, file:tensor("x", "i32"))))
  end)

  -- The bytes of `value` after saving it as `dtype`.
  local function stored(values, dtype)
    local list = {}
    for i, value in ipairs(values) do list[i] = value end
    local file = saved({ x = core.tensor(list) }, nil, { dtype = dtype })
    local got, raw = {}, file:raw("x")
    for i = 1, #list do got[i] = string.unpack("<I2", raw, 2 * i - 1) end
    return got
  end

  it("round to the nearest even", function()
    -- Halfway between two bf16 numbers, just above, just below, and at the upper end.
    assert.same({ 0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0x7f7f, 0x0000, 0x0001 },
      stored({ float(0x3f808000), float(0x3f818000), float(0x3f808001), float(0x3f807fff),
        float(0x7f7f8000), float(0x7f7f7fff), float(0x00008000), float(0x00008001) }, "bf16"))
    assert.same({ 0x3c00, 0x3c02, 0x3c01, 0x7bff, 0x7c00, 0x0000, 0x0001, 0x0002, 0x0400 },
      stored({ 1 + 2.0 ^ -11, 1 + 3 * 2.0 ^ -11, 1 + 2.0 ^ -11 + 2.0 ^ -20, 65519, 65520,
        2.0 ^ -25, 1.5 * 2.0 ^ -25, 1.5 * 2.0 ^ -24, 2.0 ^ -14 - 2.0 ^ -26 }, "f16"))
  end)

  it("keep infinities, NaN, zeros and denormals", function()
    local inf, nan = math.huge, 0 / 0
    local patterns = { bf16 = { 0x7f80, 0xff80, 0x8000 }, f16 = { 0x7c00, 0xfc00, 0x8000 } }
    for dtype, want in pairs(patterns) do
      assert.same(want, stored({ inf, -inf, -0.0 }, dtype))
      local file = saved({ x = core.tensor { nan, 1 } }, nil, { dtype = dtype })
      local x = file:tensor("x"):totable()
      assert.is_true(x[1] ~= x[1])
      assert.equal(1, x[2])
    end
    local values = { 2.0 ^ -149, -2.0 ^ -130, inf, -0.0, 1.0000001 }
    local file = saved { x = core.tensor(values) }
    for i = 1, #values do
      assert.equal(bits(values[i]), (string.unpack("<I4", file:raw("x"), 4 * i - 3)))
    end
  end)

  it("survive many elements, in whatever pieces they are converted", function()
    local n = 5 * 1000 * 1000 + 7
    local x = core.arange(n)
    local file = saved({ x = x, y = x:reshape(n, 1):narrow(1, 3, 100000) }, nil, { dtype = "bf16" })
    local got = file:tensor("x")
    helper.close(got:narrow(1, 1, 257), x:narrow(1, 1, 257), 0)
    local last = string.unpack("<I2", file:raw("x"), 2 * n - 1)
    assert.equal(float(last << 16), got:narrow(1, n, 1):totable()[1])
    helper.close(got:narrow(1, n, 1), { n - 1 }, 2.0 ^ -8)
    assert.same({ 100000, 1 }, file:info("y").shape)
  end)
end)
