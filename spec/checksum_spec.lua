-- The checksum of a file: what it is, and that nothing escapes it.
local core = require("moelua.core")
local helper = require("spec.helper")
local checkpoint = require("moelua.checkpoint")
local made = require("spec.checkpoint_files")
local system = core.system

local BLANK = ("0"):rep(32)

local function saved(tensors, metadata)
  local path = made.fresh_path()
  assert(checkpoint.save(path, tensors, metadata, { checksum = true }))
  return path
end

local function digits_of(path) return assert(checkpoint.open(path)):metadata().checksum end

-- nil when the file is refused; what opening or verifying says otherwise.
local function passes(path)
  local file <close>, message = core.checkpoint.open(path)
  if not file then return nil, message end
  return file:verify()
end

-- The file with one bit turned over, at `bit` from 0 on.
local function flipped(bytes, bit)
  local at = bit // 8 + 1
  return bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ (1 << bit % 8)) .. bytes:sub(at + 1)
end

describe("a checksum", function()
  it("is written on request, and found right", function()
    local path = saved({ a = core.ones(3), b = made.u8("hello") }, { k = "v" })
    local file = assert(checkpoint.open(path))
    assert.matches("^%x+$", file:metadata().checksum)
    assert.equal(32, #file:metadata().checksum)
    assert.equal("v", file:metadata().k)
    assert.is_true(file:verify())
    assert.is_nil(select(2, made.saved({ a = core.ones(3) })):find("checksum"))
  end)

  it("is the XXH3-128 of the file with zeros in its place", function()
    -- Written by hand, and hashed in one piece by XXH3_128bits of xxHash 0.8.1.
    local header = '{"__metadata__":{"checksum":"%s"},"a":' .. made.entry("U8", "[3]", 0, 3) .. "}"
    local path = made.write(made.compose(header:format(BLANK), "xyz"))
    local _, message = passes(path)
    local digits = message:match("its content has (%x+)$")
    assert.equal("61b240fa3e35f3d76fd6a5e8fcdfe8a8", digits)
    made.write(made.compose(header:format(digits), "xyz"), path)
    assert.is_true(passes(path))
  end)

  it("differs when a name, a number or the metadata does", function()
    local seen = {}
    for _, path in ipairs({ saved { a = core.ones(3) }, saved { b = core.ones(3) },
      saved { a = core.zeros(3) }, saved({ a = core.ones(3) }, { k = "v" }) }) do
      local digits = digits_of(path)
      assert.is_nil(seen[digits])
      seen[digits] = true
    end
    assert.equal(digits_of(saved { a = core.ones(3) }), digits_of(saved { a = core.ones(3) }))
  end)

  it("is right for large tensors, views and converted ones", function()
    local x = core.arange(3 * 1024 * 1024):reshape(1024, 3072)
    local path = made.fresh_path()
    assert(checkpoint.save(path, { x = x, t = x:transpose(1, 2) }, nil,
      { checksum = true, dtype = "bf16" }))
    assert.is_true(passes(path))
    assert.is_true(passes(saved { x = x, empty = core.zeros(0) }))
    assert.is_true(passes(saved({})))
  end)

  it("is computed anew for a copy that brings the old one along", function()
    local old = assert(checkpoint.open(saved({ a = core.ones(2) }, { ["z \"\\"] = "\n" })))
    local path = made.fresh_path()
    assert(checkpoint.save(path, { a = core.zeros(2) }, old:metadata()))
    assert.is_true(passes(path))
    assert.not_equal(old:metadata().checksum, digits_of(path))
  end)

  it("is had by a file that is written tensor by tensor, and by each shard", function()
    local path = made.fresh_path()
    local writer = assert(checkpoint.create(path, { a = { dtype = "F32", shape = { 2 } } }, nil,
      { checksum = true }))
    assert(writer:put("a", core.ones(2)))
    assert(writer:close())
    assert.is_true(passes(path))
    local folder = made.fresh_path("")
    assert(checkpoint.save(folder, { a = core.ones(9), b = core.ones(9) }, nil,
      { checksum = true, max_shard_size = 40 }))
    assert.is_true(assert(checkpoint.open(folder)):verify())
    local shard = folder .. "/model-00002-of-00002.safetensors"
    local bytes = system.read(shard)
    made.write(flipped(bytes, 8 * #bytes - 1), shard)
    local ok, message, code = assert(checkpoint.open(folder)):verify()
    assert.is_nil(ok)
    assert.equal("format", code)
    assert.matches("model%-00002%-of%-00002.safetensors: damaged: its checksum is", message)
  end)

  it("that is missing, short or wrong is told in words", function()
    local _, path = made.saved { a = core.ones(2) }
    local ok, message, code = passes(path)
    assert.is_nil(ok)
    assert.equal(path .. ": it has no checksum", message)
    assert.equal("format", code)
    local header = '{"__metadata__":{"checksum":"%s"}}'
    path = made.write(made.compose(header:format("12")))
    assert.equal(path .. ": damaged: its checksum has 2 digits, not 32",
      (select(2, passes(path))))
    path = made.write(made.compose(header:format(BLANK)))
    assert.matches(": damaged: its checksum is " .. BLANK .. ", its content has %x+$",
      (select(2, passes(path))))
  end)

  it("cannot be written to a pipe, which is not begun", function()
    local folder = made.fresh_path()
    assert(system.make_folder(folder))
    assert(os.execute("mkfifo " .. folder .. "/pipe"))
    local pipe, out = folder .. "/pipe", folder .. "/out"
    local reader <close> = assert(system.spawn({ "cat", pipe, stdout = out }))
    local ok, message = pcall(core.checkpoint.save, pipe, { a = core.ones(2) },
      { checksum = "" })
    assert.is_false(ok)
    assert.matches(pipe .. ": a pipe cannot carry a checksum, which is known at the end\n" ..
      "hint: leave `checksum` out of the metadata", message, 1, true)
    assert.same({ exited = 0 }, reader:wait(60))
    assert.equal("", system.read(out))
  end)

  it("cannot be asked of a closed file", function()
    local file = assert(checkpoint.open(saved({})))
    file:close()
    assert.matches("verify: the checkpoint was closed", (select(2, pcall(file.verify, file))))
  end)
end)

describe("a flipped bit", function()
  it("is noticed wherever it is in the header of a tiny file", function()
    local path = saved({ a = made.u8("z") }, { step = "3" })
    local bytes = system.read(path)
    for bit = 0, 8 * #bytes - 1 do
      made.write(flipped(bytes, bit), path)
      if passes(path) then error("bit " .. bit .. " went unnoticed") end
    end
    made.write(bytes, path)
    assert.is_true(passes(path))
  end)

  it("is noticed wherever it is in a training state", function()
    local tensors = {}
    for i = 1, 12 do tensors["w." .. i] = core.randn(5 * i, 7) end
    local path = saved(tensors, { facts = '{"step":20,"cursor":{}}' })
    local bytes = system.read(path)
    for i = 1, 4000, helper.stride do
      local bit = core.uniform(11, "bits", i, 8 * #bytes)
      made.write(flipped(bytes, bit), path)
      if passes(path) then error("bit " .. bit .. " went unnoticed") end
    end
  end)

  it("is not the only damage: no shorter file passes either", function()
    local path = saved({ a = core.ones(4) }, { step = "3" })
    local bytes = system.read(path)
    for size = 0, #bytes - 1 do
      made.write(bytes:sub(1, size), path)
      if passes(path) then error("a file of " .. size .. " bytes passed") end
    end
  end)
end)
