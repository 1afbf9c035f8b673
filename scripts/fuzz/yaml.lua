-- yaml.lua: configurations of merges in YAML, made up nearly valid, and what must come of reading
-- them. Loaded once by config.c; fuzz(bytes) then does one test and returns the seconds it took.
local core = require("moelua.core")
local problems = require("moelua.merge.problems")
local stages = require("moelua.merge.stages")
local json, yaml = core.json, core.yaml

local choices = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "choices.lua")
local open, pick, one_of = choices.open, choices.pick, choices.one_of

-- ---- texts ------------------------------------------------------------------------------------

local texts = { [[
slices:
  - sources:
      - model: a
        layer_range: [0, 32]
      - model: b
        layer_range: [0, 32]
merge_method: slerp
base_model: a
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5]
    - value: 0.5
dtype: bfloat16
]], [[
models:
  - model: base
  - model: a
    parameters:
      density: 0.5
      weight: [0.1, 1e-4, {filter: mlp, value: 1}]
  - {model: "b", parameters: {density: .5, weight: -0.3}}
merge_method: dare_ties
base_model: base
parameters: {normalize: true, int8_mask: yes, lambda: 1.0}
tokenizer: {source: union, tokens: {"<a>": {source: a, force: true}}, pad_to_multiple_of: 64}
chat_template: 'chatml'
]], [[
name: one
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 0.5}}]
--- # the result
modules:
  default:
    slices:
      - sources: [{model: one, layer_range: [0, 2]}]
        base_model: one
        parameters: {scale: 2}
merge_method: passthrough
out_dtype: float32
tokenizer_source: base
...
]], [[
%YAML 1.1
---
a: |
  text
   more
b: >-
  folded

  text
? c
: - 1
  -
    - 2
"d\n\u00e9": '''quoted'''
e: ~
]] }

-- Values that somebody might write, or a broken disk.
local odd = { "0", "-1", "0x1F", "0o17", "007", "1e400", "-1e400", "1e-400", ".inf", "-.INF",
  ".NaN", "9223372036854775808", "0xffffffffffffffff", "true", "No", "~", "null", "''", '"\\x00"',
  '"\\ud800"', '"\\U0010FFFF"', "\xff", "\xe2\x80\xa8", "\xef\xbb\xbf", "\0", "[]", "{}", "[[]]",
  "[1, 2", "{a: 1, a: 2}", "{a, b}", "{[1]: 2}", "{{a: 1}: 2}", "&x 1", "*x", "&x [*x]", "!!str 1",
  "!x {}", "! a", "!!python/object/apply:os.system [x]", "<<: *x", "? ", ": ", "- ", "-", "|",
  ">+9", "|\n  x",
  "\t", "\r", "\n", "---", "...", "#", "%TAG ! x", "@", "`", "a: b: c", ("["):rep(63),
  ("["):rep(70) .. ("]"):rep(70), ("{a: "):rep(70), ("- "):rep(100), ("x"):rep(2000),
  "'" .. ("y "):rep(500) .. "'", "1" .. ("0"):rep(400), "[0, 1e9]", "[4, 2]", "[0.5, 1]",
  "linear", "ties", "dare-ties", "model_stock", "union", "auto", "{filter: a, value: 1}",
  "[{filter: a, value: [1, x]}]", "[{filter: [], value: {}}]", "{source: a, tokens: 3}", "../x" }

local keys = { "models", "slices", "modules", "sources", "model", "layer_range", "parameters",
  "merge_method", "base_model", "dtype", "out_dtype", "tokenizer", "tokenizer_source", "name",
  "chat_template", "weight", "density", "t", "filter", "value", "source", "tokens", "force" }

