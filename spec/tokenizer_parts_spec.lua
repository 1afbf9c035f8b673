-- The parts of a tokenizer.json, one by one. The added tokens and the splits of ByteLevel are the
-- vectors of Hugging Face's tokenizers (tests/added_tokens.rs, byte_level.rs); what is beside them
-- was computed with tokenizers 0.23.
local core = require("moelua.core")
local tokenizer = require("moelua.tokenizer")
local json = core.json

local bytes = tokenizer.bytes()

-- A tokenizer without merges over these tokens.
local function tokens_of(list, given, model_given)
  local vocab = {}
  for i, token in ipairs(list) do vocab[token] = i - 1 end
  local file = { model = { type = "BPE", vocab = vocab, merges = {} } }
  for key, value in pairs(given or {}) do file[key] = value end
  for key, value in pairs(model_given or {}) do file.model[key] = value end
  return file
end

-- One token per character; the texts of the pre-tokens are seen by what <|> stands between.
local function byte_vocabulary()
  local list = {}
  for byte = 0, 255 do list[byte + 1] = bytes:token(byte) end
  return list
end

local function shown(tok, text, opts)
  local tokens = {}
  for i, id in ipairs(tok:encode(text, opts)) do tokens[i] = tok:token(id) end
  return table.concat(tokens, "|")
end

describe("added tokens", function()
  local gpt2

  setup(function()
    local tok = assert(tokenizer.open("spec/golden/tokenizers/ggml-vocab-gpt-2.gguf"))
    gpt2 = assert(json.decode(tok:files()["tokenizer.json"]))
  end)

  local function with(added, prefix)
    gpt2.added_tokens = {}
    for i, token in ipairs(added) do
      token.id = token.id or 50256 + i
      gpt2.added_tokens[i] = token
    end
    gpt2.pre_tokenizer.add_prefix_space = prefix or false
    return assert(tokenizer.from_table(gpt2))
  end

  it("take white space on their left", function()
    local tok = with({ { content = "<mask>", special = true, lstrip = true } }, true)
    assert.equal("ĠI|Ġsaw|Ġa|<mask>|ĠðŁĺ|º", shown(tok, "I saw a <mask> 😺"))
  end)

  it("take white space on their right", function()
    local mask = { content = "<mask>", special = true, rstrip = true }
    assert.equal("I|Ġsaw|Ġa|Ġ|<mask>|ðŁĺ|º", shown(with({ mask }), "I saw a <mask> 😺"))
    assert.equal("ĠI|Ġsaw|Ġa|Ġ|<mask>|ĠðŁĺ|º", shown(with({ mask }, true), "I saw a <mask> 😺"))
  end)

  it("may have to stand alone", function()
    local ing = { id = 278, content = "ing", single_word = true }
    assert.equal("I|Ġlike|Ġdancing", shown(with({ ing }), "I like dancing"))
    assert.equal("I|Ġ|ing|.", shown(with({ ing }), "I ing."))
    ing.single_word = false
    assert.equal("I|Ġlike|Ġd|anc|ing", shown(with({ ing }), "I like dancing"))
  end)

  it("are found from left to right, whatever their order", function()
    local danc, nci = { content = "danc" }, { content = "nci" }
    local ing, ike = { id = 278, content = "ing" }, { id = 522, content = "ike" }
    assert.equal("I|Ġlike|Ġ|danc|ing", shown(with({ danc, nci, ing }), "I like dancing"))
    assert.equal("I|Ġl|ike|Ġ|danc|ing", shown(with({ danc, nci, ing, ike }), "I like dancing"))
  end)

  it("of one place the longest counts", function()
    local tok = with({ { content = "<a>" }, { content = "<a><b>" }, { content = "<b><c>" } })
    assert.equal("<a><b>|<|c|>", shown(tok, "<a><b><c>"))
  end)

  it("that are special are plain text when asked for", function()
    local tok = with({ { content = "<s>", special = true }, { content = "<u>" } })
    assert.equal("<s>|<u>", shown(tok, "<s><u>"))
    assert.equal("<|s|>|<u>", shown(tok, "<s><u>", { special = false }))
  end)
end)

