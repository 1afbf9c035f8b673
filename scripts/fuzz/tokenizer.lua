-- tokenizer.lua: tokenizers made up nearly valid, texts for them, and what must come of both.
-- Loaded once by config.c; fuzz(bytes) then does one test and returns the seconds it took.
local core = require("moelua.core")
local tokenizer = require("moelua.tokenizer")
local json = core.json

local choices = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "choices.lua")
local open, pick, one_of = choices.open, choices.pick, choices.one_of

-- ---- descriptions -----------------------------------------------------------------------------

local MARK = "\u{2581}"
local bytes = tokenizer.bytes()

-- The 256 bytes, what merges make of them, and the merges.
local function byte_model(given)
  local vocab, merges = {}, {}
  for byte = 0, 255 do vocab[bytes:token(byte)] = byte end
  for i, pair in ipairs({ "t h", "th e", "\u{120} the", "i n", "in g", "a a", "aa aa", "1 2",
    "\u{120} \u{120}", "\u{10A} \u{10A}", "\u{C3} \u{A9}" }) do
    merges[i] = pair
    vocab[pair:gsub(" ", "")] = 255 + i
  end
  local model = { type = "BPE", vocab = vocab, merges = merges, unk_token = json.null }
  for key, value in pairs(given or {}) do model[key] = value end
  return model
end

local function mark_model()
  local vocab, merges = { ["<unk>"] = 0, ["<s>"] = 1, ["</s>"] = 2 }, {}
  for byte = 0, 255 do vocab[("<0x%02X>"):format(byte)] = 3 + byte end
  local id = 258
  for _, letter in ipairs({ MARK, "a", "e", "h", "i", "n", "t", "g", "é", "1" }) do
    id = id + 1
    vocab[letter] = id
  end
  for i, pair in ipairs({ { "t", "h" }, { "th", "e" }, { MARK, "the" }, { "i", "n" },
    { "a", "a" }, { MARK, MARK } }) do
    merges[i], id = pair, id + 1
    vocab[pair[1] .. pair[2]] = id
  end
  return { type = "BPE", vocab = vocab, merges = merges, unk_token = "<unk>", fuse_unk = true,
    byte_fallback = true }
end

local function added(id, content, more)
  local token = { id = id, content = content, special = true, normalized = false,
    single_word = false, lstrip = false, rstrip = false }
  for key, value in pairs(more or {}) do token[key] = value end
  return token
end

local function regex(pattern, behavior, invert)
  return { type = "Split", pattern = { Regex = pattern }, behavior = behavior, invert = invert }
end

local BYTE_LEVEL = { type = "ByteLevel", add_prefix_space = false, use_regex = false }
local LLAMA3 = regex(core.text.split_pattern("llama3"), "Isolated", false)
local QWEN2 = regex(core.text.split_pattern("qwen2"), "Isolated", false)

local function template(id, token)
  return { type = "TemplateProcessing", pair = {},
    single = { { SpecialToken = { id = token, type_id = 0 } }, { Sequence = { id = "A" } } },
    special_tokens = { [token] = { id = token, ids = { id }, tokens = { token } } } }
end

-- Those of the first kind give every text back.
local function descriptions()
  return {
    { added_tokens = { added(267, "<|end|>"), added(268, "<x>", { special = false }) },
      model = byte_model(), pre_tokenizer = { type = "ByteLevel", add_prefix_space = false },
      decoder = BYTE_LEVEL },
    { model = byte_model({ ignore_merges = true }), decoder = BYTE_LEVEL,
      pre_tokenizer = { type = "Sequence", pretokenizers = { LLAMA3, BYTE_LEVEL } },
      added_tokens = { added(267, "<s>") }, post_processor = template(267, "<s>") },
    { model = byte_model(), decoder = BYTE_LEVEL, pre_tokenizer = { type = "Sequence",
      pretokenizers = { { type = "Digits", individual_digits = true }, { type = "ByteLevel",
        add_prefix_space = false } } } },
    { normalizer = { type = "NFC" }, model = byte_model(), decoder = BYTE_LEVEL,
      pre_tokenizer = { type = "Sequence", pretokenizers = { QWEN2, BYTE_LEVEL } },
      added_tokens = { added(267, "<m>", { lstrip = true, rstrip = true, normalized = true }),
        added(268, "ing", { single_word = true, special = false }) } },
    { model = byte_model(), decoder = BYTE_LEVEL, pre_tokenizer = { type = "Sequence",
      pretokenizers = { regex([[\s+|(?=the)]], "MergedWithNext", false),
        regex("[aeiou]+", "Contiguous", true), { type = "Split", behavior = "Removed",
          pattern = { String = "1" } }, BYTE_LEVEL } } },
    { model = mark_model(), added_tokens = { added(0, "<unk>"), added(1, "<s>") },
      normalizer = { type = "Sequence", normalizers = { { type = "Prepend", prepend = MARK },
        { type = "Replace", pattern = { String = " " }, content = MARK } } },
      decoder = { type = "Sequence", decoders = { { type = "Replace",
        pattern = { String = MARK }, content = " " }, { type = "ByteFallback" }, { type = "Fuse" },
        { type = "Strip", content = " ", start = 1, stop = 0 } } },
      post_processor = template(1, "<s>") },
    { model = mark_model(), decoder = { type = "Metaspace", replacement = MARK },
      pre_tokenizer = { type = "Metaspace", replacement = MARK, prepend_scheme = "first",
        split = false },
      normalizer = { type = "Sequence", normalizers = { { type = "NFKD" }, { type = "Lowercase" },
        { type = "StripAccents" }, { type = "Strip" } } } },
  }
