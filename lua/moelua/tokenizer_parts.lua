-- tokenizer_parts.lua: what a tokenizer.json says of its parts, as the steps that the core knows.
--
-- Each part of the file is an object with a `type`. What is not known here, or known with a setting
-- that changes what comes out, is refused by name: a tokenizer that ignores half of its description
-- gives ids that look right.

local core = require("moelua.core")
local translate = require("moelua.tokenizer_regex")
local json = core.json

local parts = {}

--- Ends the reading of a description: `build` returns nil, message, code.
function parts.refuse(code, message, ...)
  error({ refused = message:format(...), code = code }, 0)
end

local refuse = parts.refuse

--- What f returns, or nil, message, code when it refused.
function parts.attempt(f, ...)
  local results = table.pack(pcall(f, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local reason = results[2]
  if type(reason) ~= "table" or not reason.refused then error(reason, 0) end
  return nil, reason.refused, reason.code
end

--- A field of a described type; nil and null give `default`.
function parts.field(object, name, kind, default, where)
  local value = object[name]
  if value == nil or value == json.null then return default end
  local actual = math.type(value) == "integer" and kind == "integer" and "integer" or type(value)
  if actual ~= kind then
    refuse("format", "%s: %s must be a %s, not %s", where, name, kind, core.describe(value))
  end
  return value
end

local field = parts.field

-- ---- parts that are sequences of others --------------------------------------------------------

local MOST_STEPS = 32

local MOST_DEPTH = 8

-- Gives every part that is no sequence to `visit`, in order.
local function each(part, list, where, visit, depth)
  if part == nil or part == json.null then return end
  if type(part) ~= "table" then refuse("format", "%s is no object", where) end
  if depth > MOST_DEPTH then refuse("unsupported", "%s: sequences in sequences", where) end
  local kind = field(part, "type", "string", nil, where)
  if not kind then refuse("format", "%s has no type", where) end
  if kind ~= "Sequence" then return visit(part, where .. " " .. kind, kind) end
  for i, inner in ipairs(field(part, list, "table", {}, where)) do
    each(inner, list, ("%s %d"):format(where, i), visit, depth + 1)
  end
end

-- `before` may refuse a part because of those before it.
local function steps_of(part, list, where, known, before)
  local steps = {}
  each(part, list, where, function(inner, place, kind)
    local make = known[kind]
    if before then before(steps, place, kind) end
    if not make then refuse("unsupported", "%s is not supported", place) end
    make(steps, inner, place)
    if #steps > MOST_STEPS then
      refuse("unsupported", "%s has more than %d steps", where, MOST_STEPS)
    end
  end, 1)
  return steps
end

-- ---- pre-tokenizer ----------------------------------------------------------------------------

local function add(steps, step) steps[#steps + 1] = step end

local PATTERNS = {}
for _, name in ipairs({ "gpt2", "llama3", "qwen2" }) do
  PATTERNS[core.text.split_pattern(name)] = name
end

-- { String = s } or { Regex = s } as the fields of a step.
local function read_pattern(value, where)
  local as = type(value) == "string" and { String = value } or value
  if type(as) ~= "table" then refuse("format", "%s: there is no pattern", where) end
  local text = field(as, "String", "string", nil, where)
  if text == "" then refuse("format", "%s: the pattern is empty", where) end
  if text then return { pattern = text, regex = false } end
  local regex = field(as, "Regex", "string", nil, where)
  if not regex then refuse("format", "%s: there is no pattern", where) end
  local expression, reason = translate(regex)
  if not expression then
    refuse("unsupported", "%s: %s is not supported in a regular expression", where, reason)
  end
  return { pattern = expression, regex = true, source = regex }
end

local BEHAVIORS = { Isolated = "isolated", Removed = "removed", Contiguous = "contiguous",
  MergedWithPrevious = "merged_with_previous", MergedWithNext = "merged_with_next" }

local function read_behavior(part, default, where)
  local name = field(part, "behavior", "string", default, where)
  local behavior = BEHAVIORS[name or ""]
  if not behavior then
    refuse("format", "%s: there is no behavior %s", where, core.describe(name))
  end
  return behavior
end

-- A step that cuts at what an expression of ours finds.
local function expression(steps, regex, behavior, invert)
  add(steps, { kind = "pattern", pattern = regex, regex = true, behavior = behavior,
    invert = invert or false })
end

local pre_tokenizers = {}

function pre_tokenizers.Split(steps, part, where)
  local step = read_pattern(part.pattern, where)
  step.kind, step.behavior = "pattern", read_behavior(part, nil, where)
  step.invert = field(part, "invert", "boolean", false, where)
  local split = step.regex and PATTERNS[step.source]
  if split and step.behavior == "isolated" and not step.invert then
    step = { kind = "split", split = split }
  end
  step.source = nil
  add(steps, step)
end

function pre_tokenizers.Digits(steps, part, where)
  local single = field(part, "individual_digits", "boolean", false, where)
  add(steps, { kind = "digits", single = single })
end

-- Digits one by one and GPT-2's split behind them are one step of the core.
function pre_tokenizers.ByteLevel(steps, part, where)
  local last, prefix = steps[#steps], field(part, "add_prefix_space", "boolean", true, where)
  if prefix then add(steps, { kind = "prefix_space" }) end
  if field(part, "use_regex", "boolean", true, where) then
    if last and last.kind == "digits" and last.single and not prefix then
      steps[#steps] = { kind = "split", split = "smollm" }
    else
      add(steps, { kind = "split", split = "gpt2" })
    end
  end
  steps.byte_level = true
end

-- The mark, and where one is put in front. Old files say add_prefix_space instead.
local function read_metaspace(part, where)
  local mark = field(part, "replacement", "string", "\u{2581}", where)
  if utf8.len(mark) ~= 1 then refuse("format", "%s: replacement is no character", where) end
  local old = field(part, "add_prefix_space", "boolean", true, where)
  local scheme = field(part, "prepend_scheme", "string", old and "always" or "never", where)
  if scheme ~= "always" and scheme ~= "first" and scheme ~= "never" then
    refuse("format", "%s: there is no prepend_scheme %s", where, core.describe(scheme))
  end
  return { kind = "metaspace", text = mark, scheme = scheme,
    single = field(part, "split", "boolean", true, where) }
end

function pre_tokenizers.Metaspace(steps, part, where) add(steps, read_metaspace(part, where)) end

function pre_tokenizers.Whitespace(steps)
  expression(steps, translate([[\w+|[^\w\s]+]]), "removed", true)
end

function pre_tokenizers.WhitespaceSplit(steps) expression(steps, translate([[\s]]), "removed") end

function pre_tokenizers.Punctuation(steps, part, where)
  expression(steps, [=[[!-/:-@\[-`{-~\p{P}]]=], read_behavior(part, "Isolated", where))
end

function pre_tokenizers.CharDelimiterSplit(steps, part, where)
  local step = read_pattern(field(part, "delimiter", "string", "", where), where)
  step.kind, step.behavior = "pattern", "removed"
  add(steps, step)
end

--- The steps that cut text into pre-tokens; their field byte_level says that the model works on
--- bytes.
function parts.pre_tokenizer(part)
  local steps = steps_of(part, "pretokenizers", "pre_tokenizer", pre_tokenizers,
    function(list, where)
      if list.byte_level then refuse("unsupported", "%s: it follows ByteLevel", where) end
    end)
  return steps
end

-- ---- normalizer -------------------------------------------------------------------------------

local normalizers = {}

for _, form in ipairs({ "NFC", "NFD", "NFKC", "NFKD", "Lowercase" }) do
  normalizers[form] = function(steps) add(steps, { kind = form:lower() }) end
end

function normalizers.StripAccents(steps) add(steps, { kind = "strip_accents" }) end

function normalizers.Prepend(steps, part, where)
  add(steps, { kind = "prepend", text = field(part, "prepend", "string", "", where) })
end

function normalizers.Strip(steps, part, where)
  add(steps, { kind = "strip",
    left = field(part, "strip_left", "boolean", true, where) and 1 or 0,
    right = field(part, "strip_right", "boolean", true, where) and 1 or 0 })
end

function normalizers.Replace(steps, part, where)
  local step = read_pattern(part.pattern, where)
  step.kind, step.source = "replace", nil
  step.text = field(part, "content", "string", "", where)
  add(steps, step)
end

--- The steps that change text before it is cut.
function parts.normalizer(part)
  return steps_of(part, "normalizers", "normalizer", normalizers)
end

-- ---- decoder ----------------------------------------------------------------------------------

local decoders = { Replace = normalizers.Replace, Metaspace = pre_tokenizers.Metaspace }

function decoders.ByteLevel(steps) add(steps, { kind = "byte_level" }) end

function decoders.ByteFallback(steps) add(steps, { kind = "byte_fallback" }) end

function decoders.Fuse(steps) add(steps, { kind = "fuse" }) end

function decoders.Strip(steps, part, where)
  local step = { kind = "trim", text = field(part, "content", "string", " ", where),
    left = field(part, "start", "integer", 0, where),
    right = field(part, "stop", "integer", 0, where) }
  if utf8.len(step.text) ~= 1 then refuse("format", "%s: content is no character", where) end
  for _, side in ipairs({ "left", "right" }) do
    if step[side] < 0 or step[side] > 0x7FFFFFFF then
      refuse("format", "%s: start and stop are counts of characters", where)
    end
  end
  add(steps, step)
end

--- The steps that make a text of tokens.
function parts.decoder(part)
  return steps_of(part, "decoders", "decoder", decoders)
end

-- ---- post-processor ---------------------------------------------------------------------------

local post_processors = {}

-- It only moves offsets, which nobody asks for here.
function post_processors.ByteLevel() end

-- The ids of a special token of a template.
local function template_ids(tokens, piece, where)
  local name = field(field(piece, "SpecialToken", "table", {}, where), "id", "string", nil, where)
  local entry = name and tokens[name]
  local ids = type(entry) == "table" and field(entry, "ids", "table", nil, where)
  if not ids then refuse("format", "%s: no special token %s", where, core.describe(name)) end
  return ids
end

function post_processors.TemplateProcessing(steps, part, where)
  local tokens = field(part, "special_tokens", "table", {}, where)
  local side = "before"
  for i, piece in ipairs(field(part, "single", "table", {}, where)) do
    local place = ("%s: single %d"):format(where, i)
    if type(piece) ~= "table" then refuse("format", "%s is no object", place) end
    if piece.Sequence then
      if side == "after" then refuse("unsupported", "%s: the text comes twice", place) end
      side = "after"
    else
      for _, id in ipairs(template_ids(tokens, piece, place)) do
        add(steps, { side = side, id = id })
      end
    end
  end
  if side == "before" then refuse("unsupported", "%s: the text is nowhere", where) end
end

-- [ token, id ] of the two older kinds.
local function pair_id(part, name, where)
  local pair = field(part, name, "table", {}, where)
  return pair[2]
end

function post_processors.BertProcessing(steps, part, where)
  add(steps, { side = "before", id = pair_id(part, "cls", where) })
  add(steps, { side = "after", id = pair_id(part, "sep", where) })
end

post_processors.RobertaProcessing = post_processors.BertProcessing

--- What is put around the ids of a text: { before = ids, after = ids }.
function parts.post_processor(part)
  local around = { before = {}, after = {} }
  local steps = steps_of(part, "processors", "post_processor", post_processors,
    function(list, where, kind)
      if #list > 0 and kind ~= "ByteLevel" then
        refuse("unsupported", "%s: another one adds tokens already", where)
      end
    end)
  for _, step in ipairs(steps) do
    if math.type(step.id) ~= "integer" or step.id < 0 or step.id > 0x7FFFFFFF then
      refuse("format", "post_processor: %s is no token id", core.describe(step.id))
    end
    add(around[step.side], step.id)
  end
  return around
end

return parts
