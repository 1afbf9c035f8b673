-- Statistics of routing: golden values by hand.
local helper = require("spec.helper")
local routing = require("moelua.routing")
local close = helper.close

describe("the evenness of a load", function()
  it("is 1 and 0 when even", function()
    assert.same({ load = { 0.25, 0.25, 0.25, 0.25 }, max_over_mean = 1, cv = 0, dead = 0 },
      routing.evenness({ 7, 7, 7, 7 }))
  end)

  it("is the number of experts when one does all", function()
    local got = routing.evenness({ 0, 12, 0, 0 })
    assert.same({ 0, 1, 0, 0 }, got.load)
    assert.equal(4, got.max_over_mean)
    close(got.cv, math.sqrt(3), 1e-12)            -- population: sqrt(N - 1)
    assert.equal(0.75, got.dead)
  end)

  it("takes the standard deviation of the population", function()
    -- 1 2 3 6: mean 3, deviations -2 -1 0 3, variance 14 / 4.
    local got = routing.evenness({ 1, 2, 3, 6 })
    close(got.cv, math.sqrt(3.5) / 3, 1e-12)
    assert.equal(2, got.max_over_mean)
    close(got.load, { 1 / 12, 2 / 12, 3 / 12, 6 / 12 }, 1e-12)
  end)

  it("counts an expert with less than a hundredth of an even share as dead", function()
    assert.equal(0.5, routing.evenness({ 1, 399 }).dead)       -- 1 / 200 of an even share
    assert.equal(0, routing.evenness({ 2.1, 397.9 }).dead)
    assert.equal(0, routing.evenness({ 1 }).dead)
  end)

  it("is defined when nothing was routed", function()
    assert.same({ load = { 0, 0 }, max_over_mean = 0, cv = 1, dead = 1 },
      routing.evenness({ 0, 0 }))
  end)
end)

describe("the mutual information of expert and domain", function()
  local information = routing.mutual_information

  it("is 0 when every domain is routed alike", function()
    assert.equal(0, information({ { 3, 1 }, { 3, 1 }, { 3, 1 } }))
    close(information({ { 3, 1 }, { 30, 10 } }), 0, 1e-12)
    assert.equal(0, information({ { 5, 5 } }))
  end)

  it("is the entropy of the domains when each has experts of its own", function()
    assert.equal(1, information({ { 8, 0 }, { 0, 8 } }))
    assert.equal(2, information({ { 1, 0, 0, 0 }, { 0, 1, 0, 0 }, { 0, 0, 1, 0 }, { 0, 0, 0, 1 } }))
    assert.equal(1, information({ { 2, 6, 0, 0 }, { 0, 0, 4, 4 } }))
    close(information({ { 3, 0 }, { 0, 1 } }), 2 - 0.75 * math.log(3, 2), 1e-12)
  end)

  it("is in between when domains share experts", function()
    -- p = 3/8 1/8 1/8 3/8, both margins even: 2 (3/8 log2 3/2 + 1/8 log2 1/2)
    close(information({ { 3, 1 }, { 1, 3 } }), 0.75 * math.log(1.5, 2) - 0.25, 1e-12)
  end)

  it("does not depend on which of the two is which, nor on scale", function()
    local a = information({ { 5, 1, 2 }, { 0, 3, 9 } })
    close(information({ { 5, 0 }, { 1, 3 }, { 2, 9 } }), a, 1e-12)
    close(information({ { 50, 10, 20 }, { 0, 30, 90 } }), a, 1e-12)
  end)
end)

describe("sums of routing", function()
  local function info(counts, entropy, dropped)
    return { load = routing.shares(counts), counts = counts, entropy = entropy, dropped = dropped }
  end

  it("weigh entropy and drops by tokens, and count slots", function()
    local sum = {}
    routing.add(sum, { [2] = info({ 3, 1 }, 0.5, 0) }, 3, 4)
    routing.add(sum, { [2] = info({ 6, 2 }, 0.2, 0.3) }, 3, 12)
    assert.is_false(sum[1])
    assert.is_false(sum[3])
    local got = routing.figures(sum[2])
    close(got.load, { 0.75, 0.25 }, 1e-12)
    close(got.entropy, (4 * 0.5 + 12 * 0.2) / 16, 1e-12)
    close(got.dropped, 12 * 0.3 / 16, 1e-12)
    assert.equal(1.5, got.max_over_mean)
  end)

  it("leave out the entropy that a router does not have", function()
    local sum = {}
    routing.add(sum, { info({ 3, 1 }) }, 1, 4)
    routing.add(sum, { info({ 3, 1 }) }, 1, 4)
    local got = routing.figures(sum[1])
    assert.is_nil(got.entropy)
    assert.equal(0, got.dropped)
  end)

  it("give every domain the same weight", function()
    local a, b = {}, {}
    routing.add(a, { info({ 600, 0 }, 0.6, 0), nil }, 2, 300)
    routing.add(b, { info({ 0, 2 }, 0.2, 0.5), nil }, 2, 1)
    local got = routing.statistics({ a, b })
    assert.is_false(got[2])
    close(got[1].load, { 0.5, 0.5 }, 1e-12)
    close(got[1].entropy, 0.4, 1e-12)
    close(got[1].dropped, 0.25, 1e-12)
    assert.equal(1, got[1].mutual_information)
    assert.equal(0, got[1].cv)
  end)

  it("are even where experts choose evenly among domains that get unequal shares", function()
    local a, b = {}, {}
    routing.add(a, { info({ 4, 2 }, 0.6, 0) }, 1, 4)
    routing.add(b, { info({ 0, 2 }, 0.6, 0) }, 1, 4)
    local got = routing.statistics({ a, b })[1]
    assert.equal(0, got.cv)
    -- p = 4/8 2/8 0 2/8; of the domains 6/8 2/8, of the experts 1/2 1/2.
    close(got.mutual_information,
      0.5 * math.log(4 / 3, 2) + 0.25 * math.log(2 / 3, 2) + 0.25, 1e-12)
  end)

  it("are logged with the number of their layer and short loads", function()
    local figures = routing.evenness({ 1, 2 })
    local got = routing.logged({ false, figures })
    assert.same({ { layer = 2, load = { 0.3333, 0.6667 }, cv = figures.cv, dead = 0,
      max_over_mean = figures.max_over_mean } }, got)
    assert.equal(1 / 3, figures.load[1])
    assert.is_nil(routing.logged({ false, false }))
  end)
end)
