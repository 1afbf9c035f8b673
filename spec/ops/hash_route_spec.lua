local moe = require("moelua")
local core = require("moelua.core")
local support = require("spec.ops.support")
local ids = support.ids

-- ids of `count` values, [B x S]
local function text(B, S, count, seed)
  return (moe.rand(B, S, { seed = seed or 1, stream = "text" }) * count):to("i32")
end

local function column(experts, j) return experts:select(2, j):contiguous():totable() end

describe("hash_route", function()
  it("is one and the same function of seed and id, everywhere", function()
    local x = text(3, 40, 1000)
    local flat = x:reshape(-1):totable()
    for _, seed in ipairs({ 1, 99 }) do
      local want = {}
      for t, id in ipairs(flat) do want[t] = { core.uniform(seed, "hash_route", id, 7) } end
      assert.same(want, x:hash_route(7, 1, 1, seed):totable())
    end
    assert.same({ { 6 }, { 3 }, { 2 }, { 5 }, { 7 } }, ids({ { 0, 1, 2, 3, 4 } }):hash_route(8)
      :totable())
  end)

  it("hashes the id and the one before it when grams is 2", function()
    local x = text(3, 20, 50)
    local rows, want = x:totable(), {}
    for _, row in ipairs(rows) do
      for i, id in ipairs(row) do
        local before = (row[i - 1] or -1) & 0xffffffff
        want[#want + 1] = { core.uniform(5, "hash_route", before << 32 | id, 6) }
      end
    end
    assert.same(want, x:hash_route(6, 1, 2, 5):totable())
  end)

  it("goes on where a sequence was cut", function()
    local x = text(4, 12, 50)
    local whole = x:hash_route(8, 2, 2):reshape(4, 12, 2)
    local tail = x:narrow(2, 6, 7):contiguous()
    local rest = tail:hash_route(8, 2, 2, 1, x:narrow(2, 5, 1):contiguous())
    assert.same(whole:narrow(2, 6, 7):totable(), rest:reshape(4, 7, 2):totable())
    local none = ids({ { -1 }, { -1 }, { -1 }, { -1 } })
    assert.same(x:hash_route(8, 1, 2):totable(), x:hash_route(8, 1, 2, 1, none):totable())
  end)

  it("gives each hash a slice of the experts, and hashes that differ", function()
    local experts = text(5, 200, 256):hash_route(12, 3)
    for j = 1, 3 do
      local count = experts:select(2, j):contiguous():bincount(12):totable()
      for e = 1, 12 do assert.equal((e - 1) // 4 + 1 == j, count[e] > 0) end
    end
    local first, second, same = column(experts, 1), column(experts, 2), 0
    for t = 1, #first do same = same + (first[t] == second[t] - 4 and 1 or 0) end
    assert.is_true(same < #first / 2, "two hashes agree on " .. same .. " of " .. #first)
  end)

  it("reaches all experts about equally over many ids", function()
    local all = moe.arange(20000):to("i32"):reshape(1, -1)
    for _, n in ipairs(all:hash_route(8):bincount(8):totable()) do
      assert.is_true(math.abs(n - 2500) < 5 * math.sqrt(2500), n .. " of 20000 ids")
    end
  end)

  it("knows nothing of later tokens", function()
    local x = text(2, 10, 50)
    local changed = x:clone()
    changed:narrow(2, 7, 4):fill_(49)
    local a, b = x:hash_route(8, 1, 2):reshape(2, 10), changed:hash_route(8, 1, 2):reshape(2, 10)
    assert.same(a:narrow(2, 1, 6):totable(), b:narrow(2, 1, 6):totable())
    assert.not_same(a:totable(), b:totable())
  end)

  it("takes no token, one expert and strided ids", function()
    assert.same({ 0, 2 }, ids({}):reshape(0, 3):hash_route(4, 2):shape())
    assert.same({ { 0 }, { 0 } }, ids({ { 7, 9 } }):hash_route(1):totable())
    local x = text(4, 6, 50)
    assert.same(x:transpose():contiguous():hash_route(8, 1, 2):totable(),
      x:transpose():hash_route(8, 1, 2):totable())
  end)

  it("refuses what does not fit", function()
    local x = ids({ { 1, 2 }, { 3, 4 } })
    local function says(message, ...)
      support.rejects("hash_route: " .. message, moe.hash_route, ...)
    end
    says("7 experts cannot be dealt out evenly to 2 hashes", x, 7, 2)
    says("2 experts cannot be dealt out evenly to 4 hashes", x, 2, 4)
    says("4 experts cannot be dealt out evenly to 0 hashes", x, 4, 0)
    says("grams must be 1 or 2, not 3", x, 4, 1, 3)
    says("ids must have 2 dimensions, not [2]", ids({ 1, 2 }), 4)
    says("ids has -1 at position 2, but must be 0 to 2147483647", ids({ { 1, -1 } }), 4)
    says("before is read for grams = 2 only", x, 4, 1, 1, 1, ids({ { 1 }, { 2 } }))
    says("before must be one id for each of 2 sequences, [2 x 1], not [2]", x, 4, 1, 2, 1,
      ids({ 1, 2 }))
    says("before has -2 at position 1, but must be 0 to 2147483647", x, 4, 1, 2, 1,
      ids({ { -2 }, { 1 } }))
  end)
end)
