local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

-- One query row of one head: weights over the keys it may see, in plain Lua.
local function weights(q, k, seen)
  local top, w, sum = -math.huge, {}, 0
  for j = 1, seen do
    local dot = 0
    for d = 1, #q do dot = dot + q[d] * k[j][d] end
    w[j] = dot / math.sqrt(#q)
    top = math.max(top, w[j])
  end
  for j = 1, seen do
    w[j] = math.exp(w[j] - top)
    sum = sum + w[j]
  end
  for j = 1, seen do w[j] = w[j] / sum end
  return w
end

-- The rows [S x D] of head h of batch element b.
local function head(x, b, h)
  local rows = {}
  for t = 1, #x[b] do rows[t] = x[b][t][h] end
  return rows
end

-- Calls visit(b, t, h, weights, v rows) for every query.
local function each_query(q, k, v, visit)
  q, k, v = q:totable(), k:totable(), v:totable()
  for b = 1, #q do
    local T, S, H, KV = #q[b], #k[b], #q[b][1], #k[b][1]
    for h = 1, H do
      local kv = (h - 1) // (H // KV) + 1
      local keys, values = head(k, b, kv), head(v, b, kv)
      for t = 1, T do visit(b, t, h, weights(q[b][t][h], keys, S - T + t), values, kv, keys) end
    end
  end
end

local function reference(q, k, v)
  local y = q:totable()
  each_query(q, k, v, function(b, t, h, w, values)
    for d = 1, #y[b][t][h] do
      local sum = 0
      for j = 1, #w do sum = sum + w[j] * values[j][d] end
      y[b][t][h][d] = sum
    end
  end)
  return y
end

-- Gradients of sum(dy * attention) by the chain rule, in plain Lua.
local function reference_grads(q, k, v, dy)
  local dq, dk, dv = moe.zeros(q:shape()):totable(), moe.zeros(k:shape()):totable(),
    moe.zeros(v:shape()):totable()
  local Q, scale = q:totable(), 1 / math.sqrt(q:size(4))
  dy = dy:totable()
  each_query(q, k, v, function(b, t, h, w, values, kv, keys)
    local g, dp, mean = dy[b][t][h], {}, 0
    for j = 1, #w do
      dp[j] = 0
      for d = 1, #g do
        dp[j] = dp[j] + g[d] * values[j][d]
        dv[b][j][kv][d] = dv[b][j][kv][d] + w[j] * g[d]
      end
      mean = mean + w[j] * dp[j]
    end
    for j = 1, #w do
      local ds = w[j] * (dp[j] - mean) * scale
      for d = 1, #g do
        dq[b][t][h][d] = dq[b][t][h][d] + ds * keys[j][d]
        dk[b][j][kv][d] = dk[b][j][kv][d] + ds * Q[b][t][h][d]
      end
    end
  end)
  return dq, dk, dv
end

-- {B, T, S, H, KV, D}
local SIZES = { { 1, 1, 1, 1, 1, 1 }, { 2, 5, 5, 3, 3, 7 }, { 1, 3, 9, 4, 2, 5 },
  { 1, 1, 11, 6, 1, 3 }, { 2, 70, 70, 2, 1, 5 }, { 1, 64, 64, 1, 1, 4 }, { 1, 65, 130, 2, 2, 3 },
  { 1, 129, 131, 2, 1, 3 } }

local function make(size)
  local B, T, S, H, KV, D = table.unpack(size)
  return moe.randn(B, T, H, D, { seed = 1 }), moe.randn(B, S, KV, D, { seed = 2 }),
    moe.randn(B, S, KV, D, { seed = 3 })
end

describe("attention", function()
  for _, size in ipairs(SIZES) do
    it("with B, T, S, H, KV, D = " .. table.concat(size, ", "), function()
      local q, k, v = make(size)
      close(q:attention(k, v), reference(q, k, v), 1e-5)
      local dy = moe.randn(q:shape(), { seed = 4 })
      local want = { reference_grads(q, k, v, dy) }
      local leaves = { q:requires_grad(), k:requires_grad(), v:requires_grad() };
      (q:attention(k, v) * dy):sum():backward()
      for i = 1, 3 do close(leaves[i]:grad(), want[i], 5e-5) end
    end)
  end

  it("of one key is its value, and of equal keys the mean of the values so far", function()
    local v = moe.arange(12):reshape(1, 6, 1, 2)
    local y = moe.attention(moe.randn(1, 6, 1, 2), moe.ones(1, 6, 1, 2), v)
    for t = 1, 6 do close(y:select(2, t), { t - 1, t }, 1e-6) end
  end)

  it("does not look ahead, nor into other members of the batch", function()
    for _, T in ipairs({ 9, 131 }) do
      local q, k, v = make({ 3, T, T, 2, 1, 4 })
      local before = q:attention(k, v)
      local at = T - 3
      for _, x in ipairs({ q, k, v }) do x:select(1, 2):select(1, at):fill_(50) end
      local after = q:attention(k, v)
      for b = 1, 3 do
        local until_t = b == 2 and at - 1 or T
        assert.equal(before:select(1, b):narrow(1, 1, until_t):contiguous():bytes(),
          after:select(1, b):narrow(1, 1, until_t):contiguous():bytes())
      end
      assert.is_true((before - after):select(1, 2):narrow(1, at, 1):pow(2):sum():item() > 1)
    end
  end)

  it("gives the last queries alone what it gives them among all", function()
    local q, k, v = make({ 2, 77, 77, 4, 2, 6 })
    local all = q:attention(k, v)
    for _, T in ipairs({ 1, 2, 13, 65 }) do
      close(q:narrow(2, -T, T):attention(k, v), all:narrow(2, -T, T), 1e-6)
    end
  end)

  it("stands large scores", function()
    local q = moe.tensor({ { { { 1e4, 0 } }, { { 1e4, 0 } } } })
    local k = moe.tensor({ { { { 1e4, 0 } }, { { -1e4, 0 } } } })
    local v = moe.tensor({ { { { 1, 2 } }, { { 3, 4 } } } })
    close(q:attention(k, v), { { { { 1, 2 } }, { { 1, 2 } } } }, 1e-6)
    local leaf = q:clone():requires_grad()
    leaf:attention(k, v):sum():backward()
    close(leaf:grad(), moe.zeros(1, 2, 1, 2), 0)
  end)

  it("takes strided input and empty sequences", function()
    local q, k, v = make({ 2, 5, 5, 3, 3, 4 })
    local y = q:attention(k, v)
    local function turned(x) return x:transpose(2, 3):contiguous():transpose(2, 3) end
    close(turned(q):attention(turned(k), turned(v)), y, 0)
    assert.same({ 2, 0, 3, 4 }, q:narrow(2, 1, 0):attention(k, v):shape())
    local keys = k:clone():requires_grad()
    q:narrow(2, 1, 0):attention(keys, v):sum():backward()
    close(keys:grad(), moe.zeros(2, 5, 3, 4), 0)
  end)

  it("goes back to those of its inputs that want it", function()
    local q, k, v = make({ 1, 4, 6, 2, 1, 3 })
    local dy = moe.randn(1, 4, 2, 3, { seed = 4 })
    local want = { reference_grads(q, k, v, dy) }
    for i = 1, 3 do
      local inputs = { q:clone(), k:clone(), v:clone() }
      inputs[i]:requires_grad();
      (moe.attention(table.unpack(inputs)) * dy):sum():backward()
      close(inputs[i]:grad(), want[i], 1e-5)
    end
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("attention: " .. text, moe.attention, ...) end
    local q, k = moe.ones(1, 2, 4, 3), moe.ones(1, 2, 2, 3)
    says("q must have 4 dimensions, not [2 x 4 x 3]", moe.ones(2, 4, 3), k, k)
    says("k must have 4 dimensions, not [3]", q, moe.ones(3), k)
    says("k and v differ: [1 x 2 x 2 x 3] and [1 x 2 x 2 x 4]", q, k, moe.ones(1, 2, 2, 4))
    says("k and v differ: [1 x 2 x 2 x 3] and [1 x 2 x 6]", q, k, moe.ones(1, 2, 6))
    says("q and k differ in batch or head size: [1 x 2 x 4 x 3] and [1 x 2 x 2 x 5]", q,
      moe.ones(1, 2, 2, 5), moe.ones(1, 2, 2, 5))
    says("q and k differ in batch or head size: [1 x 2 x 4 x 3] and [3 x 2 x 2 x 3]", q,
      moe.ones(3, 2, 2, 3), moe.ones(3, 2, 2, 3))
    says("4 query heads cannot share 3 key heads", q, moe.ones(1, 2, 3, 3), moe.ones(1, 2, 3, 3))
    says("4 query heads cannot share 0 key heads", q, moe.ones(1, 2, 0, 3), moe.ones(1, 2, 0, 3))
    says("more queries than keys: [1 x 2 x 4 x 3] and [1 x 1 x 2 x 3]", q, moe.ones(1, 1, 2, 3),
      moe.ones(1, 1, 2, 3))
  end)
end)
