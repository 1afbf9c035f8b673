-- core.yaml: configurations as people write them, and files that somebody wants to do harm with.

local core = require("moelua.core")
local yaml, json = core.yaml, core.json

-- The only document of a text.
local function one(text)
  local documents = assert(yaml.decode(text))
  assert.equal(1, #documents)
  return documents[1]
end

local function refused(text, message)
  local documents, said, code = yaml.decode(text)
  assert.is_nil(documents)
  assert.equal(message, said)
  assert.equal("format", code)
end

describe("yaml.decode", function()
  it("reads a configuration", function()
    assert.same({ merge_method = "slerp", base_model = "org/a", dtype = "bfloat16",
      slices = { { sources = { { model = "a", layer_range = { 0, 32 } },
        { model = "b", layer_range = { 0, 32 } } } } },
      parameters = { t = { { filter = "self_attn", value = { 0, 0.5, 1 } }, { value = 0.5 } } } },
      one [[
slices:
  - sources:
      - model: a
        layer_range: [0, 32]
      - model: b        # a comment
        layer_range: [0, 32]
merge_method: slerp
base_model: "org/a"
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - value: 0.5
dtype: bfloat16
]])
  end)

  it("tells what plain scalars are", function()
    local cases = { ["1"] = 1, ["-17"] = -17, ["+3"] = 3, ["0"] = 0, ["0.50"] = 0.5, [".5"] = 0.5,
      ["2."] = 2.0, ["1e-4"] = 1e-4, ["1E4"] = 1e4, ["1.5e+3"] = 1500.0, ["0x1F"] = 31,
      ["9223372036854775807"] = math.maxinteger, ["9223372036854775808"] = 2.0 ^ 63,
      ["true"] = true, ["True"] = true, ["YES"] = true, ["on"] = true, ["no"] = false,
      ["False"] = false, ["off"] = false, ["~"] = json.null, ["null"] = json.null,
      ["Null"] = json.null, [".inf"] = math.huge, ["-.Inf"] = -math.huge }
    for text, value in pairs(cases) do
      local got = one("a: " .. text).a
      assert.equal(value, got, text)
      assert.equal(math.type(value), math.type(got), text)
    end
    local nan = one("a: .NaN").a
    assert.is_true(nan ~= nan)
    assert.equal(json.null, one("a:").a)
  end)

  it("leaves everything else text", function()
    for _, text in ipairs { "tRUE", "yEs", "nULL", "007", "-01", "1_000", "1:30", "0o17", "0b1",
      "e5", "1e", "1e+", ".", "-", "+", "-.e1", "1.2.3", "0x", "0xg", "1e4x", ".infinity", "+.nan",
      "2024-01-01", "0x1234567890123456", "union", "org/model-7B", "n", "y" } do
      local got = one("a: " .. (text == "-" and "'-'" or text)).a
      assert.equal(text, got)
    end
  end)

  it("leaves quoted scalars and keys text", function()
    assert.same({ a = "1", b = "true", c = "null", ["1"] = 2, ["true"] = 3, ["~"] = 4, no = 5 },
      one("{a: '1', b: \"true\", c: 'null', 1: 2, true: 3, ~: 4, no: 5}"))
    assert.same({ a = "x\ny\n", b = "x y\n" }, one("a: |\n  x\n  y\nb: >\n  x\n  y\n"))
    assert.same({ a = "é\t\0" }, one('a: "\\u00e9\\t\\0"'))
  end)

  it("marks lists, so that an empty one stays one", function()
    assert.equal('{"a":[],"b":{},"c":[[],null]}', json.encode(one("{a: [], b: {}, c: [[], ~]}")))
  end)

  it("reads several documents", function()
    assert.same({ { name = "a" }, 7, { 1, 2 } }, (yaml.decode("name: a\n---\n7\n---\n- 1\n- 2\n")))
    assert.same({}, (yaml.decode("")))
    assert.same({}, (yaml.decode("# nothing\n")))
  end)

  it("knows the line of every key and element", function()
    local documents, lines = yaml.decode(
      "a: 1\nb:\n  - x\n\n  - c: 2\n    d: {e: 3,\n      f: 4}\n" ..
      "---\ng: 5\n")
    local first = documents[1]
    assert.same({ 1, 9 }, lines[documents])
    assert.same({ a = 1, b = 2 }, lines[first])
    assert.same({ 3, 5 }, lines[first.b])
    assert.same({ c = 5, d = 6 }, lines[first.b[2]])
    assert.same({ e = 6, f = 7 }, lines[first.b[2].d])
    assert.same({ g = 9 }, lines[documents[2]])
  end)

  it("says where a text is wrong", function()
    refused("a: 1\nb: [1, 2\nc: 3\n", "decode: line 3, column 2: while parsing a flow sequence, " ..
      "did not find expected ',' or ']'")
    refused("a: 1\n b: 2\n", "decode: line 2, column 3: mapping values are not allowed in this " ..
      "context")
    refused("a: \"x\n", "decode: line 2, column 1: while scanning a quoted scalar, found " ..
      "unexpected end of stream")
    refused("a: \1", "decode: byte 4: control characters are not allowed")
    refused("a: \xff", "decode: byte 4: invalid leading UTF-8 octet")
    refused("\tb: 1", "decode: line 1, column 1: while scanning for the next token, found " ..
      "character that cannot start any token")
  end)

  it("refuses keys that are there twice or are no strings", function()
    refused("a: 1\nb: 2\n'a': 3\n", "decode: line 3, column 1: the key 'a' is there twice")
    refused("a:\n  b: {c: 1, c: 1}\n", "decode: line 2, column 13: the key 'c' is there twice")
    refused("a:\nb: 2\na: 3\n", "decode: line 3, column 1: the key 'a' is there twice")
    refused("? [1]\n: 2\n", "decode: line 1, column 3: a key must be a string")
    refused("{{a: 1}: 2}", "decode: line 1, column 2: a key must be a string")
  end)

  it("refuses what can blow up", function()
    local anchors = "anchors and aliases are not read\nhint: write the value out"
    refused("a: &x 1\n", "decode: line 1, column 4: " .. anchors)
    refused("a: &x [1]\nb: *x\n", "decode: line 1, column 4: " .. anchors)
    refused("b: *x\n", "decode: line 1, column 4: " .. anchors)
    refused("&x {a: 1}\n", "decode: line 1, column 1: " .. anchors)
    local tags = "tags are not read\nhint: leave it out"
    refused("a: !!python/object:os.system {}\n", "decode: line 1, column 4: " .. tags)
    refused("a: !!str 1\n", "decode: line 1, column 4: " .. tags)
    refused("!x [1]", "decode: line 1, column 1: " .. tags)
    refused(("["):rep(65) .. ("]"):rep(65), "decode: line 1, column 65: nested deeper than 64 " ..
      "levels")
    assert.truthy(yaml.decode(("["):rep(64) .. ("]"):rep(64)))
    refused(("["):rep(500000), "decode: line 1, column 65: nested deeper than 64 levels")
    refused(("a"):rep((1 << 20) + 1), "decode: the text has more than 1048576 bytes")
  end)

  it("wants a string", function()
    assert.has_error(function() yaml.decode(1) end)
    assert.has_error(function() yaml.decode() end)
  end)

  it("releases a text that it gave up on, whenever that is", function()
    for i = 1, 300 do
      local text = "a: [1, {b: 'text', c: [2]}]\nd: |\n  more\n---\n- x\n"
      yaml.decode(text:sub(1, i % #text))
    end
    collectgarbage()
  end)
end)
