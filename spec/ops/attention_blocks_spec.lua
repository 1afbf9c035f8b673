-- attention against the same thing composed of plain operations, in sizes around its blocks: 32
-- queries or keys side by side, 128 of a step, several steps, tasks and heads that share keys.

local core = require("moelua.core")
local helper = require("spec.helper")
local host = require("moelua.host")
local moe = require("moelua")

local close, system = helper.close, core.system

-- {B, T, S, H, KV, D}
local SIZES = {
  { 1, 1, 1, 1, 1, 1 }, { 2, 2, 2, 2, 1, 2 }, { 1, 31, 31, 3, 1, 16 }, { 2, 33, 33, 2, 2, 33 },
  { 1, 63, 64, 3, 3, 48 }, { 1, 64, 64, 2, 1, 64 }, { 1, 65, 65, 1, 1, 100 },
  { 3, 66, 95, 6, 2, 2 }, { 1, 130, 130, 2, 1, 48 }, { 1, 2, 130, 2, 2, 16 },
  { 1, 31, 300, 3, 1, 1 }, { 17, 33, 161, 1, 1, 2 }, { 1, 290, 290, 1, 1, 33 },
}

local function make(size)
  local B, T, S, H, KV, D = table.unpack(size)
  return moe.randn(B, T, H, D, { seed = 1 }), moe.randn(B, S, KV, D, { seed = 2 }),
    moe.randn(B, S, KV, D, { seed = 3 }), moe.randn(B, T, H, D, { seed = 4 })
end

-- 0 where query t of the last T of S positions sees the key, else a number that exp turns into 0.
local function causal(T, S)
  local mask = {}
  for t = 1, T do
    mask[t] = {}
    for j = 1, S do mask[t][j] = j <= S - T + t and 0 or -1e30 end
  end
  return moe.tensor(mask)
end

