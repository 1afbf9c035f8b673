-- Parts of the graph that backward computes again: the same bits in less memory, whatever happens
-- on the way.
local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")
local moe = require("moelua")
local rejects = require("spec.ops.support").rejects

local recompute = moe.recompute

local function collected()
  collectgarbage()
  collectgarbage()
  return moe.memory()
end

-- What loss() leaves in the leaves, as bytes.
local function gradients(leaves, loss)
  for _, leaf in ipairs(leaves) do leaf:zero_grad() end
  loss():backward()
  local list = {}
  for i, leaf in ipairs(leaves) do list[i] = leaf:grad() and leaf:grad():bytes() or "none" end
  return list
end

local function leaf(...) return moe.randn(...):requires_grad() end

describe("moe.recompute", function()
  local x, w, v = leaf(5, 4), leaf(4, 4), leaf(4)
  local leaves = { x, w, v }

  -- The gradients are those of `make` with a function that just calls.
  local function same_bits(make)
    local function call(f, ...) return f(...) end
    local expected = gradients(leaves, function() return make(call) end)
    assert.same(expected, gradients(leaves, function() return make(recompute) end))
    return expected
  end

  it("calls a function with its arguments and returns its results", function()
    local results = table.pack(recompute(function(...)
      return select("#", ...), ...
    end, nil, 1, x, "a", nil))
    assert.equal(6, results.n)
    assert.equal(5, results[1])
    assert.same({ nil, 1 }, { results[2], results[3] })
    assert.equal("a", results[5])
    helper.close(results[4], x, 0)
    assert.is_true(results[4]:tracks_grad())
    assert.equal(0, select("#", recompute(function() end)))
    rejects("recompute: f must be a function, not nil", recompute)
  end)

  it("gives the gradients of its arguments and of what the function knows", function()
    same_bits(function(call)
      local y = call(function(a, scale) return (a:linear(w):silu() * scale):rms_norm(v) end, x, 3)
      return (y * y):sum()
    end)
  end)

  it("does so for parts that meet", function()
    same_bits(function(call)
      local z = x:linear(w)                     -- computed outside, used inside and out
      local function f(a) return a:exp() * z + v, a * z end
      local a, b = call(f, z)
      local c = call(f, b + z)
      return (a * c + z * v):sum() + x:sum()
    end)
  end)

  it("does so inside itself", function()
    local calls = 0
    same_bits(function(call)
      calls = 0
      local function inner(a)
        calls = calls + 1
        return a:linear(w):tanh()
      end
      local function outer(a) return call(inner, call(inner, a) + v) * v end
      return call(outer, call(outer, x)):sum()
    end)
    assert.equal(4 * 3, calls)
  end)

  it("does so for results that are not new", function()
    same_bits(function(call)
      local a, b, c = call(function(t) return t, w, t end, x * 2)
      local d = call(function(t) return t end, x)
      return (a:linear(b) + c).sum((a:linear(b) + c) * d)
    end)
    same_bits(function(call)                    -- views of an argument
      local a = call(function(t) return t:transpose():narrow(1, 2, 2) end, x:linear(w))
      return (a * a):sum()
    end)
  end)

  it("does so when some results are not used", function()
    local calls = 0
    same_bits(function(call)
      local function f(a)
        calls = calls + 1
        return a * v, a:linear(w):exp(), a:detach():to("i32")
      end
      local y = call(f, x)
      local _ = call(f, x + 1)
      return y:sum()
    end)
    assert.equal(2 + 3, calls)                  -- whose results nobody used is not called again
  end)

  it("takes other arguments along, and tensors without gradients", function()
    local targets, held = moe.tensor({ 0, 3, -1, 2, 1 }, "i32"), { scale = 2 }
    same_bits(function(call)
      return call(function(logits, ids, how, nothing, flag)
        assert.is_nil(nothing)
        assert.is_true(flag)
        return (logits * how.scale):cross_entropy(ids)
      end, x:linear(w) * v, targets, held, nil, true)
    end)
  end)

  it("draws the same random numbers again, and disturbs no others", function()
    local function noisy(a) return a * moe.rand(5, 4) end
    local function make(call)
      moe.manual_seed(4)
      local y = call(noisy, x)
      local after = moe.rand(3)
      local loss = (y * y):sum()
      local next_ones
      return loss, after, function()
        next_ones = moe.rand(3)
        return next_ones
      end
    end
    local plain, frugal = {}, {}
    for list, call in pairs({ [plain] = function(f, ...) return f(...) end, [frugal] = recompute })
    do
      local loss, after, later = make(call)
      x:zero_grad()
      loss:backward()
      list[1], list[2], list[3] = x:grad():bytes(), after:bytes(), later():bytes()
    end
    assert.same(plain, frugal)
  end)

  it("calls once where nothing is recorded", function()
    local calls = 0
    local function f(a)
      calls = calls + 1
      return a * 2
    end
    local y = moe.no_grad(recompute, f, x)
    assert.is_false(y:tracks_grad())
    assert.is_false(recompute(f, x:detach()):tracks_grad())
    assert.equal(2, calls)
    assert.is_true(recompute(function(a) return a * w:sum() end, x:detach()):tracks_grad())
  end)

  it("records again also when backward runs where nothing is recorded", function()
    local loss = recompute(function(a) return (a * a):sum() end, x)
    x:zero_grad()
    moe.no_grad(loss.backward, loss)
    helper.close(x:grad(), x:detach() * 2, 1e-6)
  end)

  it("releases what the function makes and does not return", function()
    local seen = {}
    local y, other, ids = recompute(function(a)
      seen.inside, seen.outside = a * 2, x
      return seen.inside + 1, { a * 3 }, moe.tensor({ 1 }, "i32")
    end, x)
    rejects("sum: x was released\nhint: scope:keep(x) lets a tensor outlive its scope",
      moe.sum, seen.inside)
    rejects("sum: x was released\nhint: scope:keep(x) lets a tensor outlive its scope",
      moe.sum, other[1])
    assert.same({ 1 }, ids:totable())
    assert.is_number(y:sum():item() + seen.outside:sum():item())
    local kept
    do
      local scope <close> = moe.scope()
      local a = recompute(function(t) return t * 2 end, x)
      kept = scope:keep(a)
    end
    kept:sum():backward()
  end)

  it("needs no more of what it was given than the tensors", function()
    local y
    do
      local _ <close> = moe.scope()
      local a = x * 3
      y = _:keep((recompute(function(t) return t:linear(w) end, a)))
    end
    x:zero_grad()
    y:sum():backward()                          -- `a` was released with its scope
    local expected = moe.ones(5, 4):matmul(w:detach()) * 3
    helper.close(x:grad(), expected, 1e-5)
  end)

  it("works from one coroutine to another", function()
    local y = coroutine.wrap(function() return recompute(function(a) return a:exp() end, x) end)()
    collectgarbage()
    x:zero_grad()
    coroutine.wrap(function() y:sum():backward() end)()
    helper.close(x:grad(), x:detach():exp(), 0)
  end)

  it("refuses what it cannot do", function()
    rejects("recompute: the function must not return more than 4 tensors", recompute,
      function(a) return a, a, a, a, a * 2 end, x)
    local many = {}
    for i = 1, 65 do many[i] = x end
    rejects("recompute: the function must not get more than 64 tensors", recompute,
      function(a) return a end, table.unpack(many))
    local y = x * 1
    rejects("recompute: the function released what it was given, or returns", recompute,
      function(a)
        a:free()
        return w * 2
      end, y)
    local z = recompute(function(a)
      return coroutine.isyieldable() and coroutine.yield(a) or a * 2
    end, x)
    assert.is_true(z:tracks_grad())
  end)

  it("notices that an argument was overwritten", function()
    local a = moe.ones(4)
    local loss = recompute(function(t) return (t * v):sum() end, a)
    a:fill_(2)
    rejects("backward: the tensor [4] that recompute saved was overwritten since", loss.backward,
      loss)
  end)

  it("refuses a second backward", function()
    local loss = recompute(function(a) return (a * w:sum()):sum() end, x)
    loss:backward()
    rejects("backward: the graph was freed by an earlier backward()\n" ..
      "hint: compute the loss again, or add the losses before one backward()", loss.backward, loss)
    local z = x:exp()
    local again = recompute(function(a) return (a * z):sum() end, v)
    z:sum():backward()
    rejects("backward: the graph was freed by an earlier backward()\n" ..
      "hint: compute the loss again, or add the losses before one backward()", again.backward,
      again)
  end)
end)

