-- tokenizer_parts.lua: what a tokenizer.json says of its parts, as the steps that the core knows.
--
-- Each part of the file is an object with a `type`. What is not known here, or known with a setting
-- that changes what comes out, is refused by name: a tokenizer that ignores half of its description
-- gives ids that look right.

local core = require("moelua.core")
local json = core.json

local parts = {}

--- Ends the reading of a description: `build` returns nil, message, code.
function parts.refuse(code, message, ...)
  error({ refused = message:format(...), code = code }, 0)
end

local refuse = parts.refuse

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

-- Gives every part that is no sequence to `visit`, in order. Sequences in sequences are few and the
-- reader of JSON bounds their depth.
local function each(part, list, where, visit)
  if part == nil or part == json.null then return end
  if type(part) ~= "table" then refuse("format", "%s is no object", where) end
  local kind = field(part, "type", "string", nil, where)
  if not kind then refuse("format", "%s has no type", where) end
  if kind ~= "Sequence" then return visit(part, where .. " " .. kind, kind) end
  for i, inner in ipairs(field(part, list, "table", {}, where)) do
    each(inner, list, ("%s %d"):format(where, i), visit)
  end
end

local function steps_of(part, list, where, known)
  local steps = {}
  each(part, list, where, function(inner, place, kind)
    local make = known[kind]
    if not make then refuse("unsupported", "%s is not supported", place) end
    make(steps, inner, place)
    if #steps > MOST_STEPS then
      refuse("unsupported", "%s has more than %d steps", where, MOST_STEPS)
    end
  end)
  return steps
end

-- ---- pre-tokenizer ----------------------------------------------------------------------------

local function add(steps, step) steps[#steps + 1] = step end

local PATTERNS = {}
for _, name in ipairs({ "gpt2", "llama3", "qwen2" }) do
  PATTERNS[core.text.split_pattern(name)] = name
end

local pre_tokenizers = {}

function pre_tokenizers.Split(steps, part, where)
  local pattern = field(part, "pattern", "table", {}, where)
  local regex = field(pattern, "Regex", "string", nil, where)
  local behavior = field(part, "behavior", "string", nil, where)
  local name = PATTERNS[regex]
  if name and behavior == "Isolated" and not field(part, "invert", "boolean", false, where) then
    return add(steps, { kind = "split", split = name })
  end
  refuse("unsupported", "%s is not supported", where)
end

function pre_tokenizers.Digits(steps, part, where)
  if not field(part, "individual_digits", "boolean", false, where) then
    refuse("unsupported", "%s is not supported", where)
  end
  add(steps, { kind = "digits" })
end

function pre_tokenizers.ByteLevel(steps, part, where)
  if field(part, "add_prefix_space", "boolean", true, where) then
    refuse("unsupported", "%s is not supported", where)
  end
  local last = steps[#steps]
  if field(part, "use_regex", "boolean", true, where) then
    if last and last.kind == "digits" then
      steps[#steps] = { kind = "split", split = "smollm" }
    else
      add(steps, { kind = "split", split = "gpt2" })
    end
  end
  steps.byte_level = true
end

--- The steps that cut text into pre-tokens; their field byte_level says that the model works on
--- bytes.
function parts.pre_tokenizer(part)
  return steps_of(part, "pretokenizers", "pre_tokenizer", pre_tokenizers)
end

-- ---- post-processor ---------------------------------------------------------------------------

local post_processors = {}

function post_processors.ByteLevel() end

function post_processors.TemplateProcessing(steps, part, where)
  local tokens = field(part, "special_tokens", "table", {}, where)
  local side = "before"
  for i, piece in ipairs(field(part, "single", "table", {}, where)) do
    local place = ("%s: single %d"):format(where, i)
    if type(piece) ~= "table" then refuse("format", "%s is no object", place) end
    if piece.Sequence then
      side = "after"
    else
      local special = field(piece, "SpecialToken", "table", {}, place)
      local name = field(special, "id", "string", nil, place)
      local ids = name and type(tokens[name]) == "table" and tokens[name].ids
      if type(ids) ~= "table" then
        refuse("format", "%s: no special token %s", place, core.describe(name))
      end
      for _, id in ipairs(ids) do add(steps, { side = side, id = id }) end
    end
  end
end

--- What is put around the ids of a text: { before = ids, after = ids }.
function parts.post_processor(part)
  local around = { before = {}, after = {} }
  for _, step in ipairs(steps_of(part, "processors", "post_processor", post_processors)) do
    if math.type(step.id) ~= "integer" then refuse("format", "post_processor: ids are integers") end
    add(around[step.side], step.id)
  end
  return around
end

return parts
