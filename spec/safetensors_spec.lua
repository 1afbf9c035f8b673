-- The safetensors reader and writer: the reference's vectors, and what hostile files must not do.
local core = require("moelua.core")
local made = require("spec.checkpoint_files")

local files, json, system = core.checkpoint, core.json, core.system
local compose, entry, fresh_path, open_bytes, saved, u8, write
  = made.compose, made.entry, made.fresh_path, made.open_bytes, made.saved, made.u8, made.write

-- Under a collector that never rests each allocation costs a full collection.
local stressed = os.getenv("MOELUA_GCSTRESS") ~= nil

local function unhex(text)
  return (text:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end))
end

local vectors = json.decode(assert(system.read("spec/golden/safetensors_vectors.json")))

describe("the reference's safetensors vectors", function()
  for _, case in ipairs(vectors.reject) do
    it("rejects: " .. case.name, function()
      local path = write(unhex(case.hex))
      local file, message, code = files.open(path)
      assert.is_nil(file)
      assert.equal("format", code)
      assert.equal(path .. ":", message:sub(1, #path + 1))
      assert.equal("(" .. case.error .. ")", message:match("%(%w+%)$"))
    end)
  end

  for _, case in ipairs(vectors.accept) do
    it("accepts: " .. case.name, function()
      local file = assert(open_bytes(unhex(case.hex)))
      for _, name in ipairs(file:names()) do
        assert.equal(file:info(name).bytes, #file:raw(name))
      end
    end)
  end

  for _, case in ipairs(vectors.write) do
    it("writes: " .. case.name, function()
      local want = unhex(case.hex)
      local file = assert(open_bytes(want))
      local tensors = {}
      for _, name in ipairs(file:names()) do
        local info = file:info(name)
        tensors[name] = { dtype = info.dtype, shape = info.shape, data = file:raw(name) }
      end
      local path = fresh_path()
      assert(files.save(path, tensors, file:metadata()))
      assert.equal(want, system.read(path))
    end)
  end

  it("holds 21, 6 and 7 of them", function()
    assert.same({ 21, 6, 7 }, { #vectors.reject, #vectors.accept, #vectors.write })
  end)
end)

describe("the header reader", function()
  local function message_for(header, data)
    local file, message = open_bytes(compose(header, data))
    assert.is_nil(file)
    return message:match(": (.*)$")
  end

  local function rejects(header, text)
    assert.equal(("invalid JSON in header: %s (InvalidHeaderDeserialization)"):format(text),
      message_for(header))
  end

  it("tells what is wrong and where", function()
    rejects('{"a":' .. entry("F31", "[]", 0, 4) .. "}", "unknown dtype at byte 20")
    rejects("{} x", "something follows the value at byte 4")
    rejects("{}{}", "something follows the value at byte 3")
    rejects('{"a" 1}', "expected `:` at byte 6")
    rejects('{"a":1}', "expected an object at byte 6")
    rejects("{a:1}", "expected a string at byte 2")
    rejects('{"__metadata__":{"a":"b",}}', "expected a string at byte 26")
    rejects('{"__metadata__":{"a":"b" "c":"d"}}', "expected `,` or `}` at byte 26")
    rejects("", "expected an object at byte 1")
  end)

  it("accepts no sloppy JSON", function()
    local function info(text) return '{"a":{"x":' .. text .. "}}" end
    for text, reason in pairs {
      ["01"] = "a number begins with 0", ["1."] = "expected a digit", ["-"] = "expected a digit",
      ["1e"] = "expected a digit", ["tru"] = "expected a value", ["[1,]"] = "expected a value",
      ["[1 2]"] = "expected `,` or `]`", ['"\t"'] = "a control character in a string",
      ['"\\x"'] = "an unknown escape", ['"\\ud800"'] = "a lone surrogate",
      ['"\\udc00"'] = "a lone surrogate", ['"\\ud800\\u0041"'] = "a lone surrogate",
      ['"\\u12g4"'] = "expected four hexadecimal digits", ["NaN"] = "expected a value",
      ["'a'"] = "expected a value", ["+1"] = "expected a value", [".5"] = "expected a value",
    } do
      local got = message_for(info(text))
      assert.truthy(got:find(": " .. reason .. " at byte", 1, true), text .. " gave " .. got)
    end
  end)

  it("ignores unknown fields of any kind", function()
    local extra = '{"a":{"x":[{"y":[1,-2.5e+3,true,false,null,"\\u00e9"]},[],{}],'
      .. '"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    assert.same({ "a" }, assert(open_bytes(compose(extra, "z"))):names())
  end)

  it("wants whole numbers without a sign, and two offsets", function()
    local function with(shape, offsets)
      return ('{"a":{"dtype":"U8","shape":%s,"data_offsets":%s}}'):format(shape, offsets)
    end
    for _, number in ipairs { "-1", "-0", "1.0", "1e0", '"1"', "null", "00", "01",
      "18446744073709551616", "99999999999999999999999999" } do
      for _, header in ipairs { with("[" .. number .. "]", "[0,1]"),
        with("[1]", "[0," .. number .. "]") } do
        assert.truthy(message_for(header, "z"):find("(InvalidHeaderDeserialization)", 1, true))
      end
    end
    for _, offsets in ipairs { "[]", "[0]", "[0,1,2]", "0", "{}" } do
      assert.truthy(message_for(with("[1]", offsets), "z"):find("InvalidHeaderDes", 1, true))
    end
  end)

  it("rejects names and fields that occur twice", function()
    local a = '"a":' .. entry("U8", "[0]", 0, 0)
    rejects("{" .. a .. "," .. a .. "}", "tensor `a` occurs twice")
    rejects("{" .. a .. ',"\\u0061":' .. entry("U8", "[0]", 0, 0) .. "}",
      "tensor `a` occurs twice")
    rejects('{"__metadata__":{},"__metadata__":{}}', "`__metadata__` occurs twice at byte 35")
    rejects('{"__metadata__":{"k":"1","k":"2"}}', "metadata `k` occurs twice")
    rejects('{"a":{"dtype":"U8","dtype":"U8"}}', "a field occurs twice at byte 28")
  end)

  it("wants all three fields", function()
    rejects('{"a":{"dtype":"U8","shape":[0]}}',
      "a tensor without dtype, shape or data_offsets at byte 32")
  end)

  it("unescapes names", function()
    local header = '{"\\ud83d\\ude00\\n\\u0000\\/\\u00e9":' .. entry("U8", "[0]", 0, 0) .. "}"
    assert.same({ "😀\n\0/é" }, assert(open_bytes(compose(header))):names())
  end)

  it("rejects what is no UTF-8", function()
    for _, bad in ipairs { "\xff", "\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
      "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xc3", "\xe2\x82" } do
      local header = '{"__metadata__":{"key":"' .. bad .. '"}}'
      assert.equal("invalid UTF-8 in header: byte 25 (InvalidHeader)", message_for(header))
    end
    for _, good in ipairs { "\u{7f}", "\u{80}", "\u{7ff}", "\u{800}", "\u{ffff}", "\u{10ffff}" } do
      assert(open_bytes(compose('{"__metadata__":{"key":"' .. good .. '"}}')))
    end
  end)

  it("shows no control characters and no endless names", function()
    local name = "a\\u001b[31m" .. ("x"):rep(500)
    local got = message_for('{"' .. name .. '":' .. entry("U8", "[1]", 1, 2) .. "}", "zz")
    assert.equal("invalid offset for tensor `a?[31m" .. ("x"):rep(114) .. "...` (InvalidOffset)",
      got)
  end)

  it("refuses 100 MB of nesting where it becomes too deep", function()
    for _, open in ipairs { "[", '{"a":', '{"a":[' } do
      local body = '{"a":{"x":' .. open:rep(100000000 // #open - 10)
      local at = message_for(body):match("nested too deeply at byte (%d+)")
      assert.is_true(tonumber(at) < 2000)
    end
  end)

  it("nests 128 levels in what it ignores, and no more", function()
    local function nested(n)
      return compose('{"a":{"x":' .. ("["):rep(n) .. ("]"):rep(n)
        .. ',"dtype":"U8","shape":[0],"data_offsets":[0,0]}}')
    end
    assert(open_bytes(nested(128)))
    assert.is_nil((open_bytes(nested(129))))
  end)

  it("takes time in proportion to the header", function()
    local parts, n = {}, stressed and 100 or 100000
    for i = 1, n do
      parts[i] = ('"t%d":%s'):format(i * 7919 % 100003, entry("U8", "[]", i - 1, i))
    end
    local header = "{" .. table.concat(parts, ",") .. "}"
    local started = system.clock()
    local file = assert(open_bytes(compose(header, ("x"):rep(n))))
    assert.is_true(system.clock() - started < 5)
    assert.equal(n, #file:names())
  end)

  it("bounds dimensions and metadata", function()
    local function shape(n) return "[" .. ("1,"):rep(n - 1) .. "1]" end
    local file = assert(open_bytes(compose('{"a":' .. entry("U8", shape(64), 0, 1) .. "}", "z")))
    assert.equal(64, #file:info("a").shape)
    local tensor, message, code = file:tensor("a")
    assert.is_nil(tensor)
    assert.equal("unsupported", code)
    assert.truthy(message:find("tensor `a` has 64 dimensions, more than 8\nhint: raw()", 1, true))
    assert.truthy(message_for('{"a":' .. entry("U8", shape(65), 0, 1) .. "}", "z")
      :find("more than 64 dimensions", 1, true))
    assert.truthy(message_for('{"__metadata__":{' .. ('"k":"",'):rep(65537) .. "}}")
      :find("too many entries of metadata", 1, true))
  end)

  it("does not overflow on shapes without elements", function()
    local huge = "4611686018427387904"
    local file = assert(open_bytes(compose('{"a":'
      .. entry("F32", ("[0,%s,%s,%s]"):format(huge, huge, huge), 0, 0) .. "}")))
    local tensor, message, code = file:tensor("a")
    assert.is_nil(tensor)
    assert.equal("unsupported", code)
    assert.truthy(message:find("has a shape that no tensor can have", 1, true))
    assert.truthy(message_for('{"a":' .. entry("F32", "[0,9223372036854775808]", 0, 0) .. "}")
      :find("(ValidationOverflow)", 1, true))
  end)

  it("rejects overlaps, holes and data that nothing describes", function()
    local function two(a, b) return '{"a":' .. a .. ',"b":' .. b .. "}" end
    local function name_of(...) return message_for(...):match("%((%w+)%)$") end
    assert.equal("InvalidOffset",
      name_of(two(entry("U8", "[2]", 0, 2), entry("U8", "[2]", 1, 3)), "xyz"))
    assert.equal("InvalidOffset",
      name_of(two(entry("U8", "[1]", 0, 1), entry("U8", "[1]", 2, 1)), "xyz"))
    assert.equal("MetadataIncompleteBuffer", name_of("{}", "x"))
    assert.equal("TensorInvalidInfo", name_of('{"a":' .. entry("U8", "[1]", 0, 2) .. "}", "xy"))
    -- Tensors without elements may share an offset.
    assert(open_bytes(compose(two(entry("U8", "[0]", 1, 1), entry("U8", "[1]", 0, 1)), "x")))
  end)

  it("survives every truncation and every flipped byte of a file", function()
    local _, path = saved({ a = core.ones(2, 3), b = u8("xyz") }, { note = "ä" })
    local whole = system.read(path)
    local target = fresh_path()
    for size = 0, #whole - 1 do
      write(whole:sub(1, size), target)
      local file, message, code = files.open(target)
      assert.is_nil(file)
      assert.equal("format", code)
      assert.truthy(message:match("%(%w+%)$"))
    end
    for i = 1, #whole do
      for _, flip in ipairs(stressed and { 0x20 } or { 0x01, 0x20, 0x80 }) do
        write(whole:sub(1, i - 1) .. string.char(whole:byte(i) ~ flip) .. whole:sub(i + 1), target)
        local file = files.open(target)
        for _, name in ipairs(file and file:names() or {}) do
          assert.equal(file:info(name).bytes, #file:raw(name))
          file:tensor(name)
        end
      end
    end
  end)
end)
