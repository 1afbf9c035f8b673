-- Shared and fine-grained experts (DeepSeekMoE): the equations, what reduces to what, and counts
-- that stay the same however finely the experts are cut.
local flops = require("moelua.flops")
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local misuse = models.misuse

local x = moe.randn(2, 5, 4, { seed = 1, stream = "x" })

local function mixture(more)
  local opts = { dim = 4, hidden = 6, experts = 3, std = 0.7, seed = 5, router = { k = 2 } }
  for k, v in pairs(more or {}) do opts[k] = v end
  return nn.MoE(opts)
end

-- The parameters of one layer in another, where both have them.
local function take(layer, source)
  for _, entry in ipairs(source:parameters()) do
    models.set(models.parameter(layer, entry[1]), entry[2])
  end
end

describe("shared experts", function()
  it("are one dense layer of their joint width", function()
    local names, shapes = models.shapes(mixture({ shared = 2 }))
    local _, gated = models.shapes(mixture({ shared = { experts = 2, hidden = 5, gate = true } }))
    assert.same({ "router", "experts.w1", "experts.w3", "experts.w2", "shared.w1", "shared.w3",
      "shared.w2" }, names)
    assert.equal("12x4", shapes["shared.w1"])
    assert.equal("4x12", shapes["shared.w2"])
    assert.equal("3x6x4", shapes["experts.w1"])
    assert.equal("10x4", gated["shared.w1"])
    assert.equal("1x4", gated.shared_gate)
  end)

  it("are added with weight 1", function()
    local layer, plain = mixture({ shared = 2 }), mixture()
    take(layer, plain)
    local y, info = layer(x)
    local routed, alone = plain(x)
    helper.close(y, layer.shared(x) + routed)
    assert.same(alone.load, info.load)
  end)

  it("are added times the sigmoid of their gate", function()
    local layer, plain = mixture({ shared = { experts = 1, gate = true } }), mixture()
    take(layer, plain)
    local gate = x:matmul(layer.shared_gate:transpose(1, 2)):sigmoid()
    helper.close(layer(x), layer.shared(x) * gate + plain(x))
  end)

  it("are as good as experts of their own that are all added", function()
    local layer = mixture({ shared = 2 })
    local s = layer.shared
    local sum = 0
    for e = 1, 2 do
      local one = nn.FeedForward({ dim = 4, hidden = 6 })
      models.set(one.w1, s.w1:detach():narrow(1, 6 * e - 5, 6))
      models.set(one.w3, s.w3:detach():narrow(1, 6 * e - 5, 6))
      models.set(one.w2, s.w2:detach():narrow(2, 6 * e - 5, 6))
      sum = one(x) + sum
    end
    helper.close(s(x), sum)
  end)

  it("learn, and so does their gate", function()
    local layer = mixture({ shared = { experts = 1, gate = true } })
    local y = layer(x)
    ;(y * y):sum():backward()
    for _, name in ipairs({ "shared_gate", "shared.w1", "shared.w3", "shared.w2", "experts.w1" }) do
      local grad = models.parameter(layer, name):grad()
      assert.is_true((grad * grad):sum():item() > 0, name)
    end
  end)

  it("none is what 0 says", function()
    models.same(mixture(), mixture({ shared = 0 }))
  end)
end)

local moe_size = require("moelua.mixture").size

-- Complete options of the DeepSeekMoE layer made of N experts of this width.
local function options_of(more)
  local opts = { experts = 8, hidden = 12, router = { k = 2, gate = "all" } }
  for k, v in pairs(more or {}) do opts[k] = v end
  return require("moelua.mixture").options("nn.MoE", opts)
end