describe("byte fallback", function()
  it("is for characters all of whose bytes are tokens", function()
    local function ids(list, text, given)
      return assert(tokenizer.from_table(tokens_of(list, nil, given))):encode(text)
    end
    local fallback = { byte_fallback = true, unk_token = "<unk>" }
    assert.same({ 0 }, ids({ "<unk>", "<0x61>" }, "c", fallback))
    assert.same({ 1 }, ids({ "<unk>", "<0x61>" }, "a", fallback))
    assert.same({ 1 }, ids({ "<unk>", "<0x0A>" }, "\n", fallback))
    assert.same({ 0 }, ids({ "<unk>", "<0xC3>" }, "é", fallback))
    assert.same({ 1, 2 }, ids({ "<unk>", "<0xC3>", "<0xA9>" }, "é", fallback))
    assert.same({}, ids({ "<unk>", "b" }, "cc"))
    assert.same({ 0, 0, 1 }, ids({ "<unk>", "b" }, "ccb", { unk_token = "<unk>" }))
    assert.same({ 0, 1 }, ids({ "<unk>", "b" }, "ccb", { unk_token = "<unk>", fuse_unk = true }))
  end)
end)

describe("whole words", function()
  it("are tokens before merging when merges are ignored", function()
    local file = tokens_of(byte_vocabulary(), { pre_tokenizer = { type = "ByteLevel",
      add_prefix_space = false } })
    file.model.vocab["Ġbelirtilen"], file.model.vocab[".:.:"] = 256, 257
    assert.equal(11, #assert(tokenizer.from_table(file)):encode(" belirtilen"))
    file.model.ignore_merges = true
    local tok = assert(tokenizer.from_table(file))
    assert.same({ 256, 257 }, tok:encode(" belirtilen.:.:"))
  end)
end)

describe("pre-tokenizer", function()
  -- Pre-tokens are what ignore_merges finds: all those expected are tokens, and single bytes.
  local function cuts(pre_tokenizer, text, expected, normalizer)
    local file = tokens_of(byte_vocabulary(), { normalizer = normalizer, pre_tokenizer = {
      type = "Sequence", pretokenizers = { pre_tokenizer,
        { type = "ByteLevel", add_prefix_space = false, use_regex = false } } } },
      { ignore_merges = true })
    local id = 255
    for _, piece in ipairs(expected) do
      local symbols = piece:gsub(".", function(c) return bytes:token(c:byte()) end)
      if not file.model.vocab[symbols] then
        id = id + 1
        file.model.vocab[symbols] = id
      end
    end
    local got = {}
    local tok = assert(tokenizer.from_table(file))
    for i, each in ipairs(tok:encode(text)) do
      got[i] = tok:token(each):gsub(utf8.charpattern, function(c)
        return string.char(bytes:id(c))
      end)
    end
    assert.same(expected, got)
  end

  local function split(regex, behavior, invert)
    return { type = "Split", pattern = { Regex = regex }, behavior = behavior or "Isolated",
      invert = invert or false }
  end

  it("ByteLevel cuts as GPT-2 does", function()
    local gpt2 = { type = "Split", behavior = "Isolated", pattern = {
      Regex = core.text.split_pattern("gpt2") } }
    cuts(gpt2, "Hello my friend, how is your day going?", { "Hello", " my", " friend", ",", " how",
      " is", " your", " day", " going", "?" })
    cuts(gpt2, "Hello there\nHello there", { "Hello", " there", "\n", "Hello", " there" })
    cuts(gpt2, "Hello there       dear", { "Hello", " there", "      ", " dear" })
    cuts(gpt2, "it's IT'S 12ab é\u{301}", { "it", "'s", " IT", "'", "S", " 12", "ab", " é",
      "\u{301}" })
    cuts(gpt2, "a \u{A0}b\u{3000} ", { "a", " ", "\u{A0}", "b", "\u{3000} " })
  end)

  it("Split knows Llama 3's and Qwen2's expressions", function()
    cuts(split(core.text.split_pattern("llama3")), "I'LL 12345\r\n\n x!\n(a", { "I", "'LL", " ",
      "123", "45", "\r\n\n", " x", "!\n", "(a" })
    cuts(split(core.text.split_pattern("qwen2")), "a 12 'ſ  \n b", { "a", " ", "1", "2", " '",
      "ſ", "  \n", " b" })
  end)

  it("is the same by hand and by expression", function()
    local state = 7
    local parts = { "a", "Z", "'s", "'LL", " ", "  ", "\n", "\r", "\t", "1", "23", "é", "²", "一",
      "\u{A0}", "\u{85}", "\u{17F}", "!", "?!", "_", "😀", "\u{301}", "٣" }
    for _, name in ipairs({ "gpt2", "llama3", "qwen2" }) do
      local regex = core.text.split_pattern(name)
      local function pieces(given)
        local file = tokens_of(byte_vocabulary(), { pre_tokenizer = { type = "Sequence",
          pretokenizers = { split(given),
            { type = "ByteLevel", add_prefix_space = true, use_regex = false } } } })
        return assert(tokenizer.from_table(file))
      end
      -- Another spelling of the expression goes to the library; a space marks each pre-token.
      local by_hand, by_library = pieces(regex), pieces("(?:" .. regex .. ")")
      for _ = 1, 200 do
        local text = {}
        for i = 1, 12 do
          state = (state * 1103515245 + 12345) & 0x7FFFFFFF
          text[i] = parts[1 + (state >> 12) % #parts]
        end
        text = table.concat(text)
        assert.same(by_library:encode(text), by_hand:encode(text))
      end
    end
  end)

  it("Split has five behaviors, and may be inverted", function()
    local function dashes(behavior, invert) return split("-", behavior, invert) end
    local text = "the-final--countdown"
    cuts(dashes("Removed"), text, { "the", "final", "countdown" })
    cuts(dashes("Isolated"), text, { "the", "-", "final", "-", "-", "countdown" })
    cuts(dashes("MergedWithPrevious"), text, { "the-", "final-", "-", "countdown" })
    cuts(dashes("MergedWithNext"), text, { "the", "-final", "-", "-countdown" })
    cuts(dashes("Contiguous"), text, { "the", "-", "final", "--", "countdown" })
    cuts(dashes("Removed", true), text, { "-", "-", "-" })
    cuts({ type = "Split", pattern = { String = "al--" }, behavior = "Isolated", invert = false },
      text, { "the-fin", "al--", "countdown" })
    cuts(split("(?=[A-Z])"), "oneTwoThree", { "one", "Two", "Three" })
    cuts(split("\\w+"), "a\xFFb", { "a", "\xFF", "b" })
  end)

  it("Digits, Whitespace, Punctuation and their kin", function()
    cuts({ type = "Digits", individual_digits = true }, "a12b", { "a", "1", "2", "b" })
    cuts({ type = "Digits", individual_digits = false }, "a12b", { "a", "12", "b" })
    cuts({ type = "Whitespace" }, "a  b,c", { "a", "b", ",", "c" })
    cuts({ type = "WhitespaceSplit" }, "a  b,c", { "a", "b,c" })
    cuts({ type = "Punctuation" }, "a?!b", { "a", "?", "!", "b" })
    cuts({ type = "CharDelimiterSplit", delimiter = "," }, "a,b", { "a", "b" })
  end)
end)

describe("Metaspace", function()
  local list = { "▁", "a", "b", "<s>" }

  local function with(scheme, cut)
    local part = { type = "Metaspace", replacement = "▁", prepend_scheme = scheme, split = cut }
    return assert(tokenizer.from_table(tokens_of(list, { pre_tokenizer = part, decoder = part,
      added_tokens = { { id = 3, content = "<s>", special = true } } })))
  end

  it("puts a mark in front always, at first, or never", function()
    assert.equal("▁|a|▁|b|<s>|▁|a", shown(with("always", true), "a b<s>a"))
    assert.equal("▁|a|▁|b|<s>|a", shown(with("first", false), "a b<s>a"))
    assert.equal("a|▁|b|<s>|a", shown(with("never", true), "a b<s>a"))
    assert.equal("a b", with("always", true):decode({ 0, 1, 0, 2 }))
    assert.equal(" a b", with("never", true):decode({ 0, 1, 0, 2 }))
  end)
end)

describe("normalizer", function()
  local function normalized(normalizer, text)
    local tok = assert(tokenizer.from_table(tokens_of(byte_vocabulary(), {
      normalizer = normalizer, decoder = { type = "ByteLevel" },
      pre_tokenizer = { type = "ByteLevel", add_prefix_space = false } })))
    return tok:decode(tok:encode(text), { raw = true })
  end

  it("has the four normal forms", function()
    local text = "a\u{E9} e\u{301} \u{FB01} \u{AC00} \u{1E9B}\u{323}"
    assert.equal("a\u{E9} \u{E9} \u{FB01} \u{AC00} \u{1E9B}\u{323}",
      normalized({ type = "NFC" }, text))
    assert.equal("ae\u{301} e\u{301} \u{FB01} \u{1100}\u{1161} \u{17F}\u{323}\u{307}",
      normalized({ type = "NFD" }, text))
    assert.equal("a\u{E9} \u{E9} fi \u{AC00} \u{1E69}", normalized({ type = "NFKC" }, text))
    assert.equal("ae\u{301} e\u{301} fi \u{1100}\u{1161} s\u{323}\u{307}",
      normalized({ type = "NFKD" }, text))
  end)

  it("puts marks in order, however many", function()
    local marks = ("\u{301}\u{323}"):rep(20000)
    assert.equal("x" .. ("\u{323}"):rep(20000) .. ("\u{301}"):rep(20000),
      normalized({ type = "NFD" }, "x" .. marks))
  end)

  it("leaves what is no UTF-8 where it is", function()
    assert.equal("\xFF\u{E9}\xC3", normalized({ type = "NFC" }, "\xFFe\u{301}\xC3"))
    assert.equal("\xFFa", normalized({ type = "Lowercase" }, "\xFFA"))
  end)

  it("changes letters, space and what it finds", function()
    assert.equal("straße i\u{307}", normalized({ type = "Lowercase" }, "STRAßE \u{130}"))
    assert.equal("ee", normalized({ type = "Sequence", normalizers = { { type = "NFD" },
      { type = "StripAccents" } } }, "é\u{E8}"))
    assert.equal("a b", normalized({ type = "Strip" }, " \u{3000}a b\n"))
    assert.equal("a b\n", normalized({ type = "Strip", strip_right = false }, " a b\n"))
    assert.equal("_a", normalized({ type = "Prepend", prepend = "_" }, "a"))
    assert.equal("", normalized({ type = "Prepend", prepend = "_" }, ""))
    assert.equal("a_b_c", normalized({ type = "Replace", pattern = { Regex = "\\s+" },
      content = "_" }, "a b \n c"))
    assert.equal("b$1b", normalized({ type = "Replace", pattern = { String = "a" },
      content = "$1" }, "bab"))
  end)
end)

describe("post-processor", function()
  it("puts tokens around a text", function()
    local file = tokens_of({ "<s>", "</s>", "a" })
    file.post_processor = { type = "TemplateProcessing",
      single = { { SpecialToken = { id = "<s>", type_id = 0 } }, { Sequence = { id = "A" } },
        { SpecialToken = { id = "</s>", type_id = 0 } } },
      special_tokens = { ["<s>"] = { ids = { 0 } }, ["</s>"] = { ids = { 1 } } } }
    local tok = assert(tokenizer.from_table(file, { bos_token = "<s>", eos_token = "</s>" }))
    assert.same({ 0, 2, 1 }, tok:encode("a"))
    assert.same({ 2 }, tok:encode("a", { add = false }))
    assert.same({ 0, 1 }, { tok.bos, tok.eos })
    assert.equal("\2\0", (tok:pack("a")))
  end)
end)

describe("a description", function()
  local function refused(code, message, file, config)
    local tok, got, kind = tokenizer.from_table(file, config)
    assert.is_nil(tok)
    assert.equal("tokenizer.from_table: " .. message, got)
    assert.equal(code, kind)
  end

  local function with(given, model) return tokens_of({ "a", "b", "ab" }, given, model) end

  it("with parts that are not known is refused by name", function()
    refused("unsupported", "normalizer Precompiled is not supported",
      with({ normalizer = { type = "Precompiled" } }))
    refused("unsupported", "normalizer 2 Nmt is not supported", with({ normalizer = {
      type = "Sequence", normalizers = { { type = "NFC" }, { type = "Nmt" } } } }))
    refused("unsupported", "pre_tokenizer UnicodeScripts is not supported",
      with({ pre_tokenizer = { type = "UnicodeScripts" } }))
    refused("unsupported", "decoder CTC is not supported", with({ decoder = { type = "CTC" } }))
    refused("unsupported", "pre_tokenizer Split: && in a class is not supported in a regular "
      .. "expression", with({ pre_tokenizer = { type = "Split", behavior = "Isolated",
        pattern = { Regex = "[a&&b]" } } }))
    refused("unsupported", "model: end_of_word_suffix is not supported",
      with(nil, { end_of_word_suffix = "</w>" }))
  end)

  it("that contradicts itself is refused with the entry", function()
    refused("format", "merge 2: \"ba\" is not in the vocabulary",
      with(nil, { merges = { "a b", "b a" } }))
    refused("format", "merge 1 is neither \"left right\" nor a list of two tokens",
      with(nil, { merges = { "ab" } }))
    refused("format", "token \"c\": its id must be an integer from 0 on",
      with(nil, { vocab = { c = -1 } }))
    refused("format", "id 4000000 is out of range for 1 tokens",
      with(nil, { vocab = { c = 4000000 } }))
    refused("format", "the vocabulary is empty", with(nil, { vocab = {} }))
    refused("format", "added_tokens 1: \"ab\" has the ids 2 and 3",
      with({ added_tokens = { { id = 3, content = "ab" } } }))
    refused("format", "added_tokens 2: \"c\" comes twice",
      with({ added_tokens = { { id = 3, content = "c" }, { id = 3, content = "c" } } }))
    refused("format", "model: unk_token \"x\" is not in the vocabulary",
      with(nil, { unk_token = "x" }))
    refused("format", "bos_token \"<s>\" is not in the vocabulary", with(), { bos_token = "<s>" })
    local _, message = tokenizer.from_table(with(nil, { vocab = { a = 1, b = 1 } }))
    assert.matches("^tokenizer%.from_table: id 1 is that of \"[ab]\" and of \"[ab]\"$", message)
  end)

  it("has texts that a file can hold", function()
    local tok, message, code = tokenizer.from_table(tokens_of({ "a" }, { pre_tokenizer = {
      type = "Split", behavior = "Removed", pattern = { String = "\xFF" } } }))
    assert.is_nil(tok)
    assert.equal("tokenizer.from_table: a text of it is not valid UTF-8", message)
    assert.equal("format", code)
  end)

  it("may have no vocabulary, but then no unknown token either", function()
    local _, message = tokenizer.from_table({ model = { type = "BPE", unk_token = "a" },
      added_tokens = { { id = 0, content = "b" } } })
    assert.equal("tokenizer.from_table: model: unk_token \"a\" is not in the vocabulary", message)
  end)

  it("cannot take all time or memory", function()
    local slow = with({ pre_tokenizer = { type = "Split", behavior = "Isolated",
      pattern = { Regex = "(?:a|aa)+[xy]" } } })
    local tok = assert(tokenizer.from_table(slow))
    assert.error_matches(function() tok:encode(("a"):rep(60) .. "c") end, "too many steps")
    local wide = { type = "Replace", pattern = { String = "a" }, content = ("a"):rep(10000) }
    tok = assert(tokenizer.from_table(with({ normalizer = wide })))
    assert.error_matches(function() tok:encode(("a"):rep(1000)) end, "makes more than %d+ bytes")
    local many = {}
    for i = 1, 9 do many[i] = { type = "Replace", pattern = { String = "a" }, content = "aaaa" } end
    tok = assert(tokenizer.from_table(with({ normalizer = { type = "Sequence",
      normalizers = many } })))
    assert.error_matches(function() tok:encode("ab") end, "makes more than 65664 bytes")
    tok = assert(tokenizer.from_table(with({ decoder = { type = "Sequence", decoders = many } })))
    assert.error_matches(function() tok:decode({ 0 }) end, "makes more than 65600 bytes")
    local space = { id = 3, content = " ", rstrip = true }
    tok = assert(tokenizer.from_table(with({ added_tokens = { space } })))
    assert.equal(300002, #tok:encode("a" .. (" "):rep(300000) .. "b"))
  end)
end)

describe("GGUF", function()
  local function reason(file)
    local metadata, message, code = assert(tokenizer.from_table(file)):gguf()
    assert.is_nil(metadata)
    assert.equal("unsupported", code)
    return message
  end

  it("cannot say everything, and then says why not", function()
    local level = { type = "ByteLevel", add_prefix_space = false }
    local function file(given) return tokens_of(byte_vocabulary(), given, { merges = {} }) end
    assert.is_table(assert(tokenizer.from_table(file({ pre_tokenizer = level }))):gguf())
    assert.equal("GGUF cannot say its normalizer",
      reason(file({ pre_tokenizer = level, normalizer = { type = "NFKC" } })))
    assert.matches("^GGUF has no name for how it cuts text",
      reason(file({ pre_tokenizer = { type = "ByteLevel", add_prefix_space = true } })))
    assert.matches("takes white space with it", reason(file({ pre_tokenizer = level,
      added_tokens = { { id = 256, content = "<m>", lstrip = true } } })))
    assert.matches("byte_fallback alone", reason(tokens_of({ "a" })))
  end)

  it("is made of parts in their order, each once", function()
    local made = core.text.tokenizer()
    local function fails(text, name, ...)
      local got = tostring((select(2, pcall(made[name], made, ...))))
      assert.truthy(got:find(text, 1, true), got)
    end
    fails("encode: the part before it is missing", "encode", "a")
    fails("merges: the part before it is missing", "merges", { " " })
    fails("model: the part before it is missing", "model", {})
    assert(made:vocabulary({ a = 0, b = 1, ab = 2 }, {}))
    fails("vocabulary: the tokenizer has it", "vocabulary", { a = 0 }, {})
    assert(made:merges({ "a b" }))
    fails("merges: the tokenizer has it", "merges", {})
    fails("scores: the tokenizer has it", "scores", {})
    assert(made:model({}))
    fails("model: the tokenizer has it", "model", {})
    fails("step: the pattern is missing", "step", "normalizer", { kind = "replace" })
    fails("step: the text is missing", "step", "decoder", { kind = "trim", left = 1 })
    assert.same({ 2, 0 }, made:encode("aba"))
  end)
end)
