-- Weights and caches in 16 bits, and products of few rows: values against f32, a row by itself
-- against the same row in company, every kernel variant and number of threads, misuse.
local host = require("moelua.host")
local helper = require("spec.helper")
local support = require("spec.ops.support")
local moe = require("moelua")
local core = require("moelua.core")
local close, ids, rejects = helper.close, support.ids, support.rejects

local TYPES = { "f32", "bf16", "f16" }
local function random(seed, ...)
  local sizes = { ... }
  sizes[#sizes + 1] = { seed = seed }
  return moe.randn(table.unpack(sizes))
end

-- The rows of x each by itself give the rows of f(x).
local function each_row(x, f)
  local y = f(x, 1, x:size(1))
  for i = 1, x:size(1) do
    assert.equal(y:narrow(1, i, 1):contiguous():bytes(), f(x:narrow(1, i, 1), i, 1):bytes())
  end
end

describe("linear with few rows", function()
  -- { rows, inputs, outputs }: around vectors, groups of rows, and the limit of 16 rows
  local sizes = { { 1, 1, 1 }, { 1, 5, 7 }, { 2, 31, 2 }, { 3, 70, 33 }, { 4, 64, 48 },
    { 5, 97, 3 }, { 16, 100, 31 }, { 17, 65, 31 }, { 40, 300, 100 }, { 70, 1030, 5 } }

  for _, dtype in ipairs(TYPES) do
    it("is the product with the weight as it is stored: " .. dtype, function()
      for s, size in ipairs(sizes) do
        local m, k, n = table.unpack(size)
        local x, w = random(s, m, k), random(-s, n, k):to(dtype)
        close(x:linear(w), x:matmul(w:to("f32"):transpose()), 2e-5)
        local bias = random(7, n)
        close(x:linear(w, bias), x:linear(w) + bias, 1e-6)
      end
    end)

    it("gives a row the same bits in any company: " .. dtype, function()
      local w = random(1, 37, 101):to(dtype)
      each_row(random(2, 16, 101), function(x) return x:linear(w) end)
    end)
  end

  it("takes views of weights, at any address", function()
    local w, x = random(3, 41, 33):to("bf16"), random(4, 2, 33)
    close(x:linear(w:narrow(1, 4, 30)), x:linear(w:to("f32"):narrow(1, 4, 30)), 1e-5)
    close(x:narrow(2, 2, 32):linear(w:narrow(2, 2, 32)),
      x:narrow(2, 2, 32):linear(w:to("f32"):narrow(2, 2, 32)), 1e-5)
  end)

  it("keeps infinities, NaN and subnormal numbers of f16", function()
    local odd = moe.tensor({ { 1 / 0 }, { -1 / 0 }, { 2^-24 }, { 3 * 2^-20 }, { -65504 }, { 0 } })
    local y = moe.ones(1, 1):linear(odd:to("f16")):totable()[1]
    assert.same({ 1 / 0, -1 / 0, 2^-24, 3 * 2^-20, -65504, 0 }, y)
    local nan = moe.ones(1, 1):linear(moe.tensor({ { 0 / 0 } }):to("f16")):item()
    assert.is_true(nan ~= nan)
  end)
end)

describe("embedding in 16 bits", function()
  it("gives the rows in f32", function()
    local w, rows = random(1, 9, 37):to("bf16"), ids({ 8, 0, 8, 3 })
    local y = w:embedding(rows)
    assert.equal("f32", y:dtype())
    close(y, w:to("f32"):embedding(rows), 0)
  end)
end)

describe("moe_ffn with few tokens, and in 16 bits", function()
  -- { tokens, slots, experts, hidden, dim }
  local sizes = { { 1, 2, 8, 48, 20 }, { 5, 3, 4, 33, 70 }, { 16, 1, 3, 100, 40 },
    { 2, 1, 1, 3, 5 }, { 16, 2, 8, 64, 97 }, { 45, 2, 4, 40, 36 } }

  for _, dtype in ipairs(TYPES) do
    it("is what the experts in f32 give: " .. dtype, function()
      for s, size in ipairs(sizes) do
        local T, k, E, I, d = table.unpack(size)
        local x = random(s, T, d)
        local gates, experts = random(s + 50, T, E):topk_route(k)
        local w1, w3, w2 = random(1, E, I, d):to(dtype), random(2, E, I, d):to(dtype),
          random(3, E, d, I):to(dtype)
        local y = x:moe_ffn(gates, experts, w1, w3, w2)
        local want = x:clone():requires_grad()           -- gradients go the way of many tokens
          :moe_ffn(gates, experts, w1:to("f32"), w3:to("f32"), w2:to("f32")):detach()
        close(y, want, 1e-3)                             -- of terms in the hundreds
        if T <= 16 then
          each_row(x, function(rows, first, n)
            return rows:moe_ffn(gates:narrow(1, first, n), experts:narrow(1, first, n), w1, w3, w2)
          end)
        end
      end
    end)
  end
end)

describe("attention over a cache", function()
  -- { batch, queries, room, heads, key heads, head }; the first sequence fills its room
  local sizes = { { 1, 1, 300, 6, 2, 48 }, { 3, 1, 129, 3, 3, 20 }, { 2, 5, 260, 4, 1, 64 },
    { 2, 17, 290, 4, 2, 32 }, { 1, 1, 1, 2, 1, 4 } }

  for _, dtype in ipairs(TYPES) do
    it("sees as many keys as each sequence has: " .. dtype, function()
      for s, size in ipairs(sizes) do
        local B, T, S, H, KV, D = table.unpack(size)
        local q = random(s, B, T, H, D)
        local k, v = random(-s, B, S, KV, D):to(dtype), random(s + 9, B, S, KV, D):to(dtype)
        local lengths = {}
        for b = 1, B do lengths[b] = math.max(T, S - (b - 1) * 131) end
        local y = q:attention(k, v, ids(lengths))
        for b = 1, B do
          local function keys(x) return x:narrow(1, b, 1):narrow(2, 1, lengths[b]) end
          local alone = q:narrow(1, b, 1):clone():requires_grad()
          close(y:narrow(1, b, 1),
            alone:attention(keys(k:to("f32")), keys(v:to("f32"))):detach(), 1e-5)
          local one = q:narrow(1, b, 1):attention(k:narrow(1, b, 1), v:narrow(1, b, 1),
            ids({ lengths[b] }))
          assert.equal(one:bytes(), y:narrow(1, b, 1):contiguous():bytes())
        end
      end
    end)
  end

  it("says what is wrong", function()
    local q, k = moe.ones(2, 1, 2, 4), moe.ones(2, 5, 2, 4)
    rejects("attention: one length per batch element is needed: lengths [1] and q [2 x 1 x 2 x 4]",
      q.attention, q, k, k, ids({ 3 }))
    for _, length in ipairs({ 0, 6 }) do
      rejects(("attention: length 2 is %d, but must be 1 (the queries) to 5 (the keys)")
        :format(length), q.attention, q, k, k, ids({ 3, length }))
    end
    rejects("attention: the element types differ: bf16 and f32", q.attention, q, k:to("bf16"), k)
    rejects("attention: lengths are for inference: there are no gradients\n" ..
      "hint: moe.no_grad(function() ... end)", q.attention, q:clone():requires_grad(), k, k,
      ids({ 1, 1 }))
  end)
end)

describe("rope with starts", function()
  it("turns each batch element from its own position on", function()
    local x = random(1, 2, 3, 2, 6)
    local y = x:rope(100, 2, ids({ 0, 7 }))
    close(y:narrow(1, 1, 1), x:narrow(1, 1, 1):rope(100, 2), 0)
    close(y:narrow(1, 2, 1), x:narrow(1, 2, 1):rope(100, 9), 0)
    rejects("rope: one start per batch element is needed: starts [1] and x [2 x 3 x 2 x 6]", x.rope,
      x, 100, 0, ids({ 1 }))
    rejects("rope: starts has -1 at position 2, but must be 0 to 2147483646", x.rope, x, 100, 0,
      ids({ 1, -1 }))
  end)
end)

describe("what is stored in 16 bits", function()
  it("has no gradients", function()
    local x, w = moe.ones(2, 3):requires_grad(), moe.ones(4, 3):to("bf16")
    rejects("linear: bf16 is for inference: there are no gradients\n" ..
      "hint: model:to(\"f32\"), or moe.no_grad(function() ... end)", x.linear, x, w)
    close(moe.no_grad(x.linear, x, w), moe.full(3, 2, 4), 0)
  end)

  it("serves weights alone", function()
    local half = moe.ones(2, 2):to("bf16")
    rejects("add: a is bf16, but must be f32\nhint: a:to(\"f32\")", moe.add, half, half)
    rejects("matmul: b is bf16, but must be f32\nhint: b:to(\"f32\")", moe.matmul, moe.ones(2, 2),
      half)
    rejects("linear: x is bf16, but must be f32\nhint: x:to(\"f32\")", moe.linear, half, half)
    rejects("linear: weight is i32, but must be f32\nhint: weight:to(\"f32\")", moe.linear,
      moe.ones(2, 2), ids({ { 1, 2 } }))
  end)
end)

describe("put_rows_", function()
  it("writes rows in the type of the target", function()
    local x = moe.zeros(4, 2, { dtype = "bf16" })
    assert.equal(x, x:put_rows_(ids({ 3, 0 }), moe.tensor({ { 1, 2 }, { 3, 1 + 2^-12 } })))
    assert.same({ { 3, 1 }, { 0, 0 }, { 0, 0 }, { 1, 2 } }, x:totable())
  end)

  it("says what is wrong", function()
    local x = moe.zeros(4, 2)
    rejects("put_rows_: rows [2] (i32) of [4 x 2] do not take [3]", x.put_rows_, x, ids({ 0, 1 }),
      moe.ones(3))
    rejects("put_rows_: row 4 is not one of the 4", x.put_rows_, x, ids({ 4 }), moe.ones(2))
    rejects("put_rows_: the tensors must be contiguous\nhint: x:contiguous()", x.put_rows_,
      x:transpose(), ids({ 0 }), moe.ones(4))
    assert.same(moe.zeros(4, 2):totable(), x:totable())
  end)
end)

local SCRIPT = [[
local core, moe = require("moelua.core"), require("moelua")
local m = moe.model.new({ dim = 36, layers = 2, heads = 6, kv_heads = 2, vocab = 300, std = 0.3,
  context = 200, ffn = { kind = "moe", experts = 5, hidden = 67, router = { k = 2 } } })
local prompts = {}
for i = 1, 3 do
  prompts[i] = {}
  for j = 1, 60 * i - 50 do prompts[i][j] = i * j * 7 % 300 end
end
local out = { bits = {}, sum = {} }
for _, dtype in ipairs({ "f32", "bf16", "f16" }) do
  m:to(dtype)
  local logits = m:logits(prompts[1]):detach()
  out.sum[dtype] = (logits * logits):mean():item()
  out.bits[dtype] = logits:hash()
  local text = m:generate_ids(prompts, { max_tokens = 20, temperature = 1 })
  out.bits[dtype .. " text"] = core.json.encode(text)
end
print(core.json.encode(out))
]]

describe("decoding", function()
  local folder = helper.tmpdir()
  local script = folder .. "/decode.lua"
  assert(core.system.write(script, SCRIPT))

  -- nil when this processor cannot run the variant.
  local function run(threads, kernels)
    local out, err = folder .. "/out", folder .. "/err"     -- spawn appends to what is there
    os.remove(out)
    os.remove(err)
    local status = assert(assert(core.system.spawn({ host.program, script, stdout = out,
      stderr = err, env = { MOELUA_THREADS = tostring(threads), MOELUA_KERNELS = kernels } }))
      :wait(60 * helper.patience), "the child hangs")
    local message = assert(core.system.read(err))
    if message:find("cannot run here", 1, true) then return nil end
    assert.same({ exited = 0 }, status, message)
    return core.json.decode(core.system.read(out))
  end

  it("agrees between the kernel variants, with the same bits for 1 and 2 threads", function()
    local plain = assert(run(1, "plain"))
    for _, kernels in ipairs({ "plain", "openblas", "avx2", "avx512", "avx512bf16", "amx" }) do
      local one, two = run(1, kernels), run(2, kernels)
      if one then
        assert.same(one.bits, two.bits)
        for dtype, sum in pairs(plain.sum) do close(one.sum[dtype], sum, 1e-4) end
      end
    end
  end)
end)
