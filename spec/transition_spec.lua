-- A mixture of tokens becomes a mixture of experts.
local models = require("spec.models")
local helper = require("spec.helper")
local moe = require("moelua")
local nn = moe.nn
local close, misuse = helper.close, models.misuse

local function model(more)
  local layer = { kind = "mot", hidden = 12, experts = 4, group = 2 }
  for k, v in pairs(more or {}) do layer[k] = v end
  return models.tiny({ ffn = { { kind = "dense" }, layer } })
end

describe("moe.transition", function()
  it("keeps the experts, and routes with the controller", function()
    local m = model()
    local out = moe.transition(m)
    local old, new = m.layers[2].ffn, out.layers[2].ffn
    assert.equal("moe", out.config.ffn[2].kind)
    assert.equal("relu", out.config.ffn[2].activation)
    assert.equal("all", out.config.ffn[2].router.gate)
    assert.equal(1, out.config.ffn[2].router.k)
    close(new.router.weight, old.controller, 0)
    close(new.experts.w1, old.experts.w1, 0)
    close(new.experts.w2, old.experts.w2, 0)
    local before, after = nn.saved(m), nn.saved(out)
    assert.equal(#before, #after)
    for i, entry in ipairs(before) do assert.equal(entry[2]:bytes(), after[i][2]:bytes()) end
  end)

  it("makes a layer in which each token goes through the expert it is most like", function()
    local m = model()
    local old, new = m.layers[2].ffn, moe.transition(m).layers[2].ffn
    local x = moe.randn(3, 16, { seed = 1 })
    local p = x:linear(old.controller):softmax(-1)
    local best, want = p:argmax(-1):totable(), {}
    for t = 1, 3 do
      local e = best[t] + 1
      local row = x:narrow(1, t, 1)
      want[t] = row:linear(old.experts.w1:select(1, e)):relu():linear(
        old.experts.w2:select(1, e)) * p:select(1, t):narrow(1, e, 1)
    end
    close((new(x)), moe.concat(want, 1), 1e-6)
  end)

  it("divides the controller by the temperature", function()
    for _, case in ipairs({ { 0.5, 0.5 }, { { from = 2, to = 0.25, steps = 9 }, 0.25 },
      { { learned = true, start = 4 }, 4 } }) do
      local m = model({ temperature = case[1] })
      local out = moe.transition(m)
      close(out.layers[2].ffn.router.weight, m.layers[2].ffn.controller / case[2], 1e-7)
    end
  end)

  it("gives a model that generates, and that can be tuned", function()
    local m, ids = model(), moe.tensor({ { 1, 2, 3, 4 }, { 5, 6, 7, 8 } }, "i32")
    local out = moe.transition(m)
    assert.equal(3, #out:generate_ids({ 1 }, { max_tokens = 3, temperature = 0 }))
    out:loss(ids, ids):backward()
    assert.is_not_nil(out.layers[2].ffn.router.weight:grad())
    assert.is_nil(m.layers[2].ffn.controller:grad())
  end)

  it("takes options of routers", function()
    local out = moe.transition(model(), { k = 2, gate = "selected", balance = { coef = 0.1 } })
    local router = out.config.ffn[2].router
    assert.equal(2, router.k)
    assert.equal("selected", router.gate)
    assert.equal(0.1, router.balance.coef)
    assert.equal("soft", moe.transition(model(), { kind = "soft" }).config.ffn[2].router.kind)
  end)

  it("takes a model in 16 bits", function()
    local m = model():to("bf16")
    local out = moe.transition(m)
    assert.equal("bf16", out.layers[2].ffn.experts.w1:dtype())
    assert.equal("f32", out.layers[2].ffn.router.weight:dtype())
    close(out.layers[2].ffn.experts.w1:to("f32"), m.layers[2].ffn.experts.w1:to("f32"), 0)
  end)

  it("refuses models that it does not fit", function()
    misuse(function() moe.transition(models.tiny()) end,
      "transition: the model has no mixture of tokens")
    misuse(function() moe.transition(model({ uniform = true })) end, "transition: layer 2 mixes " ..
      "all tokens alike: it has no controller to route with")
    misuse(function() moe.transition({}) end, "transition: model must be a model, not a table")
  end)
end)
