-- The tape: what records, where gradients go, and how a graph ends.

local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local rejects = support.rejects

local FREED = "backward: the graph was freed by an earlier backward()\n"
  .. "hint: compute the loss again, or add the losses before one backward()"

describe("recording", function()
  it("happens only where a gradient is required", function()
    local x, w = moe.ones(2), moe.ones(2):requires_grad()
    assert.is_false(x:tracks_grad())
    assert.is_true(w:tracks_grad())
    assert.is_false((x * 2):tracks_grad())
    assert.is_true((w * 2):tracks_grad())
    assert.is_true((x * w):tracks_grad())
    assert.is_true(w:narrow(1, 1, 1):tracks_grad())
    assert.is_false((w * 2):detach():tracks_grad())
    assert.is_false((w * 2):clone():tracks_grad())
    local gates, experts = moe.randn(2, 3):requires_grad():topk_route(2)
    assert.is_true(gates:tracks_grad())
    assert.is_false(experts:tracks_grad())
  end)

  it("stops inside no_grad, also when the function fails or nests", function()
    local w = moe.ones(2):requires_grad()
    local inside, deeper, value = moe.no_grad(function(a, b)
      return w * 2, moe.no_grad(function() return w * 3 end), a + b
    end, 3, 4)
    assert.is_false(inside:tracks_grad())
    assert.is_false(deeper:tracks_grad())
    assert.equal(7, value)
    assert.is_true((w * 2):tracks_grad())
    local ok, message = pcall(moe.no_grad, function() error("oh", 0) end)
    assert.is_false(ok)
    assert.equal("oh", message)
    assert.is_true((w * 2):tracks_grad())
    assert.has_error(function() moe.no_grad(3) end)
  end)

  it("is asked for on f32 leaves only", function()
    local w = moe.ones(2)
    assert.equal(w, w:requires_grad())
    rejects("requires_grad: only f32 tensors have gradients, not i32", w.requires_grad,
      support.ids({ 1 }))
    rejects("requires_grad: the tensor [2] is the result of an operation\n"
      .. "hint: x:detach() makes a leaf of it", w.requires_grad, w * 2)
    assert.is_false(w:requires_grad(false):tracks_grad())
  end)
end)

