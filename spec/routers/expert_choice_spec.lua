-- Expert choice: capacities, loads, and what a token then depends on.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local router = require("moelua.router")
local support = require("spec.routers.support")
local misuse = models.misuse

local input = support.input
local function layer_of(...) return support.layer("expert_choice", ...) end

describe("expert choice", function()
  it("takes round(c n / N) tokens of every group for each expert", function()
    for _, case in ipairs({
      -- over, B, S, factor, N, tokens of each expert in all
      { "sequence", 3, 8, 2, 4, 3 * 4 }, { "sequence", 3, 8, 1, 4, 3 * 2 },
      { "sequence", 2, 7, 1, 4, 2 * 2 }, { "sequence", 2, 5, 4, 4, 2 * 5 },
      { "batch", 8, 3, 2, 4, 3 * 4 }, { "batch", 2, 3, 1, 4, 3 * 1 },
    }) do
      local over, B, S, factor, N, each = table.unpack(case)
      local layer = layer_of({ over = over, factor = factor }, N)
      local _, info = layer(input(B, S))
      assert.same({ each, each, each, each }, info.counts)
      assert.same({ 0.25, 0.25, 0.25, 0.25 }, info.load)
      assert.equal(0, info.dropped)
      assert.is_nil(info.loss)
    end
  end)

  it("weighs with the softmax over the experts, not over the tokens", function()
    local layer = layer_of({ factor = 2 })
    local x = input(2, 8)
    local gates, experts = layer.router:route(x)
    local p = (x:reshape(-1, 6):linear(layer.router.weight)):softmax(-1):totable()
    gates = gates:totable()
    for t, row in ipairs(experts:totable()) do
      for e = 1, 4 do
        assert.is_true(row[e] == e - 1 or row[e] == -1)
        helper.close(gates[t][e], row[e] >= 0 and p[t][e] or 0, 1e-6)
      end
    end
  end)

  it("leaves padding out while there is anything else", function()
    local mask = moe.tensor({ { 0, 0, 0, 0, 1, 1, 1, 1 } })
    local _, info = layer_of({ factor = 2 })(input(1, 8), { mask = mask })
    assert.same({ 4, 4, 4, 4 }, info.counts)
  end)

  it("gives tokens from none to all of the experts", function()
    local _, experts = layer_of({ factor = 1 }).router:route(input(4, 40))
    local seen = {}
    for _, row in ipairs(experts:totable()) do
      local n = 0
      for _, e in ipairs(row) do n = n + (e >= 0 and 1 or 0) end
      seen[n] = true
    end
    assert.is_true(seen[0] and seen[1] and seen[2] and not seen[5])
  end)

  it("has the mean of c experts per token as its compute, and says what it depends on", function()
    local opts = router.options({ kind = "expert_choice", factor = 1.5 }, 8)
    assert.equal(1.5, router.slots(opts, 8))
    assert.same(opts, router.options(opts, 8))
    assert.same({ causal = false, coupled = "sequence" }, router.traits(opts))
    opts = router.options({ kind = "expert_choice", over = "batch" }, 8)
    for _, train in ipairs({ true, false }) do
      assert.same({ causal = true, coupled = "batch", group = "batch" },
        router.traits(opts, train))
    end
  end)

  it("refuses batches to train with of which an expert would take nothing", function()
    local train = { train = true }
    misuse(function() layer_of({ factor = 1 }, 16)(input(2, 7), train) end,
      "router: an expert takes round(factor tokens / experts) = round(1 * 7 / 16) = 0 tokens " ..
      "of a sequence\nhint: sequences of at least 8, fewer experts, or a larger factor")
    misuse(function() layer_of({ over = "batch", factor = 0.5 })(input(3, 7), train) end,
      "router: an expert takes round(factor tokens / experts) = round(0.5 * 3 / 4) = 0 tokens " ..
      "of a position of the batch\nhint: batches of at least 4, fewer experts, or a larger factor")
    layer_of({ factor = 1 }, 16)(input(2, 8), train)
    layer_of({ over = "batch", factor = 0.5 })(input(4, 7), train)
  end)

  it("takes one token of a text that is short, in evaluation", function()
    local _, info = layer_of({ factor = 1 }, 16)(input(2, 1))
    assert.equal(2 * 16, info.experts:count())
    for e = 1, 16 do assert.equal(2, info.counts[e]) end
  end)

  it("refuses options that make no sense", function()
    misuse(function() layer_of({ factor = 0 }) end,
      "router: factor must be above 0 and at most the number of experts: 0 of 4")
    misuse(function() layer_of({ factor = 5 }) end,
      "router: factor must be above 0 and at most the number of experts: 5 of 4")
    misuse(function() layer_of({ k = 2 }) end, "router: unknown option 'k'\n" ..
      "hint: known are factor, jitter, kind, over, scale, z_loss")
    misuse(function() layer_of({ balance = {} }) end, "router: unknown option 'balance'\n" ..
      "hint: known are factor, jitter, kind, over, scale, z_loss")
  end)
end)