-- The heads one by one: softmax(q k^T / sqrt(D) + mask) v as {b, h, [T x D]}.
local function composed(q, k, v)
  local heads, mask, group = {}, causal(q:size(2), k:size(2)), q:size(3) // k:size(3)
  for b = 1, q:size(1) do
    for h = 1, q:size(3) do
      local function head(x, i) return x:select(1, b):select(2, i) end
      local kv = (h - 1) // group + 1
      local scores = head(q, h):matmul(head(k, kv):transpose()) * q:size(4) ^ -0.5
      heads[#heads + 1] = { b, h, (scores + mask):softmax(-1):matmul(head(v, kv)) }
    end
  end
  return heads
end

local function gradients(loss, leaves)
  loss:backward()
  local list = {}
  for i, x in ipairs(leaves) do
    list[i] = x:grad()
    x:zero_grad()
  end
  return list
end

-- Output and gradients by the node, on leaves.
local function attended(q, k, v, dy)
  local y = q:attention(k, v)
  local list = gradients((y * dy):sum(), { q, k, v })
  list[4] = y:detach()
  return list
end

local function check(size, tolerance, near)
  local q, k, v, dy = make(size)
  local leaves = { q:requires_grad(), k:requires_grad(), v:requires_grad() }
  local got, loss = attended(q, k, v, dy), 0
  for _, head in ipairs(composed(q, k, v)) do
    local b, h, y = table.unpack(head)
    near(got[4]:select(1, b):select(2, h), y:detach(), tolerance)
    loss = loss + (y * dy:select(1, b):select(2, h)):sum()
  end
  for i, want in ipairs(gradients(loss, leaves)) do near(got[i], want, tolerance) end
end

describe("attention", function()
  for _, size in ipairs(SIZES) do
    it("of B, T, S, H, KV, D = " .. table.concat(size, ", ") .. " is right", function()
      check(size, 3e-5, close)
    end)
  end

  -- Operands are rounded to 8 bits, sums are not: errors stay below a hundredth of the whole.
  it("in bf16 is near", function()
    local function near(got, want, tolerance)
      local off = (got - want):pow(2):sum():item() ^ 0.5
      assert.is_true(off <= tolerance * want:pow(2):sum():item() ^ 0.5 + 1e-6)
    end
    for i = 3, #SIZES do                        -- the gradients of one key by q and k are 0
      local q, k, v, dy = make(SIZES[i])
      local leaves = { q:requires_grad(), k:requires_grad(), v:requires_grad() }
      local want = attended(leaves[1], leaves[2], leaves[3], dy)
      local before = moe.precision("bf16")
      local ok, got = pcall(attended, leaves[1], leaves[2], leaves[3], dy)
      moe.precision(before)
      assert(ok, got)
      for j = 1, 4 do near(got[j], want[j], 0.02) end
      assert.is_true((got[4] - want[4]):pow(2):sum():item() > 0)
    end
  end)

  it("adds up when one tensor stands in all places", function()
    for _, size in ipairs({ { 1, 5 }, { 1, 300 }, { 20, 40 } }) do
      local B, T = table.unpack(size)
      local x, _, _, dy = make({ B, T, T, 1, 1, 3 })
      local apart = attended(x:clone():requires_grad(), x:clone():requires_grad(),
        x:clone():requires_grad(), dy)
      local all = x:requires_grad()
      local got = gradients((all:attention(all, all) * dy):sum(), { all })[1]
      close(got, apart[1] + apart[2] + apart[3], 1e-5)
    end
  end)

  it("adds to gradients that are there", function()
    local q, k, v, dy = make({ 1, 130, 140, 2, 1, 3 })
    local leaves = { q:requires_grad(), k:requires_grad(), v:requires_grad() }
    local once = attended(q, k, v, dy)
    for _ = 1, 2 do (q:attention(k, v) * dy):sum():backward() end
    for i, x in ipairs(leaves) do close(x:grad(), once[i] * 2, 1e-5) end
  end)

  -- A score of a later key never counts, whatever it is; NaN stays in the rows that see it.
  it("keeps NaN and infinities to the queries that see them", function()
    for _, value in ipairs({ 0 / 0, math.huge, -math.huge }) do
      for _, at in ipairs({ 3, 40, 133 }) do
        local q, k, v = make({ 1, 140, 140, 1, 1, 3 })
        local before = q:attention(k, v)
        local one = k:clone()
        one:select(2, at):fill_(value)
        close(q:attention(one, v):narrow(2, 1, at - 1), before:narrow(2, 1, at - 1), 0)
        local y = q:clone()
        y:select(2, at):fill_(value)
        y = y:attention(k, v)
        local sum = y:select(2, at):sum():item()
        assert.is_true(sum ~= sum)
        close(y:narrow(2, 1, at - 1), before:narrow(2, 1, at - 1), 0)
        close(y:narrow(2, at + 1, 140 - at), before:narrow(2, at + 1, 140 - at), 0)
      end
    end
    local q, k, v = make({ 1, 2, 2, 1, 1, 1 })
    local sum = (q * 0 + 1):attention(k * 0 - math.huge, v):sum():item()
    assert.is_true(sum ~= sum)                  -- a row of -inf has no largest score
  end)

  it("needs little memory for long sequences", function()
    local q, k, v, dy = make({ 1, 4096, 4096, 2, 1, 4 })
    local leaves = { q:requires_grad(), k:requires_grad(), v:requires_grad() }
    collectgarbage()
    local before = moe.memory()
    attended(leaves[1], leaves[2], leaves[3], dy)
    assert.is_true(moe.memory().peak - before.peak < 12 << 20)  -- scores of one head: 64 MB
  end)

  it("goes back once all memory is there", function()
    local q, k, v, dy = make({ 1, 300, 300, 2, 1, 3 })
    q:requires_grad()
    k:requires_grad()
    v:requires_grad()
    local want = attended(q, k, v, dy)
    for first = 1, 40 do
      local y = (q:attention(k, v) * dy):sum()
      core.fail_allocation(first, 1)
      local ok, message = pcall(y.backward, y)
      core.fail_allocation()
      if not ok then assert.matches("out of memory", tostring(message), 1, true) end
      for i, x in ipairs({ q, k, v }) do
        if ok then close(x:grad(), want[i], 0) end
        x:zero_grad()
      end
    end
  end)

  it("works after an interrupt", function()
    local q, k, v = make({ 2, 200, 200, 2, 2, 16 })
    local want = q:attention(k, v):bytes()
    core.interrupt("operation")
    local ok, message = pcall(q.attention, q, k, v)
    assert.is_false(ok)
    assert.equal("interrupted!", message)
    assert.equal(want, q:attention(k, v):bytes())
  end)
end)

-- ---- threads and kernel variants, each in a process of its own ----------------------------------

local SCRIPT = [[
local moe = require("moelua")
local out, n = {}, 0
local function add(x)
  n = n + 1
  out[("%03d"):format(n)] = x
end
for _, size in ipairs({ { 2, 70, 70, 3, 1, 48 }, { 1, 290, 300, 2, 2, 33 }, { 9, 33, 65, 2, 1, 64 },
  { 1, 600, 600, 2, 1, 5 } }) do
  local B, T, S, H, KV, D = table.unpack(size)
  local q = moe.randn(B, T, H, D, { seed = 1 }):requires_grad()
  local k = moe.randn(B, S, KV, D, { seed = 2 }):requires_grad()
  local v = moe.randn(B, S, KV, D, { seed = 3 }):requires_grad()
  local y = q:attention(k, v)
  add(y:detach());
  (y * moe.randn(B, T, H, D, { seed = 4 })):sum():backward()
  for _, x in ipairs({ q, k, v }) do add(x:grad()) end
end
assert(moe.checkpoint.save(arg[1], out))
]]

describe("attention, in another process,", function()
  local folder = helper.tmpdir()
  assert(system.write(folder .. "/script.lua", SCRIPT))

  -- A file of results; nil when this processor cannot run the variant.
  local function run(threads, kernels)
    local name = ("%s/%d%s"):format(folder, threads, kernels or "")
    local process = assert(system.spawn({ host.program, folder .. "/script.lua", name .. ".st",
      stderr = name .. ".err",
      env = { MOELUA_THREADS = tostring(threads), MOELUA_KERNELS = kernels or "" } }))
    local status = assert(process:wait(60), "the child hangs")
    local message = assert(system.read(name .. ".err"))
    if message:find("cannot run here", 1, true) then return nil end
    assert.same({ exited = 0 }, status, message)
    return name .. ".st"
  end

  it("has the same bits for 1, 2 and 3 threads", function()
    local one = system.read(assert(run(1)))
    for _, threads in ipairs({ 2, 3 }) do
      assert.is_true(one == system.read(assert(run(threads))))
    end
  end)

  it("has the same numbers from every kernel variant", function()
    local plain = assert(moe.checkpoint.open(assert(run(1, "plain"))))
    for _, kernels in ipairs({ "avx2", "avx512", "amx" }) do
      local path = run(2, kernels)
      local other = path and assert(moe.checkpoint.open(path))
      for _, name in ipairs(other and plain:names() or {}) do
        close(other:tensor(name), plain:tensor(name), 2e-5)
      end
    end
  end)
end)
