-- Means and t-intervals against values that were worked out elsewhere.
local helper = require("spec.helper")
local models = require("spec.models")
local statistics = require("moelua.statistics")

describe("statistics", function()
  it("have quantiles of Student's t", function()
    -- Closed forms: n = 1: tan(pi level / 2); n = 2: level sqrt(2 / (1 - level^2)).
    helper.close(statistics.quantile(1), 12.7062047361747, 1e-13)
    helper.close(statistics.quantile(2), 4.30265272974946, 1e-13)
    helper.close(statistics.quantile(1, 0.5), 1, 1e-12)
    helper.close(statistics.quantile(2, 0.8), 0.8 * math.sqrt(2 / 0.36), 1e-12)
    -- Roots of the regularised incomplete beta function in 30 digits (mpmath).
    local roots = { [3] = 3.18244630528371, [4] = 2.77644510519780, [5] = 2.57058183563631,
      [9] = 2.26215716279821, [10] = 2.22813885198627, [30] = 2.04227245630124,
      [100] = 1.98397151852355 }
    for n, want in pairs(roots) do helper.close(statistics.quantile(n), want, 1e-13) end
    helper.close(statistics.quantile(4, 0.99), 4.60409487134999, 1e-13)
    helper.close(statistics.quantile(1000000), 1.959963984540, 3e-6)    -- the normal distribution
  end)

  it("have means, deviations and intervals", function()
    assert.equal(2.5, statistics.mean { 1, 2, 3, 4 })
    helper.close(statistics.deviation { 1, 2, 3, 4 }, math.sqrt(5 / 3), 1e-15)
    assert.is_nil(statistics.deviation { 7 })
    local interval = statistics.interval { 1, 2, 3, 4 }
    assert.same({ 2.5, 4 }, { interval.mean, interval.n })
    helper.close(interval.half, 3.18244630528371 * math.sqrt(5 / 3) / 2, 1e-11)
    assert.same({ mean = 7.0, n = 1 }, statistics.interval { 7 })
  end)

  it("pair two arms seed by seed", function()
    -- The seeds differ by much, the arms by little: only the paired difference is resolved.
    local a, b = { 1.0, 2.0, 3.0 }, { 1.125, 2.25, 3.125 }
    local difference = statistics.paired(a, b)
    helper.close(difference.mean, -1 / 6, 1e-15)
    helper.close(difference.half, 4.30265272974946 * math.sqrt(0.015625 / 3) / math.sqrt(3), 1e-12)
    assert.is_nil(statistics.below_zero(difference))
    difference = statistics.paired({ 1, 2, 3 }, { 1.25, 2.25, 3.5 })
    assert.is_nil(statistics.below_zero(difference))
    difference = statistics.paired({ 1, 2, 3 }, { 1.25, 2.25, 3.25 })
    assert.same({ mean = -0.25, half = 0.0, n = 3 }, difference)
    assert.is_true(statistics.below_zero(difference))
    assert.is_false(statistics.below_zero(statistics.paired({ 2, 2.1 }, { 1, 1.1 })))
  end)

  it("resolve nothing that includes zero, and nothing from one seed", function()
    assert.is_nil(statistics.below_zero { mean = -1, half = 1, n = 3 })
    assert.is_nil(statistics.below_zero { mean = 0.0, half = 0.0, n = 3 })
    assert.is_nil(statistics.below_zero { mean = -1, n = 1 })
    assert.is_true(statistics.below_zero { mean = -1, half = 0.99, n = 3 })
    assert.is_false(statistics.below_zero { mean = 1, half = 0.99, n = 3 })
  end)

  it("are written with their interval", function()
    assert.equal("-0.012 ± 0.004", statistics.text { mean = -0.0123, half = 0.0041, n = 3 })
    assert.equal("+0.012 ± 0.004",
      statistics.text({ mean = 0.0123, half = 0.0041, n = 3 }, "%+.3f"))
    assert.equal("1.50", statistics.text({ mean = 1.5, n = 1 }, "%.2f"))
  end)

  it("refuse what is no list of numbers", function()
    for _, name in ipairs { "mean", "deviation", "interval" } do
      local f = statistics[name]
      models.misuse(function() f() end,
        ("statistics.%s: list must be a list of numbers, not nil"):format(name))
      assert.has_error(function() f({}) end)
      assert.has_error(function() f({ "1" }) end)
    end
    assert.has_error(function() statistics.paired({ 1, 2 }, { 1 }) end)
    assert.has_error(function() statistics.quantile(0) end)
    assert.has_error(function() statistics.quantile(1.5) end)
    assert.has_error(function() statistics.quantile(2, 1) end)
    assert.has_error(function() statistics.below_zero(3) end)
  end)
end)
