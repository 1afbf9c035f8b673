-- Merging: the same bits for any number of threads and any memory; masks; misuse.
local core = require("moelua.core")
local helper = require("spec.helper")
local made = require("spec.checkpoint_files")
local methods = require("spec.merge_methods")

local merge = core.checkpoint.merge

local function random(seed, ...)
  core.manual_seed(seed)
  return core.randn(...)
end

local function sources(...)
  local list = {}
  for i, x in ipairs { ... } do list[i] = { tensor = x } end
  return list
end

describe("a merge", function()
  for method in pairs(methods.params) do
    it("has the same bits in little memory and in much: " .. method, function()
      for _, shape in ipairs { { 150, 611 }, { 1, 70001 }, { 7001, 1 }, { 5, 3 } } do
        local entry = methods.entry(method, shape[1], shape[2])
        local whole, figures = merge(entry)
        local least
        local _, message = merge(entry, { memory = 1 })
        least = math.tointeger(tostring(message):match("memory = (%d+) is the least"))
        assert.truthy(least, tostring(message))
        local little, same = merge(entry, { memory = least })
        assert.equal(whole:hash(), little:hash())
        assert.same(figures, same)
        local got, why, code = merge(entry, { memory = least - 1 })
        assert.is_nil(got)
        assert.equal("memory", code)
        assert.truthy(why:find("cannot merge", 1, true))
      end
    end)
  end
end)

-- Which elements of a difference survive: merged into a base of zeros with weight 1.
local function thinned(method, x, params, extra)
  local entry = { name = "w", dtype = "F32", shape = x:shape(), method = method, params = params,
    sources = sources(x), base = { tensor = core.zeros(x:shape()) } }
  params.weight = params.weight or 1
  if params.rescale == nil then params.rescale = false end
  for key, value in pairs(extra or {}) do entry[key] = value end
  return merge(entry)
end

local function nonzeros(x)
  local count = 0
  for _, v in ipairs(x:reshape(x:count()):totable()) do if v ~= 0 then count = count + 1 end end
  return count
end

local function l1(x)
  local sum = 0
  for _, v in ipairs(x:reshape(x:count()):totable()) do sum = sum + math.abs(v) end
  return sum
end

