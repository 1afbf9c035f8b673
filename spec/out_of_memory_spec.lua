-- Every allocation of an operation fails once, and all from it on: the error is a clean one,
-- nothing stays behind, and the same operation works afterwards.

local core = require("moelua.core")
local helper = require("spec.helper")
local moe = require("moelua")

-- The requests that `f` makes when nothing fails.
local function requests(f)
  local before = core.fail_allocation()
  f()
  return core.fail_allocation() - before
end

local function collected()
  collectgarbage()
  collectgarbage()
  return moe.memory()
end

-- Runs `f` with failing allocations. It may succeed, because functions that make tensors collect
-- garbage and try again; otherwise "out of memory" is the reason.
local function attempt(f, first, count)
  core.fail_allocation(first, count)
  local ok, result, message, code = pcall(f)
  core.fail_allocation()
  if not ok then
    assert.matches("out of memory: ", tostring(result), 1, true)
    return false
  end
  if result == nil and message then
    assert.matches("out of memory: ", message, 1, true)
    assert.equal("memory", code)
    return false
  end
  return true
end

-- `clean()` puts back what a failed attempt may have changed outside `f`.
local function survives(f, clean)
  clean = clean or function() end
  f()                                           -- scratch grows to its size
  clean()
  local n = requests(f)
  clean()
  assert.is_true(n > 0)
  local before, failed = collected(), 0
  for first = 1, n do
    for _, count in ipairs({ 1, 1 << 30 }) do
      local passed = attempt(f, first, count)
      if not passed then failed = failed + 1 end
      assert.is_false(passed and count > 1, "passed without memory")
      clean()
      local after = collected()
      assert.equal(before.live, after.live, ("live after failing at %d of %d"):format(first, n))
      assert.equal(before.count, after.count)
    end
  end
  assert.is_true(failed >= n)
  assert.is_true(attempt(f, n + 1, 1))          -- the figure was right, and all works again
  clean()
end

local function tiny_model()
  return moe.model.new({ dim = 4, layers = 1, heads = 2, kv_heads = 1, vocab = 7, context = 3,
    seed = 1, ffn = { kind = "moe", experts = 3, hidden = 5,
      router = { k = 2, balance = { form = "btx" }, z_loss = 1e-3 } } })
end

describe("attempt", function()
  it("tells a lack of memory, a mistake in what was given, and an interruption apart", function()
    assert.same({ true, 1, nil, 3 }, { core.attempt(function(...) return ... end, 1, nil, 3) })
    local function message_of(f, ...)
      local ok, message, code = core.attempt(f, ...)
      assert.is_nil(ok)
      return message, code
    end
    assert.same({ "dim: 3 is odd", "format" }, { message_of(core.raise, "dim: %d is odd", 3) })
    assert.same({ "a: 7: b\nx:3: y", "format" },
      { message_of(function() error("spec:1: a: 7: b\nx:3: y", 0) end) })
    core.fail_allocation(1, 1 << 30)
    local message, code = message_of(moe.zeros, 3)
    core.fail_allocation()
    assert.matches("^out of memory: 12 bytes for %[3%]; live ", message)
    assert.equal("memory", code)
    assert.same({ "not enough memory", "memory" }, { message_of(error, "not enough memory", 0) })
    assert.same({ false, "interrupted!" }, { pcall(core.attempt, error, "interrupted!", 0) })
    local report = { message = "m", code = "busy" }
    assert.equal(report, select(2, pcall(core.attempt, error, report)))
  end)
end)