-- A place in the text, of which two bytes decide.
local function place(text) return (pick(256) * 256 + pick(256)) % (#text + 1) end

local function put(text)
  local where = place(text)
  return text:sub(1, where) .. one_of(odd) .. text:sub(where + 1)
end

-- The value behind a colon or a dash becomes another one.
local function value_for_another(text)
  local list = {}
  for first, last in text:gmatch("[:%-] ()[^\n,%]}]+()") do list[#list + 1] = { first, last } end
  if #list == 0 then return put(text) end
  local found = list[place(text) % #list + 1]
  return text:sub(1, found[1] - 1) .. one_of(odd) .. text:sub(found[2])
end

local function key_for_another(text)
  return (text:gsub(one_of(keys) .. ":", one_of(keys) .. ":", pick(3)))
end

local function line_more(text)
  return text .. one_of(keys) .. ": " .. one_of(odd) .. "\n"
end

local function line_twice(text)
  local where = text:find("\n", place(text), true) or #text
  local line = text:match("[^\n]*\n", where + 1) or "\n"
  return text:sub(1, where) .. line .. text:sub(where + 1)
end

local function indented(text)
  local where = text:find("\n", place(text), true) or #text
  return text:sub(1, where) .. (" "):rep(pick(4)) .. text:sub(where + 1)
end

local function cut(text) return text:sub(1, place(text)) end

local function byte_changed(text)
  local where = place(text)
  return text:sub(1, where) .. string.char(pick(256) - 1) .. text:sub(where + 2)
end

local edits = { value_for_another, value_for_another, value_for_another, key_for_another,
  line_more, line_twice, indented, put, cut, byte_changed }

local function made()
  local text = one_of(texts)
  for _ = 2, pick(6) do text = one_of(edits)(text) end
  return text
end

-- ---- what has to hold -------------------------------------------------------------------------

local function is_plain(value)
  local kind = type(value)
  return kind == "string" or kind == "boolean" or kind == "number" or value == json.null
end

-- Walks through what was read: plain values and tables of them, no deeper than allowed, with a line
-- of the text for each, and no more of them than the text has bytes. The end of the text counts as
-- a line of its own.
local function check_tables(documents, lines, text)
  local _, breaks = text:gsub("[\n\r\xC2\xE2]", "")
  local open_tables, count = { { documents, 0 } }, 0
  while #open_tables > 0 do
    local value, depth = table.unpack(table.remove(open_tables))
    assert(depth <= 65, "too deep")
    for key, inner in pairs(value) do
      count = count + 1
      local line = lines[value][key]
      assert(math.type(line) == "integer" and line >= 1 and line <= breaks + 2, "no line")
      assert(type(key) == "string" or math.type(key) == "integer", "a key")
      if not is_plain(inner) then
        assert(type(inner) == "table", "a value")
        open_tables[#open_tables + 1] = { inner, depth + 1 }
      end
    end
  end
  assert(count <= #text + 1, "more values than bytes")
end

-- Whether JSON has all that the text may stand for: it has no infinity, no key with a zero byte.
local function is_json(text)
  local lower = text:lower()
  return #text < 300 and not (lower:find("%.inf") or lower:find("%.nan") or
    lower:find("e[+-]?%d") or lower:find("\\[0xu]"))
end

local internal = { "attempt to", "bad argument", "%.lua:%d", "stack overflow", "not enough memory",
  "no integer representation", "index is n", "traceback", "table: 0x" }

-- A message may quote the text.
local function check_text(message, text)
  assert(type(message) == "string" and #message > 0, "no message")
  for _, pattern in ipairs(internal) do
    if message:find(pattern) and not text:find(pattern) then
      error(("an internal error: %s: %s"):format(message, text))
    end
  end
end

local function check_failure(message, code, text)
  check_text(message, text)
  assert(code == "format", "no code")
  assert(message:find("^decode: line %d+, column %d+: .") or message:find("^decode: byte %d+: .") or
    message:find("^decode: the text has"), message)
end

local function try(text)
  local documents, lines, code = yaml.decode(text)
  if not documents then return check_failure(lines, code, text) end
  check_tables(documents, lines, text)
  if is_json(text) then       -- then it is JSON, too, and the same
    local encoded = json.encode(documents)
    assert(json.encode(assert(json.decode(encoded))) == encoded, encoded)
  end
  local found = problems.new("m.yml", lines)
  local list = stages.read(documents, found, false)
  local wrong = found:texts()
  for _, message in ipairs(wrong) do check_text(message, text) end
  assert(#wrong > 0 or #list > 0, "neither stages nor a problem")
end

local count = 0

-- luacheck: globals fuzz
function fuzz(bytes)
  open(bytes)
  local started = os.clock()
  try(pick(8) == 1 and choices.rest() or made())
  count = count + 1
  if count % 64 == 0 then collectgarbage() end
  return os.clock() - started
end
