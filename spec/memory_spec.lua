-- Memory: figures that return to where they were, garbage that stays bounded, limits that hold, and
-- allocations that fail cleanly, each one of them.

local host = require("moelua.host")
local core = require("moelua.core")
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local rejects = require("spec.ops.support").rejects

local system = core.system
local MB = 1 << 20
local N = MB // (moe.double and 8 or 4)         -- elements of a tensor of 1 MB

local function collected()
  collectgarbage()
  collectgarbage()
  return moe.memory()
end

moe.zeros(1):free()
local caching = moe.memory().cached > 0

-- The text of a number of bytes in messages.
local function readable(bytes)
  local units, i = { "bytes", "KB", "MB", "GB", "TB" }, 1
  while bytes >= 1024 and i < 5 do bytes, i = bytes / 1024, i + 1 end
  return (bytes < 10 and i > 1 and "%.1f %s" or "%.0f %s"):format(bytes, units[i])
end

-- A mixture so small that a training step takes a millisecond, and one step of it.
local function tiny_model()
  return moe.model.new({ dim = 8, layers = 2, heads = 2, kv_heads = 1, vocab = 11, context = 6,
    hidden = 12, seed = 1, ffn = { { hidden = 12 }, { kind = "moe", experts = 3, hidden = 5,
      router = { k = 2, balance = { form = "btx" }, z_loss = 1e-3 } } } })
end

local function tiny_batch()
  return moe.tensor({ { 1, 2, 3, 4, 5 }, { 6, 7, 8, 9, 10 } }, "i32"),
    moe.tensor({ { 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, -1 } }, "i32")
end

local function moments(model)
  local list = {}
  for i, p in ipairs(model:parameters()) do
    list[i] = { p[2], moe.zeros(p[2]:shape()), moe.zeros(p[2]:shape()) }
  end
  return list
end

local function train_step(model, list, step, x, y)
  local _ <close> = moe.scope()
  local loss = model:loss(x, y)
  local value = loss:item()
  loss:backward()
  local norm = moe.clip_grad_norm(moe.nn.tensors(model), 1)
  for _, p in ipairs(list) do
    core.adamw_step({ p[1] }, { p[2] }, { p[3] }, { step = step, lr = 1e-3 })
    p[1]:zero_grad()
  end
  return value, norm
end

