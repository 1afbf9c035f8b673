-- Switch: one expert, its probability as the gate, and a capacity.
local helper = require("spec.helper")
local moe = require("moelua")
local nn = require("moelua.nn")
local router = require("moelua.router")
local support = require("spec.routers.support")

describe("switch", function()
  it("has the paper's settings", function()
    assert.same({ kind = "switch", z_loss = 0, jitter = 1e-2,
      balance = { form = "switch", coef = 0.01, scope = "batch", reduce = "sum" },
      capacity = { factor = 1.25, formula = "flaxformer", policy = "position",
        renormalise = false, scope = "batch" } }, router.options({ kind = "switch" }))
  end)

  it("keeps what was switched off when it is checked again", function()
    local bare = { kind = "switch", balance = false, capacity = false, jitter = 0, z_loss = 0 }
    assert.same(bare, router.options(bare))
    assert.same(bare, router.options(router.options(bare)))
  end)

  it("begins ten times smaller", function()
    local function weight(kind)
      return router.Router({ kind = kind }, { dim = 8, experts = 4,
        init = { std = 0.3, seed = 1, name = "r." } }).weight
    end
    helper.close(weight("switch"), weight("topk") * 0.1, 1e-6)
  end)

  it("weighs the best expert with its probability", function()
    local gates, experts = support.route({ kind = "switch" }, { { 1, 0, -1, 2 }, { 0, 3, 0, 0 } })
    assert.same({ { 3 }, { 1 } }, experts:totable())
    helper.close(gates, { { support.softmax({ 1, 0, -1, 2 })[4] },
      { support.softmax({ 0, 3, 0, 0 })[2] } }, 1e-6)
  end)

  it("has the loss alpha N sum f P over all choices, dropped ones too", function()
    local rows = { { 2, 0 }, { 2, 0 }, { 2, 0 }, { 0, 1 } }
    local _, _, info = support.route({ kind = "switch", jitter = 0,
      capacity = { factor = 0.5, formula = "megatron" } }, rows, { train = true })
    local p = (3 * support.softmax({ 2, 0 })[1] + support.softmax({ 0, 1 })[1]) / 4
    helper.close(info.loss, 0.01 * 2 * (0.75 * p + 0.25 * (1 - p)), 1e-6)
    assert.equal(0.5, info.dropped)
  end)

  it("gives dropped tokens nothing, and drops nothing in evaluation", function()
    local layer = nn.MoE({ dim = 4, hidden = 6, experts = 2, std = 0.5, seed = 3,
      router = { kind = "switch", jitter = 0 } })
    moe.no_grad(function() layer.router.weight:fill_(0) end)          -- everybody to expert 1
    local x = moe.randn(16, 4, { seed = 1 })
    local y, info = layer(x, { train = true })
    assert.same({ 10, 0 }, info.counts)                               -- round(1.25 * 16 / 2)
    helper.close(info.dropped, 6 / 16, 1e-12)
    helper.close(y:narrow(1, 11, 6), moe.zeros(6, 4), 0)
    local whole, told = layer(x)
    assert.equal(0, told.dropped)
    helper.close(whole:narrow(1, 1, 10), y:narrow(1, 1, 10), 0)
    assert.is_true((whole:narrow(1, 11, 6) ^ 2):sum(-1):totable()[1] > 0)
    local _, paper = nn.MoE({ dim = 4, hidden = 6, experts = 2, router = { kind = "switch",
      capacity = { factor = 1.25, evaluation = 2.0, formula = "flaxformer" } } })(x)
    assert.equal(0, paper.dropped)
  end)
end)
