-- The methods of merging against numbers that mergekit gave: golden/mergekit_golden.json.
local core = require("moelua.core")
local helper = require("spec.helper")

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or "."
local golden = assert(core.json.decode(assert(core.system.read(here
  .. "/golden/mergekit_golden.json"))))

local SHAPE = { 4, 6 }

local function input(name)
  local factor, of = name:match("^([%d.]+)%*(%w+)$")
  local x = core.tensor(golden.inputs[of or name]):reshape(4, 6)
  return factor and x * tonumber(factor) or x
end

local function sources(names)
  local list = {}
  for name in names:gmatch("[^,]+") do list[#list + 1] = { tensor = input(name) } end
  return list
end

-- The base of ram is A where the two are near.
local function near_base()
  local a, base = golden.inputs.A, golden.inputs.base
  local flat = {}
  for i, x in ipairs(base) do flat[i] = math.abs(x - a[i]) < 0.1 and a[i] or x end
  return core.tensor(flat):reshape(4, 6)
end

local ALONE = { linear = true, karcher = true }
local NAMES = { linear_nonorm = "linear", slerp_colinear = "slerp", ties_nonorm = "ties",
  ties_rescale = "ties", task_arithmetic_lambda = "task_arithmetic", multislerp_base = "multislerp",
  model_stock_filterwise = "model_stock", sce_topk = "sce", nuslerp_flat = "nuslerp",
  nuslerp_rowwise_false = "nuslerp", nuslerp_rowwise_true = "nuslerp", nuslerp_base = "nuslerp",
  dare_sparsify_l1 = "dare_linear", della_sparsify_l1 = "della_linear" }
local NOT_PARAMS = { models = true, base = true, other = true, note = true, mask = true,
  keep_prob = true }

-- The entry that a case stands for.
local function entry_of(name, case)
  local given = case.params
  local entry = { name = name, dtype = "F32", shape = SHAPE, method = NAMES[name] or name,
    params = {} }
  for key, value in pairs(given) do
    if not NOT_PARAMS[key] then entry.params[key] = value end
  end
  local count = type(given.weight) == "table" and #given.weight or 2
  entry.sources = sources(given.other or given.models or ("A,B,C"):sub(1, 2 * count - 1))
  local base = given.base
  if not base and not ALONE[entry.method] and not entry.method:find("slerp") then base = "base" end
  if base then entry.base = { tensor = input(base) } end
  if name:find("^ram") then entry.base = { tensor = near_base() } end
  if given.mask then
    entry.sources = sources("A")
    entry.masks = { { tensor = core.tensor(given.mask):reshape(4, 6) } }
    entry.params.weight = 1
  end
  return entry
end

describe("merging as mergekit does", function()
  local count = 0
  for name, case in pairs(golden.cases) do
    count = count + 1
    it(name, function()
      local entry = entry_of(name, case)
      local got = assert(core.checkpoint.merge(entry))
      if case.params.mask then got = got - entry.base.tensor end
      local worst = 0
      for i, x in ipairs(got:reshape(24):totable()) do
        worst = math.max(worst, math.abs(x - case.out[i]))
      end
      assert.truthy(worst <= 2e-6, ("off by %g"):format(worst))
    end)
  end

  it("knows all cases", function() assert.equal(28, count) end)

  it("tells of the models", function()
    local entry = entry_of("ties", golden.cases.ties)
    local _, figures = core.checkpoint.merge(entry)
    helper.close(figures.kept, { 0.5, 0.5, 0.5 })
    local a, base = golden.inputs.A, golden.inputs.base
    local ab, aa, bb, dd = 0, 0, 0, 0
    for i = 1, 24 do
      ab, aa, bb = ab + a[i] * base[i], aa + a[i] ^ 2, bb + base[i] ^ 2
      dd = dd + (a[i] - base[i]) ^ 2
    end
    helper.close(figures.cosine[1], ab / math.sqrt(aa * bb), 1e-6)
    helper.close(figures.distance[1], math.sqrt(dd / bb), 1e-6)
    assert.truthy(figures.agreement > 0 and figures.agreement < 1)
    local _, none = core.checkpoint.merge(entry, { figures = false })
    assert.same({}, none)
  end)
end)
