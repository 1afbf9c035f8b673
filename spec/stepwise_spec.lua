-- Which models write text token by token, and what layers are told meanwhile.
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local misuse = models.misuse

local function mixture(router)
  return models.tiny({ ffn = { {}, models.mixture({ router = router }) } })
end

local function refused(m, what, hint)
  local rest = (" cannot go token by token: %s\nhint: %s"):format(what, hint)
  misuse(function() m:generate_ids({ 1 }, { max_tokens = 2 }) end, "generate: layer 2" .. rest)
  local cache = require("moelua.kv_cache")(m.config, { room = 4 })
  misuse(function() m:logits({ 1 }, nil, cache) end, "forward with a cache: layer 2" .. rest)
end

describe("a model whose layers are not causal, or coupled,", function()
  it("is refused with the reason", function()
    refused(mixture({ k = 2, capacity = { evaluation = 1 } }),
      "an output depends on the other sequences of the batch",
      "no router with capacity.evaluation")
    refused(mixture({ k = 2, capacity = { evaluation = 1, scope = "sequence" } }),
      "an output depends on the other positions of its sequence",
      "no router with capacity.evaluation")
    refused(mixture({ k = 2, capacity = { evaluation = 1, policy = "probability" } }),
      "an output depends on later positions", "no router with capacity.evaluation")
  end)

  it("is refused where tokens or experts mix", function()
    local token_by_token = "routers that choose for each token by itself, as \"topk\""
    refused(mixture({ kind = "expert_choice", over = "sequence" }),
      "an output depends on later positions", token_by_token)
    refused(mixture({ kind = "expert_choice", over = "batch" }),
      "an output depends on the other sequences of the batch", token_by_token)
    refused(models.tiny({ ffn = { {}, { kind = "mot", experts = 4, group = 2, hidden = 8 } } }),
      "an output depends on the other sequences of the batch",
      "moe.transition(model) makes it a mixture of token choice, to be trained a little more")
  end)

  it("computes logits all the same", function()
    local m = mixture({ k = 2, capacity = { evaluation = 1 } })
    assert.same({ 3, 256 }, m:logits({ 1, 2, 3 }):shape())
  end)

  it("may be so in training alone", function()
    local m = mixture({ k = 2, capacity = { factor = 1 } })
    assert.equal("batch", m:traits(true).coupled)
    assert.equal(2, #m:generate_ids({ 1 }, { max_tokens = 2 }))
  end)
end)

describe("layers of a model that writes", function()
  -- Remembers what it was told.
  local Told = nn.layer_class("Told")
  function Told:init() self.calls = {} end
  function Told:forward(x, how)
    self.calls[#self.calls + 1] = { before = how.before:totable(), ids = how.ids:totable(),
      labels = how.labels, draws = how.draws }
    return x
  end

  it("know the token before, also after others have gone", function()
    local m, told = models.tiny(), Told()
    m.layers[2].ffn = told
    local prompts = { { 5, 6 }, { 7 }, { 8, 9, 10 } }
    local out = m:generate_ids(prompts, { max_tokens = 3, temperature = 1 })
    assert.same({ { -1 } }, told.calls[1].before)
    assert.same({ { 5, 6 } }, told.calls[1].ids)
    assert.same({ { 6 }, { 7 }, { 10 } }, told.calls[4].before)
    assert.same({ { out[1][1] }, { out[2][1] }, { out[3][1] } }, told.calls[4].ids)
    assert.same(told.calls[4].ids, told.calls[5].before)
    assert.is_nil(told.calls[1].labels)
    assert.same({ { seed = 1, micro = 1 }, { seed = 2, micro = 1 }, { seed = 3, micro = 1 } },
      told.calls[4].draws)
    assert.equal(2, told.calls[5].draws[1].micro)
  end)

  it("know the token before in a cache whose sequences change places", function()
    local m, told = models.tiny(), Told()
    m.layers[1].ffn = told
    local cache = require("moelua.kv_cache")(m.config, { batch = 2, room = 8 })
    m:logits(moe.tensor({ { 1, 2 }, { 3, 4 } }, "i32"), nil, cache)
    cache:remove(1, 2)
    m:logits(moe.tensor({ { 7 } }, "i32"), nil, cache:only(1))
    assert.same({ { 4 } }, told.calls[2].before)
    m:logits(moe.tensor({ { 8 } }, "i32"), nil, cache:only(2))
    assert.same({ { -1 } }, told.calls[3].before)
  end)

  it("draw the same for the same seed", function()
    local m = mixture({ kind = "sample", first = "sample" })
    local how = { max_tokens = 8, temperature = 0, seed = 4 }
    local first = m:generate_ids({ 1, 2 }, how)
    moe.randn(5)
    assert.same(first, m:generate_ids({ 1, 2 }, how))
  end)

  it("draw as they would alone", function()
    local m = mixture({ kind = "sample", first = "sample" })
    local how, prompts = { max_tokens = 6, temperature = 0 }, { { 5, 6 }, { 7 }, { 8, 9, 10 } }
    for i, ids in ipairs(m:generate_ids(prompts, how)) do
      how.seed = i
      assert.same(m:generate_ids(prompts[i], how), ids)
    end
  end)
end)

describe("the domain of a text", function()
  it("is refused where experts are not by domain", function()
    misuse(function() models.tiny():generate_ids({ 1 }, { domain = "law" }) end,
      "generate: domain 'law': the model has no experts by domain")
  end)
end)
