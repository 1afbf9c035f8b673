-- soak.lua: does a training step leave anything behind? Run as
--   moelua scripts/checks/soak.lua [--steps N] [--model small|recipe] [--batch N]
--
-- A dense model and a mixture are trained in both modes of Lua's collector, by a loop with
-- moe.scope() and by one without: eight combinations, each in a process of its own. After a warm-up
-- they must be flat:
--
--   with scopes     after each step the same bytes are live; the peak does not grow; nothing is
--                   asked from the system
--   without them    the garbage that collects keeps below what the settings of moe.memory allow:
--                   growth x (live + a step) + floor, and one step that runs meanwhile
--   always          after a full collection as much is live as after the warm-up, of tensors and of
--                   Lua's own heap, which meanwhile stays below LUA_MOST times that (generational
--                   collection lets it double, and once more after a major collection that found
--                   little); the resident size of the last third of the run exceeds that of the
--                   second by at most PAGES
--
-- One line per combination, then `N passed, N failed`. The default is the recipe's model for 5,000
-- steps: an hour on two cores; `--batch 1` takes ten minutes.

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")
local system = core.system

local PAGES = 256
local LUA_MOST = 5
local LUA_SLACK = 8                     -- KB that Lua's heap may differ by after a collection
local sizes = {
  recipe = { dim = 128, layers = 4, heads = 4, hidden = 352, vocab = 256, context = 128,
    batch = 32 },
  small = { dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 32, context = 16, batch = 4 },
}

-- ---- one combination --------------------------------------------------------------------------

local function new_model(size, kind)
  local mixture = { kind = "moe", experts = 4, hidden = size.hidden,
    router = { k = 2, balance = { form = "btx" } } }
  return moe.model.new { dim = size.dim, layers = size.layers, heads = size.heads,
    hidden = size.hidden, vocab = size.vocab, context = size.context,
    ffn = kind == "mixture" and mixture or nil }
end

local function some_ids(size)
  local rows = {}
  for i = 1, size.batch do
    rows[i] = {}
    for j = 1, size.context do rows[i][j] = (7 * i + j * j) % size.vocab end
  end
  return rows
end

-- The step that a user writes: everything it makes is garbage afterwards.
local function stepper(size, kind)
  local model, rows = new_model(size, kind), some_ids(size)
  local optimizer = moe.optimizer(model, { lr = 1e-3 })
  return function()
    local x, y = moe.tensor(rows, "i32"), moe.tensor(rows, "i32")
    local loss = model:loss(x, y)
    loss:backward()
    optimizer:step()
    assert(loss:item() < 100)
  end
end

local function resident()
  local file <close> = assert(io.open("/proc/self/statm"))
  return select(2, file:read("n", "n"))
end

local function collected()
  collectgarbage()
  collectgarbage()
  local now = moe.memory()
  return { live = now.live, count = now.count, lua = collectgarbage("count") }
end

-- Two steps without the collector need the most that any step needs: returns how much.
local function warm_up(step, scoped, steps)
  local live = collected().live
  collectgarbage("stop")
  scoped()
  scoped()
  collectgarbage("restart")
  local need = moe.memory().peak - live
  for _ = 1, steps do step() end
  return need
end