describe("fine-grained experts", function()
  it("are m N of hidden / m, K_s of them shared, m K - K_s routed to", function()
    local opts = options_of({ segments = 4, shared = 1 })
    assert.equal(31, opts.experts)
    assert.equal(3, opts.hidden)
    assert.equal(7, opts.router.k)
    assert.equal("all", opts.router.gate)
    assert.same({ experts = 1, hidden = 3, gate = false }, opts.shared)
    assert.is_nil(opts.segments)
  end)

  it("are complete once", function()
    for _, more in ipairs({ {}, { segments = 1 }, { segments = 3, shared = 2 }, { shared = 1 },
      { segments = 2, shared = { experts = 1, gate = true } } }) do
      local once = options_of(more)
      assert.same(once, require("moelua.mixture").options("nn.MoE", once))
    end
  end)

  it("with m = 1 and none shared are plain top-k without normalising", function()
    local one = mixture({ segments = 1, router = { k = 2, gate = "all" } })
    local plain = mixture({ router = { k = 2, gate = "all" } })
    models.same(plain, one)
    helper.close(one(x), plain(x), 0)
  end)

  it("that are all shared are the layer that was cut", function()
    local dense = nn.FeedForward({ dim = 4, hidden = 6, std = 0.7, seed = 3 })
    -- Two experts cut into three, of which one is routed to, with nothing to say.
    local layer = mixture({ experts = 2, segments = 3, shared = 3,
      router = { k = 2, gate = "all" } })
    take(layer.shared, dense)
    models.set(layer.experts.w2, moe.zeros(layer.experts.w2:shape()))
    helper.close(layer(x), dense(x))
  end)

  it("keep parameters and compute, but for the router", function()
    local plain = options_of()
    local dim = 16
    for _, more in ipairs({ { segments = 2 }, { segments = 4 }, { segments = 4, shared = 1 },
      { segments = 6, shared = 3 } }) do
      local fine = options_of(more)
      local routers = (fine.experts - plain.experts) * dim
      local size, whole = moe_size(fine, dim), moe_size(plain, dim)
      assert.equal(routers, size.macs - whole.macs)
      assert.equal(routers, size.parameters - whole.parameters)
      assert.equal(routers, size.active - whole.active)
    end
  end)

  it("are refused where they cannot be", function()
    misuse(function() options_of({ segments = 5 }) end,
      "nn.MoE: experts of hidden = 12 cannot be cut into 5 segments")
    misuse(function() options_of({ segments = 2, shared = 4 }) end,
      "nn.MoE: 2 segments of k = 2 are 4 experts of a token, and 4 are shared: none is left to " ..
      "route to")
    misuse(function() options_of({ segments = 0 }) end,
      "nn.MoE: segments must be at least 1, not 0")
    misuse(function() options_of({ shared = -1 }) end,
      "nn.MoE: shared: experts must be at least 1, not -1")
    misuse(function() options_of({ shared = { experts = 1, hiden = 3 } }) end,
      "nn.MoE: shared: unknown option 'hiden'\nhint: did you mean 'hidden'?")
    misuse(function() options_of({ hidden = 2 ^ 31 }) end,
      "nn.MoE: hidden must be at most 2147483647, not 2147483648")
  end)
end)

