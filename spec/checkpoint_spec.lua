-- Checkpoints in one file: looking, loading, saving.
local lfs = require("lfs")

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")

local files, system = core.checkpoint, core.system
local compose, entry, open_bytes = made.compose, made.entry, made.open_bytes
local fresh_path, listed, saved, u8, write
  = made.fresh_path, made.listed, made.saved, made.u8, made.write

describe("a Checkpoint", function()
  it("lists names in order, and tells of each tensor", function()
    local file = saved { b = core.ones(2, 3), a = core.ones(4), ["a.10"] = u8("hello") }
    assert.same({ "a", "a.10", "b" }, file:names())
    assert.same({ dtype = "F32", shape = { 2, 3 }, bytes = 24 }, file:info("b"))
    assert.same({ dtype = "U8", shape = { 5 }, bytes = 5 }, file:info("a.10"))
    assert.equal("hello", file:raw("a.10"))
  end)

  it("says where the numbers of a tensor lie", function()
    local file = saved { a = core.ones(4) }
    assert.same({ file = file, name = "a" }, file:source("a"))
  end)

  it("suggests the name that was meant", function()
    local file, path = saved { ["model.norm.weight"] = core.ones(1), lm_head = core.ones(1) }
    for _, method in ipairs { "tensor", "info", "raw", "source" } do
      local got, message, code = file[method](file, "model.nrom.weight")
      assert.is_nil(got)
      assert.equal("missing", code)
      assert.equal(("%s: %s: no tensor `model.nrom.weight`\nhint: did you mean "
        .. "'model.norm.weight'?"):format(method, path), message)
    end
    assert.equal(("tensor: %s: no tensor `x`"):format(path), (select(2, file:tensor("x"))))
  end)

  it("closes, and says so afterwards", function()
    local file, path = saved { a = core.ones(2) }
    local a = file:tensor("a")
    assert.equal("Checkpoint " .. path .. " (1 tensor)", tostring(file))
    file:close()
    file:close()
    assert.equal("Checkpoint " .. path .. " (closed)", tostring(file))
    local ok, message = pcall(file.tensor, file, "a")
    assert.is_false(ok)
    assert.truthy(message:find("tensor: the checkpoint was closed", 1, true))
    helper.close(a, { 1, 1 })
    local other
    do
      local scoped <close> = assert(files.open(path))
      other = scoped
    end
    assert.is_false((pcall(other.names, other)))
  end)

  it("raises on misuse", function()
    local file = saved { a = core.ones(2) }
    local function message(f, ...) return (select(2, pcall(f, ...))) end
    assert.truthy(message(file.names):find("names: a Checkpoint is expected, got no", 1, true))
    assert.truthy(message(file.tensor, file, 1):find("tensor: name must be a string", 1, true))
    assert.truthy(message(file.tensor, file, "a", "f64"):find('not "f64"', 1, true))
    assert.truthy(message(checkpoint.open, 7):find("checkpoint.open: path must be", 1, true))
  end)

  it("tells a missing file from a damaged one", function()
    local path = fresh_path()
    local file, message, code = checkpoint.open(path)
    assert.is_nil(file)
    assert.equal("missing", code)
    assert.truthy(message:find(path, 1, true))
    assert.equal("format", (select(3, checkpoint.open(write("")))))
    assert.equal("missing", (select(3, checkpoint.open(made.folder .. "/"))))
  end)

  it("keeps metadata", function()
    local given = { format = "pt", ["ключ"] = 'a "quoted"\\ \n\t\1 \u{1F600}', empty = "" }
    local file = saved({}, given)
    assert.same(given, file:metadata())
    assert.same({ format = "pt" }, saved({}):metadata())
    assert.same({ format = "flax" }, saved({}, { format = "flax" }):metadata())
  end)
end)

