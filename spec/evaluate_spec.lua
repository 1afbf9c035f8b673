-- Evaluation: bits per byte by hand, windows, routing shares.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local routing = require("moelua.routing")

local corpus = models.corpus("prose", { train = 500, validation = 167, test = 81 })

-- Bits per token over windows of the context that do not overlap, by loops.
local function by_hand(m, split, from, to)
  local n = corpus:tokens(split)
  local ids = corpus.handle:ids(split, 1, n)
  local bits, count = 0, 0
  for first = from or 1, to or n - 1, 16 do
    local window = table.move(ids, first, math.min(first + 15, n - 1), 1, {})
    local rows = m:logits(window):log_softmax(-1):totable()
    for t = 1, #window do
      bits = bits - rows[t][ids[first + t] + 1] / math.log(2)
      count = count + 1
    end
  end
  return bits / count, count
end

describe("evaluate", function()
  local m = models.tiny()

  it("gives bits per byte of the split, the padded last window included", function()
    for _, split in ipairs({ "validation", "test", "train" }) do
      local want, count = by_hand(m, split)
      for _, batch in ipairs({ 1, 3, 32 }) do
        local report = moe.evaluate(m, { prose = corpus }, { split = split, batch = batch })
        helper.close(report.metric.prose, want, 1e-5)
        assert.equal(count, report.tokens.prose)
        assert.equal(corpus:tokens(split) - 1, count)
      end
    end
  end)

  it("reads validation unless told otherwise", function()
    local report = moe.evaluate(m, { prose = corpus })
    assert.equal("validation", report.split)
    assert.equal(166, report.tokens.prose)
    assert.equal(80, moe.evaluate(m, { prose = corpus }, { split = "test" }).tokens.prose)
  end)

  it("reads at most so many windows, whole and evenly spaced", function()
    local report = moe.evaluate(m, { prose = corpus }, { windows = 2 })
    assert.equal(32, report.tokens.prose)
    local first, second = by_hand(m, "validation", 1, 16), by_hand(m, "validation", 81, 96)
    helper.close(report.metric.prose, (first + second) / 2, 1e-5)
    assert.equal(166, moe.evaluate(m, { prose = corpus }, { windows = 11 }).tokens.prose)
  end)

  it("takes the context of the model, or another", function()
    local report = moe.evaluate(m, { prose = corpus }, { context = 8 })
    assert.equal(166, report.tokens.prose)
    local other = moe.evaluate(m, { prose = corpus }, { context = 16 })
    assert.not_equal(report.metric.prose, other.metric.prose)
    assert.equal(other.metric.prose, moe.evaluate(m, { prose = corpus }).metric.prose)
  end)

  it("averages over the corpora, each with the same weight", function()
    local code = models.corpus("code", { train = 100, validation = 40, test = 40 })
    local report = moe.evaluate(m, { a = corpus, b = code })
    helper.close(report.mean, (report.metric.a + report.metric.b) / 2, 1e-12)
    assert.equal(report.metric.b, moe.evaluate(m, code).metric.code)
  end)

  it("is 8 bits for a model that knows nothing", function()
    local blank = models.tiny()
    models.parameter(blank, "embedding"):detach():fill_(0)
    helper.close(moe.evaluate(blank, corpus).mean, 8, 1e-6)
  end)

  it("does not count auxiliary losses", function()
    local one = models.tiny({ ffn = models.mixture({ router = { balance = { coef = 5 } } }) })
    local two = models.tiny({ ffn = models.mixture({ router = {} }) })
    assert.equal(moe.evaluate(two, corpus).mean, moe.evaluate(one, corpus).mean)
  end)

  it("leaves no gradients and no tensors behind", function()
    moe.evaluate(m, corpus)
    collectgarbage()
    local before = moe.memory().count
    moe.evaluate(m, corpus)
    collectgarbage()
    assert.equal(before, moe.memory().count)
    assert.is_nil(m.embedding:grad())
  end)
end)

