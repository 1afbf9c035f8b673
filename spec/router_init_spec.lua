-- Routers that begin with what their experts are for: which states they are made from, what the
-- rows are, and what the report says of them.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local hidden_states = require("moelua.hidden_states")
local donors = require("moelua.donor")
local misuse = models.misuse

local function dense(more)
  local m = models.tiny(more)
  m.tokenizer = moe.tokenizer.bytes()
  return m
end

local m = dense()
local code, prose = models.corpus("code"), models.corpus("prose")

-- What the norm before each feed-forward layer gives, by watching the model run.
local function watched(model, ids)
  local seen = {}
  for i, layer in ipairs(model.layers) do
    local norm = layer.ffn_norm
    layer.ffn_norm = setmetatable({}, { __call = function(_, x)
      seen[i] = norm(x):detach()
      return seen[i]
    end, __index = norm })
  end
  model:logits(ids)
  for _, layer in ipairs(model.layers) do layer.ffn_norm = getmetatable(layer.ffn_norm).__index end
  return seen
end

local function states_of(model, sequences)
  local out, one = {}, donors.model(donors.of("spec", model))
  hidden_states(one.config, one.part_of, sequences, function(number, states)
    out[number] = states:totable()
  end)
  return out
end

describe("hidden states", function()
  it("are what the feed-forward layers see", function()
    local ids = { 7, 1, 99, 200, 31 }
    local seen = watched(m, ids)
    for layer, states in ipairs(states_of(m, { ids })) do
      helper.close(moe.tensor(states), seen[layer]:reshape(5, 16), 1e-6)
    end
  end)

  it("do not depend on the other sequences, nor on padding", function()
    local list = {}
    for i = 1, 11 do
      list[i] = {}
      for t = 1, 3 + i % 4 do list[i][t] = (i * 31 + t * 7) % 256 end
    end
    local all, first = states_of(m, list), 1
    for _, ids in ipairs(list) do
      local alone = states_of(m, { ids })
      for layer = 1, 2 do
        helper.close(moe.tensor(all[layer]):narrow(1, first, #ids), moe.tensor(alone[layer]), 1e-5)
      end
      first = first + #ids
    end
    assert.equal(#all[1], first - 1)
  end)

  it("are there for mixtures too, behind the mixtures before", function()
    local mixture = dense({ ffn = models.mixture(), layers = 3 })
    local seen = watched(mixture, { 3, 4, 5, 6 })
    helper.close(moe.tensor(states_of(mixture, { { 3, 4, 5, 6 } })[3]), seen[3]:reshape(4, 16),
      1e-6)
  end)
end)

describe("class means", function()
  local texts = { { "aaaa", "aaba", "abaa" }, { "zyzy", "zzzz", "yyyy" } }
  local mixed, report = moe.mix({ m, m }, { router = { k = 1 }, init = { by = "means",
    text = texts, std = 2 } })

  it("are the directions of the mean states of all tokens of each text", function()
    for layer = 1, 2 do
      local rows = mixed.layers[layer].ffn.router.weight:detach()
      for e, list in ipairs(texts) do
        -- The last fifth is held out, of three texts one.
        local states = moe.tensor(states_of(m, { { list[1]:byte(1, -1) },
          { list[2]:byte(1, -1) } })[layer])
        local mean, row = states:mean(1), rows:select(1, e)
        local cosine = (mean * row):sum():item() /
          math.sqrt((mean * mean):sum():item() * (row * row):sum():item())
        helper.close(cosine, 1, 1e-5)
      end
    end
  end)

  it("are equally long, and give logits of the stated deviation", function()
    for layer = 1, 2 do
      local rows = mixed.layers[layer].ffn.router.weight:detach()
      local lengths = (rows * rows):sum(-1):sqrt():totable()
      helper.close(lengths[1] / lengths[2], 1, 1e-5)
      local sequences = {}
      for _, list in ipairs(texts) do
        for i = 1, 2 do sequences[#sequences + 1] = { list[i]:byte(1, -1) } end
      end
      local logits = moe.tensor(states_of(m, sequences)[layer]):linear(rows)
      local within = logits - logits:mean(-1, true)
      helper.close(math.sqrt((within * within):mean():item()), 2, 1e-4)
    end
  end)

  it("tell held-out text of the classes apart, and the report says so", function()
    local _, found = moe.mix({ m, m }, { init = { by = "means", text = { code, prose },
      centre = true } })
    for layer = 1, 2 do
      local figures = found[layer]
      helper.close(figures.load[1] + figures.load[2], 1, 1e-5)
      assert.is_true(figures.entropy > 0 and figures.entropy < math.log(2))
      for i = 1, 2 do
        helper.close(figures.confusion[i][1] + figures.confusion[i][2], 1, 1e-5)
      end
      helper.close(figures.accuracy,
        (figures.confusion[1][1] + figures.confusion[2][2]) / 2, 1e-6)
      assert.is_true(figures.accuracy > 0.6, figures.accuracy)
    end
    assert.equal(2, #report)
  end)

  it("are less those of other text, or of all experts", function()
    local function rows(more)
      local init = { by = "means", text = texts }
      for k, v in pairs(more) do init[k] = v end
      return moe.mix({ m, m }, { init = init }).layers[1].ffn.router.weight:detach()
    end
    local centred = rows({ centre = true })
    helper.close(centred:select(1, 1) + centred:select(1, 2), moe.zeros(16), 1e-6)
    -- Less the text of class 1 itself nothing is left of class 1 but what was held out.
    local negative = rows({ negative = { "aaaa", "aaba", "abaa" } })
    assert.is_true(models.distance(negative, rows({})) > 1e-2)
  end)

  it("are repeated for the pieces of a model", function()
    local split = moe.mix({ m, m }, { split = 2, init = { by = "means", text = texts } })
    local w = split.layers[1].ffn.router.weight:detach()
    assert.equal(4, w:size(1))
    assert.equal(w:select(1, 1):clone():bytes(), w:select(1, 2):clone():bytes())
    assert.not_equal(w:select(1, 2):clone():bytes(), w:select(1, 3):clone():bytes())
  end)

  it("come from the mean of the models, or from the one that the rest is of", function()
    local other = dense({ seed = 5 })
    local function weight(list, rest)
      return moe.mix(list, { rest = rest, init = { by = "means", text = texts } })
        .layers[2].ffn.router.weight:bytes()
    end
    assert.equal(weight({ m, m }), weight({ m, other }, 1))
    assert.not_equal(weight({ m, other }, 1), weight({ m, other }, 2))
    assert.equal(moe.mix({ moe.average({ m, other }), other }, { rest = 1,
      init = { by = "means", text = texts } }).layers[2].ffn.router.weight:bytes(),
      weight({ m, other }))
  end)
end)

describe("clusters", function()
  local function upcycled(more)
    local init = { by = "clusters", text = { code, prose }, windows = 8 }
    for k, v in pairs(more or {}) do init[k] = v end
    return moe.upcycle(m, { experts = 4, router = { k = 1, gate = "all" }, init = init })
  end

  it("are the same from the same seed, and leave the function as it was", function()
    models.same(upcycled(), upcycled())
    local kept = moe.upcycle(m, { experts = 4, init = { by = "clusters", text = code } })
    helper.close(kept:logits({ 1, 2, 3 }), m:logits({ 1, 2, 3 }), 1e-5)
  end)

  it("use all experts, evenly when balanced", function()
    local function most(report)
      local load = 0
      for _, figures in ipairs(report) do load = math.max(load, table.unpack(figures.load)) end
      return load
    end
    local _, plain = upcycled()
    local _, even = upcycled({ balanced = true })
    assert.is_true(most(even) < 0.45, most(even))
    for _, figures in ipairs(plain) do
      for _, load in ipairs(figures.load) do assert.is_true(load > 0) end
      assert.equal(2, #figures.confusion)
      assert.is_nil(figures.accuracy)
    end
  end)

  it("find groups that are there", function()
    -- Two tokens only: the states of a layer are two groups, of which each centre takes one.
    local _, report = moe.upcycle(m, { experts = 2, init = { by = "clusters",
      text = { { ("a"):rep(9), ("a"):rep(9) }, { ("z"):rep(9), ("z"):rep(9) } } } })
    local c = report[1].confusion
    assert.same({ 1, 0 }, { math.max(c[1][1], c[1][2]), math.min(c[1][1], c[1][2]) })
    assert.equal(c[1][1], c[2][2])
  end)
end)

describe("text for routers", function()
  it("may be a file", function()
    local path = helper.tmpdir() .. "/a.txt"
    assert(require("moelua.core").system.write(path, ("some text of a file. "):rep(40)))
    local _, report = moe.upcycle(m, { experts = 2, init = { by = "clusters",
      text = { path = path } } })
    assert.equal(2, #report)
  end)

  it("is refused when it is none", function()
    misuse(function() moe.mix({ m, m }, { init = { by = "means", text = { code } } }) end,
      "mix.init: text must be a list of one text for each of the 2 experts")
    misuse(function() moe.upcycle(m, { experts = 2, init = { by = "clusters", text = 3 } }) end,
      "upcycle.init: a text is a string, { path = ... }, a list of strings or a corpus, not 3")
    misuse(function() moe.upcycle(models.tiny(), { experts = 2, init = { by = "clusters",
      text = "abc" } }) end, "upcycle.init: the model has no tokenizer\nhint: tokenizer = ...")
    misuse(function() moe.upcycle(m, { experts = 2, init = { by = "cluster", text = "x" } }) end,
      "upcycle.init: option 'by' is 'cluster': unknown\nhint: did you mean 'clusters'?")
    misuse(function() moe.upcycle(m, { experts = 2, init = { by = "clusters", text = "abc",
      tokenizer = "abc" } }) end, "upcycle.init: there is no tokenizer \"abc\"\n" ..
      "hint: \"bytes\", the path of one, or what moe.tokenizer.open returned")
    misuse(function() moe.upcycle(m, { experts = 2, init = { by = "clusters", text = "abc",
      context = 0 } }) end, "upcycle.init: context must be at least 1")
    misuse(function() moe.mix({ m, m }, { blend = true, init = { by = "means", text = "x" } }) end,
      "mix: blended experts are of all models alike: no text is theirs\nhint: leave init out")
    misuse(function() moe.upcycle(m, { experts = 2, router = { kind = "hash" },
      init = { by = "clusters", text = code } }) end,
      "init: a router of kind \"hash\" has no weight to begin with")
  end)

  it("of more experts than an op takes tensors", function()
    local texts = {}
    for i = 1, 66 do texts[i] = { string.char(i, i, i), string.char(i, i) } end
    local mixed = moe.upcycle(m, { experts = 66, init = { by = "means", text = texts } })
    assert.same({ 66, 16 }, mixed.layers[1].ffn.router.weight:shape())
  end)
end)
