-- What is wrong with the call of a merge itself, with tables that no file could hold, and with
-- where its result is to go.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local lfs = require("lfs")
local pico = require("spec.pico")
local core = require("moelua.core")
local json, system = core.json, core.system
local misuse = models.misuse

local folder = helper.tmpdir()
local a, b = pico.write(folder .. "/a", 1), pico.write(folder .. "/b", 2)

local function config(more)
  local given = { method = "linear", out = folder .. "/out", quiet = true,
    models = { { model = a, parameters = { weight = 1 } }, b }, parameters = { weight = 1 } }
  for key, value in pairs(more or {}) do given[key] = value end
  return given
end

-- Throws unless the merge fails with a message that has this text.
local function refused(text, given, opts)
  local made, message, code = moe.merge(given, opts)
  assert.is_nil(made)
  assert.equal("format", code)
  assert.truthy(message:find(text, 1, true), message)
  assert.is_false(system.exists(folder .. "/out"))
end

describe("a table that is no configuration", function()
  it("may hold itself", function()
    local given = config()
    given.self = given
    refused("unknown key 'self'", given)
    given = config()
    given.models = given
    refused("models: a list is expected", given)
    given = config()
    given.parameters.weight = { {} }
    given.parameters.weight[1].value = given.parameters.weight
    refused("parameters.weight: the value of a condition", given)
    given = config { parameters = { weight = {} } }
    given.parameters.weight[1] = given.parameters.weight
    refused("parameters.weight: a list of {filter, value} has an element that is none", given)
  end)

  it("may hold what no file does", function()
    misuse(function() moe.merge({ 1 }) end,
      "merge: number 1 of the list must be a table, not 1")
    refused("models[1].parameters.weight is nan: it is not finite", config {
      models = { { model = a, parameters = { weight = 0 / 0 } } } })
    refused("parameters.weight: a value is expected", config {
      parameters = { weight = moe.zeros(2) } })
    refused("unknown key '7'", config { [7] = 1 })
    refused("unknown key 'true'", config { [true] = 1 })
  end)
end)

describe("options of a merge", function()
  it("are a table of known values", function()
    misuse(function() moe.merge(config(), 3) end,
      "merge: options are not a table: table expected, got 3")
    misuse(function() moe.merge(config { memory = "lots" }) end,
      "merge: memory must be bytes, or a string like \"512M\", not \"lots\"")
    misuse(function() moe.merge(config { max_shard_size = 0 }) end,
      "merge: max_shard_size must be positive, not 0")
    misuse(function() moe.verify() end,
      "verify: folder must be the path of a merged model, not nil")
  end)
end)

describe("weights that sum to 0", function()
  it("are refused where they would be made to sum to one", function()
    for method, name in pairs { linear = "normalize", multislerp = "normalize_weights" } do
      local given = config { method = method, parameters = { weight = -1 } }
      refused("`model.embed_tokens.weight`: the weights of its models sum to 0 (and 20 more " ..
        "tensors)\nhint: " .. name .. ": false", given)
    end
    local given = config { out = folder .. "/difference",
      parameters = { weight = -1, normalize = false } }
    assert(moe.merge(given))
  end)
end)

describe("files of models", function()
  it("may hold what nobody expects there", function()
    local function odd(name, fields)
      return pico.write(folder .. "/" .. name, 1, { config = fields, files = {
        ["tokenizer_config.json"] = "[]" } })
    end
    local one = odd("one", { mlp_only_layers = { 1 }, first_k_dense_replace = 0 })
    local other = odd("other", { mlp_only_layers = json.null,
      first_k_dense_replace = json.null })
    local out = folder .. "/odd"
    assert(moe.merge { method = "passthrough", out = out, quiet = true, chat_template = "chatml",
      slices = { { sources = { { model = one, layer_range = { 0, 2 } } } },
        { sources = { { model = other, layer_range = { 0, 1 } } } } } })
    local hf = assert(json.decode(assert(system.read(out .. "/config.json"))))
    assert.same({ 1 }, { table.unpack(hf.mlp_only_layers) })
    assert.equal(0, hf.first_k_dense_replace)
    assert.is_truthy(assert(system.read(out .. "/tokenizer_config.json")):find("im_start"))
  end)
end)

describe("the folder of a result", function()
  it("is none of the models, however that is written", function()
    local before = assert(system.read(a .. "/config.json"))
    assert(lfs.link(a, folder .. "/link", true))
    for _, out in ipairs { a, a .. "/", folder .. "/./a", folder .. "/link" } do
      refused("which is one of the models", config { out = out, fresh = true })
    end
    assert.equal(before, assert(system.read(a .. "/config.json")))
  end)

  it("holds stages of any name", function()
    for _, name in ipairs { "lock", "stages" } do
      local out = folder .. "/stage-" .. name
      assert(moe.merge({ { name = name, method = "passthrough", models = { a } },
        { method = "passthrough", models = { name } } }, { out = out, quiet = true }))
      assert.is_true(moe.verify(out))
    end
  end)
end)