describe("tensors in files", function()
  it("may have no dimensions or no elements", function()
    local file = saved { scalar = core.full(3.5), empty = core.zeros(2, 0, 3) }
    assert.same({}, file:info("scalar").shape)
    assert.equal(3.5, file:tensor("scalar"):item())
    assert.same({ 2, 0, 3 }, file:tensor("empty"):shape())
  end)

  it("are written in row-major order, whatever view they are", function()
    local x = core.arange(6):reshape(2, 3)
    local file = saved { t = x:transpose(1, 2), n = x:narrow(2, 2, 2) }
    helper.close(file:tensor("t"), { { 0, 3 }, { 1, 4 }, { 2, 5 } }, 0)
    helper.close(file:tensor("n"), { { 1, 2 }, { 4, 5 } }, 0)
  end)

  it("hold whole numbers", function()
    local file = saved { ids = core.tensor({ 7, -8 }, "i32") }
    assert.equal("I32", file:info("ids").dtype)
    assert.same({ 7, -8 }, file:tensor("ids"):totable())
  end)

  it("cannot be written to", function()
    local x = saved { x = core.ones(2) }:tensor("x")
    if core.double then return end
    local ok, message = pcall(x.fill_, x, 2)
    assert.is_false(ok)
    assert.truthy(message:find("mapped from a file", 1, true))
  end)

  it("outlive their file, and the file's replacement", function()
    local file, path = saved { x = core.full(1, 1000) }
    local x = file:tensor("x")
    assert(checkpoint.save(path, { x = core.full(2, 1000) }))
    file:close()
    file = nil -- luacheck: ignore
    collectgarbage()
    helper.close(x:sum(), 1000)
    helper.close(assert(checkpoint.open(path)):tensor("x"):sum(), 2000)
    -- And when what is written comes from the very file that it replaces.
    file = assert(checkpoint.open(path))
    assert(checkpoint.save(path, { y = file:tensor("x") }))
    helper.close(assert(checkpoint.open(path)):tensor("y"):sum(), 2000)
  end)

  it("lie at any address", function()
    local data = "z" .. string.pack("<ff", 1.5, -2)
    local file = assert(open_bytes(compose('{"a":' .. entry("U8", "[1]", 0, 1) .. ',"b":'
      .. entry("F32", "[2]", 1, 9) .. "}", data)))
    assert.same({ 1.5, -2 }, file:tensor("b"):totable())
  end)
end)

