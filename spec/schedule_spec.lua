-- Learning rates by step.
local helper = require("spec.helper")
local models = require("spec.models")
local schedule = require("moelua.schedule")

local function rates(kind, steps, more)
  local opts, list = { kind = kind, lr = 2 }, {}
  for k, v in pairs(more or {}) do opts[k] = v end
  for step = 1, steps do list[step] = schedule.rate(opts, step, steps) end
  return list
end

describe("schedule", function()
  it("warms up linearly", function()
    for _, kind in ipairs(schedule.kinds) do
      local list = rates(kind, 10, { warmup = 4 })
      helper.close({ list[1], list[2], list[3], list[4] }, { 0.5, 1, 1.5, 2 })
    end
  end)

  it("constant stays", function()
    helper.close(rates("constant", 5, { warmup = 2 }), { 1, 2, 2, 2, 2 })
  end)

  it("linear falls to the floor", function()
    helper.close(rates("linear", 5, { warmup = 1, floor = 0.5 }), { 2, 1.75, 1.5, 1.25, 1 })
    helper.close(rates("linear", 4), { 1.5, 1, 0.5, 0 })
  end)

  it("cosine falls to the floor", function()
    local half = math.sqrt(0.5)
    helper.close(rates("cosine", 4), { 1 + half, 1, 1 - half, 0 })
    local list = rates("cosine", 9, { warmup = 1, floor = 0.1 })
    helper.close({ list[1], list[5], list[9] }, { 2, 2 * (0.1 + 0.9 * 0.5), 0.2 })
    for i = 2, 9 do assert.is_true(list[i] < list[i - 1]) end
  end)

  it("wsd stays and falls at the end", function()
    helper.close(rates("wsd", 10, { decay = 0.5 }), { 2, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4, 0 })
    helper.close(rates("wsd", 10, { decay = 0.2, floor = 0.5 }),
      { 2, 2, 2, 2, 2, 2, 2, 2, 1.5, 1 })
  end)

  it("ends well when the warm-up takes everything, and beyond the last step", function()
    helper.close(rates("cosine", 3, { warmup = 3 }), { 2 / 3, 4 / 3, 2 })
    assert.equal(2, schedule.rate({ kind = "constant", lr = 2, warmup = 5 }, 6, 5))
    helper.close(schedule.rate({ kind = "linear", lr = 2, floor = 0.25 }, 20, 10), 0.5)
  end)

  it("refuses a kind it does not know", function()
    models.misuse(function() rates("cosin", 3) end,
      "schedule: unknown kind 'cosin'\nhint: did you mean 'cosine'?")
  end)
end)