end

local all = descriptions()

local function copy(value)
  if type(value) ~= "table" or value == json.null then return value end
  local new = {}
  for key, inner in pairs(value) do new[key] = copy(inner) end
  return new
end

local KEEPS = 3                     -- the first three keep every byte

-- ---- mutations --------------------------------------------------------------------------------

local ODD = { 0, 1, -1, 2, 255, 266, 267, 300, 65536, 1 << 31, 1 << 62, 0.5, 1e300, true, false,
  "", " ", "a", "the", "a a", "in g", "\0", "\u{2581}", "\xFF", "<s>", "ByteLevel", "NFC", "NFKC",
  "Digits", "Metaspace", "Sequence", "Removed", "MergedWithPrevious", "always", "never", "Replace",
  "(a+)+$", "(a|aa)+b", "[a&&b]", "[[:alpha:]]", [[\p{Han}|\w+]], "(?<!a)", "(", "a{65535}", "^|$",
  "x*", ("a"):rep(2000), ("("):rep(300), ("\u{301}"):rep(100), json.null, {}, { {} }, { "a", "a" },
  { String = "" }, { Regex = [[\S]] }, { type = "Fuse" }, { type = "StripAccents" } }

local function keys_of(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

-- A key that is there, in a table somewhere below.
local function place(t)
  for _ = 1, 8 do
    local keys = keys_of(t)
    local key = keys[pick(math.max(1, math.min(256, #keys)))]
    if key == nil then return t, "type" end
    if type(t[key]) ~= "table" or pick(4) == 1 then return t, key end
    t = t[key]
  end
  return t, "type"
end

local function mutate(t)
  local where, key = place(t)
  local what = pick(4)
  if what == 1 then where[key] = nil
  elseif what == 2 then
    local from, other = place(t)
    where[key] = copy(from[other])
  elseif what == 3 and type(where[key]) == "string" then where[where[key]] = pick(256)
  else where[key] = copy(one_of(ODD)) end
end

-- ---- texts ------------------------------------------------------------------------------------

local PARTS = { "the", " the", "thing", "in", "a", "aaaa", " ", "  ", "\n", "\r\n", "\t", "12",
  "1234567", "'s", "'S", "'\u{17F}", "\u{E9}", "e\u{301}", "\u{130}", "\u{FB01}", "\u{FDFA}",
  "\u{4F60}\u{597D}", "\u{AC00}", "\u{1F600}", "\u{A0}", "\u{3000}", "\u{200D}", "\u{2581}", "<s>",
  "<|end|>", "<x>", " <m> ", "ing", "\0", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98",
  "\xED\xA0\x80", ".", "!?", "_", "<0x0A>", ("a"):rep(60), ("\u{301}"):rep(40), (" "):rep(50) }

local function text()
  if pick(64) == 1 then return one_of(PARTS):rep(500) end
  local parts = {}
  for i = 1, pick(12) do parts[i] = one_of(PARTS) end
  return table.concat(parts)
end

-- ---- what must hold ---------------------------------------------------------------------------

local CODES = { format = true, unsupported = true, missing = true }

local function check_failure(message, code)
  assert(type(message) == "string" and #message > 0 and #message < 20000, "a message")
  assert(CODES[code], code)
end

-- Expressions may take too many steps, and replacements make too much of a text.
local function encode(tok, given, opts)
  local ok, ids = pcall(tok.encode, tok, given, opts)
  if ok then return ids end
  assert(tostring(ids):find("too many steps", 1, true) or tostring(ids):find("more than", 1, true),
    ids)
end

local function check_text(tok, given, keeps)
  local ids = encode(tok, given)
  if not ids then return end
  for _, id in ipairs(ids) do assert(tok:token(id), "an id without a token") end
  assert(table.concat(encode(tok, given), " ") == table.concat(ids, " "), "another time, other ids")
  local plain = encode(tok, given, { special = false, add = false })
  local _, count = tok:pack(given)
  assert(count == #plain, "pack and encode differ")
  local ok, back = pcall(tok.decode, tok, plain, { raw = true })
  assert(not (ok and keeps) or back == given, "bytes are lost")
  local lossy
  ok, lossy = pcall(tok.decode, tok, ids, { skip_special = true })
  assert(not ok or utf8.len(lossy), "no UTF-8")
end

local function try(tok, keeps)
  for _ = 1, 2 do check_text(tok, text(), keeps) end
  assert(#tok:hash() == 16)
  if pick(8) == 1 then tok:byte_lengths() end
  local metadata, message, code = tok:gguf()
  if not metadata then return check_failure(message, code) end
  if pick(2) == 1 then mutate(metadata) end
  local again
  again, message, code = tokenizer.from_gguf(metadata)
  if not again then return check_failure(message, code) end
  check_text(again, text())
  again.handle:release()
end

local function one_test()
  local which = pick(#all)
  local file, changes = copy(all[which]), pick(4) - 1
  for _ = 1, changes do mutate(file) end
  local tok, message, code = tokenizer.from_table(file)
  if not tok then return check_failure(message, code) end
  try(tok, changes == 0 and which <= KEEPS)
  tok.handle:release()
end

local count = 0

-- luacheck: globals fuzz
function fuzz(given)
  open(given)
  local started = os.clock()
  one_test()
  count = count + 1
  if count % 64 == 0 then collectgarbage() end
  return os.clock() - started
end
