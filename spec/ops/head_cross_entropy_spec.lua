local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local ids = support.ids

-- Targets 0 .. V-1 without a pattern that lines up with chunks; every `gap`-th is ignored.
local function some_targets(n, V, gap, ignore)
  local list = {}
  for i = 1, n do list[i] = gap and i % gap == 0 and ignore or (i * 7919) % V end
  return list
end

-- Loss and gradients of x W^T against the targets, in plain Lua.
local function reference(x, w, targets, ignore)
  x, w = x:totable(), w:totable()
  local loss, counted, dx, dw = 0, 0, {}, {}
  for j = 1, #w do
    dw[j] = {}
    for d = 1, #w[j] do dw[j][d] = 0 end
  end
  for i = 1, #x do
    dx[i] = {}
    for d = 1, #x[i] do dx[i][d] = 0 end
    if targets[i] ~= ignore then
      counted = counted + 1
      local logit, top, sum = {}, -math.huge, 0
      for j = 1, #w do
        logit[j] = 0
        for d = 1, #x[i] do logit[j] = logit[j] + x[i][d] * w[j][d] end
        top = math.max(top, logit[j])
      end
      for j = 1, #w do sum = sum + math.exp(logit[j] - top) end
      loss = loss + math.log(sum) + top - logit[targets[i] + 1]
      for j = 1, #w do
        local g = math.exp(logit[j] - top) / sum - (j == targets[i] + 1 and 1 or 0)
        for d = 1, #x[i] do
          dx[i][d] = dx[i][d] + g * w[j][d]
          dw[j][d] = dw[j][d] + g * x[i][d]
        end
      end
    end
  end
  for _, rows in ipairs({ dx, dw }) do
    for _, row in ipairs(rows) do
      for d = 1, #row do row[d] = row[d] / counted end
    end
  end
  return loss / counted, dx, dw
end

describe("head_cross_entropy", function()
  local function check(N, V, d, gap, ignore)
    local x, w = moe.randn(N, d, { seed = 1 }), moe.randn(V, d, { seed = 2 })
    local targets = some_targets(N, V, gap, ignore)
    local loss, dx, dw = reference(x, w, targets, ignore or -1)
    close(moe.head_cross_entropy(x, w, ids(targets), ignore), { loss }, 2e-6)
    x:requires_grad()
    w:requires_grad()
    local got = moe.head_cross_entropy(x, w, ids(targets), ignore)
    close(got, { loss }, 2e-6);
    (got * 3):backward()
    -- The mean makes these small: compare what a row contributes.
    close(x:grad() * (N / 3), moe.tensor(dx) * N, 2e-5)
    close(w:grad() * (N / 3), moe.tensor(dw) * N, 1e-4)
  end

  it("is the mean cross-entropy of x W^T, with its gradients", function()
    check(1, 1, 1)
    check(5, 7, 3)
    check(33, 19, 17)
    check(64, 257, 5)
  end)

  it("leaves ignored rows out", function()
    check(11, 5, 3, 3, -1)
    check(11, 5, 3, 2, -100)
    check(9, 5, 3, 4, 2)
  end)

  it("crosses the borders of chunks, also with a whole chunk ignored", function()
    check(1025, 3, 2)
    check(2051, 5, 3, 7, -1)
    local x, w = moe.randn(2100, 2, { seed = 1 }), moe.randn(3, 2, { seed = 2 })
    local targets = some_targets(2100, 3)
    for i = 1, 1024 do targets[i] = -1 end
    local loss, _, dw = reference(x, w, targets, -1)
    w:requires_grad()
    local got = moe.head_cross_entropy(x, w, ids(targets))
    close(got, { loss }, 2e-6)
    got:backward()
    close(w:grad(), dw, 1e-5)
  end)

  it("crosses chunks of a vocabulary so large that a chunk is 64 rows", function()
    local V = 70001
    local x, w = moe.randn(131, 2, { seed = 1 }), moe.zeros(V, 2)
    w:narrow(1, 1, 5):copy_(moe.randn(5, 2, { seed = 2 }))
    local targets = some_targets(131, V)
    targets[1], targets[65], targets[131] = 0, 4, V - 1
    local want = moe.cross_entropy(x:linear(w), ids(targets))
    x:requires_grad()
    w:requires_grad()
    local got = moe.head_cross_entropy(x, w, ids(targets))
    close(got, want, 2e-6)
    got:backward()
    local x2, w2 = x:detach():clone():requires_grad(), w:detach():clone():requires_grad()
    moe.cross_entropy(x2:linear(w2), ids(targets)):backward()
    close(x:grad() * 131, x2:grad() * 131, 1e-5)
    close(w:grad() * 131, w2:grad() * 131, 1e-5)
  end)

  it("goes back to those of its inputs that want it, adding to what is there", function()
    local x, w = moe.randn(7, 3, { seed = 1 }), moe.randn(5, 3, { seed = 2 })
    local targets = some_targets(7, 5)
    local _, dx, dw = reference(x, w, targets, -1)
    local leaf = x:clone():requires_grad()
    moe.head_cross_entropy(leaf, w, ids(targets)):backward()
    close(leaf:grad(), dx, 1e-6)
    leaf = w:clone():requires_grad();
    (moe.head_cross_entropy(x, leaf, ids(targets)) * 2 + leaf:sum()
      - moe.head_cross_entropy(x, leaf, ids(targets))):backward()
    close(leaf:grad(), moe.tensor(dw) + 1, 1e-6)
  end)

  it("stands large logits", function()
    local x, w = moe.tensor({ { 1e4 } }), moe.tensor({ { 1 }, { -1 } })
    close(moe.head_cross_entropy(x, w, ids({ 0 })), { 0 }, 0)
    close(moe.head_cross_entropy(x, w, ids({ 1 })), { 2e4 }, 1e-6)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("head_cross_entropy: " .. text, moe.head_cross_entropy, ...)
    end
    local x, w = moe.ones(2, 3), moe.ones(5, 3)
    says("x must have 2 dimensions, not [3]", moe.ones(3), w, ids({ 0 }))
    says("weight must have 2 dimensions, not [3]", x, moe.ones(3), ids({ 0 }))
    says("inner dimensions differ: [2 x 3] x transposed [5 x 4]", x, moe.ones(5, 4), ids({ 0, 1 }))
    says("there must be one target per row: [2 x 3] and [3]", x, w, ids({ 0, 1, 2 }))
    says("targets must have 1 dimension, not [1 x 2]", x, w, ids({ { 0, 1 } }))
    says("targets has 5 at position 2, but must be 0 to 4", x, w, ids({ 0, 5 }))
    says("targets has -1 at position 1, but must be 0 to 4", x, w, ids({ -1, 0 }), -100)
    says("all 2 targets are ignored (-1)", x, w, ids({ -1, -1 }))
    says("all 0 targets are ignored (-1)", moe.ones(0, 3), w, ids({}))
    says('targets is f32, but must be i32\nhint: targets:to("i32")', x, w, moe.zeros(2))
  end)
end)
