-- A steady-state training step asks the system for nothing: no block of memory, hardly a page.

local models = require("spec.models")
local moe = require("moelua")

moe.zeros(1):free()
local caching = moe.memory().cached > 0

-- Pages that the process has touched for the first time so far: field 10 of its status.
local function faults()
  local file = assert(io.open("/proc/self/stat"))
  local rest = file:read("a"):match("^.*%) (.*)$")
  file:close()
  local field = 2
  for word in rest:gmatch("%S+") do
    field = field + 1
    if field == 10 then return math.tointeger(word) end
  end
end

-- Rounds of Lua's collector so far: each of them finds the guard of the one before.
local rounds = 0
local function guard()
  setmetatable({}, { __gc = function()
    rounds = rounds + 1
    guard()
  end })
end
guard()

-- The figures of steps first .. last of a model that is trained like moe.train does it.
local function trained(more, first, last)
  local model = models.tiny(more)
  local corpus, optimizer = models.corpus("code", { train = 40000 }), moe.optimizer(model)
  local before
  collectgarbage("stop")        -- what it frees within a step would hide how much a step can need
  for step = 1, last do
    if step == first then
      collectgarbage("restart")
      collectgarbage()
      before = { allocations = moe.memory().allocations, faults = faults(), rounds = rounds }
    end
    local _ <close> = moe.scope()
    local x, y = corpus:batch({ split = "train", batch = 8, context = 64, seed = 1, stream = "s",
      draw = step * 8 })
    local loss = model:loss(x, y, { stats = step % 4 == 0 })
    loss:backward()
    optimizer:step()
  end
  return { allocations = moe.memory().allocations - before.allocations,
    faults = faults() - before.faults, rounds = rounds - before.rounds }
end

describe("a training step", function()
  local shape = { dim = 64, layers = 3, heads = 4, hidden = 176, context = 64 }
  local mixture = { kind = "moe", hidden = 176, experts = 4, router = { k = 2, z_loss = 1e-3,
    balance = { form = "switch", coef = 0.01 } } }
  for name, more in pairs({ dense = {}, ["of a mixture"] = { ffn = mixture },
    ["that recomputes"] = { ffn = mixture, recompute = true } }) do
    for key, value in pairs(shape) do more[key] = more[key] or value end
    it("asks the system for no memory, " .. name, function()
      local asked = trained(more, 5, 14)
      if caching then assert.equal(0, asked.allocations) end
      -- A step touches some thousand pages; fresh ones would be as many.
      if caching then assert.is_true(asked.faults < 10 * 100, asked.faults .. " faults") end
      -- What a scope releases is nothing for the collector.
      if not os.getenv("MOELUA_GCSTRESS") then
        assert.is_true(asked.rounds <= 10, asked.rounds .. " rounds of the collector")
      end
    end)
  end
end)