describe("without memory", function()
  it("an op fails cleanly, with and without a gradient", function()
    local x, w = moe.randn(3, 5), moe.randn(4, 5)
    survives(function() return x:linear(w) end)
    survives(function() return moe.concat({ x:transpose(), x:transpose() + 1 }, 2) end)
    local v = w:clone():requires_grad()
    survives(function() return x:linear(v):softmax(-1):narrow(2, 1, 2):reshape(6) end)
    survives(function()
      local gates, experts = x:linear(v):topk_route(2, "all")
      return gates, experts, experts:bincount(4)
    end)
    survives(function() return x:linear(v):reshape(1, 3, 4):expert_choice_route(2) end)
    survives(function() return x:balanced_assignment(), w:sum(1):exp():balanced_table(2) end)
  end)

  it("making and copying tensors fails cleanly", function()
    local x = moe.randn(3, 5):transpose()
    survives(function() return moe.zeros(3) end)
    survives(function() return moe.arange(3) end)
    survives(function() return moe.randn(3, { seed = 1 }) end)
    survives(function() return moe.tensor({ { 1, 2 }, { 3, 4 } }) end)
    survives(function() return x:clone() end)
    survives(function() return x:to("i32") end)
    survives(function() return x:detach() end)
    local y = moe.arange(5)
    survives(function() return y:narrow(1, 1, 4):copy_(y:narrow(1, 2, 4)) end)
  end)

  it("learning a tokenizer and comparing lines fail cleanly", function()
    survives(function()
      local trainer <close> = core.text.bpe_trainer("gpt2", 100)
      trainer:add("low lower lowest low lower", 1, 26)
      return (trainer:train(270, 1))
    end)
    local lines = ("a line\nanother\n"):rep(3)
    survives(function()
      local known <close> = core.text.lines(2)
      known:add(lines)
      return (known:tally(lines))
    end)
  end)

  it("backward fails cleanly, op by op", function()
    local ids = moe.tensor({ 2, -1, 0 }, "i32")
    local leaves = { moe.randn(3, 4):requires_grad(), moe.randn(4, 4):requires_grad(),
      moe.randn(4):requires_grad() }
    local function clean()
      for _, leaf in ipairs(leaves) do leaf:zero_grad() end
    end
    local x, w, b = table.unpack(leaves)
    for _, f in ipairs({
      function() return x:linear(w, b) end,
      function() return x:matmul(w) + b end,
      function() return x:rms_norm(b) * x end,
      function() return x:reshape(1, 3, 2, 2):rope(10000):reshape(3, 4):swiglu(x) end,
      function()
        local q = x:reshape(1, 3, 2, 2)
        return q:attention(q, q)
      end,
      function() return x:head_cross_entropy(w, ids) end,
      function() return x:cross_entropy(ids) end,
      function() return w:embedding(moe.tensor({ 3, 3, 0 }, "i32")):transpose():select(1, 2) end,
    }) do
      survives(function() f():sum():backward() end, clean)
    end
  end)

  it("backward goes on after each single failure, with the same gradients", function()
    local leaves = { moe.randn(3, 4):requires_grad(), moe.randn(4, 4):requires_grad(),
      moe.randn(4):requires_grad() }
    local x, w, b = table.unpack(leaves)
    local function loss()
      local h = x:matmul(w):rms_norm(b)
      return ((h + x) * (x - b) / (h * h + 1) + h:silu() + x:softmax(1)):pow(2):mean() +
        x:reshape(2, 6):sum() + moe.concat({ h, x }, 2):narrow(2, 2, 5):log_softmax(-1):mean()
    end
    local function gradients(first)
      for _, leaf in ipairs(leaves) do leaf:zero_grad() end
      loss():backward()                         -- adding to gradients differs from storing them
      local made = loss()
      if first then core.fail_allocation(first, 1) end
      made:backward()
      local asked = core.fail_allocation()
      local list = {}
      for i, leaf in ipairs(leaves) do list[i] = leaf:grad():bytes() end
      return list, asked
    end
    local _, asked = gradients()
    local expected, after = gradients(1 << 30)
    local made = after - asked                  -- with the forward passes: more than enough
    assert.is_true(made > 50)
    for first = 1, made do
      assert.same(expected, (gradients(first)), "failing at " .. first)
    end
  end)

  it("a training step fails cleanly", function()
    local model, list = tiny_model(), {}
    local x, y = moe.tensor({ { 1, 2, 3 } }, "i32"), moe.tensor({ { 2, 3, 4 } }, "i32")
    for i, p in ipairs(model:parameters()) do
      list[i] = { p[2], moe.zeros(p[2]:shape()), moe.zeros(p[2]:shape()) }
    end
    local step = 0
    survives(function()
      local _ <close> = moe.scope()
      local loss = model:loss(x, y)
      loss:backward()
      moe.clip_grad_norm(moe.nn.tensors(model), 1)
      step = step + 1
      for _, p in ipairs(list) do
        core.adamw_step({ p[1] }, { p[2] }, { p[3] }, { step = step, lr = 1e-3 })
      end
    end, function()
      for _, p in ipairs(list) do p[1]:zero_grad() end
    end)
    for _, p in ipairs(list) do
      local sum = p[1]:sum():item()
      assert.is_true(sum == sum)
    end
  end)

  it("making a model fails cleanly", function()
    survives(function() return tiny_model() end)
  end)

  it("saving and loading a checkpoint fail cleanly", function()
    local folder = helper.tmpdir()
    local model = tiny_model()
    assert(model:save(folder .. "/model"))
    survives(function() return moe.load(folder .. "/model") end)
    survives(function() return moe.load(folder .. "/model", { dtype = "bf16" }) end)
    survives(function()
      local file, message, code = moe.checkpoint.open(folder .. "/model")
      if not file then return nil, message, code end
      local tensor
      tensor, message, code = file:tensor("model.norm.weight", "bf16")
      file:close()
      return tensor, message, code
    end)
    local again = assert(moe.load(folder .. "/model"))
    helper.close(again:logits({ 1, 2, 3 }), model:logits({ 1, 2, 3 }), moe.double and 1e-6 or 0)
  end)
end)

describe("without memory, recomputing", function()
  local x, w = moe.randn(3, 4):requires_grad(), moe.randn(4, 4):requires_grad()

  local function forget()
    x:zero_grad()
    w:zero_grad()
  end

  local function backward()
    local function f(a) return a:linear(w):silu(), (a * a):mean() end
    local a, p = moe.recompute(f, x * 2)
    local b, q = moe.recompute(f, a + x);
    ((a * b):sum() + p + q):backward()
  end

  it("goes on after each single failure, with the same gradients", function()
    local made = requests(backward)
    local expected = { x:grad():bytes(), w:grad():bytes() }
    assert.is_true(made > 50)
    for first = 1, made do
      forget()
      assert.is_true(attempt(backward, first, 1))
      assert.same(expected, { x:grad():bytes(), w:grad():bytes() }, "failing at " .. first)
    end
    forget()
  end)

  it("fails cleanly when there is none left", function() survives(backward, forget) end)
end)