describe("a model of shared experts", function()
  local ffn = { { kind = "dense" }, { kind = "moe", hidden = 12, experts = 4, segments = 2,
    shared = 1, router = { k = 2, gate = "all", balance = { coef = 0.01 } } } }
  local m = models.tiny({ ffn = ffn })

  it("names them", function()
    local names, shapes = models.shapes(m)
    assert.equal("layers.1.ffn.shared.w2", names[#names - 1])
    assert.equal("16x6", shapes["layers.1.ffn.shared.w2"])
    assert.equal("7x16", shapes["layers.1.ffn.router"])
  end)

  it("counts them for every token", function()
    local total, active = m:count()
    -- 7 routed experts, of which a token uses 3
    assert.equal(4 * 3 * 16 * 6, total - active)
    assert.equal(6 * ((1 + 3) * 3 * 16 * 6 + 7 * 16), flops.ffn(m.config.ffn[2], 16))
  end)

  it("has a complete configuration", function()
    assert.same(m.config, require("moelua.model").check_config(m.config))
  end)

  it("is copied and converted, the gate of shared experts excepted", function()
    local gated = models.tiny({ ffn = { kind = "moe", hidden = 12, experts = 4,
      shared = { experts = 2, gate = true } } })
    models.same(gated, gated:copy())
    local half = gated:copy():to("bf16")
    assert.equal("f32", models.parameter(half, "layers.0.ffn.shared_gate"):dtype())
    assert.equal("bf16", models.parameter(half, "layers.0.ffn.shared.w1"):dtype())
    local ids = { 3, 4, 5, 6 }
    helper.close(half:logits(ids), gated:logits(ids), 0.05)
    models.same(half, half:copy())
  end)
end)

describe("a model with other options over its weights", function()
  local m = models.tiny({ layers = 3, std = 0.3, ffn = { { kind = "dense" },
    { kind = "moe", hidden = 12, experts = 4, segments = 2, shared = 1, router = { k = 2,
      gate = "all" } }, { kind = "moe", hidden = 12, experts = 3, router = { k = 2 } } } })
  local ids = { 3, 4, 5, 6, 7 }

  -- The layer alone, on inputs that a layer would see.
  local inputs = moe.randn(1, 5, 16, { seed = 2, stream = "x" })

  it("does without shared experts and takes one more of the others", function()
    local less = m:with_ffn(function(ffn)
      if ffn.shared then ffn.shared, ffn.router.k = nil, ffn.router.k + 1 end
    end)
    assert.equal(4, less.config.ffn[2].router.k)
    assert.equal(3, m.config.ffn[2].router.k)
    assert.is_nil(less.layers[2].ffn.shared)
    local bank, router = m.layers[2].ffn.experts, m.layers[2].ffn.router
    local flat = inputs:reshape(5, 16)
    local gates, experts = flat:linear(router.weight):topk_route(4, "all")
    helper.close(less.layers[2].ffn(inputs):reshape(5, 16), bank(flat, gates, experts), 0)
    assert.is_true(models.distance(less:logits(ids), m:logits(ids)) > 1e-3)
  end)

  it("has the same tensors, and nothing else to learn", function()
    local same = m:with_ffn(function() end)
    models.same(m, same)
    assert.same(m.config, same.config)
    assert.equal(m:logits(ids):bytes(), same:logits(ids):bytes())
    same.layers[3].ffn.router.weight:detach():fill_(0)
    assert.equal(0, m.layers[3].ffn.router.weight:detach():max():item())
    m.layers[3].ffn.router.weight:detach():copy_(moe.randn(3, 16, { seed = 1 }) * 0.3)
    assert.equal(m:logits(ids):bytes(), same:logits(ids):bytes())
  end)

  it("leaves out the best experts of each token", function()
    for _, gate in ipairs({ "all", "selected", "sigmoid" }) do
      local whole = models.tiny({ std = 0.3, ffn = { kind = "moe", hidden = 8, experts = 6,
        router = { k = 2, gate = gate } } })
      local masked = whole:with_ffn(function(ffn) ffn.router.skip = 3 end)
      local gates, experts = masked.layers[1].ffn.router:route(inputs)
      local logits = inputs:reshape(5, 16):linear(whole.layers[1].ffn.router.weight)
      local all_gates, order = logits:topk_route(6, "all")
      assert.same(order:narrow(2, 4, 2):totable(), experts:totable())
      if gate == "all" then
        helper.close(gates, all_gates:narrow(2, 4, 2))
      else
        -- As if those experts were not there.
        local rest = {}
        for t, row in ipairs(logits:totable()) do
          for s = 1, 3 do row[order:totable()[t][s] + 1] = -1e4 end
          rest[t] = row
        end
        helper.close(gates, (moe.tensor(rest):topk_route(2, gate)))
      end
    end
  end)

  it("may take fewer experts, and says what it cannot change", function()
    assert.equal(1, m:with_ffn(function(_, i)
      if i == 3 then return { kind = "moe", hidden = 12, experts = 3, router = { k = 1 } } end
    end).config.ffn[3].router.k)
    local hint = "\nhint: only options that leave the weights as they are can be changed"
    misuse(function() m:with_ffn(function(ffn) ffn.hidden = 6 end) end,
      "with_ffn: layers.0.ffn.w1 would be [6 x 16], but is [24 x 16]" .. hint)
    misuse(function() m:with_ffn(function(ffn) ffn.shared = ffn.router and 1 end) end,
      "with_ffn: layers.2.ffn.shared.w1 would be [12 x 16], but is not there" .. hint)
    misuse(function() m:with_ffn(function(ffn)
      if ffn.router then ffn.router.skip = 6 end
    end) end, "router: without the best 6 of 7 experts there are no 3 left")
    misuse(function() m:with_ffn(3) end, "with_ffn: change must be a function, not 3")
  end)
end)
