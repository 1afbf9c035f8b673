-- Domain routing (DEMix): a sequence's label is its expert, and other experts learn nothing of it.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local router = require("moelua.router")
local misuse = models.misuse

local function layer_of()
  return moe.nn.MoE({ dim = 6, hidden = 5, experts = 3, std = 0.7, seed = 3,
    router = { kind = "domain", domains = { "code", "prose", "music" } } })
end

local function labels(list) return moe.tensor(list, "i32") end
local function input(B, S) return moe.randn(B, S, 6, { seed = 1, stream = "x" }) end

describe("domain routing", function()
  it("sends all tokens of a sequence to the expert of its domain, with weight 1", function()
    local gates, experts, info = layer_of().router:route(input(3, 2),
      { labels = labels({ 2, 0, 2 }) })
    assert.same({ { 2 }, { 2 }, { 0 }, { 0 }, { 2 }, { 2 } }, experts:totable())
    assert.same({ 6, 1 }, gates:shape())
    helper.close(gates, moe.ones(6, 1), 0)
    assert.is_nil(info.loss)
    assert.same({ 2, 0, 4 }, info.counts)
    assert.equal(0, layer_of().router:route(input(0, 4), { labels = labels({}) }):count())
  end)

  it("is the expert itself", function()
    local layer, x = layer_of(), input(2, 4)
    local bank = layer.experts
    local function expert(e, rows)
      return rows:linear(bank.w1:select(1, e)):swiglu(rows:linear(bank.w3:select(1, e)))
        :linear(bank.w2:select(1, e))
    end
    local y = layer(x, { labels = labels({ 1, 2 }) })
    for b = 1, 2 do helper.close(y:select(1, b), expert(b + 1, x:select(1, b)), 1e-5) end
  end)

  it("gives the experts of other domains no gradient at all", function()
    for label = 0, 2 do
      local layer = layer_of()
      layer(input(2, 4), { labels = labels({ label, label }) }):sum():backward()
      for _, field in ipairs({ "w1", "w3", "w2" }) do
        for e = 1, 3 do
          local size = layer.experts[field]:grad():select(1, e):pow(2):sum():item()
          assert.equal(e == label + 1, size ~= 0)
        end
      end
    end
  end)

  it("has no tensors of its own, and depends on nothing else", function()
    local layer = layer_of()
    assert.same({}, layer.router:parameters("ffn.router."))
    assert.same({}, layer.router:buffers("ffn.router."))
    assert.same({ causal = true, coupled = "no" }, router.traits(layer.router.opts, true))
    assert.equal(1, router.slots(layer.router.opts, 3))
    router.check_trainable(layer.router.opts)
  end)

  it("refuses sequences without a known domain", function()
    misuse(function() layer_of()(input(2, 4)) end, "router: the domains of the sequences are " ..
      "not known\nhint: layer(x, { labels = labels }), i32 [2], 0 for code; moe.train and " ..
      "moe.evaluate know them by the names of corpora")
    misuse(function() layer_of()(input(2, 4), { labels = labels({ 1 }) }) end,
      "router: labels must be [2], one for each sequence, not [1]")
    misuse(function() layer_of()(input(2, 4), { labels = labels({ 1, 3 }) }) end,
      "router: label 3: there are 3 domains, 0 to 2")
  end)

  it("refuses domains that are not one for each expert", function()
    local function options(domains)
      return router.options({ kind = "domain", domains = domains }, 3)
    end
    misuse(function() options({ "a", "b" }) end,
      "router: every domain has one expert: 2 domains, 3 experts")
    misuse(function() options({ "a", "b", "a" }) end,
      'router: domains must be different names, but there is "a" twice')
    misuse(function() options({ "a", "b", 7 }) end,
      "router: domains must be different names, but there is 7")
    misuse(function() router.options({ kind = "domain" }) end,
      "router: option 'domains' is missing: table expected")
  end)
end)