describe("the figures", function()
  it("count live tensors and bytes, and return to the baseline", function()
    local before = collected()
    local x = moe.zeros(N)
    local during = moe.memory()
    assert.equal(before.count + 1, during.count)
    assert.is_true(during.live - before.live >= MB and during.live - before.live < 1.2 * MB)
    assert.is_true(during.peak >= during.live)
    local part = x:narrow(1, 1, 5)
    local views = { x, part, part:reshape(5, 1) }
    assert.equal(before.count + 3, moe.memory().count)
    assert.is_true(moe.memory().live < during.live + 1024)
    x, part = nil, nil -- luacheck: ignore
    assert.equal(1, views[3]:size(2))
    views = nil -- luacheck: ignore
    local after = collected()
    assert.equal(before.live, after.live)
    assert.equal(before.count, after.count)
  end)

  it("return to the baseline after graphs, with and without backward", function()
    local function work(back)
      local w = moe.randn(50, 30):requires_grad()
      local y = moe.randn(20, 30):linear(w):silu():softmax(-1):log()
      local loss = (y * y):sum() + w:transpose():reshape(-1):pow(2):mean()
      if back then loss:backward() end
    end
    work(true)                                  -- scratch that the pool keeps
    local before = collected()
    for _, back in ipairs({ true, false, true }) do
      work(back)
      local after = collected()
      assert.equal(before.live, after.live)
      assert.equal(before.count, after.count)
    end
  end)

  it("count what the cache could not serve, and take back a cache that nobody asks for", function()
    if not caching then return pending("sanitizers see every block, none is cached") end
    local spare, largest = 64 * MB, 0
    local before = collected().allocations
    for i = 1, 200 do                           -- sizes that never come again
      local _ <close> = moe.scope()
      moe.zeros(N + i * N // 8)
      local now = moe.memory()
      largest = math.max(largest, now.live + now.cached)
      assert.is_true(now.live + now.cached <= 2 * now.peak + spare)
    end
    assert.is_true(largest > spare)             -- it was put to the test
    assert.is_true(moe.memory().allocations >= before + 30)
    local _ <close> = moe.scope()
    moe.zeros(3)
    local served = moe.memory().allocations
    for _ = 1, 10 do moe.zeros(3):free() end
    assert.is_true(moe.memory().allocations <= served + 3)
  end)

  it("are set by their names alone", function()
    rejects("memory: unknown option 'limti'\nhint: did you mean 'limit'?", moe.memory,
      { limti = 3 })
    rejects("memory: growth must be above 1, not 1.0", moe.memory, { growth = 1 })
    rejects("memory: limit must not be negative: -1", moe.memory, { limit = -1 })
    rejects("memory: floor must be an integer, not \"x\"", moe.memory, { floor = "x" })
    assert.equal(0, moe.memory().limit)
  end)
end)

describe("garbage", function()
  it("of 2000 tensors of 1 MB keeps below 300 MB in either mode of the collector", function()
    local folder = helper.tmpdir()
    local script = folder .. "/garbage.lua"
    assert(system.write(script, [[
      local moe = require("moelua")
      collectgarbage(arg[1])
      local held = moe.ones(1 << 18)
      for i = 1, 500 do
        local x = moe.zeros(1 << 18)
        x = x:clone()
        x = moe.tensor(1) + x
        x = held * x
      end
      print(moe.memory().peak, held:sum():item())]]))
    for _, mode in ipairs({ "incremental", "generational" }) do
      local out = folder .. "/" .. mode
      local process = assert(system.spawn({ host.program, script, mode, stdout = out }))
      assert.same({ exited = 0 }, process:wait(60))
      local peak, sum = assert(system.read(out)):match("^(%d+)%s+([%d.]+)%s*$")
      assert.equal(1 << 18, tonumber(sum))
      assert.is_true(tonumber(peak) < 300 * MB, mode .. ": peak " .. peak)
    end
  end)
end)

describe("a growth without end", function()
  it("leaves garbage to Lua's own collector", function()
    moe.memory({ growth = math.huge, floor = 1 })
    local x = moe.ones(80 * N)                  -- beyond the first ceiling
    x = x:narrow(1, 1, N)
    collectgarbage("stop")
    local count = moe.memory().count
    for _ = 1, 100 do x:narrow(1, 1, 2) end
    assert.equal(count + 100, moe.memory().count)
    collectgarbage("restart")
    moe.memory({ growth = 1.5, floor = 64 * MB })
  end)
end)

describe("a limit", function()
  local before

  before_each(function() before = collected() end)
  after_each(function() moe.memory({ limit = 0 }) end)

  it("is kept, and says what was wanted and what there is", function()
    local limit = before.live + 2 * MB
    assert.equal(limit, moe.memory({ limit = limit }).limit)
    rejects(("out of memory: 4.0 MB for [4 x %d]; live %s in %d tensors, limit %s"):format(N,
      readable(before.live), before.count, readable(limit)), moe.zeros, 4, N)
    assert.equal(before.live, collected().live)
    local x = moe.zeros(N)
    assert.equal(0, x:sum():item())
    local ok, y = pcall(x.clone, x)
    assert.is_false(ok and pcall(x.clone, y))
    assert.is_true(moe.memory().live <= limit)
  end)

  it("collects garbage before it gives up, in every function that makes tensors", function()
    moe.memory({ limit = before.live + 5 * MB // 2 })
    local x = moe.ones(N)
    collectgarbage("stop")                      -- only a full collection helps
    for i = 1, 5 do
      for name, f in pairs({ clone = x.clone, exp = moe.exp,
        to = function(t) return t:to("i32") end,
        zeros = function() return moe.zeros(N) end, arange = function() return moe.arange(N) end,
        randn = function() return moe.randn(N) end }) do
        local ok, message = pcall(f, x)
        assert.is_true(ok, ("%s, round %d: %s"):format(name, i, message))
      end
    end
    collectgarbage("restart")
  end)

  it("collects garbage before it gives up, in every function that reads or writes files", function()
    local folder = helper.tmpdir()
    local path = folder .. "/file"
    local x, text = moe.ones(N):reshape(2, N // 2):transpose(), ("x"):rep(1000)
    local operations = {
      save = function() return core.checkpoint.save(path, { b = x, a = moe.ones(3) }) end,
      create = function()
        local writer <close> = assert(core.checkpoint.create(path,
          { b = { dtype = "F32", shape = { N // 2, 2 } } }))
        assert(writer:put("b", x))
        return writer:close()
      end,
      write = function() return core.system.write(path, text) end,
      open = function()
        local file <close> = assert(core.checkpoint.open(path .. ".safetensors"))
        return file:verify()
      end,
      corpus = function() return core.text.corpus_open(models.corpus("prose").path) end,
    }
    assert(core.checkpoint.save(path .. ".safetensors", { a = x }, { checksum = "" }))
    models.corpus("prose")
    collectgarbage("stop")                      -- only a full collection helps
    for name, f in pairs(operations) do
      moe.memory({ limit = 0 })
      assert(f())
      local limit = moe.memory({ limit = collected().live + MB + MB // 4 }).limit
      local least = moe.memory().live
      moe.zeros(1)
      least = moe.memory().live - least
      while limit - moe.memory().live >= least do moe.zeros(1) end
      local called, ok, message = pcall(f)
      assert.is_true(called and ok and true, ("%s: %s"):format(name, message or ok))
    end
    collectgarbage("restart")
  end)

  it("is never exceeded, not for a moment, and does not end the work", function()
    local program = helper.tmpdir() .. "/limit.lua"
    assert(system.write(program, [[
      local moe = require("moelua")
      local limit = 8 << 20
      assert(moe.memory({ limit = limit }).limit == limit)
      local list, failures = {}, 0
      for i = 1, 400 do
        local ok, message = pcall(function()
          list[#list + 1] = moe.randn(100 * i):requires_grad()
          local y = (list[#list] * 2 + list[#list]):exp()
          y:sum():backward()
        end)
        if not ok then
          assert(message:find("out of memory: ", 1, true) and message:find("limit 8.0 MB"), message)
          failures, list = failures + 1, {}
        end
        local m = moe.memory()
        assert(m.live <= limit and m.live + m.cached <= limit)
      end
      assert(failures > 3)
      assert(moe.memory().peak <= limit and moe.memory().peak > limit // 2)]]))
    assert.same({ exited = 0 }, system.spawn({ host.program, program }):wait(60))
  end)

  it("below what is live frees nothing, and nothing new is made until enough is gone", function()
    local list = { moe.ones(N), moe.ones(N), moe.ones(N) }
    assert.equal(before.live + MB, moe.memory({ limit = before.live + MB }).limit)
    assert.equal(3 * N, list[1]:count() + list[2]:count() + list[3]:count())
    local ok, message = pcall(moe.zeros, N // 2)
    assert.is_false(ok)
    assert.matches("out of memory: ", message, 1, true)
    list = nil -- luacheck: ignore
    assert.equal(0, moe.zeros(N // 2):sum():item())
  end)

  it("that is just enough for a step lets a loop without scopes train", function()
    local program = helper.tmpdir() .. "/enough.lua"
    assert(system.write(program, [[
      local moe = require("moelua")
      local model = moe.model.new({ dim = 8, layers = 2, heads = 2, vocab = 11, context = 6,
        ffn = { { hidden = 12 }, { kind = "moe", experts = 3, hidden = 5, router = { k = 2 } } } })
      local x = moe.tensor({ { 1, 2, 3, 4, 5 }, { 6, 7, 8, 9, 10 } }, "i32")
      local y = moe.tensor({ { 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, -1 } }, "i32")
      local optimizer, start = moe.optimizer(model), {}
      for name, tensor in pairs(optimizer:state()) do start[name] = tensor:clone() end
      local function losses(n)
        optimizer:restore(function(name) return start[name] end, 0)
        local list = {}
        for i = 1, n do
          local loss = model:loss(x, y)
          list[i] = loss:item()
          loss:backward()
          optimizer:step()
        end
        return list
      end
      for _ = 1, 2 do                                 -- the second finds packed weights
        local scope <close> = moe.scope()
        losses(1)
      end
      local limit = moe.memory().peak                 -- of one step that left no garbage
      moe.memory({ limit = limit })
      collectgarbage("stop")                          -- only what the limit asks for
      local tight = losses(30)
      assert(moe.memory().peak == limit)
      moe.memory({ limit = 0 })
      local free = losses(30)
      assert(moe.memory().peak > 1.5 * limit)         -- so there was something to collect
      for i = 1, 30 do assert(tight[i] == free[i]) end]]))
    assert.same({ exited = 0 }, system.spawn({ host.program, program }):wait(60))
  end)

  it("makes backward collect on its way, when there is garbage", function()
    local x = moe.randn(N):requires_grad()
    local loss, held = (x * x + x * x):sum(), { moe.zeros(N), moe.zeros(N), moe.zeros(N) }
    moe.memory({ limit = moe.memory().live + MB // 2 })
    assert.equal(3, #held)
    held = nil                                  -- garbage that nobody has collected yet
    loss:backward()
    assert.is_nil(held)
    assert.equal(4 * x:select(1, 1):item(), x:grad():select(1, 1):item())
  end)

  it("of the system on the address space is told like any other", function()
    if not caching then return pending("sanitizers need much address space") end
    local folder = helper.tmpdir()
    assert(system.write(folder .. "/script.lua", [[
      local moe = require("moelua")
      print(pcall(moe.zeros, 1 << 28))
      print(moe.ones(300, 300):sum():item())]]))
    for _, kilobytes in ipairs({ 100000, 250000 }) do
      local out = ("%s/%d"):format(folder, kilobytes)
      local process = assert(system.spawn({ "sh", "-c", "ulimit -v $0; exec \"$@\"",
        tostring(kilobytes), host.program, folder .. "/script.lua", stdout = out, stderr = out }))
      local status = process:wait(60)
      if not status then process:kill(9) end
      assert.same({ exited = 0 }, status)
      assert.matches("^false\t[^\n]*out of memory: [12]%.0 GB for %[268435456%]; live [^\n]*\n" ..
        "90000%.0\n$", assert(system.read(out)))
    end
  end)

  it("lets the cache go first", function()
    do
      local _ <close> = moe.scope()
      for _ = 1, 8 do moe.zeros(N) end
    end
    moe.memory({ limit = before.live + 3 * MB })
    assert.equal(2 * N, moe.zeros(2 * N):count())
  end)
end)

describe("a training loop", function()
  it("is flat in both modes of the collector, with scopes and without", function()
    if not caching then return pending("sanitizers see every block, none is cached") end
    local out = helper.tmpdir() .. "/said"
    local status = system.spawn({ host.program, "scripts/checks/soak.lua", "--model", "small",
      "--steps", "200", stdout = out }):wait(200)
    local said = assert(system.read(out))
    assert.matches("\n8 passed, 0 failed\n$", said)
    assert.same({ exited = 0 }, status)
  end)

  it("neither grows nor asks the system for more from its tenth step on", function()
    local model, x, y = tiny_model(), tiny_batch()
    local list, steady, first, last = moments(model), nil, nil, nil
    for step = 1, 50 do
      last = train_step(model, list, step, x, y)
      first = first or last
      local now = moe.memory()
      if step == 10 then steady = now end
      if step > 10 then
        assert.equal(steady.live, now.live)
        assert.equal(steady.peak, now.peak)
        assert.equal(steady.cached, now.cached)
      end
    end
    assert.is_true(last < first)
  end)
end)
