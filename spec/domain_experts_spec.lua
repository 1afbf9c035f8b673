-- Experts by domain (DEMix): added and removed without touching the rest, and used in generation.
local flops = require("moelua.flops")
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local misuse = models.misuse

local function by_domain(domains)
  return { kind = "moe", hidden = 24, router = { kind = "domain", domains = domains } }
end

local function new(more)
  local options = { layers = 3, std = 0.3,
    ffn = { by_domain({ "code", "law" }), { hidden = 8 }, by_domain({ "code", "law" }) } }
  for k, v in pairs(more or {}) do options[k] = v end
  return models.tiny(options)
end

local ids = moe.tensor({ { 1, 2, 3, 4 } }, "i32")

-- Logits of a text of domain number `label`, from 0.
local function logits(m, label)
  return m:logits(ids, { labels = moe.tensor({ label }, "i32") }):bytes()
end

describe("experts by domain", function()
  local m = new()

  it("are as many as there are domains, and one for each token", function()
    assert.equal(2, m.config.ffn[1].experts)
    assert.equal(6 * 3 * 16 * 24, flops.ffn(m.config.ffn[1], 16))
    local total, active = m:count()
    assert.equal(2 * 3 * 16 * 24, total - active)
    assert.same(m.config, require("moelua.model").check_config(m.config))
  end)

  it("come with an expert for a new domain, which begins as another", function()
    local more = moe.add_expert(m, { name = "prose", from = "law" })
    assert.same({ "code", "law", "prose" }, more.config.ffn[3].router.domains)
    assert.same({ "code", "law" }, m.config.ffn[3].router.domains)
    assert.equal(3, more.config.ffn[1].experts)
    assert.equal(logits(m, 0), logits(more, 0))
    assert.equal(logits(m, 1), logits(more, 1))
    assert.equal(logits(m, 1), logits(more, 2))
    assert.not_equal(logits(m, 0), logits(more, 2))
    models.set(models.parameter(more, "layers.0.ffn.experts.w2"):select(1, 3), moe.zeros(16, 24))
    assert.equal(logits(m, 1), logits(more, 1))         -- a copy
  end)

  it("go without a trace", function()
    local three = moe.add_expert(m, { name = "prose", from = "code" })
    local left = moe.remove_expert(three, "code")
    assert.same({ "law", "prose" }, left.config.ffn[1].router.domains)
    assert.equal(logits(m, 1), logits(left, 0))
    assert.equal(logits(m, 0), logits(left, 1))
    models.same(m, moe.remove_expert(three, "prose"))
    assert.same(m.config, moe.remove_expert(three, "prose").config)
  end)

  it("keep the tokenizer and the type of the weights", function()
    local half = new():to("bf16")
    half.tokenizer = moe.tokenizer.bytes()
    local more = moe.add_expert(half, { name = "prose", from = "law" })
    assert.equal(half.tokenizer, more.tokenizer)
    assert.equal("bf16", more.layers[1].ffn.experts.w1:dtype())
    models.same(half, moe.remove_expert(more, "prose"))
  end)

  it("come back from a folder", function()
    local folder = helper.tmpdir() .. "/model"
    assert(m:save(folder))
    local again = assert(moe.load(folder))
    models.same(m, again)
    assert.same(m.config, again.config)
    assert.equal(logits(m, 1), logits(again, 1))
  end)

  it("write texts of their domain", function()
    local how = { max_tokens = 6, temperature = 0, domain = "law" }
    local first = m:generate_ids({ 1, 2 }, how)
    local alone = new({ ffn = { { hidden = 24 }, { hidden = 8 }, { hidden = 24 } } })
    for _, entry in ipairs(alone:parameters()) do
      local name = entry[1]:gsub("%.ffn%.w", ".ffn.experts.w")
      local source = entry[1]:find("^layers%.[02]%.ffn%.w") and
        models.parameter(m, name):select(1, 2) or models.parameter(m, entry[1])
      models.set(entry[2], source)
    end
    how.domain = nil
    assert.same(alone:generate_ids({ 1, 2 }, how), first)
    misuse(function() m:generate_ids({ 1 }) end,
      "generate: domain is missing: the experts of the model are by domain\n" ..
      "hint: known are code, law")
    misuse(function() m:generate_ids({ 1 }, { domain = "laws" }) end,
      "generate: domain 'laws': the experts of the model are by domain\n" ..
      "hint: did you mean 'law'?")
  end)

  it("of other domains get no gradient", function()
    local twin = m:copy()
    twin:loss(ids, ids, { labels = moe.tensor({ 1 }, "i32"), train = true }):backward()
    local grad = models.parameter(twin, "layers.0.ffn.experts.w1"):grad()
    assert.equal(0, (grad * grad):select(1, 1):sum():item())
    assert.is_true((grad * grad):select(1, 2):sum():item() > 0)
  end)

  it("are what branches become", function()
    local a, b = models.tiny({ seed = 1 }), models.tiny({ seed = 2 })
    local mixed = moe.mix({ a, b }, { router = { kind = "domain", domains = { "code", "law" } } })
    assert.equal(b.layers[1].ffn.w1:bytes(),
      mixed.layers[1].ffn.experts.w1:detach():select(1, 2):clone():bytes())
    assert.same({ 4, 256 }, mixed:logits({ 1, 2, 3, 4 },
      { labels = moe.tensor({ 0 }, "i32") }):shape())
  end)
end)

describe("adding and removing", function()
  local m = new()

  it("refuse what makes no sense", function()
    local none = "no layer of the model has experts by domain\n" ..
      "hint: router = { kind = \"domain\", domains = { \"code\", \"prose\" } }"
    misuse(function() moe.add_expert(models.tiny(), { name = "a", from = "b" }):count() end,
      "add_expert: " .. none)
    misuse(function() moe.remove_expert(models.tiny(), "a"):count() end, "remove_expert: " .. none)
    misuse(function() moe.add_expert(m, { name = "law", from = "code" }):count() end,
      "add_expert: the model has the domain 'law' already")
    misuse(function() moe.add_expert(m, { name = "prose", from = "cod" }):count() end,
      "add_expert: the model has no domain 'cod'\nhint: did you mean 'code'?")
    misuse(function() moe.add_expert(m, { name = "prose" }):count() end,
      "add_expert: option 'from' is missing: string expected")
    misuse(function() moe.remove_expert(m, "prose"):count() end,
      "remove_expert: the model has no domain 'prose'\nhint: known are code, law")
    misuse(function() moe.remove_expert(m, 3):count() end,
      "remove_expert: name must be the name of a domain, not 3")
    misuse(function() moe.remove_expert(moe.remove_expert(m, "law"), "code"):count() end,
      "remove_expert: 'code' is the only domain of the model")
    misuse(function() moe.add_expert("m", {}):count() end,
      "add_expert: model must be a model, not \"m\"")
    local odd = new({ ffn = { by_domain({ "a", "b" }), {}, by_domain({ "b", "a" }) } })
    misuse(function() moe.remove_expert(odd, "a"):count() end,
      "remove_expert: layer 3 has the domains b, a, another a, b")
  end)
end)
