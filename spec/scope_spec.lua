-- Scopes release the tensors made inside them, however they end.

local moe = require("moelua")
local close = require("spec.helper").close
local rejects = require("spec.ops.support").rejects

local function count()
  collectgarbage()
  collectgarbage()
  return moe.memory().count
end

local RELEASED = "item: x was released\n"
  .. "hint: scope:keep(x) lets a tensor outlive its scope"

describe("a scope", function()
  it("releases its tensors at the end of the block, without the collector", function()
    local x
    local before = count()
    collectgarbage("stop")
    do
      local _ <close> = moe.scope()
      x = moe.ones(1000):exp()
      assert.equal(before + 2, moe.memory().count)
    end
    collectgarbage("restart")
    assert.equal(before, moe.memory().count)
    rejects(RELEASED, x.item, x)
  end)

  it("releases them on error, return and goto", function()
    local before = count()
    local function fails()
      local _ <close> = moe.scope()
      local y = moe.ones(10):exp()
      return y:reshape(3)
    end
    assert.is_false(pcall(fails))
    assert.equal(before, count())
    local function returns()
      local _ <close> = moe.scope()
      return moe.ones(10):sum():item()
    end
    assert.equal(10, returns())
    assert.equal(before, count())
    for _ = 1, 3 do
      local _ <close> = moe.scope()
      moe.ones(10):exp()
      goto continue
      ::continue::
    end
    assert.equal(before, count())
  end)

  it("releases a graph and its gradients, not those of parameters from outside", function()
    local w = moe.ones(4):requires_grad()
    local before = count()
    do
      local _ <close> = moe.scope()
      local x = moe.ones(4):requires_grad();
      (w * x):exp():sum():backward()
      x:grad()
    end
    assert.equal(before + 1, count())           -- the gradient of w
    close(w:grad(), moe.full(math.exp(1), 4), 1e-6)
  end)

  it("keep returns its arguments, which then outlive it", function()
    local x, y, z
    do
      local s <close> = moe.scope()
      x = s:keep(moe.arange(3))
      y, z = s:keep(moe.arange(2), moe.ones(1))
      assert.equal(0, select("#", s:keep()))
    end
    close(x, { 0, 1, 2 }, 0)
    close(y, { 0, 1 }, 0)
    close(z, { 1 }, 0)
  end)

  it("keep hands a tensor to the scope around it", function()
    local x
    do
      local _ <close> = moe.scope()
      do
        local inner <close> = moe.scope()
        x = inner:keep(moe.ones(1))
      end
      assert.equal(1, x:item())
    end
    rejects(RELEASED, x.item, x)
  end)

  it("keep leaves a tensor alone that was made further out", function()
    local x = moe.ones(1)
    local y
    do
      local _ <close> = moe.scope()
      y = moe.full(2, 1)
      do
        local _ <close> = moe.scope()
        local inner <close> = moe.scope()
        inner:keep(x, y)
      end
      assert.equal(2, y:item())
    end
    assert.equal(1, x:item())
    rejects(RELEASED, y.item, y)
  end)

  it("keep takes what an inner scope would release as well", function()
    local x
    do
      local outer <close> = moe.scope()
      do
        local _ <close> = moe.scope()
        x = outer:keep(moe.ones(1))
      end
      assert.equal(1, x:item())
    end
    assert.equal(1, x:item())
  end)

  it("says when keep comes too late or gets something else", function()
    local s = moe.scope()
    local x = moe.ones(1)
    rejects("keep: argument 1 must be a tensor, not 3", s.keep, s, 3)
    s:close()
    s:close()
    rejects("keep: the scope is closed", s.keep, s, moe.ones(1))
    rejects(RELEASED, x.item, x)
  end)

  it("closes the scopes inside it that were never closed", function()
    local x
    local before = count()
    do
      local _ <close> = moe.scope()
      local inner = moe.scope()
      x = moe.ones(1)
      assert.is_not_nil(inner)
    end
    assert.equal(before, moe.memory().count)
    rejects(RELEASED, x.item, x)
    assert.equal(1, moe.ones(1):item())
  end)

  it("of a coroutine that is abandoned leaves its tensors to the collector", function()
    local x
    local before = count()
    local co = coroutine.create(function()
      local _ <close> = moe.scope()
      x = moe.full(3, 2)
      local y = moe.ones(5)
      coroutine.yield()
      return y
    end)
    coroutine.resume(co)
    assert.equal(before + 2, moe.memory().count)
    co = nil -- luacheck: ignore
    assert.equal(before + 1, count())
    close(x, { 3, 3 }, 0)
    local y = moe.full(4, 1)                    -- belongs to no scope
    x = nil -- luacheck: ignore
    assert.equal(before + 1, count())
    assert.equal(4, y:item())
  end)

  it("of a coroutine that is closed releases them", function()
    local before = count()
    local co = coroutine.create(function()
      local _ <close> = moe.scope()
      moe.ones(5)
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.is_true(coroutine.close(co))
    assert.equal(before, moe.memory().count)
  end)

  it("knows tensors that are freed or collected inside it", function()
    local before = count()
    do
      local _ <close> = moe.scope()
      local b, c = moe.ones(2), moe.ones(3)
      moe.ones(1)                               -- garbage at once
      b:free()
      collectgarbage()
      collectgarbage()
      assert.equal(before + 1, moe.memory().count)
      assert.equal(3, c:count())
      c:free()
    end
    assert.equal(before, count())
  end)
end)

describe("finalizers", function()
  -- Each call leaves a holder behind that frees the tensor as soon as the collector runs.
  local function doomed(values)
    local holder = setmetatable({ tensor = values }, { __gc = function(h) h.tensor:free() end })
    return holder.tensor
  end

  it("that free an argument of a running function do no harm", function()
    collectgarbage("incremental", 1, 10000, 0)
    local big, list = moe.ones(70000), {}
    for i = 1, 20 do
      for _, f in ipairs({ moe.exp, big.clone, big.detach, big.totable, tostring, big.shape,
        function(x) return x + 1 end, function(x) return moe.concat({ x, x }) end,
        function(x) return x:reshape(2, 2) end, function(x) return x:to("i32") end }) do
        local ok, result = pcall(f, doomed(moe.full(i, 4)))
        if not ok then
          assert.matches("released", result)
        elseif type(result) == "userdata" then
          list[#list % 50 + 1] = result
        end
      end
      if i % 10 == 0 then list[#list % 50 + 1] = big + i end
    end
    for _, x in ipairs(list) do
      if x:dim() > 0 then assert.is_true(x:count() >= 4) end
    end
    collectgarbage("incremental", 200, 100, 13)
  end)
end)
