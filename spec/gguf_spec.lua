-- The GGUF reader: the verdicts of the reference reader, and where ours is stricter.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local made = require("spec.checkpoint_files")
local gguf = require("spec.gguf_files")

local json, system = core.json, core.system
local compose, pair, unhex = gguf.compose, gguf.pair, gguf.unhex

-- What the reference accepts and we refuse, with the reason.
local STRICTER = {
  ["bool = 2"] = "neither 0 nor 1",                     -- no boolean at all
  ["bool array with 7"] = "neither 0 nor 1",
  ["alignment 1"] = "follows the last tensor",          -- the case is padded to 32 all the same
  ["alignment 4"] = "follows the last tensor",
  ["tensor data missing (no_alloc read)"] = "past the end of the file",
  ["tensor data 1 byte short"] = "past the end of the file",
  ["empty tensor name"] = "is empty",                   -- cannot be asked for
  ["name with NUL"] = "holds a NUL",                    -- reads as another name in C
  ["dims product overflow"] = "product overflows",      -- wraps around to 0 bytes
  ["dims 2^40 x 2^40"] = "product overflows",
  ["extra bytes after last tensor"] = "follows the last tensor",    -- a place to hide things
}

describe("the reference's GGUF cases:", function()
  for _, case in ipairs(json.decode(assert(system.read("spec/golden/gguf_cases.json")))) do
    local stricter = STRICTER[case.name]
    local path = made.fresh_path(".gguf")
    if case.reference_accepts and not stricter then
      it("accepts " .. case.name, function()
        local file = assert(checkpoint.open(made.write(unhex(case.hex), path)))
        for _, name in ipairs(file:names()) do
          assert.equal(file:info(name).bytes, #file:raw(name))
        end
      end)
    else
      it("rejects " .. case.name, function()
        local file, message, code = checkpoint.open(made.write(unhex(case.hex), path))
        assert.is_nil(file)
        assert.equal("format", code)
        assert.equal(path .. ": ", message:sub(1, #path + 2))
        assert.truthy(message:find(stricter or "", 1, true), message)
      end)
    end
  end
end)

local function opened(spec) return assert(gguf.open(compose(spec))) end

local function refused(spec, text, code)
  local file, message, got = gguf.open(type(spec) == "table" and compose(spec) or spec)
  assert.is_nil(file)
  assert.equal(code or "format", got)
  assert.truthy(message:find(text, 1, true), message)
end

describe("a GGUF file", function()
  local floats = string.pack("<ffffff", 1, 2, 3, 4, 5, 6)

  it("has shapes in PyTorch's order, and scalars", function()
    local file = opened { tensors = { { "w", "F32", { 3, 2 }, floats },
      { "s", "F32", {}, string.pack("<f", 7) }, { "z", "F16", { 0, 5 }, "" } } }
    assert.same({ "s", "w", "z" }, file:names())
    assert.same({ dtype = "F32", shape = { 2, 3 }, bytes = 24 }, file:info("w"))
    assert.same({ { 1, 2, 3 }, { 4, 5, 6 } }, file:tensor("w"):totable())
    assert.equal(7, file:tensor("s"):item())
    assert.same({ 5, 0 }, file:tensor("z"):shape())
    assert.same({ file = file, name = "w" }, file:source("w"))
  end)

  it("holds integers and doubles too", function()
    local file = opened { tensors = { { "a", "I8", { 2 }, "\255\1" }, { "b", "I64", { 1 },
      string.pack("<i8", -5) }, { "c", "F64", { 1 }, string.pack("<d", 0.5) } } }
    assert.same({ -1, 1 }, file:tensor("a"):totable())
    assert.same({ -5 }, file:tensor("b"):totable())
    assert.same({ 0.5 }, file:tensor("c"):totable())
  end)

  it("gives its metadata as Lua values", function()
    local values = { { "u8", 255 }, { "i8", -128 }, { "u16", 65535 }, { "i16", -32768 },
      { "u32", 4294967295 }, { "i32", -2147483648 }, { "f32", 0.25 }, { "str", "a\0b" },
      { "i64", math.mininteger }, { "f64", 0.1 }, { "u64", math.maxinteger } }
    local pairs_of, expected = {}, {}
    for _, value in ipairs(values) do
      local kind, x = value[1], value[2]
      pairs_of[#pairs_of + 1] = pair(kind, kind, x)
      pairs_of[#pairs_of + 1] = pair("list." .. kind, kind, { x, x })
      expected[kind], expected["list." .. kind] = x, { x, x }
    end
    table.insert(pairs_of, 1, pair("yes", "bool", 1))
    table.insert(pairs_of, pair("bools", "bool", { 0, 1 }))
    table.insert(pairs_of, pair("none", "str", {}))
    expected.yes, expected.bools, expected.none = true, { false, true }, {}
    local file = opened { pairs = pairs_of }
    assert.same(expected, file:metadata())
    assert.equal("integer", math.type(file:metadata("u64")))
    assert.same({ 0.25, 0.25 }, file:metadata("list.f32"))
    assert.is_nil(file:metadata("nothing"))
  end)

  it("gives integers beyond 2^63 as floats", function()
    assert.equal(2.0^64, opened { pairs = { pair("k", "u64", -1) } }:metadata("k"))
  end)

  it("may have an alignment of its own, and no padding at its end", function()
    local spec = { alignment = 64, pairs = { pair("general.alignment", "u32", 64) },
      tensors = { { "a", "F32", { 1 }, "\0\0\0\0" }, { "b", "F32", { 6 }, floats } } }
    assert.same({ 1, 2, 3, 4, 5, 6 }, opened(spec):tensor("b"):totable())
    local bytes = compose(spec)
    assert.same({ 1, 2, 3, 4, 5, 6 },
      assert(gguf.open(bytes:sub(1, #bytes - 40))):tensor("b"):totable())
    refused(bytes:sub(1, #bytes - 39), "follows the last tensor")
    refused(bytes:sub(1, #bytes - 41), "tensor `b` (24 bytes) runs past the end of the file")
  end)

  it("is told by its content or by its name", function()
    local path = made.write(compose { tensors = { { "a", "F32", { 6 }, floats } } },
      made.fresh_path(".bin"))
    assert.same({ "a" }, assert(checkpoint.open(path)):names())
    refused("{}", "no GGUF file: it does not begin with `GGUF`")
  end)

  it("has no checksum to verify", function()
    local whole, message, code = opened {}:verify()
    assert.is_nil(whole)
    assert.equal("unsupported", code)
    assert.truthy(message:find("a GGUF file has no checksum", 1, true))
  end)

  it("may be cut anywhere: it is refused", function()
    local bytes = compose { pairs = { pair("a", "str", "text"), pair("l", "str", { "x", "yz" }),
      pair("n", "u16", { 1, 2, 3 }) }, tensors = { { "t", "F32", { 3, 2 }, floats } } }
    assert(gguf.open(bytes))
    for size = 0, #bytes - 9 do refused(bytes:sub(1, size), "") end
  end)
end)

describe("a GGUF file is refused", function()
  it("when it quantises in a way that is not supported", function()
    refused({ tensors = { { "t", 16, { 256 }, "" } } },
      "tensor `t` is quantised as IQ2_XXS, which is not supported", "unsupported")
    refused({ tensors = { { "t", 39, { 32 }, "" } } }, "MXFP4", "unsupported")
  end)

  it("for keys and names that are no text", function()
    refused({ pairs = { pair("a\0b", "u8", 1) } }, "key 1 holds a NUL")
    refused({ pairs = { pair("a\255", "u8", 1) } }, "key 1 is no UTF-8")
    refused({ pairs = { pair(("k"):rep(65536), "u8", 1) } }, "key 1 is longer than 65535 bytes")
    refused({ tensors = { { "a\255", "F32", { 0 }, "" } } }, "the name of tensor 1 is no UTF-8")
  end)

  it("for more of anything than a model can need", function()
    local head = "GGUF" .. string.pack("<I4", 3)
    refused(head .. string.pack("<I8I8", 1 << 21, 0), "2097152 tensors are more than 1048576")
    refused(head .. string.pack("<I8I8", 0, 1 << 17), "131072 pairs of metadata are more than")
    refused(head .. string.pack("<I8I8s8I4I4I8", 0, 1, "k", 9, 0, 1 << 25),
      "key `k` has 33554432 values, more than 16777216")
  end)

  it("when sizes or offsets overflow", function()
    local huge = 1 << 62
    refused({ tensors = { { "t", "F32", { huge, 4 }, "" } } }, "product overflows")
    refused({ tensors = { { "t", "Q8_0", { huge, 2 }, "" } } }, "product overflows")
    refused({ tensors = { { "t", "Q8_0", { huge }, "" } } }, "runs past the end")
    refused({ tensors = { { "t", "F32", { 0, huge, huge }, "" } } }, "product overflows")
    refused({ tensors = { { "t", "I8", { huge >> 2 }, "" } } }, "runs past the end")
  end)

  it("when blocks would be cut", function()
    refused({ tensors = { { "t", "Q4_0", { 16, 2 }, ("\0"):rep(18) } } },
      "tensor `t` has rows that are no whole blocks of Q4_0")
    refused({ tensors = { { "t", "Q6_K", {}, "" } } }, "no whole blocks of Q6_K")
  end)
end)