describe("a function that fails when it is called again", function()
  local x, w = leaf(3, 4), leaf(4, 4)

  -- backward() of a function whose second call does `what`.
  local function backward_with(what)
    local first = true
    local y = recompute(function(a)
      local b = a:linear(w)
      if not first then b = what(b) or b end
      first = false
      return b
    end, x:exp())
    local loss = y:sum()
    return pcall(loss.backward, loss)
  end

  before_each(function()
    x:zero_grad()
    w:zero_grad()
  end)
  after_each(function()
    pcall(core.uninterrupted, function() end)
    w:zero_grad();
    (x:linear(w)):sum():backward()              -- all works again
    assert.is_not_nil(w:grad())
  end)

  it("raises what it raised", function()
    local problem = { code = 7 }
    assert.equal(problem, select(2, backward_with(function() error(problem) end)))
    local ok, message = backward_with(function(b) return b:linear(x:transpose()) end)
    assert.is_false(ok)
    assert.matches("^[^\n]*recompute_spec.lua:%d+: linear: inner dimensions differ", message)
    assert.is_nil(x:grad())
    assert.is_nil(w:grad())
  end)

  it("or returns something else, is told", function()
    local function says(message, what)
      local ok, got = backward_with(what)
      assert.is_false(ok)
      assert.equal(message, (got:gsub("^[^\n]-:%d+: ", "")))
    end
    says("recompute: result 1 of the function is [3 x 2] when it is called again, but was [3 x 4]",
      function(b) return b:narrow(2, 1, 2) end)
    says("recompute: result 1 of the function is missing when it is called again, but was [3 x 4]",
      function() return 3 end)
  end)

  it("leaves nothing behind", function()
    backward_with(function() error("once") end)
    local before = collected()
    for _ = 1, 20 do backward_with(function(b) return b:exp() + error("no") end) end
    local after = collected()
    assert.equal(before.live, after.live)
    assert.equal(before.count, after.count)
    assert.is_false((pcall(recompute, function(a) return a * error("first") end, x)))
    after = collected()
    assert.equal(before.live, after.live)
  end)

  for _, where in ipairs({ "anywhere", "operation" }) do
    it("is interrupted, " .. where, function()
      local ok, message = backward_with(function(b)
        core.interrupt(where)
        return b:exp()
      end)
      assert.is_false(ok)
      assert.equal("interrupted!", message)
      assert.is_nil(x:grad())
    end)
  end

  it("may use backward() itself, but not on the graph that is being passed", function()
    local own = leaf(2)
    assert.is_true((backward_with(function() own:sum():backward() end)))
    helper.close(own:grad(), { 1, 1 }, 0)
    local z = x:exp()
    local first = true
    local y = recompute(function(a)
      if not first then (z * 2):sum():backward() end
      first = false
      return a * z
    end, x)
    local loss = (y + z):sum()
    rejects("backward: another backward() of this graph is not finished", loss.backward, loss)
  end)
end)

describe("what a graph refers to", function()
  it("goes when backward has passed, and with its last tensor", function()
    local x = leaf(3)
    local gone = setmetatable({}, { __mode = "k" })
    local function make()
      local big = {}
      gone[big] = true
      return recompute(function(a, _) return (a * #big + a):sum() end, x, { big })
    end
    local loss = make()
    collected()
    assert.is_not_nil(next(gone))
    loss:backward()
    collected()
    assert.is_nil(next(gone))
    loss = make()
    collected()
    assert.is_not_nil(next(gone))
    loss:free()
    collected()
    assert.is_nil(next(gone))
    do
      local _ <close> = moe.scope()
      make()
    end
    collected()
    assert.is_nil(next(gone))
  end)

  it("does not outlive the Lua state", function()
    local script = [[
      local moe = require("moelua")
      local x = moe.ones(3):requires_grad()
      kept = moe.recompute(function(a) return (a * a):sum() end, x)]]
    assert.same({ exited = 0 }, core.system.spawn({ host.program, "-e", script }):wait(60))
  end)
end)
