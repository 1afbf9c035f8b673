-- The same bits for any number of threads, and the same numbers from every kernel variant: two
-- optimizer steps of a small mixture in sizes that no block divides, each in a process of its own.

local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")

local json, system = core.json, core.system

local SCRIPT = [[
local core = require("moelua.core")
local moe = require("moelua")
local model = moe.model.new({ dim = 60, layers = 2, heads = 6, kv_heads = 2, vocab = 131,
  context = 70, seed = 3, std = 0.1, tied = false, ffn = { { hidden = 101 },
  { kind = "moe", experts = 5, hidden = 67, router = { k = 2, z_loss = 1e-3, balance = {} } } } })
local ids = (moe.rand(5, 71, { seed = 4, stream = "ids" }) * 131):to("i32")
local x, y = ids:narrow(2, 1, 70):contiguous(), ids:narrow(2, 2, 70):contiguous()
core.precision(os.getenv("PRECISION"))
local out = { threads = core.threads, kernels = core.kernels, bits = {}, loss = {}, norm = {} }
local params, m, v = model:parameters(), {}, {}
for i, p in ipairs(params) do m[i], v[i] = moe.zeros(p[2]:shape()), moe.zeros(p[2]:shape()) end
for step = 1, 2 do
  local loss = model:loss(x, y)
  out.loss[step] = loss:item()
  loss:backward()
  for _, p in ipairs(params) do
    local name = ("%s, gradient of step %d"):format(p[1], step)
    out.bits[name] = core.system.hash(p[2]:grad():bytes())
    out.norm[name] = core.grad_norm({ p[2] })
  end
  out.norm["all of step " .. step] = moe.clip_grad_norm(moe.nn.tensors(model), 0.5)
  for i, p in ipairs(params) do
    core.adamw_step({ p[2] }, { m[i] }, { v[i] }, { step = step, lr = 1e-2, weight_decay = 0.1 })
    p[2]:zero_grad()
    out.bits[("%s after step %d"):format(p[1], step)] = core.system.hash(p[2]:bytes())
  end
end
local wide = moe.randn(613, 613, { seed = 5 }):requires_grad()
local row = moe.randn(613, { seed = 6 }):requires_grad()
local z = (wide * row + row):softmax(-1):log():transpose():matmul(wide):gelu()
z:mean():backward()
local wants = moe.randn(37, 41, 23, { seed = 7 }):requires_grad()
local gates, choice = wants:expert_choice_route(9, "batch");
(gates * gates):sum():backward()
out.bits.choice = core.system.hash(choice:bytes() .. wants:grad():bytes())
out.bits.composed = core.system.hash(z:bytes() .. wide:grad():bytes() .. row:grad():bytes())
out.bits.normal = core.system.hash(moe.randn(70001, { seed = 8 }):bytes())
print(core.json.encode(out))
]]

describe("results", function()
  local folder = helper.tmpdir()
  local script = folder .. "/step.lua"
  assert(system.write(script, SCRIPT))

  -- nil when this processor cannot run the variant.
  local function run(threads, kernels, precision)
    local out, err = folder .. "/out", folder .. "/err"     -- spawn appends to what is there
    os.remove(out)
    os.remove(err)
    local process = assert(system.spawn({ host.program, script, stdout = out, stderr = err,
      env = { MOELUA_THREADS = tostring(threads), MOELUA_KERNELS = kernels or "",
        PRECISION = precision or "f32" } }))
    local status = assert(process:wait(60), "the child hangs")
    local message = assert(system.read(err))
    if message:find("cannot run here", 1, true) then return nil end
    assert.same({ exited = 0 }, status, message)
    local result = assert(json.decode(assert(system.read(out))))
    assert.equal(threads, result.threads)
    return result
  end

  it("have the same bits for 1, 2, 3 and 7 threads", function()
    local one = run(1)
    assert.is_not_nil(one.bits["layers.1.ffn.experts.w2, gradient of step 2"])
    assert.is_true(one.loss[2] < one.loss[1])
    for _, threads in ipairs({ 2, 3, 7 }) do
      local other = run(threads)
      assert.same(one.bits, other.bits)
      assert.same(one.loss, other.loss)
      assert.same(one.norm, other.norm)
    end
  end)

  it("have the same bits when the same thing runs again", function()
    assert.same(run(2).bits, run(2).bits)
  end)

  it("agree between the kernel variants, each of which gives the same bits for 1 and 2 threads",
    function()
      local plain = assert(run(1, "plain"))
      assert.equal("plain", plain.kernels)
      assert.same(plain.bits, run(2, "plain").bits)
      for _, kernels in ipairs({ "avx2", "avx512", "avx512bf16", "amx" }) do
        local one = run(1, kernels)
        if one then
          assert.equal(kernels, one.kernels)
          assert.same(one.bits, run(2, kernels).bits)
          helper.close(one.loss, plain.loss, 1e-5)
          for name, norm in pairs(plain.norm) do
            assert(math.abs(one.norm[name] / norm - 1) < 2e-3,
              ("%s: %s gives %g, plain %g"):format(name, kernels, one.norm[name], norm))
          end
        end
      end
    end)

  it("of bf16 have the same bits for 1 and 2 threads too, in each kernel variant", function()
    local plain = assert(run(1))
    for _, kernels in ipairs({ "plain", "openblas", "avx2", "avx512", "avx512bf16", "amx" }) do
      local one = run(1, kernels, "bf16")
      if one then
        assert.same(one.bits, run(2, kernels, "bf16").bits)
        assert.not_same(plain.loss, one.loss)
        helper.close(one.loss, plain.loss, 2e-3)
        for name, norm in pairs(plain.norm) do
          assert(math.abs(one.norm[name] / norm - 1) < 0.05,
            ("%s: %s gives %g, f32 %g"):format(name, kernels, one.norm[name], norm))
        end
      end
    end
  end)
end)
