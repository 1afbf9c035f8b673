-- Learning merges: against a few words counted by hand, and against the definition.
local core = require("moelua.core")

local function train(texts, vocab, least, split, most)
  local trainer <close> = core.text.bpe_trainer(split or "gpt2", most or 1000000)
  for _, text in ipairs(texts) do trainer:add(text, 1, #text) end
  local tokens, merges = trainer:train(vocab, least or 1)
  return tokens, merges, trainer:words()
end

-- The merges as "left right".
local function spelled(tokens, merges)
  local list = {}
  for i, merge in ipairs(merges) do
    list[i] = tokens[merge[1] + 1] .. " " .. tokens[merge[2] + 1]
  end
  return list
end

-- The definition, word for word: counts everything again for every merge. Words of ASCII letters.
local function reference(words, vocab, least)
  local symbols, names, id_of = {}, {}, {}
  local function id(name)
    if not id_of[name] then
      names[#names + 1] = name
      id_of[name] = #names - 1
    end
    return id_of[name]
  end
  for byte = 0x21, 0x7E do id(string.char(byte)) end
  for i = #names, 255 do id("byte " .. i) end
  for w, word in ipairs(words) do
    symbols[w] = {}
    for letter in word:gmatch(".") do table.insert(symbols[w], id(letter)) end
  end
  local function best()
    local counts, top, key = {}, least - 1, nil
    for _, word in ipairs(symbols) do
      for i = 2, #word do
        local pair = word[i - 1] << 32 | word[i]
        counts[pair] = (counts[pair] or 0) + 1
      end
    end
    for pair, count in pairs(counts) do
      if count > top or count == top and key and pair < key then top, key = count, pair end
    end
    return key
  end
  local merges = {}
  while #names < vocab do
    local key = best()
    if not key then break end
    local left, right = key >> 32, key & 0xFFFFFFFF
    merges[#merges + 1] = names[left + 1] .. " " .. names[right + 1]
    local new = id(names[left + 1] .. names[right + 1])
    for _, word in ipairs(symbols) do
      local i = 1
      while i < #word do
        if word[i] == left and word[i + 1] == right then
          word[i] = new
          table.remove(word, i + 1)
        end
        i = i + 1
      end
    end
  end
  return merges
end

describe("the merges of a tokenizer", function()
  it("are those of the most frequent pairs, in their order", function()
    -- Counted by hand. es: newest 6 + widest 3 = 9, and so is st; e comes first in the alphabet.
    local words = {}
    for word, n in pairs({ low = 5, lower = 2, newest = 6, widest = 3 }) do
      for _ = 1, n do words[#words + 1] = word end
    end
    local tokens, merges = train(words, 260, 2)
    assert.same({ "e s", "es t", "l o", "lo w" }, spelled(tokens, merges))
    assert.same({ "es", "est", "lo", "low" }, table.move(tokens, 257, 260, 1, {}))
  end)

  it("begin with the bytes in the order of their symbols", function()
    local tokens, merges = train({ "" }, 300)
    assert.equal(256, #tokens)
    assert.same({}, merges)
    assert.same({ "!", "~", "¡", "ÿ", "Ā", "Ġ", "Ń" },
      { tokens[1], tokens[94], tokens[95], tokens[188], tokens[189], tokens[221], tokens[256] })
  end)

  it("are what the definition gives", function()
    for seed = 1, 30 do
      local words, state = {}, seed
      local function draw(n)
        state = (state * 1103515245 + 12345) % 2147483648
        return (state >> 16) % n
      end
      for w = 1, 40 do
        local letters = {}
        for i = 1, 1 + draw(12) do letters[i] = ("abc"):sub(1 + draw(1 + seed % 3)):sub(1, 1) end
        words[w] = table.concat(letters)
      end
      local tokens, merges = train(words, 320, 1 + seed % 3)
      assert.same(reference(words, 320, 1 + seed % 3), spelled(tokens, merges))
    end
  end)

  it("end when no pair is frequent enough, or there are enough tokens", function()
    local _, merges = train({ "abab", "abab", "xy" }, 1000, 2)
    assert.equal(2, #merges)
    _, merges = train({ "abab", "abab", "xy" }, 257, 2)
    assert.equal(1, #merges)
  end)

  it("do not depend on the order of the texts", function()
    local forward, backward = {}, {}
    for i = 1, 200 do
      forward[i] = (" %s%x"):format(("abcab"):sub(1 + i % 3, 2 + i % 4), i * 7919 % 251)
      backward[201 - i] = forward[i]
    end
    local a, b = table.pack(train(forward, 400)), table.pack(train(backward, 400))
    assert.same({ a[1], a[2] }, { b[1], b[2] })
  end)

  it("stay inside of words, as the split cuts them", function()
    for split, want in pairs({ gpt2 = { "1 2", "3 4", "12 34" }, llama3 = { "1 2", "12 3" },
      qwen2 = {}, smollm = {} }) do
      local tokens, merges = train({ "1234", "1234" }, 300, 2, split)
      assert.same(want, spelled(tokens, merges))
    end
    assert.error_matches(function() core.text.bpe_trainer("gpt9", 1) end, 'no split "gpt9"')
  end)

  it("take any bytes", function()
    local tokens, merges = train({ "\xff\xfe\0\xff\xfe\0" }, 300, 2)
    assert.same({ "þ Ā", "ÿ þĀ" }, spelled(tokens, merges))
  end)

  it("take no more memory for a vocabulary than the text can fill", function()
    local before = core.memory().peak
    local tokens, merges = train({ "abc" }, (1 << 31) - 1, 1)
    assert.same({ "a b", "ab c" }, spelled(tokens, merges))
    assert.truthy(core.memory().peak - before < 1 << 20)
  end)

  it("count only the part of a text that is given", function()
    local trainer <close> = core.text.bpe_trainer("gpt2", 100)
    trainer:add("xyabyx", 3, 4)
    trainer:add("xyabyx", 3, 2)
    local tokens, merges = trainer:train(300, 1)
    assert.same({ "a b" }, spelled(tokens, merges))
    assert.error_matches(function() trainer:add("abc", 1, 4) end, "last must be .* to 3: got 4")
    assert.error_matches(function() trainer:add("abc", 0, 2) end, "first must be .* from 1 to 3")
  end)

  it("forget the rarest words when there are too many", function()
    local texts = {}
    for _ = 1, 50 do texts[#texts + 1] = "often" end
    for i = 0, 99 do texts[#texts + 1] = ("%c%c"):format(97 + i // 26, 97 + i % 26) end
    local tokens, merges, words = train(texts, 260, 1, "gpt2", 16)
    assert.is_true(words <= 16)
    assert.same({ "e n", "f t", "o ft", "oft en" }, spelled(tokens, merges))
    local _, _, all, forgotten = train(texts, 260)
    assert.same({ 101, 0 }, { all, forgotten })
  end)

  it("cut what is no word any more", function()
    local _, merges, words = train({ ("a"):rep(3 << 14) }, 300, 1)
    assert.equal(1, words)
    assert.equal(14, #merges)           -- 16384 letters in one, and nothing beyond
  end)

  it("stop at an interrupt", function()
    local trainer <close> = core.text.bpe_trainer("gpt2", 1000)
    trainer:add("some words", 1, 10)
    for _, f in ipairs({ function() trainer:train(400, 1) end,
      function() trainer:add("some words", 1, 10) end }) do
      core.interrupt("operation")
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.equal("interrupted!", message)
    end
  end)
end)
