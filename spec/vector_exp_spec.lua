-- The exponential that softmax, attention, SwiGLU and the losses share, against the one of the C
-- library in double: every variant of it, over all of its range.

local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")
local moe = require("moelua")

local system = core.system

-- Prints the largest error in units of the last place. `float` walks over floats by their bits.
local SCRIPT = [[
local core = require("moelua.core")
local moe = require("moelua")
local STEP, BLOCK = 1709, 1 << 14
local digits, lowest = moe.double and 52 or 23, moe.double and -708.39 or -87.33654
local highest = moe.double and 709.78 or 88.72283
local worst, where = 0, 0

local function check(list)
  local got = moe.exp(moe.tensor(list)):totable()
  for i = 1, #list do
    local x, y = list[i], got[i]
    if x > lowest and x < highest then
      local exact = math.exp(x)
      local _, exponent = ("%a"):format(exact):match("(p)([-+]%d+)")
      local off = math.abs(y - exact) / 2.0 ^ (math.tointeger(exponent) - digits)
      if not (off <= worst) then worst, where = off, x end
    end
  end
end

local list = {}
for bits = 0, 0x42b20000, STEP do
  local x = string.unpack("<f", string.pack("<I4", bits))
  list[#list + 1], list[#list + 2] = x, -x
  if #list >= BLOCK then
    check(list)
    list = {}
  end
end
check(list)
for sign = -1, 1, 2 do                  -- all floats where the exponent of the result is extreme
  list = {}
  local edge = string.unpack("<I4", string.pack("<f", sign * (sign < 0 and lowest or highest)))
  for bits = edge - 3000, edge + 3000 do
    list[#list + 1] = sign * string.unpack("<f", string.pack("<I4", bits))
  end
  check(list)
end
local nan, inf = 0 / 0, math.huge
local ends = moe.exp(moe.tensor({ -inf, -1e30, lowest - 0.001, highest + 0.001, 1e30, inf }))
ends = ends:totable()
for i = 1, 6 do assert(ends[i] == (i < 4 and 0 or inf), i) end
local last = moe.exp(moe.tensor({ nan, -nan, 0, -0.0, nan })):totable()
for i, x in ipairs(last) do assert(i == 3 or i == 4 or x ~= x, i) end
assert(last[3] == 1 and last[4] == 1)
print(worst, where, core.kernels)
]]

describe("the exponential of the kernels", function()
  local folder = helper.tmpdir()
  local script, out, err = folder .. "/exp.lua", folder .. "/out", folder .. "/err"
  assert(system.write(script, SCRIPT))

  for _, kernels in ipairs({ "plain", "avx2", "avx512" }) do
    it("is within 2 ulp and keeps NaN and infinities: " .. kernels, function()
      os.remove(out)
      os.remove(err)
      local process = assert(system.spawn({ host.program, script, stdout = out, stderr = err,
        env = { MOELUA_KERNELS = kernels } }))
      local status, message = assert(process:wait(120), "the child hangs"), system.read(err)
      if message:find("cannot run here", 1, true) then return end
      assert.same({ exited = 0 }, status, message)
      local worst, where, name = system.read(out):match("(%S+)%s+(%S+)%s+(%S+)")
      assert.equal(kernels, name)
      assert.is_true(tonumber(worst) <= (moe.double and 4 or 2), worst .. " ulp at " .. where)
    end)
  end
end)
