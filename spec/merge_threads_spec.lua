-- Merged tensors have the same bits for any number of threads and every kernel variant.
local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")

local json, system = core.json, core.system

local SCRIPT = [[
local core = require("moelua.core")
local methods = require("spec.merge_methods")
local out = { threads = core.threads, bits = {} }
for method in pairs(methods.params) do
  for _, shape in ipairs { { 150, 611 }, { 1, 140003 } } do
    local x, figures = core.checkpoint.merge(methods.entry(method, shape[1], shape[2]))
    out.bits[method .. shape[1] ] = { x:hash(), figures }
  end
end
local half = methods.entry("linear", 70, 1000)
half.dtype = "F16"
out.bits.half = core.checkpoint.merge(half):hash()
print(core.json.encode(out))
]]

describe("merges", function()
  local folder = helper.tmpdir()
  local script = folder .. "/merges.lua"
  assert(system.write(script, SCRIPT))

  -- nil when this processor cannot run the variant.
  local function run(threads, kernels)
    local out, err = folder .. "/out", folder .. "/err"     -- spawn appends to what is there
    os.remove(out)
    os.remove(err)
    local process = assert(system.spawn({ host.program, script, stdout = out, stderr = err,
      env = { MOELUA_THREADS = tostring(threads), MOELUA_KERNELS = kernels or "" } }))
    local status = assert(process:wait(60), "the child hangs")
    local message = assert(system.read(err))
    if message:find("cannot run here", 1, true) then return nil end
    assert.same({ exited = 0 }, status, message)
    return assert(json.decode(assert(system.read(out)))).bits
  end

  it("have the same bits for 1, 2 and 7 threads, and in all kernel variants", function()
    local one = run(1)
    assert.is_string(one.half)
    assert.same(one, run(2))
    assert.same(one, run(7))
    for _, kernels in ipairs { "plain", "avx2", "avx512" } do
      local other = run(2, kernels)
      if other then assert.same(one, other) end
    end
  end)
end)
