-- GShard: two experts, the second by several rules.
local helper = require("spec.helper")
local misuse = require("spec.models").misuse
local moe = require("moelua")
local router = require("moelua.router")
local support = require("spec.routers.support")

local ROW, DRAWS = { 1, 0, -1, 2 }, 100000
local P = support.softmax(ROW)
local many = moe.ones(DRAWS, 1):matmul(moe.tensor({ ROW }))
local train = { train = true, step = 1, seed = 2 }

-- Without a capacity, so that nothing is dropped that was chosen.
local function route(second, logits, how)
  return support.route({ kind = "gshard", second = second, capacity = false }, logits, how)
end

describe("gshard", function()
  it("has the paper's capacity and loss", function()
    local opts = router.options({ kind = "gshard" })
    assert.same({ form = "gshard", coef = 0.01, scope = "batch", reduce = "sum" }, opts.balance)
    assert.same({ factor = 2, formula = "gshard", policy = "choice", renormalise = false,
      scope = "batch" }, opts.capacity)
    assert.equal("random", opts.second)
  end)

  it("divides the two gates by their sum, whatever the second one is", function()
    for _, second in ipairs({ "random", "sampling", "all" }) do
      local gates, experts = route(second, { ROW, { 0, 5, 1, 1 } }, train)
      for t, row in ipairs({ P, support.softmax({ 0, 5, 1, 1 }) }) do
        local g, e = gates:totable()[t], experts:totable()[t]
        helper.close(g[1] + g[2], 1, 1e-6)
        local b = e[2] >= 0 and e[2] + 1 or t == 1 and 1 or 3
        helper.close(g[1], row[e[1] + 1] / (row[e[1] + 1] + row[b]), 1e-5)
      end
      assert.equal(3, experts:totable()[1][1])
      assert.equal(1, experts:totable()[2][1])
    end
  end)

  it("uses the next best with probability 2 g", function()
    local g = P[1] / (P[1] + P[4])
    local gates, _, info = route("random", many, train)
    support.frequency(info.counts[1], DRAWS, 2 * g)
    assert.same({ DRAWS, 0, 0 }, { info.counts[4], info.counts[2], info.counts[3] })
    helper.close(gates:narrow(2, 2, 1):mean(), g, 1e-5)
    assert.equal(0, info.dropped)                   -- not drawn is not dropped
    local _, _, even = route("random", moe.zeros(100, 4), train)
    assert.same({ 100, 100, 0, 0 }, even.counts)    -- 2 g = 1
    _, _, info = support.route({ kind = "gshard", capacity = false, threshold = 0.8 }, many, train)
    support.frequency(info.counts[1], DRAWS, g / 0.8)
    misuse(function() router.options({ kind = "gshard", threshold = 0 }) end,
      "router: threshold must be above 0 and finite, not 0")
  end)

  it("draws the second one among the others, as likely as they are", function()
    local gates, _, info = route("sampling", many, train)
    assert.equal(DRAWS, info.counts[4])
    for e = 1, 3 do support.frequency(info.counts[e], DRAWS, P[e] / (1 - P[4])) end
    local mean = 0
    for e = 1, 3 do mean = mean + P[e] / (1 - P[4]) * P[e] / (P[e] + P[4]) end
    helper.close(gates:narrow(2, 2, 1):mean(), mean, 3e-3)
  end)

  it("has the gradient of both gates", function()
    for _, second in ipairs({ "sampling", "all" }) do
      local logits = moe.tensor({ ROW }):requires_grad()
      local made = support.router({ kind = "gshard", second = second }, 4)
      local gates, experts = made.kind.route(made, logits, train)
      gates:narrow(2, 1, 1):sum():backward()
      local a, b = experts:totable()[1][1] + 1, experts:totable()[1][2] + 1
      local want, slope = { 0, 0, 0, 0 }, P[a] * P[b] / (P[a] + P[b]) ^ 2
      want[a], want[b] = slope, -slope
      helper.close(logits:grad(), { want }, 1e-5)
    end
  end)

  it("takes the next best in evaluation, unless told otherwise", function()
    local _, experts, info = route("random", many, nil)
    assert.same({ DRAWS, DRAWS }, { info.counts[4], info.counts[1] })
    assert.same({ 3, 0 }, experts:totable()[1])
    _, _, info = support.route({ kind = "gshard", evaluation = "random" }, many, { seed = 1 })
    support.frequency(info.counts[1], DRAWS, 2 * P[1] / (P[1] + P[4]))
  end)

  it("serves all first choices before the second ones", function()
    -- Capacity 2 ceil(4 / 4) = 2: the last two tokens' first choice leaves no room for others.
    local rows = { { 5, 4, 0, 0 }, { 5, 0, 4, 0 }, { 0, 5, 4, 0 }, { 0, 5, 4, 0 } }
    local gates, experts, info = support.route({ kind = "gshard", second = "all" }, rows, train)
    assert.same({ { 0, -1 }, { 0, 2 }, { 1, 2 }, { 1, -1 } }, experts:totable())
    helper.close(info.dropped, 2 / 8, 1e-12)
    helper.close(gates:totable()[1][1], 1 / (1 + math.exp(-1)), 1e-6)
  end)

  it("gives what is left the whole weight when it is renormalised", function()
    local rows = { { 5, 4, 0, 0 }, { 5, 0, 4, 0 }, { 0, 5, 4, 0 }, { 0, 5, 4, 0 } }
    local gates = support.route({ kind = "gshard", second = "all",
      capacity = { factor = 2, formula = "gshard", policy = "choice", renormalise = true } }, rows,
      train)
    local g = 1 / (1 + math.exp(-1))
    helper.close(gates, { { 1, 0 }, { g, 1 - g }, { g, 1 - g }, { 1, 0 } }, 1e-6)
  end)

  it("counts first choices in its loss", function()
    local rows = { { 2, 1, 0 }, { 2, 0, 1 }, { 0, 2, 1 } }
    local _, _, info = support.route({ kind = "gshard", second = "all" }, rows, train)
    local m = { 0, 0, 0 }
    for _, row in ipairs(rows) do
      for e, p in ipairs(support.softmax(row)) do m[e] = m[e] + p / 3 end
    end
    helper.close(info.loss, 0.01 * 3 * (m[1] * 2 / 3 + m[2] / 3), 1e-7)
  end)

  it("needs two experts", function()
    misuse(function() router.options({ kind = "gshard" }, 1) end,
      "router: gshard takes 2 experts per token: there are only 1")
  end)
end)