describe("backward", function()
  it("accumulates into leaves until zero_grad", function()
    local w = moe.tensor({ 1, 2, 3 }):requires_grad()
    assert.is_nil(w:grad())
    for pass = 1, 3 do
      (w * w):sum():backward()
      close(w:grad(), { 2 * pass, 4 * pass, 6 * pass }, 0)
    end
    w:zero_grad()
    assert.is_nil(w:grad());
    (w * 5):sum():backward()
    close(w:grad(), { 5, 5, 5 }, 0)
  end)

  it("adds to a gradient that is there, whatever the op", function()
    local ids, route = support.ids({ 2, 0, 1 }), support.ids({ { 0, 1 }, { 1, 0 }, { 1, 1 } })
    local cases = {
      linear = { moe.randn(3, 5), moe.randn(4, 5), moe.randn(4) },
      matmul = { moe.randn(2, 3, 5), moe.randn(5, 4) },
      add = { moe.randn(3, 5), moe.randn(5) }, mul = { moe.randn(3, 5), moe.randn(3, 1) },
      rms_norm = { moe.randn(3, 5), moe.randn(5) }, softmax = { moe.randn(3, 5) },
      swiglu = { moe.randn(3, 5), moe.randn(3, 5) }, rope = { moe.randn(1, 3, 2, 4) },
      attention = { moe.randn(1, 70, 2, 3), moe.randn(1, 71, 1, 3), moe.randn(1, 71, 1, 3) },
      head_cross_entropy = { moe.randn(3, 5), moe.randn(4, 5), ids },
      cross_entropy = { moe.randn(3, 5), ids }, embedding = { moe.randn(3, 5), ids },
      gather_rows = { moe.randn(3, 5), ids }, topk_route = { moe.randn(3, 5) },
      moe_ffn = { moe.randn(3, 5), moe.rand(3, 2), route, moe.randn(3, 4, 5), moe.randn(3, 4, 5),
        moe.randn(3, 5, 4) },
      routing_shares = { moe.rand(3, 5), moe.rand(3, 2), route }, sum = { moe.randn(3, 5), 1 },
      transpose = { moe.randn(3, 5) }, reshape = { moe.randn(3, 5), -1 },
      narrow = { moe.randn(3, 5), 2, 2, 3 }, select = { moe.randn(3, 5), 1, 2 },
      silu = { moe.randn(3, 5) }, max = { moe.randn(3, 5), 1 }, pow = { moe.randn(3, 5), 3 },
    }
    for name, args in pairs(cases) do
      local leaves, first = {}, {}
      for _, x in ipairs(args) do
        if type(x) == "userdata" and x:dtype() == "f32" then
          leaves[#leaves + 1] = x:requires_grad()
        end
      end
      local function loss()
        local y = moe[name](table.unpack(args))
        return (y * moe.randn(y:shape(), { seed = 3 })):sum()
      end
      loss():backward()
      for i, leaf in ipairs(leaves) do first[i] = leaf:grad():clone() end
      (loss() + loss() * 3):backward()
      for i, leaf in ipairs(leaves) do
        local ok, message = pcall(close, leaf:grad(), first[i] * 5, 1e-4)
        assert.is_true(ok, ("%s, input %d: %s"):format(name, i, message))
      end
    end
  end)

  it("a second time over the same graph is an error", function()
    local w = moe.ones(2):requires_grad()
    local y = w:exp()
    local loss, other = y:sum(), (y * 2):sum()
    loss:backward()
    rejects(FREED, loss.backward, loss)
    rejects(FREED, other.backward, other)       -- shares y, whose saved result is gone
    close(w:grad(), { math.exp(1), math.exp(1) }, 1e-6)
  end)

  it("starts at a single number that depends on a leaf", function()
    local w = moe.ones(2, 3):requires_grad()
    local y = w * 2
    rejects("backward: the loss must be a single number, not [2 x 3]\nhint: use :sum() or :mean()",
      y.backward, y)
    rejects("backward: the loss must be a single number, not [0]\nhint: use :sum() or :mean()",
      y.backward, w:reshape(6):narrow(1, 1, 0))
    local text = "backward: the loss does not depend on any tensor that requires gradients"
    rejects(text, y.backward, moe.ones(1))
    rejects(text, y.backward, y:sum():detach())
    local one = (w * 2):narrow(1, 2, 1):narrow(2, 3, 1)
    assert.same({ 1, 1 }, one:shape())
    one:backward()
    close(w:grad(), { { 0, 0, 0 }, { 0, 0, 2 } }, 0)
  end)

  it("adds over the paths of a diamond", function()
    local function f(x)
      local a, b = x * 3, x:exp()
      return a * b + a
    end
    local dx = support.grads({ 1, 1 }, f, { 0.5, -1 })
    local want = {}
    for i, x in ipairs({ 0.5, -1 }) do want[i] = 3 * math.exp(x) + 3 * x * math.exp(x) + 3 end
    close(dx, want, 1e-6)
  end)

  it("counts an input that is used twice by one op", function()
    local function twice(f, values)
      local x, a, b = moe.tensor(values):requires_grad(), moe.tensor(values):requires_grad(),
        moe.tensor(values):requires_grad()
      f(x, x):sum():backward()
      f(a, b):sum():backward()
      close(x:grad(), a:grad() + b:grad(), 1e-6)
    end
    local square = { { 1, 2, -1 }, { 0.5, -2, 3 }, { 4, 1, 0.25 } }
    for _, name in ipairs({ "add", "sub", "mul", "div", "matmul", "linear", "swiglu" }) do
      twice(moe[name], square)
    end
    twice(function(a, b) return moe.concat({ a, b, a }) end, square)
    twice(moe.rms_norm, { 1, 2, -1 })
    twice(function(a, b) return a:attention(b, a) end, { { { { 1, 2 } }, { { -1, 0.5 } } } })
  end)

  it("counts an input that is used twice by one op that is cut into tasks", function()
    local values = moe.randn(301, 301, { seed = 3 })
    for _, name in ipairs({ "matmul", "linear", "swiglu", "mul" }) do
      local x, a, b = values:clone():requires_grad(), values:clone():requires_grad(),
        values:clone():requires_grad()
      moe[name](x, x):mean():backward()
      moe[name](a, b):mean():backward()
      close(x:grad() * 1e4, (a:grad() + b:grad()) * 1e4, 1e-4)
    end
    local q = moe.randn(1, 70, 2, 4, { seed = 4 })
    local x, a, b, c = q:clone():requires_grad(), q:clone():requires_grad(),
      q:clone():requires_grad(), q:clone():requires_grad()
    local weight = moe.randn(1, 70, 2, 4, { seed = 5 });
    (x:attention(x, x) * weight):sum():backward();
    (a:attention(b, c) * weight):sum():backward()
    close(x:grad(), a:grad() + b:grad() + c:grad(), 1e-5)
  end)

  it("keeps the shared buffers of residual connections apart", function()
    local w = {}
    for i = 1, 4 do w[i] = moe.tensor({ i, -i }):requires_grad() end
    local x = moe.tensor({ 1, 2 }):requires_grad()
    local h = x
    for i = 1, 4 do h = h + (h * w[i]):reshape(2) end          -- h_i = h_(i-1) (1 + w_i)
    h:sum():backward()
    close(x:grad(), { 2 * 3 * 4 * 5, 0 }, 1e-5)
    close(w[1]:grad(), { 60, -12 }, 1e-5)
    close(w[2]:grad(), { 40, 0 }, 1e-5)
    close(w[4]:grad(), { 24, 0 }, 1e-5)
  end)

  it("gives leaves that an addition treats alike gradients of their own", function()
    local a, b = moe.ones(3):requires_grad(), moe.ones(3):requires_grad();
    (a + b:reshape(3)):sum():backward()
    a:grad():fill_(7)
    close(b:grad(), { 1, 1, 1 }, 0)
    local p, q = moe.ones(2):requires_grad(), moe.ones(2):requires_grad();
    (p + q):sum():backward()
    close(moe.clip_grad_norm({ p, q }, 1), { 2 }, 1e-6)
    close(p:grad(), { 0.5, 0.5 }, 1e-6)
    close(q:grad(), { 0.5, 0.5 }, 1e-6)
  end)

  it("gives outputs that nobody used a gradient of zero", function()
    local logits = moe.tensor({ { 1, 2, 3 } }):requires_grad()
    local gates = logits:topk_route(2)
    gates:narrow(2, 1, 1):sum():backward()
    local g = 1 / (1 + math.exp(-1))
    close(logits:grad(), { { 0, -g * (1 - g), g * (1 - g) } }, 1e-6)
    local w = moe.ones(3):requires_grad()
    local _ = w:exp()                           -- never used, never passed
    w:sum():backward()
    close(w:grad(), { 1, 1, 1 }, 0)
  end)

  it("leaves leaves alone that the loss does not reach", function()
    local a, b = moe.ones(1):requires_grad(), moe.ones(1):requires_grad();
    (a * b:detach()):backward()
    close(a:grad(), { 1 }, 0)
    assert.is_nil(b:grad())
  end)

  it("reaches a parameter through views of it", function()
    local w = moe.arange(12):reshape(3, 4):clone():requires_grad()
    local v = w:transpose():narrow(1, 2, 2):select(2, 3);       -- w[3, 2..3]
    (v * moe.tensor({ 10, 100 }) + w:narrow(1, 3, 1):reshape(-1):narrow(1, 2, 2)):sum():backward()
    close(w:grad(), { { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 11, 101, 0 } }, 0)
  end)

  it("does not change a gradient that was taken before", function()
    local w, x = moe.ones(2):requires_grad(), moe.ones(2):requires_grad();
    (w * 3 + x):sum():backward()
    local first, alias = w:grad(), x:grad():narrow(1, 1, 1);
    (w * 5 + x):sum():backward()
    close(first, { 3, 3 }, 0)
    close(alias, { 1 }, 0)
    close(w:grad(), { 8, 8 }, 0)
    close(x:grad(), { 2, 2 }, 0)
    w:zero_grad()
    close(first, { 3, 3 }, 0)
  end)

  it("fails without harm to the leaves when a saved tensor was overwritten", function()
    local a, b, c = moe.ones(2):requires_grad(), moe.ones(2):requires_grad(), moe.ones(2)
    local loss = (a * 2):sum() + (b * c):sum()
    c:fill_(2)
    rejects("backward: the tensor [2] that mul saved was overwritten since", loss.backward, loss)
    rejects(FREED, loss.backward, loss)
    a:zero_grad();
    (a * c):sum():backward()
    close(a:grad(), { 2, 2 }, 0)
  end)

  it("works for empty tensors", function()
    local x, w = moe.zeros(0, 3):requires_grad(), moe.ones(2, 3):requires_grad();
    (x:linear(w):sum() + w:sum()):backward()
    assert.same({ 0, 3 }, x:grad():shape())
    close(w:grad(), moe.ones(2, 3), 0)
    local y, none = moe.ones(2, 3):requires_grad(), moe.zeros(0, 3):requires_grad()
    y:linear(none):sum():backward()
    close(y:grad(), moe.zeros(2, 3), 0)
  end)
end)

describe("a graph of any depth", function()
  local DEPTH = 10000

  it("goes back without recursion", function()
    local w = moe.tensor({ 1, -1 }):requires_grad()
    local y = w
    for _ = 1, DEPTH do y = y + 1 end
    y:sum():backward()
    close(w:grad(), { 1, 1 }, 0)
    close(y, { DEPTH + 1, DEPTH - 1 }, 0)
    w:zero_grad()
    y = w * 1
    for _ = 1, DEPTH do y = (y * 0.999):neg() end
    y:sum():backward()
    close(w:grad(), { 0.999 ^ DEPTH, 0.999 ^ DEPTH }, 1e-6)
  end)

  it("dies without recursion when nothing goes back", function()
    collectgarbage()
    local before = moe.memory()
    local w = moe.ones(16):requires_grad()
    local y = w
    for _ = 1, DEPTH do y = (y * 1.5):exp() end
    assert.is_true(moe.memory().live > before.live + DEPTH * 2 * 64)
    y = nil -- luacheck: ignore
    collectgarbage()
    w:free()
    collectgarbage()
    assert.equal(before.count, moe.memory().count)
    assert.equal(before.live, moe.memory().live)
  end)

  it("dies with its last tensor, not with the first", function()
    local w = moe.ones(4):requires_grad()
    local y = (w * 2):exp()
    local loss = y:sum()
    y:free()
    collectgarbage()
    loss:backward()
    close(w:grad(), moe.full(2 * math.exp(2), 4), 1e-5)
  end)
end)
