-- Quantised types: the bits of the reference implementation.
local core = require("moelua.core")
local gguf = require("spec.gguf_files")

local json, system = core.json, core.system

local golden = json.decode(assert(system.read("spec/golden/ggml_quant_golden.json")))

-- Elements as the file holds them; the names of the golden data are those of ggml.
local function load(case, data, dtype)
  local kind = case.type:upper()
  local n = #data // case.bytes_per_block * case.block
  local file = assert(gguf.open(gguf.compose { tensors = { { "t", kind, { n }, data } } }))
  return file:tensor("t", dtype)
end

local function pack(tensor)
  local parts = {}
  for i, x in ipairs(tensor:totable()) do parts[i] = string.pack("<f", x) end
  return table.concat(parts)
end

describe("dequantisation gives the bits of the reference:", function()
  for _, case in ipairs(golden) do
    it(case.type, function()
      local expected = gguf.unhex(case.dequant_f32le)
      assert.equal(expected, pack(load(case, gguf.unhex(case.quantised))))
      if case.random_blocks then
        local random = load(case, gguf.unhex(case.random_blocks))
        assert.equal(gguf.unhex(case.random_dequant_f32le), pack(random))
      end
    end)

    it(case.type .. ", rounded to bf16 and f16", function()
      local data = gguf.unhex(case.quantised)
      local exact = load(case, data)
      for _, dtype in ipairs { "bf16", "f16" } do
        local got = load(case, data, dtype)
        assert.equal(dtype, got:dtype())
        assert.equal(exact:to(dtype):bytes(), got:bytes())
      end
    end)
  end

  it("in tensors of many blocks, with any number of threads", function()
    for _, case in ipairs(golden) do
      local data, expected = gguf.unhex(case.quantised), gguf.unhex(case.dequant_f32le)
      local times = 300                                         -- more than a task takes
      local kind, n = case.type:upper(), #expected // 4 * times
      local file = assert(gguf.open(gguf.compose { tensors = {
        { "t", kind, { n // times, times }, data:rep(times) } } }))
      local t = file:tensor("t")
      assert.same({ times, n // times }, t:shape())
      assert.equal(expected, pack(t:select(1, 1)))
      assert.equal(expected, pack(t:select(1, times // 2)))
      assert.equal(expected, pack(t:select(1, times)))
    end
  end)
end)