describe("a mask by size", function()
  it("keeps half of the elements, or all, or refuses to keep none", function()
    local x = random(7, 128, 64)
    assert.equal(x:hash(), thinned("ties", x, { density = 1 }):hash())
    assert.equal(4096, nonzeros(thinned("ties", x, { density = 0.5 })))
    local ok, message = pcall(thinned, "ties", x, { density = 0 })
    assert.is_false(ok)
    assert.truthy(message:find("merge: `w`: density 0 of model 1 keeps none of 8192 elements", 1,
      true), message)
  end)

  it("leaves out the largest too", function()
    local x = random(8, 128, 64)
    for _, gamma in ipairs { 0.1, 0.2, 0.5, 1 } do
      for _, density in ipairs { 0.1, 0.3, 0.5, 0.6, 0.9 } do
        local y = thinned("breadcrumbs", x, { density = density, gamma = gamma * (1 - density) })
        assert.equal(8192 * density // 1, nonzeros(y))
      end
    end
    local flat = {}
    for row = 1, 4 do
      for column = 0, 2 do flat[#flat + 1] = row + 4 * column end
    end
    for _, gamma in ipairs { 0, 0.01, 0.25 } do
      local top = 12 * gamma // 1
      local y = thinned("breadcrumbs", core.tensor(flat):reshape(4, 3),
        { density = 0.5, gamma = gamma }):reshape(12):totable()
      for i, v in ipairs(flat) do
        assert.equal(v > 12 - top - 6 and v <= 12 - top and v or 0, y[i])
      end
    end
  end)

  it("takes the first of equal elements", function()
    local x = core.tensor { { 1, -2, 2, -2 }, { 2, 3, 1, 2 } }
    assert.same({ { 0, -2, 2, -2 }, { 0, 3, 0, 0 } },
      thinned("ties", x, { density = 0.5, normalize = false }):totable())
    local ones = core.ones(3, 30000)
    local y = thinned("ties", ones, { density = 0.75, normalize = false })
    assert.equal(67500, nonzeros(y))
    assert.equal(67500, nonzeros(y:reshape(90000):narrow(1, 1, 67500)))
    local z = thinned("breadcrumbs", ones, { density = 0.5, gamma = 0.1 }):reshape(90000)
    assert.equal(45000, nonzeros(z:narrow(1, 9001, 45000)))
    assert.equal(45000, nonzeros(z))
  end)

  it("keeps |d| when it is asked to", function()
    local x = random(9, 128, 64)
    for _, method in ipairs { "ties", "breadcrumbs", "dare_linear", "della_linear" } do
      local y = thinned(method, x, { density = 0.5, rescale = true, normalize = false })
      assert.truthy(math.abs(l1(y) / l1(x) - 1) < 1e-4, method)
    end
  end)
end)

describe("a mask by chance", function()
  it("keeps the share that it should", function()
    local x = core.ones(500, 1000)
    for _, density in ipairs { 0.1, 0.5, 0.93 } do
      local _, dare = thinned("dare_linear", x, { density = density })
      assert.truthy(math.abs(dare.kept[1] - density) < 0.003, dare.kept[1])
    end
    local _, della = thinned("della_linear", random(3, 500, 1000),
      { density = 0.4, epsilon = 0.3 })
    assert.truthy(math.abs(della.kept[1] - 0.4) < 0.003, della.kept[1])
  end)

  it("keeps large elements of a row rather", function()
    local row = core.arange(1000) + 1
    local y = thinned("della_linear", core.ones(200, 1):matmul(row:reshape(1, 1000)),
      { density = 0.5, epsilon = 0.4 })
    local small, large = nonzeros(y:narrow(2, 1, 100)), nonzeros(y:narrow(2, 901, 100))
    assert.truthy(math.abs(small / 20000 - 0.14) < 0.01, small)
    assert.truthy(math.abs(large / 20000 - 0.86) < 0.01, large)
  end)

  it("is another one for each seed, name and model, and the same in rows or not", function()
    local x = core.ones(50, 40)
    local function mask(extra, method)
      return thinned(method or "dare_linear", x, { density = 0.5 }, extra):hash()
    end
    local one = mask { seed = 1 }
    assert.equal(one, mask { seed = 1 })
    assert.not_equal(one, mask { seed = 2 })
    assert.not_equal(one, mask { seed = 1, stream = "v" })
    assert.equal(one, mask({ seed = 1, stream = "w", name = "v" }))
    local two = merge { name = "w", dtype = "F32", shape = { 50, 40 }, method = "dare_linear",
      base = { tensor = core.zeros(50, 40) }, sources = sources(x, x * 2),
      params = { weight = 1, density = 0.5, rescale = false }, seed = 1 }
    local seen = {}
    for _, v in ipairs(two:reshape(2000):totable()) do seen[v] = (seen[v] or 0) + 1 end
    for v = 0, 3 do assert.truthy(seen[v] > 400 and seen[v] < 600) end
  end)

  it("refuses chances that are none", function()
    local ok, message = pcall(thinned, "della", core.ones(2, 2), { density = 0.66, epsilon = 1.35 })
    assert.is_false(ok)
    assert.truthy(message:find("density - epsilon and density + epsilon of model 1 must be in "
      .. "0 .. 1: -0.69 and 2.01", 1, true), message)
    assert.equal(0, nonzeros(thinned("della_linear", core.ones(4, 4), { density = 0 })))
  end)
end)

describe("numbers", function()
  it("of slerp are those of a double reference", function()
    local pairs_of = { { { 1, 0 }, { 0, 2 } }, { { 1, 2 }, { 2, 4 } }, { { 1, 2 }, { -1, -2 } },
      { { 0, 0 }, { 1, 3 } }, { { 2, -3 }, { 4, 1 } }, { { 0, 0 }, { 0, 0 } } }
    local times = { -0.2, 0.25, 0.5, 0.8, 1.2, 1.0 }
    local function reference(a, b, t)
      local na, nb = (a[1] ^ 2 + a[2] ^ 2) ^ 0.5, (b[1] ^ 2 + b[2] ^ 2) ^ 0.5
      local dot = (a[1] * b[1] + a[2] * b[2]) / (na > 1e-8 and na or 1) / (nb > 1e-8 and nb or 1)
      local x, y = 1 - t, t
      if math.abs(dot) <= 0.9995 then
        local angle = math.acos(dot)
        x, y = math.sin(x * angle) / math.sin(angle), math.sin(y * angle) / math.sin(angle)
      end
      return { x * a[1] + y * b[1], x * a[2] + y * b[2] }
    end
    for _, pair in ipairs(pairs_of) do
      for _, t in ipairs(times) do
        for _, dtype in ipairs { "F32", "BF16", "F16" } do
          local got = merge { name = "w", dtype = dtype, shape = { 2 }, method = "slerp",
            base = { tensor = core.tensor(pair[1]) }, sources = sources(core.tensor(pair[2])),
            params = { t = t } }
          local want = core.tensor(reference(pair[1], pair[2], t)):to(got:dtype()):to("f32")
          helper.close(got:to("f32"), want:totable(), 1e-6)
        end
      end
    end
  end)

  it("are rounded once, unless inputs are cast", function()
    local x = sources(core.tensor { 1.003 })
    local function scaled(dtype, cast)
      return merge({ name = "w", dtype = dtype, shape = { 1 }, method = "passthrough", cast = cast,
        sources = x, params = { scale = 1000 } }):to("f32"):totable()[1]
    end
    assert.equal(1000, scaled("BF16", "BF16"))
    assert.equal(1004, scaled("BF16"))
    local a, b = random(1, 2000):to("bf16"), random(2, 2000):to("bf16")
    local got = merge { name = "w", dtype = "BF16", shape = { 2000 }, method = "linear",
      sources = sources(a, b), params = { weight = { 0.123456, 0.654321 }, normalize = false } }
    local fa, fb, want = a:to("f32"):totable(), b:to("f32"):totable(), {}
    for i = 1, 2000 do want[i] = 0.123456 * fa[i] + 0.654321 * fb[i] end
    helper.close(got:to("f32"), core.tensor(want):to("bf16"):to("f32"):totable(), 0.004)
  end)

  it("of fusion take quartiles of all elements", function()
    -- The importance is |x| times the divergence of its row, which is the same for all three.
    local base = core.zeros(3, 4)
    local x = core.tensor { { 0, 1, 2, 40 }, { 40, 0, 1, 2 }, { 2, 40, 0, 1 } }
    local y = merge { name = "w", dtype = "F32", shape = { 3, 4 }, method = "arcee_fusion",
      base = { tensor = base }, sources = sources(x) }
    assert.same({ { 0, 0, 0, 40 }, { 40, 0, 0, 0 }, { 0, 40, 0, 0 } }, y:totable())
  end)
end)

describe("misuse of a merge", function()
  local function fails(text, change)
    local entry = { name = "w", dtype = "F32", shape = { 2 }, method = "ties",
      sources = sources(core.ones(2)), base = { tensor = core.zeros(2) },
      params = { weight = 1, density = 0.5 } }
    change(entry)
    local got = tostring((select(2, pcall(merge, entry))))
    assert.truthy(got:find(text, 1, true), got)
  end

  it("is told", function()
    fails("merge: `w`: ties needs a base", function(e) e.base = nil end)
    fails("merge: `w`: slerp takes 1 model beside the base, not 2", function(e)
      e.method, e.params, e.sources = "slerp", { t = 1 }, sources(core.ones(2), core.ones(2))
    end)
    fails("merge: `w`: linear knows no base\nhint: list it as a model", function(e)
      e.method, e.params = "linear", { weight = 1 }
    end)
    fails("merge: `w`: density must be a number, not \"half\"", function(e)
      e.params.density = "half"
    end)
    fails("merge: `w`: base: [2] are merged, this is [3]", function(e)
      e.base = { tensor = core.ones(3) }
    end)
    fails("merge: `w`: sources[1]: a source must be a table, not 1", function(e)
      e.sources = { 1 }
    end)
    fails("merge: `w`: shape is missing", function(e) e.shape = nil end)
    fails("merge: an entry must be a table without a metatable", function(e)
      setmetatable(e, { __index = function() return nil end })
    end)
    fails("merge: `w`: max_iter must be in 0 .. 1000000, not -1.0", function(e)
      e.method, e.base, e.params = "karcher", nil, { max_iter = -1 }
    end)
    fails("merge: `w`: the models cancel", function(e)
      e.method, e.params, e.base = "multislerp", { weight = { 1, 1, 1 } }, nil
      e.sources = sources(core.zeros(2), core.zeros(2), core.zeros(2))
    end)
  end)

  it("is not taken for numbers that are none", function()
    local function refused(entry)
      local got, why, code = merge(entry)
      assert.is_nil(got)
      assert.equal("unsupported", code)
      assert.truthy(why:find("I32 is no type that can be merged", 1, true), why)
    end
    local whole = core.tensor({ 1, 0 }, "i32")
    refused { name = "w", dtype = "F32", shape = { 2 }, method = "linear",
      params = { weight = 1 }, sources = sources(whole) }
    refused { name = "w", dtype = "F32", shape = { 2 }, method = "task_arithmetic",
      params = { weight = 1 }, sources = sources(core.ones(2)), masks = sources(whole),
      base = { tensor = core.zeros(2) } }
  end)

  it("is not copying rows of nothing", function()
    local rows = core.tensor({ 0, 0, 0 }, "i32")
    local y = merge { name = "w", dtype = "F32", shape = { 3, 0 }, method = "copy",
      sources = { { tensor = core.zeros(3, 0), from = rows } } }
    assert.same({ 3, 0 }, y:shape())
  end)

  it("is not a share beyond all numbers", function()
    local x = core.tensor { 3, -1, 2, 0.5 }
    local function keeps(count, method, density, epsilon)
      local y = thinned(method, x, { density = density, gamma = epsilon })
      assert.equal(count, nonzeros(y))
    end
    keeps(4, "ties", 1e300)
    keeps(4, "ties", math.huge)
    keeps(0, "breadcrumbs", 0 / 0, 0)
    keeps(0, "breadcrumbs", -1e300, 0)
  end)

  it("leaves the writer as it was, or closed", function()
    local path = made.fresh_path()
    local plan = { w = { dtype = "F32", shape = { 2 } } }
    local writer = assert(core.checkpoint.create(path, plan))
    local entry = { name = "w", dtype = "F32", shape = { 2 }, method = "linear",
      sources = sources(core.ones(2)), params = { weight = "heavy" } }
    assert.error_matches(function() writer:merge("w", entry) end, "weight must be a number")
    entry.params.weight = 1
    assert.error_matches(function() writer:merge("w", entry, { memory = -1 }) end,
      "memory must not be negative: %-1")
    assert(writer:merge("w", entry))
    assert(writer:close())
    local file = assert(core.checkpoint.open(path))
    assert.same({ 1, 1 }, file:tensor("w"):totable())
    file:close()
  end)

  it("finds a writer that a finalizer closed", function()
    for garbage = 0, 20 do
      local writer = assert(core.checkpoint.create(made.fresh_path(), { w = { dtype = "F32",
        shape = { 2 } } }))
      setmetatable({}, { __gc = function() writer:abandon() end })
      collectgarbage("step", 0)
      for _ = 1, garbage * 50 do local _ = {} end
      local done, message = pcall(writer.merge, writer, "w", { name = "w", dtype = "F32",
        shape = { 2 }, method = "linear", sources = sources(core.ones(2)),
        params = { weight = 1 } })
      assert.truthy(done or message:find("the writer was closed", 1, true))
      writer:abandon()
    end
  end)
end)
