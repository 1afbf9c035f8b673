local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

describe("cross_entropy", function()
  local ids = support.ids

  it("is the mean of -log softmax at the targets", function()
    close(moe.cross_entropy(moe.zeros(3, 7), ids({ 0, 3, 6 })), { math.log(7) }, 1e-6)
    local logits, targets, want = moe.randn(31, 17), {}, 0
    local rows = logits:log_softmax():totable()
    for i = 1, 31 do
      targets[i] = i * 5 % 17
      want = want - rows[i][targets[i] + 1] / 31
    end
    close(moe.cross_entropy(logits, ids(targets)), { want }, 1e-6)
    assert.same({}, moe.cross_entropy(logits, ids(targets)):shape())
  end)

  it("stands large logits and passes NaN on", function()
    local logits = moe.tensor({ { 1000, 0 }, { -1000, 0 } })
    close(moe.cross_entropy(logits, ids({ 0, 1 })), { 0 }, 0)
    close(moe.cross_entropy(logits, ids({ 1, 0 })), { 1000 }, 0)
    local loss = moe.cross_entropy(moe.tensor({ { 0 / 0, 1 } }), ids({ 1 })):item()
    assert.is_true(loss ~= loss)
  end)

  it("leaves ignored rows out", function()
    local logits = moe.tensor({ { 0, 0 }, { 9, 0 }, { 0, 0 } })
    close(moe.cross_entropy(logits, ids({ 1, -1, 0 })), { math.log(2) }, 1e-6)
    close(moe.cross_entropy(logits, ids({ 1, 0, 1 }), 0), { math.log(2) }, 1e-6)
    close(moe.cross_entropy(logits, ids({ 1, -100, 0 }), -100), { math.log(2) }, 1e-6)
  end)

  it("does not change the logits", function()
    local logits = moe.randn(3, 5):requires_grad()
    local before = logits:totable()
    moe.cross_entropy(logits, ids({ 1, 2, 3 })):backward()
    assert.same(before, logits:totable())
  end)

  it("has the gradient (softmax - onehot) / rows that count", function()
    local function f(t)
      return moe.cross_entropy(t, ids({ 0, -1, 1 }))
    end
    local dx = support.grads(4, f, { { 0, 0 }, { 1, 2 }, { 0, 0 } })
    close(dx, { { -1, 1 }, { 0, 0 }, { 1, -1 } }, 1e-6)
    close(support.grads(0, f, { { 0, 0 }, { 1, 2 }, { 0, 0 } }), moe.zeros(3, 2), 0)
  end)

  it("adds to a gradient that is there", function()
    local logits = moe.zeros(1, 2):requires_grad()
    local targets = ids({ 0 });
    (moe.cross_entropy(logits, targets) + moe.cross_entropy(logits, targets)):backward()
    close(logits:grad(), { -1, 1 }, 1e-6)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("cross_entropy: " .. text, moe.cross_entropy, ...)
    end
    local logits = moe.zeros(2, 3)
    says("there must be one target per row: [2 x 3] and [1]", logits, ids({ 0 }))
    says("targets has 3 at position 2, but must be 0 to 2", logits, ids({ 0, 3 }))
    says("targets has -1 at position 1, but must be 0 to 2", logits, ids({ -1, 0 }), -2)
    says("all 2 targets are ignored (-1)", logits, ids({ -1, -1 }))
    says("all 0 targets are ignored (-1)", moe.zeros(0, 3), ids({}))
    says("logits must have 2 dimensions, not [3]", moe.zeros(3), ids({ 0 }))
    says("targets must have 1 dimension, not [1 x 1]", logits, ids({ { 0 } }))
  end)
end)
