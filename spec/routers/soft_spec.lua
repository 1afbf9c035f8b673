-- Soft routing: everybody, by softmax.
local helper = require("spec.helper")
local misuse = require("spec.models").misuse
local moe = require("moelua")
local nn = require("moelua.nn")
local router = require("moelua.router")
local support = require("spec.routers.support")

describe("soft", function()
  it("gives each expert the softmax of its logit", function()
    local logits = moe.randn(9, 5, { seed = 1 })
    local gates, experts, info = support.route({ kind = "soft" }, logits)
    local dense = (experts:one_hot(5) * gates:reshape(9, 5, 1)):sum(2)
    helper.close(dense, logits:softmax(-1), 1e-6)
    helper.close(info.load, { 0.2, 0.2, 0.2, 0.2, 0.2 }, 1e-6)
    assert.same({ 9, 9, 9, 9, 9 }, info.counts)
  end)

  it("is the weighted sum of all experts", function()
    local layer = nn.MoE({ dim = 6, hidden = 5, experts = 3, std = 0.5, seed = 4,
      router = { kind = "soft" } })
    local x, want = moe.randn(2, 4, 6, { seed = 2 }), nil
    local p = x:linear(layer.router.weight):softmax(-1)
    local w = layer.experts
    for e = 1, 3 do
      local y = x:linear(w.w1:select(1, e)):swiglu(x:linear(w.w3:select(1, e)))
        :linear(w.w2:select(1, e)) * p:narrow(3, e, 1)
      want = want and want + y or y
    end
    helper.close(layer(x), want, 1e-5)
  end)

  it("uses all experts and has no capacity", function()
    assert.equal(7, router.slots(router.options({ kind = "soft" }), 7))
    misuse(function() router.options({ kind = "soft", capacity = {} }) end,
      "router: unknown option 'capacity'\nhint: known are balance, jitter, kind, scale, z_loss")
  end)

  it("has a BTX loss of at least 1, which is N sum P^2", function()
    local _, _, info = support.route({ kind = "soft", balance = { coef = 1 } },
      moe.randn(40, 6, { seed = 1 }))
    assert.is_true(info.loss:item() > 1)
    _, _, info = support.route({ kind = "soft", balance = { coef = 1 } }, moe.zeros(4, 6))
    helper.close(info.loss, 1, 1e-6)
  end)
end)
