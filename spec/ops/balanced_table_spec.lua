local moe = require("moelua")
local support = require("spec.ops.support")

local function column(experts, j) return experts:select(2, j):contiguous():totable() end

describe("balanced_table", function()
  -- What the experts of a slice carry.
  local function loads(counts, experts, j, experts_of_slice)
    local load = {}
    for e = 1, experts_of_slice do load[e] = 0 end
    for id, row in ipairs(experts:totable()) do
      local e = row[j] - (j - 1) * experts_of_slice + 1
      load[e] = load[e] + counts[id]
    end
    table.sort(load)
    return load
  end

  it("deals the ids out from the most frequent on, each to the least loaded", function()
    local got = moe.tensor({ 2, 9, 5, 4, 0, 9 }):balanced_table(3)
    -- 9 (id 1) -> 0, 9 (id 5) -> 1, 5 -> 2, 4 -> 2, 2 -> 0 (of 10, 10, 11), 0 -> 1
    assert.same({ { 0 }, { 0 }, { 2 }, { 2 }, { 1 }, { 1 } }, got:totable())
  end)

  it("deals ids that all occur alike, or never, out in turn", function()
    assert.same({ { 0 }, { 1 }, { 2 }, { 0 }, { 1 } }, moe.zeros(5):balanced_table(3):totable())
    assert.same({ { 0 }, { 1 }, { 0 } }, moe.full(7, 3):balanced_table(2):totable())
  end)

  it("loads all experts of a slice nearly alike, as a random hash does not", function()
    local counts = {}
    for id = 1, 400 do counts[id] = 10000 // id end           -- Zipf
    local hashed = moe.arange(400):to("i32"):reshape(1, -1):hash_route(4)
    local random = loads(counts, hashed, 1, 4)
    for k = 1, 3 do
      local experts = moe.tensor(counts):balanced_table(4 * k, k)
      for j = 1, k do
        local load = loads(counts, experts, j, 4)
        assert.is_true(load[4] - load[1] < 0.02 * load[4], load[1] .. " to " .. load[4])
      end
    end
    assert.is_true(random[4] - random[1] > 0.1 * random[4])
  end)

  it("divides the ids another way for each hash", function()
    local experts = moe.ones(400):balanced_table(8, 2)
    local first, second, pairs_seen = column(experts, 1), column(experts, 2), {}
    for t = 1, #first do pairs_seen[first[t] * 8 + second[t]] = true end
    local n = 0
    for _ in pairs(pairs_seen) do n = n + 1 end
    assert.equal(16, n)
    assert.not_same(column(experts, 2), column(moe.ones(400):balanced_table(8, 2, 5), 2))
  end)

  it("refuses what does not fit", function()
    local function says(message, ...)
      support.rejects("balanced_table: " .. message, moe.balanced_table, ...)
    end
    says("the count of id 1 is -1", moe.tensor({ 0, -1 }), 2)
    says("the count of id 0 is inf", moe.tensor({ 1 / 0 }), 2)
    says("5 experts cannot be dealt out evenly to 2 hashes", moe.ones(3), 5, 2)
    says("counts must have 1 dimension, not [2 x 3]", moe.ones(2, 3), 2)
  end)
end)
