-- Weights are packed for products once per version: whoever writes to one is heard, whoever only
-- evaluates holds nothing, and memory that is not there is a clean error.

local core = require("moelua.core")
local helper = require("spec.helper")
local moe = require("moelua")
local close = helper.close

local ROWS = 30         -- fewer would go through the weight as it is stored

local function settled()
  collectgarbage()
  collectgarbage()
  return moe.memory().live
end

-- Trains once through w, so that its packs exist.
local function packed(rows, columns)
  local w = moe.randn(rows, columns, { seed = 1 }):requires_grad()
  local x = moe.randn(ROWS, columns, { seed = 2 }):requires_grad()
  x:linear(w):sum():backward()
  w:zero_grad()
  return w, x
end

-- The product of a weight that nobody has packed yet.
local function fresh(x, w) return x:detach():clone():linear(w:detach():clone()) end

describe("packed weights", function()
  it("follow every way of writing", function()
    local w, x = packed(67, 35)
    local moment = { moe.zeros(67, 35), moe.zeros(67, 35) }
    local writers = {
      function() w:fill_(0.5) end,
      function() w:copy_(moe.randn(67, 35, { seed = 3 })) end,
      function() w:detach():narrow(1, 2, 3):fill_(-1) end,
      function()
        x:linear(w):sum():backward()
        core.adamw_step({ w }, { moment[1] }, { moment[2] }, { step = 1, lr = 0.1 })
      end,
    }
    for i, write in ipairs(writers) do
      local before = x:linear(w):totable()
      if i < 4 then moe.no_grad(write) else write() end
      assert.not_same(before, x:linear(w):totable())
      assert.same(fresh(x, w):totable(), x:linear(w):totable())
      x:zero_grad()
      x:linear(w):sum():backward()
      local copy = x:detach():clone():requires_grad()
      copy:linear(w:detach():clone()):sum():backward()
      assert.same(copy:grad():totable(), x:grad():totable())
    end
  end)

  it("are those of the tensor that is asked for, whatever it shares its storage with", function()
    local w, x = packed(6, 4)
    local other = w:detach():reshape(4, 6)
    local y = moe.randn(ROWS, 6, { seed = 4 })
    assert.same(fresh(y, other):totable(), y:linear(other):totable())
    assert.same(fresh(x, w):totable(), x:linear(w):totable())
    local half = w:detach():narrow(1, 4, 3)
    assert.same(fresh(x, half):totable(), x:linear(half):totable())
  end)

  it("are not held by an evaluation, and serve one between two steps", function()
    local x, w = moe.randn(40, 300, { seed = 1 }), moe.randn(300, 300, { seed = 2 })
    x:linear(w)                                     -- the pool's scratch grows
    local before = settled()
    x:linear(w)
    w:requires_grad()
    moe.no_grad(function() x:linear(w) end)
    assert.equal(before, settled())
    x:linear(w)
    local trained = settled()
    assert.is_true(trained >= before + 300 * 320 * 4)
    moe.no_grad(function() x:linear(w) end)
    assert.equal(trained, settled())
    w = nil                                         -- luacheck: ignore
    assert.is_true(settled() <= before - 300 * 300 * 4)
  end)

  it("that do not fit are an error, after which all goes on", function()
    local w = moe.randn(600, 600, { seed = 1 }):requires_grad()
    local x = moe.randn(ROWS, 600, { seed = 2 }):requires_grad()
    local live = settled()
    moe.memory({ limit = live + 700000 })
    local ok, message = pcall(x.linear, x, w)
    moe.memory({ limit = 0 })
    assert.is_false(ok)
    assert.matches("out of memory: 1.4 MB for a packed weight", message, 1, true)
    assert.equal(live, settled())
    close(x:linear(w), fresh(x, w), 0)
  end)
end)