describe("saving", function()
  local function raised(...)
    local ok, message = pcall(checkpoint.save, ...)
    assert.is_false(ok)
    return message
  end

  it("sorts by type, widest first, then by name", function()
    local _, path = saved { b = u8("1"), a = u8("2"), z = core.ones(1),
      y = { dtype = "I64", shape = { 1 }, data = ("\0"):rep(8) } }
    local header = string.unpack("<s8", system.read(path))
    assert.equal('{"__metadata__":{"format":"pt"},'
      .. '"y":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},'
      .. '"z":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},'
      .. '"a":{"dtype":"U8","shape":[1],"data_offsets":[12,13]},'
      .. '"b":{"dtype":"U8","shape":[1],"data_offsets":[13,14]}}', (header:gsub(" +$", "")))
    assert.equal(0, #header % 8)
  end)

  it("escapes as the reference does", function()
    local _, path = saved({}, { k = "\"\\\b\f\n\r\t\1\x1f\x7fé" })
    assert.truthy(system.read(path):find([["k":"\"\\\b\f\n\r\t\u0001\u001f]] .. '\x7fé"', 1, true))
  end)

  it("raises on misuse", function()
    local path = fresh_path()
    local one = core.ones(1)
    local function has(text, ...) assert.truthy(raised(path, ...):find(text, 1, true)) end
    has("checkpoint.save: tensors must be a table, not nil", nil)
    has("the name of a tensor must be a string, not 1", { one })
    has("tensor `a`: a tensor or {dtype, shape, data} expected, got number", { a = 1 })
    has("tensor `a`: dtype must be one like", { a = { dtype = "u8", shape = {}, data = "x" } })
    has("tensor `a`: shape must be a list, not nil", { a = { dtype = "U8", data = "x" } })
    has("tensor `a`: shape holds -1, no size", { a = { dtype = "U8", shape = { -1 }, data = "" } })
    has("tensor `a`: data must be a string, not nil", { a = { dtype = "U8", shape = {} } })
    has("tensor `a` has 3 bytes of data, not the 2 of its shape and dtype (InvalidTensorView)",
      { a = { dtype = "U8", shape = { 2 }, data = "xyz" } })
    has("does not fill whole bytes (MisalignedSlice)",
      { a = { dtype = "F4", shape = { 3 }, data = "xy" } })
    has("too large (ValidationOverflow)",
      { a = { dtype = "F32", shape = { 1 << 62, 4 }, data = "" } })
    has("cannot be named `__metadata__`", { ["__metadata__"] = one })
    has("is no UTF-8: byte 2 of `a\xff`", { ["a\xff"] = one })
    has("metadata `k` must be a string, not number", {}, { k = 1 })
    has("unknown option 'dtpye'\nhint: did you mean 'dtype'?", {}, nil, { dtpye = "f32" })
    has("option 'dtype' is 'f64': unknown", {}, nil, { dtype = "f64" })
    has("max_shard_size cannot split", {}, nil, { max_shard_size = 1 })
    assert.truthy(raised("", {}):find("path must be a string", 1, true))
    assert.is_false(system.exists(path))
  end)

  it("fails as expected, and leaves nothing behind", function()
    local blocker = write("a file", fresh_path(""))
    local done, message, code = checkpoint.save(blocker .. "/x.safetensors", { a = core.ones(1) })
    assert.is_nil(done)
    assert.equal("missing", code)
    assert.truthy(message:find(blocker .. "/x.safetensors: cannot be written: Not a dir", 1, true))
    assert.equal("missing", (select(3, checkpoint.save(made.folder .. "/no/x.safetensors", {}))))
    local target = fresh_path()
    assert(lfs.mkdir(target))
    assert.equal("io", (select(3, files.save(target, {}))))
  end)

  it("keeps the old file whole when it fails", function()
    local own = fresh_path("")
    assert(lfs.mkdir(own))
    local path = own .. "/x.safetensors"
    assert(checkpoint.save(path, { a = core.ones(3) }))
    local before = system.read(path)
    assert.is_false((pcall(checkpoint.save, path,
      { a = core.ones(3), b = { dtype = "U8", shape = { 2 }, data = "x" } })))
    assert.equal(before, system.read(path))
    assert.same({ "x.safetensors" }, listed(own))
  end)

  it("tells a full disk", function()
    if not system.exists("/dev/full") then return end
    local done, message, code = files.save("/dev/full", { a = core.ones(3) })
    assert.is_nil(done)
    assert.equal("full", code)
    assert.equal("/dev/full: cannot be written: No space left on device", message)
    assert(files.save("/dev/null", { a = core.ones(3) }))
  end)

  it("follows a link and keeps the mode", function()
    local _, path = saved { a = core.ones(1) }
    local link = fresh_path()
    assert(lfs.link(path, link, true))
    assert(checkpoint.save(link, { b = core.ones(1) }))
    assert.equal("link", lfs.symlinkattributes(link, "mode"))
    assert.same({ "b" }, assert(checkpoint.open(path)):names())
  end)

  it("is the same bytes again", function()
    local tensors = { a = core.ones(5), b = u8("xyz"), c = core.zeros(2, 2) }
    local _, one = saved(tensors, { k = "v", l = "w" })
    local _, two = saved(tensors, { l = "w", k = "v" })
    assert.equal(system.read(one), system.read(two))
  end)
end)

describe("a file", function()
  local plan = { a = { dtype = "F16", shape = { 2 } }, b = { dtype = "I32", shape = {} } }

  it("can be written tensor by tensor, with the bytes that save writes", function()
    local a, b = core.tensor { 0.5, 3 }, core.tensor(7, "i32")
    local path = fresh_path()
    local writer = assert(checkpoint.create(path, plan))
    assert.same({ "b", "a" }, writer:names())
    assert(writer:put("b", b))
    assert(writer:put("a", a))
    assert.is_false(system.exists(path))
    assert(writer:close())
    local _, other = saved({ a = a, b = b }, nil, { dtype = "f16" })
    assert.equal(system.read(other), system.read(path))
    local _, message = pcall(writer.close, writer)
    assert.truthy(message:find("close: the writer was closed", 1, true))
  end)

  it("is refused when it is not what was planned", function()
    local own = fresh_path("")
    assert(lfs.mkdir(own))
    local function put(text, ...)
      local writer <close> = assert(checkpoint.create(own .. "/x.safetensors", plan))
      local ok, message = pcall(writer.put, writer, ...)
      assert.is_false(ok)
      assert.truthy(message:find(text, 1, true), message)
    end
    put("put: tensors come in the order of names(): `b` is next, not `a`", "a", core.ones(2))
    put("tensor `b` is [1], not of the shape that was planned", "b", core.tensor({ 1 }, "i32"))
    put("tensor `b` is f32, which cannot be written as I32", "b", core.tensor(1))
    put("tensor `b` has 3 bytes of data, not the 4 of its shape and dtype", "b", "abc")
    assert.same({}, listed(own))
    local function create(text, bad)
      local ok, message = pcall(checkpoint.create, own .. "/x.safetensors", bad)
      assert.is_false(ok)
      assert.truthy(message:find(text, 1, true), message)
    end
    create("create: tensor `a`: a table expected, got number", { a = 1 })
    create("create: tensor `a`: dtype must be one like", { a = { dtype = "f16", shape = {} } })
    create("create: the name of a tensor must be a string, not 1", { plan.a })
  end)

  it("is not left behind by a writer that nobody closes", function()
    local own = fresh_path("")
    assert(lfs.mkdir(own))
    local writer = assert(checkpoint.create(own .. "/x.safetensors", plan))
    assert.equal(1, #listed(own))
    assert.is_userdata(writer)
    writer = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.same({}, listed(own))
  end)
end)
