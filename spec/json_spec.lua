-- core.json: what is read back is what was written, and what cannot be written says where it is.

local json = require("moelua.core").json

-- The message of an error, without the line it names.
local function message_of(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return (message:gsub("^[%w_/.-]+%.lua:%d+: ", ""))
end

describe("json.encode", function()
  it("writes objects with sorted keys and lists in order", function()
    assert.equal('{"a":[1,2,3],"b":{"x":true,"y":false},"c":"text"}',
      json.encode({ c = "text", b = { y = false, x = true }, a = { 1, 2, 3 } }))
  end)

  it("sorts keys by their bytes", function()
    assert.equal('{"A":1,"Z":2,"a":3,"ab":4,"b":5,"é":6}',
      json.encode({ b = 5, ["é"] = 6, ab = 4, a = 3, Z = 2, A = 1 }))
  end)

  it("indents on request", function()
    assert.equal('{\n  "a": [\n    1,\n    {\n      "b": 2\n    }\n  ],\n  "c": {},\n  "d": []\n}',
      json.encode({ a = { 1, { b = 2 } }, c = {}, d = json.array({}) }, { indent = 2 }))
    assert.equal("[1]", json.encode({ 1 }, { indent = 0 }))
    assert.equal("[1]", json.encode({ 1 }, {}))
  end)

  it("takes values that are no table", function()
    assert.equal("null", json.encode(json.null))
    assert.equal("true", json.encode(true))
    assert.equal('"x"', json.encode("x"))
    assert.equal("7", json.encode(7))
  end)

  it("keeps integers integers and floats floats", function()
    assert.equal("[9223372036854775807,-9223372036854775808,3,3.0,-0.0]",
      json.encode({ math.maxinteger, math.mininteger, 3, 3.0, -0.0 }))
  end)

  it("writes floats with the fewest digits that read back the same", function()
    assert.equal("[0.1,1e-05,1e+300,0.3333333333333333,0.30000000000000004,2.5]",
      json.encode({ 0.1, 1e-5, 1e300, 1 / 3, 0.1 + 0.2, 2.5 }))
    for _, number in ipairs({ math.pi, 2 ^ 53 + 2, 1 / 7, 123456789.123456789, 2 ^ -1074,
      1.7976931348623157e308, 1e22, -1e15 }) do
      local back = json.decode(json.encode(number))
      assert.equal(number, back)
      assert.equal("float", math.type(back))
    end
  end)

  it("escapes strings", function()
    assert.equal([["\u0000\u0001\"\\/\n\té"]], json.encode("\0\1\"\\/\n\té"))
    assert.equal([[{"a\"b":1}]], json.encode({ ['a"b'] = 1 }))
  end)

  it("writes an empty table as an object, a marked one as an array", function()
    assert.equal("{}", json.encode({}))
    assert.equal("[]", json.encode(json.array({})))
    assert.equal("[null,1]", json.encode({ json.null, 1 }))
  end)

  it("refuses what JSON cannot hold and names the place", function()
    assert.equal("encode: layers[2].rate is nan: JSON has no such number",
      message_of(json.encode, { layers = { {}, { rate = 0 / 0 } } }))
    assert.equal("encode: the value is -inf: JSON has no such number",
      message_of(json.encode, -math.huge))
    assert.equal("encode: run.hook is a function, which JSON cannot hold",
      message_of(json.encode, { run = { hook = print } }))
    assert.equal('encode: ["a b"].file is a userdata, which JSON cannot hold',
      message_of(json.encode, { ["a b"] = { file = io.stdout } }))
    assert.equal("encode: the value is nil\nhint: json.null writes null", message_of(json.encode))
    assert.equal("encode: [1] is not valid UTF-8", message_of(json.encode, { "\xff" }))
  end)

  it("refuses keys that would be lost", function()
    assert.equal("encode: x has the key true: keys of an object are strings, not booleans",
      message_of(json.encode, { x = { [true] = 1 } }))
    assert.equal("encode: the value has the key 0: keys of an object are strings, not numbers",
      message_of(json.encode, { [0] = 1 }))
    assert.equal("encode: the value is a list that also has the key name",
      message_of(json.encode, { 1, 2, name = 3 }))
    assert.equal("encode: x is a list with holes: 2 values, last index 3\n"
      .. "hint: put json.null where there is no value",
      message_of(json.encode, { x = { 1, nil, 3 } }))
    assert.equal("encode: the value is a list that also has the key k",
      message_of(json.encode, json.array({ k = 1 })))
  end)

  it("refuses cycles, but not a table met twice", function()
    local cycle = {}
    cycle.inner = { cycle }
    assert.equal("encode: inner[1] is a table that contains itself",
      message_of(json.encode, cycle))
    local shared = { 1 }
    assert.equal('{"a":[1],"b":[1]}', json.encode({ a = shared, b = shared }))
  end)

  it("stops at 200 levels", function()
    local function nested(levels)
      local value = json.array({})
      for _ = 2, levels do
        value = { value }
      end
      return value
    end
    assert.equal(("["):rep(200) .. ("]"):rep(200), json.encode(nested(200)))
    assert.truthy(message_of(json.encode, nested(201))
      :find("%[1%] is nested deeper than 200 levels$"))
  end)

  it("checks its options", function()
    assert.equal("encode: unknown option: indnt\nhint: the only option is indent",
      message_of(json.encode, 1, { indnt = 2 }))
    assert.equal("encode: indent must be an integer from 0 to 16: got -1",
      message_of(json.encode, 1, { indent = -1 }))
    assert.equal("encode: options must be a table: got number", message_of(json.encode, 1, 2))
  end)
end)

describe("json.decode", function()
  it("reads every kind of value", function()
    local value = assert(json.decode('{"a":[1,-2.5e1,"x\\u00e9\\u0000"],"t":true,"f":false}'))
    assert.same({ a = { 1, -25.0, "xé\0" }, t = true, f = false }, value)
    assert.equal("integer", math.type(value.a[1]))
    assert.equal("float", math.type(value.a[2]))
    assert.equal(3, json.decode(" 3 "))
    assert.is_false(json.decode("false"))
  end)

  it("reads null as one value that prints as null", function()
    assert.equal(json.null, json.decode("null"))
    assert.equal(json.null, json.decode('{"a":null}').a)
    assert.equal("null", tostring(json.null))
  end)

  it("keeps the full range of integers and widens what is beyond", function()
    local text = '{"max":9223372036854775807,"min":-9223372036854775808,'
      .. '"over":9223372036854775808,"none":1000000000000000019884624838656,'
      .. '"text":"99999999999999999999 \\" 99999999999999999999","f":12345678901234567890.5e1}'
    local value = assert(json.decode(text))
    assert.equal(math.maxinteger, value.max)
    assert.equal(math.mininteger, value.min)
    assert.equal("integer", math.type(value.min))
    assert.equal(2.0 ^ 63, value.over)
    assert.equal("float", math.type(value.over))
    assert.equal(1e30, value.none)
    assert.equal('99999999999999999999 " 99999999999999999999', value.text)
    assert.equal(12345678901234567890.5e1, value.f)
  end)

  it("gives back what encode wrote, empty arrays included", function()
    local text = '{"a":[],"b":{},"c":[[],{}],"d":null,"e":[null],"f":1.0,"g":1}'
    assert.equal(text, json.encode(assert(json.decode(text))))
  end)

  it("marks every array, so that one emptied later is still one", function()
    local list = assert(json.decode("[1]"))
    table.remove(list)
    assert.equal("[]", json.encode(list))
  end)

  local function refused(text)
    local value, message, code = json.decode(text)
    assert.is_nil(value)
    assert.equal("format", code)
    return message
  end

  it("names line and column of what is wrong", function()
    assert.equal("decode: line 2, column 3: duplicate object key near '\"a\"'",
      refused('{"a":1,\n"a":2}'))
    assert.equal("decode: line 1, column 4: unexpected token near ']'", refused("[1,]"))
    assert.equal("decode: line 1, column 8: invalid token near 'NaN'", refused('{"a":NaN}'))
    assert.equal("decode: line 3, column 0: '}' expected near end of file", refused('{"a":1\n\n'))
    assert.equal("decode: line 1, column 5: real number overflow near '1e999'", refused("1e999"))
    assert.equal("decode: line 1, column 3: end of file expected near '2'", refused("1 2"))
    assert.truthy(refused('"\xff"'):find("^decode: line 1, column 1: unable to decode byte 0xff"))
    assert.truthy(refused(""):find("^decode: line 1, column 0: "))
  end)

  it("accepts exactly the nesting that encode writes", function()
    assert.truthy(json.decode(("["):rep(200) .. ("]"):rep(200)))
    assert.equal("decode: nested deeper than 200 levels",
      refused(("["):rep(201) .. ("]"):rep(201)))
    assert.equal("decode: nested deeper than 200 levels",
      refused(('{"a":'):rep(200) .. "{}" .. ("}"):rep(200)))
    assert.truthy(refused(("["):rep(100000)):find("maximum parsing depth reached", 1, true))
  end)

  it("raises on what is no string", function()
    assert.equal("decode: text must be a string: got nil", message_of(json.decode, nil))
    assert.equal("decode: text must be a string: got number", message_of(json.decode, 1))
  end)
end)

describe("json.array", function()
  it("returns the table it marks, and marks twice without harm", function()
    local list = {}
    assert.equal(list, json.array(list))
    assert.equal(list, json.array(list))
    assert.truthy(tostring(list):find("^table: "))
  end)

  it("refuses what it cannot mark", function()
    assert.equal("array: a table is expected: got string", message_of(json.array, "x"))
    assert.equal("array: the table already has a metatable",
      message_of(json.array, setmetatable({}, {})))
  end)
end)