describe("routing shares", function()
  local m = models.tiny({ layers = 3,
    ffn = { models.mixture(), {}, models.mixture({ experts = 3, router = { k = 1 } }) } })

  it("sum to one in every mixture layer", function()
    local rows = moe.evaluate(m, { prose = corpus }, { batch = 4 }).routing.prose
    assert.equal(3, #rows)
    assert.is_false(rows[2])
    for _, layer in ipairs({ 1, 3 }) do
      local sum = 0
      for _, share in ipairs(rows[layer]) do sum = sum + share end
      helper.close(sum, 1, 1e-6)
    end
    assert.equal(4, #rows[1])
    assert.equal(3, #rows[3])
  end)

  it("are counts of the router's choices", function()
    local x = corpus:window_batch("validation", 16, 10, 1, 10)
    local seen = { 0, 0, 0, 0 }
    local hidden = m.embedding:embedding(x)
    local layer = m.layers[1]
    local h = hidden + layer.attention(layer.attention_norm(hidden))
    local _, ids = layer.ffn_norm(h):reshape(-1, 16):linear(layer.ffn.router.weight):topk_route(2)
    for _, row in ipairs(ids:totable()) do
      for _, e in ipairs(row) do seen[e + 1] = seen[e + 1] + 1 / 320 end
    end
    local rows = moe.evaluate(m, corpus, { windows = 10, batch = 5 }).routing.prose
    helper.close(rows[1], seen, 1e-6)
  end)

  it("leave out the padding of the last window", function()
    local list = corpus.handle:ids("validation", 161, 6)
    local _, infos = m:forward(moe.tensor({ list }, "i32"))
    local whole = moe.evaluate(m, corpus, { windows = 10 }).routing.prose[1]
    for _, batch in ipairs({ 1, 5, 32 }) do
      local rows = moe.evaluate(m, corpus, { batch = batch }).routing.prose[1]
      local want = {}
      for e, share in ipairs(infos[1].load) do
        want[e] = (whole[e] * 160 + share * 6) / 166
      end
      helper.close(rows, want, 1e-6)
    end
  end)
end)

describe("statistics of the routing", function()
  local code = models.corpus("code", { train = 500, validation = 167, test = 81 })
  local texts = { code = code, prose = corpus }
  local m = models.tiny({ layers = 3, ffn = { models.mixture(), {}, models.mixture() } })
  local report = moe.evaluate(m, texts, { batch = 4 })

  it("are those of the shares, every corpus with the same weight", function()
    assert.equal(3, #report.statistics)
    assert.is_false(report.statistics[2])
    for _, layer in ipairs({ 1, 3 }) do
      local rows = { report.routing.code[layer], report.routing.prose[layer] }
      local got, mean = report.statistics[layer], {}
      for e = 1, 4 do mean[e] = (rows[1][e] + rows[2][e]) / 2 end
      local want = routing.evenness(mean)
      helper.close(got.load, want.load, 1e-9)
      helper.close(got.cv, want.cv, 1e-9)
      helper.close(got.max_over_mean, want.max_over_mean, 1e-9)
      assert.equal(want.dead, got.dead)
      helper.close(got.mutual_information, routing.mutual_information(rows), 1e-9)
      assert.is_true(got.entropy > 0 and got.entropy <= math.log(4) + 1e-6)
      assert.equal(0, got.dropped)
    end
  end)

  it("tell nothing of domains when there is one", function()
    assert.equal(0, moe.evaluate(m, corpus).statistics[1].mutual_information)
  end)
end)

describe("evaluation tells what a model looks at", function()
  it("nothing but earlier tokens", function()
    local report = moe.evaluate(models.tiny(), corpus, { windows = 2 })
    assert.is_true(report.causal)
    assert.is_false(report.coupled)
    assert.is_nil(report.group)
    assert.is_nil(report.left_out)
  end)

  it("later tokens of its sequence", function()
    local router = { kind = "expert_choice", over = "sequence" }
    local report = moe.evaluate(models.tiny({ ffn = models.mixture({ router = router }) }), corpus,
      { windows = 2 })
    assert.is_false(report.causal)
    assert.is_false(report.coupled)
  end)

  it("other sequences, which are then of unrelated text", function()
    local many = models.corpus("prose", { train = 500, validation = 900, test = 81 }, 9)
    local router = { kind = "expert_choice", over = "batch" }
    local m = models.tiny({ ffn = models.mixture({ router = router }) })
    local report = moe.evaluate(m, many, { batch = 4 })
    assert.is_true(report.causal)
    assert.is_true(report.coupled)
    assert.equal(4, report.group)
    assert.equal(0, report.statistics[1].cv)
  end)
end)

describe("what the layers are told in evaluation", function()
  local function told_by(m, texts, more)
    local calls, loss = {}, m.loss
    m.loss = function(self, x, y, how)
      calls[#calls + 1] = { how.train, how.step or false, how.micro, how.seed,
        how.labels:totable() }
      return loss(self, x, y, how)
    end
    moe.evaluate(m, texts, more)
    return calls
  end

  it("is seed, number of the batch and domain", function()
    local code = models.corpus("code")
    assert.same({ { false, false, 0, 1, { 0, 0 } }, { false, false, 1, 1, { 1, 1 } } },
      told_by(models.tiny(), { a = code, b = corpus }, { windows = 2 }))
    assert.same({ { false, 7, 0, 3, { 0 } }, { false, 7, 1, 3, { 0 } } },
      told_by(models.tiny(), corpus, { windows = 2, batch = 1, seed = 3, step = 7 }))
  end)

  it("is the place of the domain for routers that go by it", function()
    local code = models.corpus("code")
    local router = { kind = "domain", domains = { "prose", "math", "code" } }
    local config = { ffn = models.mixture({ experts = 3, router = router }) }
    assert.same({ { false, false, 0, 1, { 2 } }, { false, false, 1, 1, { 0 } } },
      told_by(models.tiny(config), { code = code, prose = corpus }, { windows = 1 }))
    models.misuse(function() moe.evaluate(models.tiny(config), { porse = corpus }) end,
      "evaluate: corpus 'porse' is none of the domains that the model routes by\n" ..
      "hint: did you mean 'prose'?")
    models.misuse(function()
      moe.train(models.tiny(config), models.training({ letters = corpus }))
    end, "moe.train: corpus 'letters' is none of the domains that the model routes by\n" ..
      "hint: known are prose, math, code")
  end)
end)

describe("evaluate refuses", function()
  local m = models.tiny()

  it("what is no corpus", function()
    models.misuse(function() moe.evaluate(m, {}) end, "evaluate: no corpus given")
    models.misuse(function() moe.evaluate(m, { a = "text" }) end,
      "evaluate: 'a' must be a corpus, not \"text\"")
  end)

  it("wrong options", function()
    models.misuse(function() moe.evaluate(m, corpus, { splits = "test" }) end,
      "moe.evaluate: unknown option 'splits'\nhint: did you mean 'split'?")
    models.misuse(function() moe.evaluate(m, corpus, { batch = 0 }) end,
      "evaluate: batch must be at least 1, not 0")
    models.misuse(function() moe.evaluate(m, corpus, { windows = 0 }) end,
      "evaluate: windows must be at least 1, not 0")
  end)

  it("a split without text", function()
    local short = models.corpus("prose", { train = 100, validation = 1, test = 100 })
    models.misuse(function() moe.evaluate(m, { short = short }) end,
      "evaluate: the validation split of corpus 'prose' has no window of 16 tokens")
  end)
end)
