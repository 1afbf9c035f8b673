-- Configurations of merges: what mergekit's YAML means, and what is said about slips.

local core = require("moelua.core")
local methods = require("moelua.merge.methods")
local problems = require("moelua.merge.problems")
local stages = require("moelua.merge.stages")
local values = require("moelua.merge.values")

local json = core.json

-- The stages of a text, and what is wrong with it.
local function read(text)
  local documents, lines = core.yaml.decode(text)
  assert(documents, lines)
  local found = problems.new("m.yml", lines)
  return stages.read(documents, found, false), found:texts()
end

local function one(text)
  local list, wrong = read(text)
  assert.same({}, wrong)
  assert.equal(1, #list)
  return list[1]
end

local function wrong_with(text, ...)
  local _, wrong = read(text)
  assert.same({ ... }, wrong)
end

local LINEAR = "merge_method: linear\nmodels:\n  - model: a\n    parameters: {weight: 1}\n"

describe("values", function()
  it("are the same everywhere when they are single", function()
    assert.equal(0.5, values.at(0.5, "x", 0.3))
    assert.equal(false, values.at(false, "x", 0.3))
    assert.equal("a", values.at("a", "x", 0.3))
  end)

  it("go in straight lines over the layers", function()
    local list = { 0, 0.5, 0.3, 1 }
    assert.equal(0, values.at(list, "x", 0))
    assert.equal(1, values.at(list, "x", 1))
    assert.near(0.25, values.at(list, "x", 1 / 6), 1e-12)
    assert.near(0.5, values.at(list, "x", 1 / 3), 1e-12)
    assert.near(0.4, values.at(list, "x", 0.5), 1e-12)
    assert.equal(7, values.at({ 7 }, "x", 1))
  end)

  it("go in steps when they are words", function()
    assert.equal("a", values.at({ "a", "b", "c" }, "x", 0.49))
    assert.equal("b", values.at({ "a", "b", "c" }, "x", 0.5))
    assert.equal("c", values.at({ "a", "b", "c" }, "x", 1))
    assert.equal(false, values.at({ true, false }, "x", 1))
  end)

  it("are those of the first filter that is a part of the name", function()
    local list = { { filter = "mlp", value = { 0, 1 } }, { filter = "a.b", value = 3 },
      { filter = "*", value = 4 } }
    assert.equal(0.25, values.at(list, "layers.1.mlp.up", 0.25))
    assert.equal(3, values.at(list, "a.b.c", 0))
    assert.equal(4, values.at(list, "axb", 0))          -- no patterns
    assert.equal(5, values.at({ { value = 5 } }, "x", 0))
    assert.equal(5, values.at({ { filter = json.null, value = 5 } }, "x", 0))
    assert.is_nil(values.at({ { filter = "mlp", value = 1 } }, "attn", 0))
  end)

  it("say what is wrong with them", function()
    assert.is_nil(values.complaint({ { filter = "a", value = { 1, 2 } }, { value = 3 } }))
    assert.equal("{filter, value} must stand in a list", values.complaint({ filter = "a",
      value = 1 }))
    assert.equal("a list is expected, and it must not be empty", values.complaint(json.array({})))
    assert.equal("a list of {filter, value} has an element that is none",
      values.complaint({ { value = 1 }, 2 }))
    assert.equal("a condition has no 'valeu': it is {filter, value}",
      values.complaint({ { filter = "a", valeu = 1 } }))
    assert.equal("a condition has no value", values.complaint({ { filter = "a" } }))
    assert.equal("a filter must be a string, a part of the names that it is for",
      values.complaint({ { filter = 1, value = 1 } }))
    assert.equal("the value of a condition must be one value, or a list of them over the layers",
      values.complaint({ { value = { { value = 1 } } } }))
  end)
end)

describe("a configuration", function()
  it("of models is one slice, with the base last unless it is listed", function()
    local stage = one [[
merge_method: ties
base_model: base/
models:
  - model: a
    parameters: {weight: [0, 1], density: 0.5}
  - model: b
    parameters:
      weight: 0.3
parameters: {normalize: true, int8_mask: true, lambda: 0.9}
dtype: bfloat16
out_dtype: float32
tokenizer_source: union
chat_template: auto
]]
    assert.equal("ties", stage.method)
    assert.equal("base", stage.base)
    assert.same({ { sources = { { model = "a", parameters = { weight = { 0, 1 }, density = 0.5 } },
      { model = "b", parameters = { weight = 0.3 } }, { model = "base", added = true } } } },
      stage.slices)
    assert.equal(0.9, stage.parameters.lambda)
    assert.equal("BF16", stage.dtype)
    assert.equal("F32", stage.out_dtype)
    assert.same({ source = "union" }, stage.tokenizer)
    assert.equal("auto", stage.chat_template)
    local listed = one(LINEAR .. "base_model: a\n")
    assert.equal(1, #listed.slices[1].sources)
  end)

  it("of slices keeps their layers and parameters", function()
    local stage = one [[
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
    parameters: {scale: 0.5}
  - base_model: b
    sources:
      - {model: b, layer_range: [1, 4], parameters: {scale: 2}}
merge_method: passthrough
]]
    assert.same({
      { sources = { { model = "a", range = { 0, 2 } } }, parameters = { scale = 0.5 } },
      { sources = { { model = "b", range = { 1, 4 }, parameters = { scale = 2 } } }, base = "b" },
    }, stage.slices)
  end)

  it("may have one module", function()
    local stage = one [[
merge_method: linear
modules:
  text_decoder:
    models: [{model: a}, {model: b}]
    parameters: {weight: 0.5}
]]
    assert.equal(2, #stage.slices[1].sources)
    assert.same({ weight = 0.5 }, stage.module_parameters)
    wrong_with("merge_method: linear\nmodules: {a: {}, b: {}}\n",
      "m.yml:2: modules: exactly one is expected, there are 2")
  end)

  it("of Lua may name a function", function()
    local function mean() end
    local found = problems.new("", {})
    local list = stages.read({ { method = mean, models = { "a", { model = "b",
      parameters = { anything = 3 } } } } }, found, true)
    assert.same({}, found:texts())
    assert.equal(mean, list[1].method)
    assert.same({ { model = "a" }, { model = "b", parameters = { anything = 3 } } },
      list[1].slices[1].sources)
  end)

  it("tells of unknown keys with the line and the nearest known one", function()
    wrong_with(LINEAR .. "parameter: {normalize: true}\n",
      "m.yml:5: unknown key 'parameter'\nhint: did you mean 'parameters'?")
    wrong_with("merge_method: linear\nmodels:\n  - model: a\n    parameters: {wieght: 1}\n",
      "m.yml:4: models[1].parameters: unknown parameter 'wieght'\nhint: did you mean 'weight'?")
    wrong_with("merge_method: linear\nmodels:\n  - model: a\n    weight: 1\n",
      "m.yml:4: models[1]: unknown key 'weight'\nhint: known are model, parameters")
    wrong_with("merge_method: dare-ties\nmodels: [a]\n",
      "m.yml:1: merge_method is 'dare-ties': unknown\nhint: did you mean 'dare_ties'?")
  end)

  it("warns of parameters that the method does not have", function()
    local stage = one(LINEAR .. "parameters: {density: 0.5, int8_mask: true}\n")
    assert.same({ "m.yml:5: parameters: linear has no parameter 'density', it changes nothing" },
      stage.warnings)
  end)

  it("warns of parameters that a model cannot have for itself", function()
    local stage = one("merge_method: linear\nmodels:\n  - model: a\n" ..
      "    parameters: {weight: 1, normalize: false}\n")
    assert.same({ "m.yml:4: models[1].parameters: 'normalize' is one of the whole merge, here " ..
      "it changes nothing" }, stage.warnings)
  end)

  it("checks types and ranges of what it can", function()
    wrong_with(LINEAR .. "parameters: {normalize: 1}\n",
      "m.yml:5: parameters.normalize is 1: a boolean is expected")
    wrong_with("merge_method: ties\nbase_model: a\nmodels:\n  - model: b\n    parameters:\n" ..
      "      density: [0.5, {filter: mlp}]\n      weight: {filter: mlp, value: 1}\n",
      "m.yml:6: models[1].parameters.density: a list of {filter, value} has an element that is " ..
        "none",
      "m.yml:7: models[1].parameters.weight: {filter, value} must stand in a list")
    wrong_with("merge_method: ties\nbase_model: a\nmodels:\n  - model: b\n    parameters:\n" ..
      "      density: [{filter: mlp, value: [0.5, 1.5]}]\n      weight: .inf\n",
      "m.yml:6: models[1].parameters.density is 1.5: at most 1 is expected",
      "m.yml:7: models[1].parameters.weight is inf: it is not finite")
    wrong_with(LINEAR .. "dtype: int8\n",
      "m.yml:5: dtype is 'int8': no type that is written\n" ..
      "hint: known are bfloat16, float16, float32")
    wrong_with(LINEAR .. "tokenizer: {source: union, pad_to_multiple_of: 0.5}\n",
      "m.yml:5: tokenizer.pad_to_multiple_of is 0.5: a whole number from 1 to 65536 is " ..
      "expected")
    wrong_with(LINEAR .. "chat_template: chatlm\n",
      "m.yml:5: chat_template is 'chatlm': neither a template nor known\n" ..
      "hint: did you mean 'chatml'?")
  end)

  it("needs one kind of inputs", function()
    wrong_with("merge_method: linear\n", "m.yml:1: exactly one of models, slices and modules is " ..
      "expected")
    wrong_with(LINEAR .. "slices: []\n", "m.yml:5: exactly one of models, slices and modules is " ..
      "expected, there are models and slices")
    wrong_with("merge_method: linear\nmodels: []\n", "m.yml:2: models: there is no model")
    wrong_with("merge_method: linear\nmodels:\n  - 7\n",
      "models[1]: a mapping with `model` is expected, not 7")
    wrong_with("merge_method: linear\nmodels:\n  - parameters: {weight: 1}\n",
      "m.yml:3: models[1]: `model` is missing")
    wrong_with("merge_method: linear\nmodels: {model: a}\n",
      "m.yml:2: models: a list is expected, not a table")
    wrong_with("merge_method: passthrough\nslices:\n  - sources:\n" ..
      "    - {model: a, layer_range: [4, 2]}\n", "m.yml:4: slices[1].sources[1].layer_range: " ..
      "[first, end] is expected, two whole numbers with 0 <= first < end")
    wrong_with("models: [a]\n", "m.yml:1: merge_method is missing\nhint: it is one of " ..
      table.concat(methods.names(), ", "))
    wrong_with("- 1\n", "m.yml:1: a mapping is expected, not a table")
    wrong_with("", "there is no configuration")
  end)

  it("tells of everything at once", function()
    local _, wrong = read("merge_method: tise\nmodels: []\ndtype: 1\nfoo: 2\n")
    assert.equal(4, #wrong)
  end)
end)

describe("several configurations", function()
  local function named(name, model, more)
    return ("%smerge_method: passthrough\nmodels: [%s]\n%s"):format(name and "name: " .. name ..
      "\n" or "", model, more or "")
  end

  it("are put into an order in which none needs a later one", function()
    local list, wrong = read(table.concat({ named("c", "b"), named(nil, "c"), named("b", "a"),
      named("a", "seed") }, "---\n"))
    assert.same({}, wrong)
    local names = {}
    for i, stage in ipairs(list) do names[i] = stage.name or "-" end
    assert.same({ "a", "b", "c", "-" }, names)
  end)

  it("end with the last one when all have names", function()
    local list, wrong = read(named("a", "seed") .. "---\n" .. named("b", "a"))
    assert.same({}, wrong)
    assert.equal("b", list[2].name)
  end)

  it("are refused when they need each other, or nobody", function()
    wrong_with(named("a", "b") .. "---\n" .. named("b", "a"), "m.yml:5: name: 'b' needs its own " ..
      "result")
    wrong_with(named("a", "x") .. "---\n" .. named(nil, "b"), "m.yml:1: name: nobody needs 'a'")
    wrong_with(named("a", "x") .. "---\n" .. named("a", "y"), "m.yml:1: name: nobody needs 'a'",
      "m.yml:5: name: 'a' is there twice")
    wrong_with(named(nil, "x") .. "---\n" .. named(nil, "y"), "2 merges have no name: only the " ..
      "last one, which makes the result, needs none")
    wrong_with(named("../a", "x"), "m.yml:1: name: '../a' cannot be the name of a folder")
  end)
end)

describe("the table of methods", function()
  it("agrees with the arithmetic", function()
    local bases = { none = "input", optional = "allowed", required = "needed" }
    for name, known in pairs(core.checkpoint.methods()) do
      local method = methods.table[name]
      if name ~= "copy" then
        assert.equal(method.base, bases[known.base], name)
        assert.same({ known.least, known.most == 0 and math.huge or known.most }, method.models,
          name)
        local names, needed = {}, {}
        for text in known.params:gmatch("%S+") do
          local plain = text:gsub("!", "")
          names[#names + 1], needed[plain] = plain, text:find("!") ~= nil
        end
        table.sort(names)
        assert.same(names, methods.parameters(method), name)
        for plain, is in pairs(needed) do
          assert.equal(is, methods.rule(method, plain).required == true, name)
        end
      end
    end
  end)

  it("has what mergekit's methods have", function()
    assert.equal(20, #methods.names())
    assert.same({ "density", "epsilon", "lambda", "normalize", "rescale", "weight" },
      methods.parameters(methods.table.della))
    assert.same({ "scale" }, methods.parameters(methods.table.passthrough))
    assert.equal(0.15, methods.table.della.each.epsilon.default)
    assert.equal(0.01, methods.table.breadcrumbs_ties.each.gamma.default)
    local switches = {}
    for _, name in ipairs(methods.names()) do
      local whole = methods.table[name].whole
      if whole.lambda then
        switches[name] = { whole.normalize.default, whole.rescale.default }
      end
    end
    assert.same({ task_arithmetic = { false, false }, ties = { true, false },
      dare_linear = { false, true }, dare_ties = { false, true }, della = { true, true },
      della_linear = { false, true }, breadcrumbs = { false, false },
      breadcrumbs_ties = { false, false } }, switches)
  end)
end)
