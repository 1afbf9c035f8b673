-- Models that mix sequences train and are evaluated on groups of unrelated text.
local helper = require("spec.helper")
local core = require("moelua.core")
local groups = require("moelua.groups")
local models = require("spec.models")
local moe = require("moelua")
local options = require("moelua.options")
local misuse = models.misuse

local sizes = { train = 9000, validation = 1500, test = 900 }
local prose, code = models.corpus("prose", sizes, 12), models.corpus("code", sizes, 12)
local both = { code = code, prose = prose }

-- A dense model that says it mixes so many sequences ("batch": all), and notes what it reads.
local function mixing(group)
  local m, seen = models.tiny(), {}
  local forward = m.forward
  m.traits = function() return { causal = true, coupled = "batch", group = group } end
  m.forward = function(self, x, how)
    seen[#seen + 1] = { x = x:totable(), how = how, labels = how.labels:totable() }
    return forward(self, x, how)
  end
  return m, seen
end

local function plan(texts, names, more)
  local how = { split = "validation", context = 16, group = 4 }
  for k, v in pairs(more or {}) do how[k] = v end
  return groups.plan("here", texts, names, how)
end

-- The documents that the members of a group touch: a list of { first, last } per corpus.
local function spans(texts, group, context)
  local list = {}
  for _, part in ipairs(group) do
    local all = texts[part.name]:window_documents("validation", context or 16):totable()
    for _, window in ipairs(part.windows) do
      list[#list + 1] = { part.name, table.unpack(all[window]) }
    end
  end
  return list
end

describe("members of a group whose windows overlap", function()
  -- Pairs of windows of random text, the second so many tokens behind the first.
  local function batch(step, distance)
    local x, y = {}, {}
    for pair = 1, 8 do
      for at = 0, distance, distance do
        local row = #x + 1
        x[row], y[row] = {}, {}
        for i = 1, 17 do
          local token = core.uniform(step, "text", 64 * pair + at + i, 16)
          x[row][i], y[row][i - 1] = token, token
        end
        x[row][17], y[row][0] = nil, nil
      end
    end
    return moe.tensor(x, "i32"), moe.tensor(y, "i32")
  end

  -- Bits per token of the last of many steps; 4 when nothing is known.
  local function learned(distance)
    local m = models.tiny({ dim = 32, vocab = 16,
      ffn = { kind = "mot", hidden = 64, experts = 4, group = 2 } })
    local optimizer, bits = moe.optimizer(m, { lr = 1e-2 }), nil
    for step = 1, 120 do
      local _ <close> = moe.scope()
      local x, y = batch(step, distance)
      local loss, info = m:loss(x, y, { train = true, step = step })
      loss:backward()
      optimizer:step()
      bits = info.nll:item() / math.log(2)
    end
    return bits
  end

  it("tell each other what they are to predict: such losses mean nothing", function()
    assert.is_true(learned(1) < 3.3)
    assert.is_true(learned(17) > 3.9)
  end)
end)

describe("groups of evaluation windows", function()
  it("have members that share no document", function()
    for _, size in ipairs({ 2, 3, 8, 12 }) do
      local list = plan({ prose = prose }, { "prose" }, { group = size })
      assert.is_true(#list >= 3)
      for _, group in ipairs(list) do
        local members = spans({ prose = prose }, group)
        assert.equal(size, #members)
        for i, a in ipairs(members) do
          for k = 1, i - 1 do
            local b = members[k]
            assert.is_false(a[2] <= b[3] and b[2] <= a[3])
          end
        end
      end
    end
  end)

  it("have each window at most once, and the rest is counted", function()
    local list, left_out = plan({ prose = prose }, { "prose" }, { group = 8 })
    local seen, count = {}, 0
    for _, group in ipairs(list) do
      for _, window in ipairs(group[1].windows) do
        assert.is_nil(seen[window])
        seen[window], count = true, count + 1
      end
    end
    assert.is_nil(seen[94])                         -- 1499 targets: 93 windows and a short one
    assert.equal(94, prose:windows("validation", 16))
    assert.equal(94 - count, left_out.prose)
    assert.is_true(count >= 64)
  end)

  it("are always the same, and leave few windows out", function()
    local list, left_out = plan({ prose = prose }, { "prose" }, { group = 4 })
    assert.same({ list, left_out }, { plan({ prose = prose }, { "prose" }, { group = 4 }) })
    assert.is_true(left_out.prose <= 10, left_out.prose)
    assert.same({ { name = "prose", windows = { 1, 9, 17, 25 } } }, list[1])
  end)

  it("mix all corpora evenly", function()
    local list = plan(both, { "code", "prose" }, { group = 3 })
    for k, group in ipairs(list) do
      local counts = {}
      for _, part in ipairs(group) do counts[part.name] = #part.windows end
      assert.same(k % 2 == 1 and { code = 2, prose = 1 } or { code = 1, prose = 2 }, counts)
    end
  end)

  it("stop where one corpus has no more", function()
    local short = models.corpus("code", { train = 100, validation = 200, test = 100 }, 3)
    local list, left_out = plan({ code = short, prose = prose }, { "code", "prose" }, { group = 4 })
    assert.equal(94 - 2 * #list, left_out.prose)
    assert.equal(13 - 2 * #list, left_out.code)
    assert.is_true(#list >= 4)
  end)

  it("are refused where there is none", function()
    local one = models.corpus("prose")
    misuse(function() plan({ prose = one }, { "prose" }) end,
      "here: the validation split of corpus 'prose' has 1 windows of 16 tokens that share no " ..
      "document: a group of 4 takes 4 of them\n" ..
      "hint: give the corpus more documents, or use smaller groups")
    misuse(function() moe.evaluate(mixing(32), both) end,
      "evaluate: the validation split of corpus 'code' has 12 windows of 16 tokens that share " ..
      "no document: a group of 32 takes 16 of them\n" ..
      "hint: give the corpus more documents, or use smaller groups")
  end)
end)

describe("evaluation in groups", function()
  -- Bits per token of single windows, by hand.
  local function bits_of(m, corpus, window)
    local x, y = corpus:window_batch("validation", 16, nil, window, 1)
    local _, info = m:loss(x, y)
    return info.nll:item() / math.log(2)
  end

  it("is the mean over the windows of the groups", function()
    local m = models.tiny()
    local list, left_out = plan(both, { "code", "prose" }, { group = 3 })
    local report = moe.evaluate(m, both, { group = 3, batch = 7 })
    local sum, count = 0, 0
    for _, group in ipairs(list) do
      for _, part in ipairs(group) do
        for _, window in ipairs(part.name == "code" and part.windows or {}) do
          sum, count = sum + bits_of(m, code, window), count + 1
        end
      end
    end
    helper.close(report.metric.code, sum / count, 1e-5)
    assert.equal(16 * count, report.tokens.code)
    assert.same(left_out, report.left_out)
    assert.equal(3, report.group)
    assert.is_false(report.coupled)
  end)

  it("reads the same windows with every model, so that arms are paired", function()
    local m, seen = mixing(4)
    local report = moe.evaluate(m, both, { batch = 8 })
    local dense = moe.evaluate(models.tiny(), both, { group = 4 })
    assert.is_true(report.coupled)
    assert.equal(4, report.group)
    helper.close(dense.metric.code, report.metric.code, 1e-6)
    helper.close(dense.metric.prose, report.metric.prose, 1e-6)
    assert.same(dense.left_out, report.left_out)
    assert.equal(8, #seen[1].x)
    assert.is_false(seen[1].how.train)
    assert.same({ 0, 0, 1, 1, 0, 0, 1, 1 }, seen[1].labels)
  end)

  it("gives a model that mixes whole batches one group at a time", function()
    local m, seen = mixing("batch")
    local report = moe.evaluate(m, both, { batch = 6 })
    assert.equal(6, report.group)
    for _, call in ipairs(seen) do assert.equal(6, #call.x) end
    m, seen = mixing("batch")
    assert.equal(4, moe.evaluate(m, both, { group = 4 }).group)
    for _, call in ipairs(seen) do assert.equal(4, #call.x) end
  end)

  it("counts the routing of each corpus", function()
    local m = models.tiny({ ffn = { {}, models.mixture() } })
    local list = plan(both, { "code", "prose" }, { group = 4 })
    local report = moe.evaluate(m, both, { group = 4 })
    local counts = { 0, 0, 0, 0 }
    for _, group in ipairs(list) do
      for _, window in ipairs(group[2].windows) do
        local _, infos = m:forward((prose:window_batch("validation", 16, nil, window, 1)))
        for e, n in ipairs(infos[2].counts) do counts[e] = counts[e] + n end
      end
    end
    helper.close(report.routing.prose[2], require("moelua.routing").shares(counts), 1e-9)
    assert.is_true(report.statistics[2].mutual_information > 0)
  end)

  it("takes multiples of what the model mixes", function()
    assert.equal(8, moe.evaluate(mixing(4), both, { group = 8 }).group)
    misuse(function() moe.evaluate(mixing(4), both, { group = 6 }) end,
      "evaluate: the model mixes 4 sequences: a group of 6 has no whole number of those")
    misuse(function() moe.evaluate(models.tiny(), both, { group = 0 }) end,
      "evaluate: group must be at least 1, not 0")
  end)
end)

describe("training in groups", function()
  local function train(m, more)
    return moe.train(m, models.training(both, options.merge({ batch = 8, steps = 6 }, more or {})))
  end

  -- How far apart the rows of each corpus are asked to be.
  local function apart(m)
    local list = {}
    local function watching(corpus)
      return setmetatable({ batch = function(self, given)
        list[#list + 1] = given.apart
        return corpus.batch(self, given)
      end }, { __index = corpus })
    end
    train(m, { data = { code = watching(code), prose = watching(prose) }, steps = 1 })
    return list
  end

  it("draws apart what a group takes of each corpus", function()
    assert.same({ 1, 1 }, apart(models.tiny()))
    assert.same({ 2, 2 }, apart((mixing(4))))
    assert.same({ 4, 4 }, apart((mixing("batch"))))
    assert.same({ 1, 1 }, apart((mixing(2))))
  end)

  it("reads the same batches with every model of the same group", function()
    local m = mixing(4)
    train(m)
    local twin = models.tiny()
    train(twin, { group = 4 })
    models.same(twin, m)
    local other = models.tiny()
    train(other)
    assert.not_equal(other.embedding:bytes(), twin.embedding:bytes())
  end)

  it("validates in groups", function()
    local m = mixing(4)
    local result = train(m, { eval_every = 6 })
    helper.close(result.validation[1][2],
      moe.evaluate(m, both, { windows = 64, group = 4 }).mean, 1e-12)
  end)

  it("is no shortcut: members of other groups would have done as well", function()
    local m = models.tiny({ ffn = { {}, { kind = "mot", hidden = 24, experts = 4, group = 4 } } })
    local before = moe.evaluate(m, both).mean
    train(m, { steps = 60 })
    assert.is_true(moe.evaluate(m, both).mean < before - 1)
    -- The same twelve windows of as many documents in other groups.
    local xs, ys = {}, {}
    for i = 1, 12 do xs[i], ys[i] = prose:window_batch("validation", 16, nil, 8 * i - 7, 1) end
    local function loss_of(order)
      local x, y = {}, {}
      for i, row in ipairs(order) do x[i], y[i] = xs[row], ys[row] end
      local _, info = m:loss(moe.concat(x, 1), moe.concat(y, 1))
      return info.nll:item()
    end
    local one = loss_of({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 })
    local other = loss_of({ 1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12 })
    assert.is_true(math.abs(other - one) < 0.05, ("%g and %g"):format(one, other))
    assert.is_true(other ~= one)
  end)

  it("is refused where micro-batches or corpora are too small", function()
    misuse(function() train(mixing(4), { accumulate = 4 }) end,
      "moe.train: micro-batches of 2 sequences do not divide into groups of 4\n" ..
      "hint: batch / accumulate must be a multiple of the group")
    misuse(function() train(mixing("batch"), { accumulate = 2, group = 2 }) end,
      "moe.train: the model mixes whole batches of 4 sequences: group cannot be 2")
    misuse(function() train(mixing(8), { data = models.corpus("prose") }) end,
      "batch: split \"train\" has 1 windows of 16 tokens that share no document: a group needs " ..
      "8\nhint: give the corpus more documents, or use smaller groups")
    local thin = models.corpus("prose", { train = 6000, validation = 300, test = 100 }, 8)
    misuse(function() train(mixing(8), { data = thin, eval_every = 5, eval_windows = 4 }) end,
      "moe.train: the validation split of corpus 'prose' has 4 windows of 16 tokens that share " ..
      "no document: a group of 8 takes 8 of them\n" ..
      "hint: give the corpus more documents, or use smaller groups")
  end)
end)
