-- moe_ffn against its formula in plain Lua, with all gradients, over sizes that divide nothing:
-- with every activation, in f32 and bf16, by every kernel variant, with the same bits for any
-- number of threads; and how much memory it takes.

local core = require("moelua.core")
local experts = require("spec.ops.experts")
local helper = require("spec.helper")
local host = require("moelua.host")
local moe = require("moelua")

local json, system = core.json, core.system

-- T, k, E, I, d. More experts than rows; several blocks of rows; sums longer than one step of k.
local CASES = {
  { 1, 1, 1, 3, 17 }, { 1, 4, 9, 40, 41 }, { 2, 2, 3, 1, 1 }, { 7, 2, 5, 33, 3 },
  { 16, 1, 9, 100, 33 }, { 33, 4, 9, 17, 100 }, { 64, 2, 8, 33, 33 }, { 70, 3, 4, 100, 17 },
  { 50, 2, 40, 35, 70 }, { 600, 2, 3, 32, 33 }, { 1030, 1, 1, 7, 3 }, { 5, 2, 2, 3, 801 },
  { 5, 2, 2, 801, 3 },
}

-- Bits and norms of everything, in both precisions.
local SCRIPT = [[
local moe, core = require("moelua"), require("moelua.core")
local out = { kernels = core.kernels, bits = {}, norm = {} }
local function run(T, k, E, I, d, precision, activation)
  moe.precision(precision)
  local function leaf(...) return moe.randn(...):requires_grad() end
  local gates, experts = moe.randn(T, E, { seed = 1 }):topk_route(k)
  local rows = experts:totable()
  for t = 1, T, 3 do rows[t][k] = -1 end
  experts = moe.tensor(rows, "i32")
  local inputs = { leaf(T, d, { seed = 2 }), gates:clone():requires_grad(),
    leaf(E, I, d, { seed = 3, std = 0.3 }), leaf(E, d, I, { seed = 5, std = 0.3 }),
    not activation and leaf(E, I, d, { seed = 4, std = 0.3 }) or nil }
  local y = moe.moe_ffn(inputs[1], inputs[2], experts, inputs[3], inputs[5], inputs[4],
    activation);
  (y * moe.randn(T, d, { seed = 6 })):sum():backward()
  local all = { y:detach() }
  for i, t in ipairs(inputs) do all[i + 1] = t:grad() end
  for i, t in ipairs(all) do
    local name = ("%s %s, %d tokens, tensor %d"):format(precision, activation, T, i)
    out.bits[name] = core.system.hash(t:bytes())
    out.norm[name] = math.sqrt((t * t):sum():item())
  end
end
for _, precision in ipairs({ "f32", "bf16" }) do
  run(203, 3, 5, 70, 45, precision)
  run(900, 2, 2, 33, 40, precision)
  run(23, 2, 8, 100, 33, precision)
  for _, activation in ipairs({ "relu", "gelu", "silu" }) do
    run(140, 2, 3, 70, 36, precision, activation)
  end
end
print(core.json.encode(out))
]]

describe("moe_ffn", function()
  for number, case in ipairs(CASES) do
    it("follows its formula for T, k, E, I, d = " .. table.concat(case, ", "), function()
      local plain = ({ "relu", "gelu", "silu" })[number % 3 + 1]
      for _, activation in ipairs({ "swiglu", plain }) do
        local T, k, E, I, d = table.unpack(case)
        local given = experts.make(T, k, E, I, d, activation)
        local want = experts.expected(given)
        experts.agrees(given, want, 2e-6)
        -- where rounding makes another side of 0, relu has another slope
        local bound = activation == "relu" and 8e-2 or 3e-2
        experts.in_bf16(function() experts.agrees(given, want, bound) end)
      end
    end)
  end

  it("with one expert is the dense feed-forward layer, each within 2e-6", function()
    local given = experts.make(150, 1, 1, 100, 36)
    local function of(w) return given[w]:select(1, 1):contiguous() end
    local y = moe.moe_ffn(given.x, given.gates, given.experts, given.w1, given.w3, given.w2)
    local dense = given.x:linear(of("w1")):swiglu(given.x:linear(of("w3"))):linear(of("w2"))
    helper.close(given.gates, moe.ones(150, 1), 0)
    helper.close(y, dense, 4e-6)
  end)

  it("keeps two projections, and backward takes no more than twice their memory", function()
    local T, k, E, I, d = 3000, 2, 3, 128, 32
    local given = experts.make(T, k, E, I, d)
    local leaf = {}
    for _, name in ipairs(experts.names) do leaf[name] = given[name]:clone():requires_grad() end
    local function peak()
      local _ <close> = moe.scope()
      local y = moe.moe_ffn(leaf.x, leaf.gates, given.experts, leaf.w1, leaf.w3, leaf.w2)
      local loss = (y * given.dy):sum()
      local held = moe.memory().live
      loss:backward()
      return held
    end
    peak()                                      -- scratch, packed weights and gradients are there
    local before = moe.memory().live
    moe.memory({ limit = 0 })
    local hidden, rows, tokens = 4 * T * k * I, 4 * T * k * d, 4 * T * d
    local held = peak() - before
    assert(held > 2 * hidden and held < 2.3 * hidden + 3 * tokens, held)
    -- the most that backward may add: dg, du, dx by rows and by token, the gradient of y
    moe.memory({ limit = before + math.floor(1.15 * (4 * hidden + rows + 5 * tokens)) })
    local ok, message = pcall(peak)
    moe.memory({ limit = 0 })
    assert(ok, message)
  end)

  it("has the same bits on any number of threads, and agrees between the kernel variants",
    function()
      local folder = helper.tmpdir()
      local script, out, err = folder .. "/run.lua", folder .. "/out", folder .. "/err"
      assert(system.write(script, SCRIPT))
      local function run(threads, kernels)
        os.remove(out)
        os.remove(err)
        local status = system.spawn({ host.program, script, stdout = out, stderr = err,
          env = { MOELUA_THREADS = tostring(threads), MOELUA_KERNELS = kernels } }):wait(60)
        local message = assert(system.read(err))
        if message:find("cannot run here", 1, true) then return nil end
        assert.same({ exited = 0 }, status, message)
        return assert(json.decode(assert(system.read(out))))
      end
      local plain = assert(run(1, "plain"))
      for _, kernels in ipairs({ "plain", "openblas", "avx2", "avx512", "avx512bf16", "amx" }) do
        local one = run(1, kernels)
        if one then
          assert.equal(kernels, one.kernels)
          assert.same(one.bits, run(2, kernels).bits)
          assert.same(one.bits, run(3, kernels).bits)
          for name, norm in pairs(plain.norm) do
            local bound = name:find("bf16", 1, true) and 1e-3 or 1e-6
            assert(math.abs(one.norm[name] / norm - 1) < bound,
              ("%s: %s gives %.9g, plain %.9g"):format(name, kernels, one.norm[name], norm))
          end
        end
      end
    end)
end)
