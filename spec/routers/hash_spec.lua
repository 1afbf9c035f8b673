-- Hash routing: by id, by table, by pairs of ids; what it needs and what it never looks at.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local hash = require("moelua.routers.hash")
local router = require("moelua.router")
local support = require("spec.routers.support")
local misuse = models.misuse

local input = support.input
local function layer_of(...) return support.layer("hash", ...) end
local function text(B, S) return (moe.rand(B, S, { seed = 1 }) * 50):to("i32") end

local kinds = { { by = "random" }, { by = "bigram" }, { by = "balanced", vocab = 50 } }

describe("hash routing", function()
  for _, opts in ipairs(kinds) do
    it("gives weight 1 and learns nothing: " .. opts.by, function()
      for k = 1, 2 do
        local layer = layer_of({ by = opts.by, vocab = opts.vocab, k = k })
        local gates, experts, info = layer.router:route(input(3, 20), { ids = text(3, 20) })
        helper.close(gates, moe.ones(60, k), 0)
        for _, row in ipairs(experts:totable()) do
          for j = 1, k do assert.equal(j - 1, row[j] * k // 4) end    -- slice j
        end
        assert.same({}, layer.router:parameters("layers.0.ffn.router."))
        assert.is_nil(info.loss)
        assert.equal(k, router.slots(layer.router.opts, 4))
        assert.same({ causal = true, coupled = "no" }, router.traits(layer.router.opts))
        router.check_trainable(layer.router.opts)
      end
    end)

    it("sends the same text to the same experts, whatever the hidden states are: " .. opts.by,
      function()
        local ids = text(2, 20)
        local _, one = layer_of(opts).router:route(input(2, 20), { ids = ids })
        local _, other = layer_of(opts).router:route(input(2, 20) * 7 - 1, { ids = ids })
        assert.equal(one:bytes(), other:bytes())
      end)
  end

  it("routes by id, or by pairs of ids, as the op does", function()
    local ids = text(3, 20)
    local _, experts = layer_of({ seed = 5 }).router:route(input(3, 20), { ids = ids })
    assert.same(ids:hash_route(4, 1, 1, 5):totable(), experts:totable())
    local before = text(3, 1)
    _, experts = layer_of({ by = "bigram", k = 2 }).router:route(input(3, 20),
      { ids = ids, before = before })
    assert.same(ids:hash_route(4, 2, 2, 1, before):totable(), experts:totable())
  end)

  it("has a table to be filled by how often ids occur", function()
    local layer = layer_of({ by = "balanced", vocab = 50, k = 2 })
    local buffers = layer.router:buffers("layers.0.ffn.router.")
    assert.equal("layers.0.ffn.router.table", buffers[1][1])
    assert.same({ 50, 2 }, buffers[1][2]:shape())
    local counts = {}
    for id = 1, 50 do counts[id] = 1000 // id end
    hash.balance(layer, moe.tensor(counts))
    assert.same(moe.tensor(counts):balanced_table(4, 2):totable(), layer.router.table:totable())
    local ids = text(3, 20)
    local _, experts = layer.router:route(input(3, 20), { ids = ids })
    assert.same(ids:table_route(layer.router.table):totable(), experts:totable())
  end)

  it("balances the load of a real text", function()
    local corpus = models.corpus("prose", { train = 6000 })
    local counts = hash.frequencies(corpus, 256)
    -- All tokens but the first, which follows nothing.
    assert.equal(corpus:tokens("train") - 1, counts:sum():item())
    assert.is_true(counts:totable()[(" "):byte() + 1] > 500)
    assert.equal(0, counts:totable()[(";"):byte() + 1])
    local function unevenness(by)
      local layer = layer_of({ by = by, vocab = by == "balanced" and 256 or nil })
      if by == "balanced" then moe.balance_hash(layer, corpus) end
      local ids = corpus:batch({ batch = 64, context = 64 })
      local _, _, info = layer.router:route(input(64, 64), { ids = ids })
      return math.max(table.unpack(info.load))
    end
    assert.is_true(unevenness("balanced") < 0.27)
    assert.is_true(unevenness("random") > 0.3)
  end)

  it("fills the tables of a model, and refuses one that has none", function()
    local counts = moe.arange(256)
    local function model_by(by)
      return models.tiny({ ffn = { kind = "moe", hidden = 24, experts = 4,
        router = { kind = "hash", by = by } } })
    end
    local model = model_by("balanced")
    moe.balance_hash(model, counts)
    for _, layer in ipairs(model.layers) do
      assert.same(counts:balanced_table(4, 1):totable(), layer.ffn.router.table:totable())
    end
    misuse(function() moe.balance_hash(model_by("random"), counts) end,
      "balance_hash: there is no balanced hash\n" ..
      "hint: router = { kind = \"hash\", by = \"balanced\" }")
  end)

  it("is the same in generation, token by token, as for the whole text", function()
    for _, opts in ipairs({ { kind = "hash" }, { kind = "hash", by = "bigram" },
      { kind = "hash", by = "balanced", vocab = 256, k = 2 } }) do
      local model = models.tiny({ std = 0.5, ffn = { kind = "moe", hidden = 24, experts = 4,
        router = opts } })
      local prompt = { 7, 99, 3, 250, 8 }
      local got = model:generate_ids(prompt, { max_tokens = 8, temperature = 0 })
      local list = table.move(prompt, 1, #prompt, 1, {})
      for _ = 1, 8 do
        local logits = model:logits(list)
        list[#list + 1] = logits:select(1, #list):argmax():item()
      end
      assert.same(table.move(list, #prompt + 1, #list, 1, {}), got)
    end
  end)

  it("refuses what it cannot do without", function()
    misuse(function() layer_of()(input(2, 3)) end, "router: a hash needs the token ids\n" ..
      "hint: layer(x, { ids = ids }), i32 [2 x 3]; a model sets them itself")
    misuse(function() layer_of()(input(2, 3), { ids = text(3, 2) }) end,
      "router: ids must be [2 x 3], one for each token, not [3 x 2]")
    misuse(function() layer_of({ k = 3 }) end,
      "router: k hashes need as many experts each: k = 3, 4 experts")
    misuse(function() router.options({ kind = "hash", k = 0 }) end,
      "router: k hashes need as many experts each: k = 0, any number of experts")
    misuse(function() layer_of({ by = "balanced" }) end,
      "router: a balanced hash needs the size of the vocabulary\n" ..
      "hint: vocab = 256 for bytes, tokenizer:vocab() or corpus:vocab()")
    misuse(function() layer_of({ z_loss = 1 }) end, "router: unknown option 'z_loss'\n" ..
      "hint: known are by, k, kind, scale, seed, vocab")
  end)
end)
