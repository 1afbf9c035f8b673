-- BASE: balanced in training, greedy in evaluation, sigmoid gates, orthogonal centroids.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local router = require("moelua.router")
local misuse = models.misuse

local function layer_of(experts, dim)
  return moe.nn.MoE({ dim = dim or 6, hidden = 5, experts = experts or 4, std = 0.7, seed = 3,
    router = { kind = "base" } })
end

local function input(B, S, dim) return moe.randn(B, S, dim or 6, { seed = 1, stream = "x" }) end

-- sigmoid of the logit of each token's expert, in Lua
local function gates_of(layer, x, experts)
  local logits, list = x:reshape(-1, x:size(-1)):linear(layer.router.weight):totable(), {}
  for t, row in ipairs(experts:totable()) do
    list[t] = { 1 / (1 + math.exp(-logits[t][row[1] + 1])) }
  end
  return list
end

describe("base", function()
  it("loads every expert equally in training, up to one token", function()
    for _, size in ipairs({ { 4, 8, { 8, 8, 8, 8 } }, { 3, 5, { 3, 4, 4, 4 } },
      { 1, 4, { 1, 1, 1, 1 } } }) do
      local _, info = layer_of()(input(size[1], size[2]), { train = true })
      table.sort(info.counts)
      assert.same(size[3], info.counts)
    end
  end)

  it("assigns in training as balanced_assignment does, and greedily in evaluation", function()
    local layer, x = layer_of(), input(4, 8)
    local logits = x:reshape(-1, 6):linear(layer.router.weight)
    local gates, experts = layer.router:route(x, { train = true })
    assert.same(logits:balanced_assignment():totable(), experts:totable())
    helper.close(gates, gates_of(layer, x, experts), 1e-6)
    gates, experts = layer.router:route(x)
    assert.same(logits:argmax(-1, true):totable(), experts:totable())
    helper.close(gates, gates_of(layer, x, experts), 1e-6)
  end)

  it("hands the gradient of a gate to the logit of the assigned expert alone", function()
    local layer, x = layer_of(), input(4, 8)
    local gates, experts = layer.router:route(x, { train = true })
    local a = moe.randn(32, 1, { seed = 5 });
    (gates * a):sum():backward()
    local g = gates:detach()
    local dl = experts:one_hot(4):reshape(-1, 4) * (a * g * (1 - g))
    helper.close(layer.router.weight:grad(), dl:transpose():matmul(x:reshape(-1, 6)), 1e-5)
  end)

  it("begins with orthogonal centroids of length 0.1", function()
    for _, size in ipairs({ { 4, 6 }, { 6, 6 }, { 5, 64 }, { 9, 6 } }) do
      local w = layer_of(size[1], size[2]).router.weight:detach()
      if size[1] > size[2] then w = w:transpose():contiguous() end
      local want = {}
      for i = 1, w:size(1) do
        want[i] = {}
        for j = 1, w:size(1) do want[i][j] = i == j and 0.01 or 0 end
      end
      helper.close(w:matmul(w:transpose()), want, 1e-8)
    end
    local a, b = layer_of().router.weight, layer_of().router.weight
    assert.equal(a:bytes(), b:bytes())
  end)

  it("says what it depends on, and needs no loss", function()
    local opts = router.options({ kind = "base" }, 4)
    assert.same({ causal = false, coupled = "batch" }, router.traits(opts, true))
    assert.same({ causal = true, coupled = "no" }, router.traits(opts, false))
    assert.equal(1, router.slots(opts, 4))
    router.check_trainable(opts)
  end)

  it("refuses batches that cannot be shared out, in training", function()
    misuse(function() layer_of(16)(input(3, 5), { train = true }) end,
      "router: 15 tokens cannot load 16 experts equally\n" ..
      "hint: train with batches of at least 16 tokens")
    layer_of(16)(input(3, 5))
  end)
end)