-- What a worker finds out, as one line of JSON.
local function work(job)
  collectgarbage(job.mode)
  local size = sizes[job.model]
  size.batch = job.batch or size.batch
  local plain = stepper(size, job.kind)
  local function scoped()
    local _ <close> = moe.scope()
    plain()
  end
  local step = job.loop == "scopes" and scoped or plain
  local need = warm_up(step, scoped, math.max(20, job.steps // 10))
  local before, start = collected(), moe.memory()
  local found = { need = need, before = before, peak_before = start.peak, moved = 0, lua_most = 0,
    held_most = 0, resident = {} }
  local began = system.clock()
  for i = 1, job.steps do
    step()
    local now = moe.memory()
    if now.live ~= before.live then found.moved = found.moved + 1 end
    found.lua_most = math.max(found.lua_most, collectgarbage("count"))
    found.held_most = math.max(found.held_most, now.live + now.cached)
    local third = (i - 1) * 3 // job.steps + 1
    found.resident[third] = math.max(found.resident[third] or 0, resident())
  end
  found.seconds = (system.clock() - began) / job.steps
  found.peak, found.allocations = moe.memory().peak, moe.memory().allocations - start.allocations
  found.after = collected()
  print(core.json.encode(found))
end

-- ---- all of them ------------------------------------------------------------------------------

-- What is wrong with a worker's figures, as a list.
local function complaints(job, found)
  local list = {}
  local function check(ok, ...)
    if not ok then list[#list + 1] = string.format(...) end
  end
  local before, after = found.before, found.after
  if job.loop == "scopes" then
    check(found.moved == 0, "other bytes were live after %d steps", found.moved)
    check(found.peak == found.peak_before, "the peak grew from %d to %d bytes", found.peak_before,
      found.peak)
    check(found.allocations == 0, "%d allocations from the system", found.allocations)
  else
    local allowed = 1.5 * (before.live + found.need) + (64 << 20) + found.need
    check(found.peak <= allowed, "the peak of %d bytes exceeds %d", found.peak, allowed // 1)
    check(found.held_most <= 2 * found.peak + (64 << 20), "%d bytes were held", found.held_most)
  end
  check(after.live == before.live, "%d bytes are live, not %d", after.live, before.live)
  check(after.count == before.count, "%d tensors are live, not %d", after.count, before.count)
  check(after.lua <= before.lua + LUA_SLACK, "Lua's heap grew from %.0f to %.0f KB", before.lua,
    after.lua)
  check(found.lua_most <= LUA_MOST * before.lua, "Lua's heap reached %.0f KB", found.lua_most)
  check(found.resident[3] <= found.resident[2] + PAGES, "resident pages grew from %d to %d",
    found.resident[2], found.resident[3])
  return list
end

local function spawn(job)
  local path = os.tmpname()
  local words = { host.program, arg[0], "--worker", stdout = path }
  for name, value in pairs(job) do table.move({ "--" .. name, tostring(value) }, 1, 2, #words + 1,
    words) end
  local status = assert(system.spawn(words)):wait()
  local text = assert(system.read(path))
  os.remove(path)
  return status.exited == 0 and assert(core.json.decode(text)) or nil
end

local function mb(bytes) return ("%.1f MB"):format(bytes / (1 << 20)) end

local function report(job, found)
  local name = ("%s %s %s"):format(job.kind, job.mode, job.loop)
  local list = found and complaints(job, found) or { "the worker failed" }
  for _, text in ipairs(list) do print(("    %s: %s"):format(name, text)) end
  local figures = found and ("live %s, peak %s, %d allocations, resident %s, Lua %.0f KB, %.1f ms")
    :format(mb(found.after.live), mb(found.peak), found.allocations, mb(found.resident[3] * 4096),
      found.lua_most, 1000 * found.seconds) or ""
  print(("%s  soak: %s: %s"):format(#list == 0 and "ok    " or "FAILED", name, figures))
  return #list == 0
end

local function all(asked)
  local passed, failed = 0, 0
  for _, kind in ipairs { "dense", "mixture" } do
    for _, mode in ipairs { "incremental", "generational" } do
      for _, loop in ipairs { "scopes", "plain" } do
        local job = { kind = kind, mode = mode, loop = loop, steps = asked.steps,
          model = asked.model, batch = asked.batch }
        if report(job, spawn(job)) then passed = passed + 1 else failed = failed + 1 end
      end
    end
  end
  print(("%d passed, %d failed"):format(passed, failed))
  os.exit(failed == 0)
end

local function arguments()
  local asked, i = { steps = 5000, model = "recipe" }, 1
  while arg[i] do
    local name = arg[i]:match("^%-%-(%a+)$") or error("soak.lua: what is " .. arg[i], 0)
    if name == "worker" then
      asked.worker, i = true, i + 1
    else
      asked[name], i = math.tointeger(arg[i + 1]) or arg[i + 1], i + 2
    end
  end
  if not sizes[asked.model] then error("soak.lua: --model is small or recipe", 0) end
  return asked
end

local asked = arguments()
if asked.worker then work(asked) else all(asked) end
