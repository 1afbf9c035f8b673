-- What an interrupt must not cut in two: core.uninterrupted.
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")

local interrupt, uninterrupted = core.interrupt, core.uninterrupted

-- An interrupt that nobody took would hit the next test.
after_each(function() pcall(uninterrupted, function() end) end)

local function stopped(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  assert.equal("interrupted!", message)
end

describe("an interrupt", function()
  it("is raised at once, and only once", function()
    local after
    stopped(function()
      interrupt()
      after = true
    end)
    assert.is_nil(after)
    for _ = 1, 100 do after = true end
    assert.is_true(after)
  end)

  it("of an operation is raised by the next one", function()
    local x, reached = moe.ones(3), nil
    stopped(function()
      interrupt("operation")
      reached = true
      x:sum()
    end)
    assert.is_true(reached)
  end)
end)

for _, where in ipairs({ "anywhere", "operation" }) do
  describe("uninterrupted, " .. where .. ",", function()
    it("finishes before the interrupt is raised", function()
      local x, seen = moe.ones(200, 300), nil
      stopped(uninterrupted, function(a, b)
        interrupt(where)
        for _ = 1, 1000 do seen = a + b end
        seen = seen + (x + x):sum():item()
      end, 3, 4)
      assert.equal(7 + 120000, seen)
    end)

    it("finishes in a coroutine, and in another shield", function()
      local seen
      local co = coroutine.create(function()
        return uninterrupted(function()
          interrupt(where)
          uninterrupted(function() seen = "inner" end)
          seen = seen .. " outer"
        end)
      end)
      local ok, message = coroutine.resume(co)
      assert.same({ false, "interrupted!" }, { ok, message })
      assert.equal("inner outer", seen)
    end)

    it("hands on an error, and the interrupt after it", function()
      local message
      stopped(function()
        message = select(2, pcall(uninterrupted, function()
          interrupt(where)
          error("of its own", 0)
        end))
        moe.ones(1):sum()
      end)
      assert.is_truthy(message == "of its own" or message == nil and where == "anywhere")
    end)

    it("does not begin when one is pending", function()
      local began
      stopped(function()
        local ok, message = pcall(function()
          interrupt(where)
          uninterrupted(function() began = true end)
        end)
        assert.is_false(ok)
        error(message, 0)
      end)
      assert.is_nil(began)
    end)
  end)
end

describe("uninterrupted", function()
  it("gives arguments and results through", function()
    assert.same({ 1, nil, "x", n = 3 }, table.pack(uninterrupted(function(...) return ... end, 1,
      nil, "x")))
    assert.equal(0, select("#", uninterrupted(function() end)))
  end)

  it("is over after an error, and cannot be left by yielding", function()
    assert.is_false(pcall(uninterrupted, error, "x"))
    stopped(function() interrupt() for _ = 1, 10 do end end)
    local co = coroutine.wrap(function() uninterrupted(coroutine.yield) end)
    local ok, message = pcall(co)
    assert.is_false(ok)
    assert.matches("attempt to yield across a C%-call boundary", message)
    stopped(function() interrupt() for _ = 1, 10 do end end)
  end)
end)

describe("an update of the optimizer", function()
  -- The number of instructions after which the interrupt comes.
  local function after(count, f)
    return pcall(function()
      debug.sethook(function()
        debug.sethook()
        interrupt()
      end, "", count)
      f()
      debug.sethook()
    end)
  end

  local function prepared()
    local m = models.tiny({ ffn = models.mixture() })
    local x = moe.tensor({ { 1, 2, 3, 4 } }):to("i32")
    local optimizer = moe.optimizer(m, { lr = 0.1 })
    m:loss(x, x):backward()
    return m, optimizer
  end

  it("is applied wholly or not at all", function()
    local before = models.bits((prepared()))
    local whole, optimizer = prepared()
    optimizer:step()
    local wanted = models.bits(whole)
    local applied, left = 0, 0
    for count = 1, 160, 3 do
      local m, own = prepared()
      local ok, message = after(count, function() own:step() end)
      local bits = models.bits(m)
      if not ok then assert.equal("interrupted!", message) end
      if own.steps == 1 then
        applied = applied + 1
        assert.same(wanted, bits)
        assert.is_nil(m:parameters()[1][2]:grad())
      else
        left = left + 1
        assert.same(before, bits)
        assert.is_false(ok)
      end
    end
    assert.is_true(applied > 10 and left > 3, applied .. " and " .. left)
  end)
end)
