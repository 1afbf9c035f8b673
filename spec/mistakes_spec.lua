-- What people used to other libraries type first: each mistake gets a hint.

local moe = require("moelua")
local models = require("spec.models")
local misuse = models.misuse

describe("a likely mistake", function()
  local m = models.tiny()

  it("indexing a tensor", function()
    local x = moe.zeros(2, 3)
    misuse(function() return x[1] end,
      "a tensor is not indexed with [1]\nhint: x:select(1, 1) is a row")
    assert.is_nil(x.shapee)
  end)

  it("loading by the name of a hub", function()
    local nothing, message, code = moe.load("gpt2")
    assert.is_nil(nothing)
    assert.equal("load: gpt2 is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected", message)
    assert.equal("missing", code)
  end)

  it("text where token ids belong", function()
    misuse(function() m:logits("abc") end,
      "logits: token ids are expected, not text\nhint: model.tokenizer:encode(text)")
  end)

  it("models one by one instead of in a list", function()
    misuse(function() moe.mix(m, m) end,
      "mix: a list of models is expected, not a Model\nhint: mix({ a, b })")
    misuse(function() moe.average(m, m) end,
      "average: a list of models is expected, not a Model\nhint: average({ a, b })")
  end)

  it("a path instead of a corpus", function()
    misuse(function() moe.train(m, { data = "text.txt", steps = 1 }) end,
      "moe.train: data: a corpus or { name = corpus } is expected, not \"text.txt\"\n" ..
      "hint: moe.data.corpus { path = ... }")
    misuse(function() moe.evaluate(m, "text.txt") end,
      "evaluate: a corpus or { name = corpus } is expected, not \"text.txt\"\n" ..
      "hint: moe.data.corpus { path = ... }")
  end)

  it("rows of another width than the mixture layer's", function()
    local layer = moe.nn.MoE { dim = 8, hidden = 4, experts = 2 }
    misuse(function() layer(moe.zeros(3, 4)) end,
      "nn.MoE: the last dimension of x must be dim = 8: x is [3 x 4]")
  end)

  it("a learning rate below zero, no workers", function()
    misuse(function() moe.train(m, { data = {}, steps = 1, lr = -1 }) end,
      "moe.train: lr must be above 0, not -1")
    misuse(function() moe.branch(m, { a = m }, { steps = 1, out = "x", workers = 0 }) end,
      "branch: workers must be at least 1, not 0")
  end)
end)
