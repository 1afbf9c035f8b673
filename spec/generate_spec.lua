-- Generation: the cache against whole prefixes, sampling options, stops, limits.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local misuse = models.misuse

local prompt = { 104, 101, 108, 108, 111 }

-- Ids after the prompt, from logits of the whole text each time; `pick` chooses from a row.
local function without_cache(m, ids, count, pick)
  local all = table.move(ids, 1, #ids, 1, {})
  for i = 1, count do
    local logits = m:logits(all)
    all[#all + 1] = pick(logits:select(1, -1), i)
  end
  return table.move(all, #ids + 1, #all, 1, {})
end

local function most_likely(row) return row:argmax(-1):item() end

local kinds = {
  { "dense", {} }, { "grouped queries", { heads = 4, kv_heads = 2 } },
  { "untied", { tied = false } }, { "mixture", { ffn = models.mixture() } },
}

for _, kind in ipairs(kinds) do
  describe("generate_ids (" .. kind[1] .. ")", function()
    local options = { context = 24, std = 0.4 }
    for k, v in pairs(kind[2]) do options[k] = v end
    local m = models.tiny(options)

    it("at temperature 0 takes the most likely token after the whole prefix", function()
      local want = without_cache(m, prompt, 12, most_likely)
      assert.same(want, m:generate_ids(prompt, { max_tokens = 12, temperature = 0 }))
    end)

    it("with top_k = 1 is the same at any temperature", function()
      local want = m:generate_ids(prompt, { max_tokens = 12, temperature = 0 })
      assert.same(want, m:generate_ids(prompt, { max_tokens = 12, temperature = 3, top_k = 1 }))
      assert.same(want, m:generate_ids(prompt, { max_tokens = 12, temperature = 3, top_p = 1e-9 }))
    end)

    it("samples as from the logits of the whole prefix", function()
      local how = { temperature = 0.9, top_k = 40, top_p = 0.9, seed = 5 }
      local want = without_cache(m, prompt, 12, function(row, i)
        return core.sample(row, { temperature = 0.9, top_k = 40, top_p = 0.9, seed = 5, index = i })
      end)
      how.max_tokens = 12
      assert.same(want, m:generate_ids(prompt, how))
    end)
  end)
end

describe("sampling", function()
  local row = moe.tensor({ 2, 1, 0, -1, 1.5 })
  local function counts(opts, n)
    local seen = { 0, 0, 0, 0, 0 }
    for i = 1, n do
      local how = { seed = 3, index = i }
      for k, v in pairs(opts) do how[k] = v end
      local id = core.sample(row, how)
      seen[id + 1] = seen[id + 1] + 1
    end
    return seen
  end
  local function expect(opts, p)
    local n = 4000
    local seen = counts(opts, n)
    for i = 1, 5 do
      helper.close(seen[i] / n, p[i], 4 * math.sqrt(p[i] * (1 - p[i]) / n) + 1e-12)
    end
  end

  it("follows softmax at temperature 1, sharper below, flatter above", function()
    for _, temperature in ipairs({ 1, 0.5, 2 }) do
      expect({ temperature = temperature }, (row / temperature):softmax(-1):totable())
    end
  end)

  it("keeps the top k, renormalised", function()
    local p = moe.tensor({ 2, 1.5 }):softmax(-1):totable()
    expect({ top_k = 2 }, { p[1], 0, 0, 0, p[2] })
    assert.same(counts({}, 200), counts({ top_k = 5 }, 200))
  end)

  it("keeps the smallest set with mass p, and at least one", function()
    local all = row:softmax(-1):totable()
    assert.is_true(all[1] < 0.6 and all[1] + all[5] > 0.6)
    local p = moe.tensor({ 2, 1.5 }):softmax(-1):totable()
    expect({ top_p = 0.6 }, { p[1], 0, 0, 0, p[2] })
    expect({ top_p = all[1] * 0.9 }, { 1, 0, 0, 0, 0 })
  end)

  it("takes infinite logits for the only ones, and NaN for none", function()
    local inf, nan = math.huge, 0 / 0
    for _, how in ipairs({ {}, { top_k = 3 }, { top_p = 0.5 }, { temperature = 1e-300 } }) do
      for i = 1, 20 do
        how.seed, how.index = 1, i
        local id = core.sample(moe.tensor({ 3, inf, nan, inf, -inf }), how)
        assert.is_true(id == 1 or id == 3)
      end
    end
    misuse(function() core.sample(moe.tensor({ nan, -inf }), {}) end,
      "sample: no logit is a finite number")
  end)
end)

describe("generate", function()
  local m = models.tiny({ context = 32, std = 0.4 })
  m.tokenizer = moe.tokenizer.bytes()
  local function ids(given, opts) return m:generate_ids(given or prompt, opts) end

  it("gives the text after the prompt", function()
    local text = m:generate("hello", { max_tokens = 10 })
    assert.equal(10, #text)
    assert.equal(text, m.tokenizer:decode(ids(nil, { max_tokens = 10 })))
  end)

  it("repeats itself for a seed, and only for it", function()
    local one = ids(nil, { max_tokens = 20, temperature = 1, seed = 1 })
    assert.same(one, ids(nil, { max_tokens = 20, temperature = 1, seed = 1 }))
    assert.not_same(one, ids(nil, { max_tokens = 20, temperature = 1, seed = 2 }))
    local longer = ids(nil, { max_tokens = 25, temperature = 1, seed = 1 })
    assert.same(one, table.move(longer, 1, 20, 1, {}))
  end)

  it("ends before the text in stop", function()
    local text = m:generate("hello", { max_tokens = 20 })
    local stop = text:sub(7, 9)
    local before = text:sub(1, text:find(stop, 1, true) - 1)
    assert.equal(before, m:generate("hello", { max_tokens = 20, stop = stop }))
    assert.equal(text, m:generate("hello", { max_tokens = 20, stop = "not in there" }))
  end)

  it("draws no token after the one that completes stop", function()
    local all = ids(nil, { max_tokens = 20 })
    local text = m.tokenizer:decode(all)
    local stop = text:sub(7, 9)
    local _, last = text:find(stop, 1, true)
    assert.same(table.move(all, 1, last, 1, {}), ids(nil, { max_tokens = 20, stop = stop }))
  end)

  it("ends at the context", function()
    assert.equal(27, #ids(nil, { max_tokens = 100 }))
    assert.same(ids(nil, { max_tokens = 27 }), ids(nil, { max_tokens = 100 }))
  end)

  it("drops the beginning of a prompt that is too long", function()
    local long = {}
    for i = 1, 50 do long[i] = i end
    local got = ids(long, { max_tokens = 4, temperature = 0 })
    assert.equal(4, #got)
    assert.same(ids({ table.unpack(long, 23) }, { max_tokens = 4, temperature = 0 }), got)
    assert.equal(16, #ids(long, { max_tokens = 100 }))
  end)

  it("does not change what it was given, and leaves no tensors behind", function()
    local given = { 1, 2, 3 }
    ids(given, { max_tokens = 3 })
    assert.same({ 1, 2, 3 }, given)
    collectgarbage()
    local before = moe.memory().count
    ids(given, { max_tokens = 3 })
    collectgarbage()
    assert.equal(before, moe.memory().count)
  end)

  it("refuses what makes no sense", function()
    misuse(function() ids({}) end, "generate: the prompt is empty")
    misuse(function() m:generate(""):len() end, "generate: the prompt is empty")
    misuse(function() ids(nil, { max_tokens = 0 }) end,
      "generate: max_tokens must be at least 1, not 0")
    misuse(function() ids(nil, { temperature = -1 }) end,
      "generate: temperature must not be negative: -1")
    misuse(function() m:generate("a", { temperature = math.huge - math.huge }) end,
      ("generate: temperature must not be negative: %g"):format(math.huge - math.huge))
    for _, p in ipairs({ 0, 1.5, -0.5 }) do
      misuse(function() ids(nil, { top_p = p }) end,
        ("generate: top_p must be above 0 and at most 1, not %g"):format(p))
    end
    misuse(function() ids(nil, { temprature = 1 }) end,
      "generate: unknown option 'temprature'\nhint: did you mean 'temperature'?")
    misuse(function() models.tiny():generate("x"):len() end,
      "generate: the model has no tokenizer\nhint: model.tokenizer = moe.tokenizer.bytes()")
  end)
end)

describe("generate", function()
  local m = models.tiny({ context = 32, std = 0.4 })
  local greedy = { max_tokens = 12, temperature = 0 }
  local function with(more)
    local opts = {}
    for _, part in ipairs({ greedy, more }) do
      for key, value in pairs(part) do opts[key] = value end
    end
    return opts
  end

  -- A byte tokenizer that ends texts with `eos`, and begins them with `bos` when that is given.
  local function tokenizer(eos, bos)
    local bytes = moe.tokenizer.bytes()
    return setmetatable({ eos = eos, bos = bos, encode = function(_, text)
      local ids = bytes:encode(text)
      if bos then table.insert(ids, 1, bos) end
      return ids
    end }, { __index = bytes })
  end

  -- What comes after the prompt, and where in it an id is that did not occur before.
  local all = m:generate_ids(prompt, greedy)
  local function first_of(id)
    for i, other in ipairs(all) do if other == id then return i end end
  end
  local at = first_of(all[5])
  local before = table.move(all, 1, at, 1, {})

  after_each(function() m.tokenizer, m.generation_config, m.config.hf = nil, nil, nil end)

  it("ends with the tokens that end texts", function()
    m.tokenizer = tokenizer(all[at])
    assert.same(before, m:generate_ids(prompt, greedy))
    assert.same(all, m:generate_ids(prompt, with { eos = false }))
    assert.equal(m.tokenizer:decode(table.move(all, 1, at - 1, 1, {})),
      m:generate("hello", greedy))
    m.tokenizer = nil
    m.generation_config = ('{ "eos_token_id": [300, %d] }'):format(all[at])
    assert.same(before, m:generate_ids(prompt, greedy))
    m.generation_config = ('{ "eos_token_id": %d }'):format(all[at])
    assert.same(before, m:generate_ids(prompt, greedy))
    m.generation_config = "no JSON"
    m.config.hf = { eos_token_id = all[at] }
    assert.same(before, m:generate_ids(prompt, greedy))
    m.config.hf = nil
    assert.same(all, m:generate_ids(prompt, greedy))
    assert.same(before, m:generate_ids(prompt, with { stop_ids = { 7777, all[at] } }))
  end)

  it("begins texts as the tokenizer does", function()
    m.tokenizer = tokenizer(nil, 3)
    local ids = table.move(prompt, 1, #prompt, 2, { 3 })
    assert.equal(m.tokenizer:decode(m:generate_ids(ids, greedy)), m:generate("hello", greedy))
    -- Also when the beginning of the prompt has no room.
    local text = ("x"):rep(40)
    local kept = { 3 }
    for i = 2, 20 do kept[i] = 120 end
    assert.equal(m.tokenizer:decode(m:generate_ids(kept, greedy)), m:generate(text, greedy))
    assert.equal(12, #m:generate("", greedy))
  end)

  it("does not end the prompt", function()
    local plain = m:generate_ids(prompt, greedy)
    m.tokenizer = tokenizer()
    local encode = m.tokenizer.encode
    m.tokenizer.eos = 999
    m.tokenizer.encode = function(self, text)
      local ids = encode(self, text)
      ids[#ids + 1] = 999
      return ids
    end
    assert.equal(m.tokenizer:decode(plain), m:generate("hello", greedy))
  end)

  it("tells text as it comes", function()
    m.tokenizer = tokenizer(all[at])
    local heard = { {}, {} }
    local texts = m:generate({ "hello", "hells" }, with { on_text = function(text, i)
      table.insert(heard[i], text)
    end })
    assert.same(texts, { table.concat(heard[1]), table.concat(heard[2]) })
    assert.is_true(#heard[1] > 1 or at < 3)
    m.tokenizer = nil
    misuse(function() m:generate_ids(prompt, { on_text = print }) end,
      "generate: the model has no tokenizer\nhint: model.tokenizer = moe.tokenizer.bytes()")
    misuse(function() m:generate_ids(prompt, { stop_ids = { "x" } }) end,
      'generate: stop_ids[1] must be a token id, not "x"')
    misuse(function() m:generate_ids(prompt, { stop = "" }) end, "generate: stop is empty")
  end)
end)
