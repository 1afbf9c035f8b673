-- Plans of merges: what comes from headers alone, and every complaint at once.

local core = require("moelua.core")
local helper = require("spec.helper")
local merge = require("moelua.merge")
local pico = require("spec.pico")

local json, system = core.json, core.system

local folder = helper.tmpdir()
local function path(name) return folder .. "/" .. name end

-- Paths of models in a configuration are short: @a stands for the folder of a.
local function expand(text) return (text:gsub("@", folder .. "/")) end

local function plan_of(text, more)
  local file = path("m.yml")
  assert(system.write(file, expand(text)))
  local given = { plan = true, out = path("out") }
  for key, value in pairs(more or {}) do given[key] = value end
  return merge.merge(file, given)
end

-- The entries of the last stage by name.
local function entries_of(text, more)
  local plan = assert(plan_of(text, more))
  local by_name, list = {}, plan.stages[#plan.stages].entries
  for _, entry in ipairs(list) do by_name[entry.name] = entry end
  return by_name, plan.stages[#plan.stages], #list
end

-- The complaint, with @ for the folder.
local function refused(text, wanted, more)
  local plan, message, code = plan_of(text, more)
  assert.is_nil(plan)
  assert.equal("format", code)
  assert.equal(wanted, (message:gsub(folder:gsub("%p", "%%%0") .. "/", "@")))
end

local function linear(...)
  local out = { "merge_method: linear\nmodels:\n" }
  for _, name in ipairs { ... } do
    out[#out + 1] = ("  - {model: \"@%s\", parameters: {weight: 1}}\n"):format(name)
  end
  return table.concat(out)
end

local LAYER = "model.layers.%d.%s.weight"
local function layer(i, rest) return LAYER:format(i, rest) end

pico.write(path("a"), 1)
pico.write(path("b"), 2)
pico.write(path("deep"), 3, { layers = 5, max_shard_size = 40000 })
pico.write(path("deep2"), 12, { layers = 5 })
pico.write(path("half"), 4, { dtype = "bf16" })

describe("a plan", function()
  it("has all tensors of the models, with a value of every parameter", function()
    local entries, plan, count = entries_of [[
merge_method: ties
base_model: "@a"
models:
  - model: "@b"
    parameters:
      weight: [{filter: self_attn, value: [0, 1]}, {filter: mlp, value: 0.25}, {value: 0.5}]
      density: 0.7
  - model: "@half"
parameters: {weight: 2, lambda: 0.9}
]]
    assert.equal(21, count)
    assert.equal(21, plan.totals.tensors)
    assert.equal(21664, plan.totals.parameters)
    assert.equal(4 * 21664, plan.totals.bytes_written)
    assert.equal(10 * 21664, plan.totals.bytes_read)
    local function weight(name) return entries[name].params.weight end
    assert.same({ 0, 2 }, weight(layer(0, "self_attn.q_proj")))
    assert.same({ 1, 2 }, weight(layer(1, "self_attn.q_proj")))
    assert.same({ 0.25, 2 }, weight(layer(1, "mlp.up_proj")))
    assert.same({ 0.5, 2 }, weight("lm_head.weight"))
    local params = entries["lm_head.weight"].params
    assert.same({ 0.7, 1.0 }, params.density)
    assert.equal(0.9, params.lambda)
    assert.is_true(params.normalize)
    assert.is_false(params.rescale)
    local entry = entries[layer(1, "mlp.up_proj")]
    assert.equal("ties", entry.method)
    assert.equal("F32", entry.dtype)                 -- of F32 and BF16
    assert.same({ 48, 32 }, entry.shape)
    assert.equal(2, #entry.sources)
    assert.equal(layer(1, "mlp.up_proj"), entry.base.name)
    assert.equal("mlp.up_proj", entry.kind)
  end)

  it("follows values through the layers of a slice, and has t = 0 outside", function()
    local entries = entries_of [[
merge_method: slerp
base_model: "@deep"
slices:
  - sources: [{model: "@deep", layer_range: [0, 5]}, {model: "@deep2", layer_range: [0, 5]}]
parameters:
  t: [{filter: mlp, value: [0, 1]}, {filter: norm, value: [3, 4, 5]}, {value: [1, 0.5, 1]}]
]]
    local function t(name) return entries[name].params.t end
    assert.equal(0.25, t(layer(1, "mlp.up_proj")))
    assert.equal(0.5, t(layer(2, "self_attn.k_proj")))
    assert.equal(5, t(layer(4, "input_layernorm")))
    assert.equal(1, t("model.embed_tokens.weight"))
    assert.equal(3, t("model.norm.weight"))
  end)

  it("prefers the source to the slice to the module to everything", function()
    local entries = entries_of [[
merge_method: linear
modules:
  default:
    slices:
      - sources:
          - {model: "@a", layer_range: [0, 1], parameters: {weight: 1}}
          - {model: "@b", layer_range: [0, 1]}
        parameters: {weight: 2}
      - sources:
          - {model: "@a", layer_range: [1, 2], parameters: {weight: [{filter: mlp, value: 3}]}}
          - {model: "@b", layer_range: [1, 2]}
    parameters: {weight: [{filter: q_proj, value: 4}]}
parameters: {weight: 5}
]]
    local function weight(name) return entries[name].params.weight end
    assert.same({ 1, 2 }, weight(layer(0, "mlp.up_proj")))
    assert.same({ 3, 5 }, weight(layer(1, "mlp.up_proj")))
    assert.same({ 4, 4 }, weight(layer(1, "self_attn.q_proj")))
    assert.same({ 5, 5 }, weight(layer(1, "self_attn.k_proj")))
    assert.same({ 1, 2 }, weight("model.embed_tokens.weight"))   -- the first slice's
    assert.same({ 5, 5 }, weight("lm_head.weight"))              -- the last one's
  end)

  it("stacks slices, and copies what is not changed", function()
    local entries, plan, count = entries_of [[
merge_method: passthrough
slices:
  - sources: [{model: "@a", layer_range: [0, 2]}]
  - sources: [{model: "@deep", layer_range: [3, 5],
      parameters: {scale: [{filter: o_proj, value: 0}]}}]
  - sources: [{model: "@a", layer_range: [1, 2]}]
]]
    assert.equal(3 + 5 * 9, count)
    assert.equal(5, plan.config.num_hidden_layers)
    local copy = entries[layer(3, "mlp.up_proj")]
    assert.equal("copy", copy.method)
    assert.equal(layer(4, "mlp.up_proj"), copy.sources[1].name)
    local scaled = entries[layer(2, "self_attn.o_proj")]
    assert.equal("passthrough", scaled.method)
    assert.same({ 0 }, scaled.params.scale)
    assert.equal(layer(1, "mlp.up_proj"), entries[layer(4, "mlp.up_proj")].sources[1].name)
  end)

  it("stores what the configuration says, else what all inputs fit into", function()
    local entries, plan = entries_of(linear("half", "half"))
    assert.equal("BF16", entries["lm_head.weight"].dtype)
    assert.equal("bfloat16", plan.config.torch_dtype)
    entries = entries_of(linear("a", "half") .. "dtype: float16\n")
    assert.equal("F16", entries["lm_head.weight"].dtype)
    assert.equal("F16", entries["lm_head.weight"].cast)
    entries, plan = entries_of(linear("a", "half") .. "dtype: bfloat16\nout_dtype: float16\n")
    assert.equal("F16", entries["lm_head.weight"].dtype)
    assert.equal("BF16", entries["lm_head.weight"].cast)
    assert.equal("float16", plan.config.torch_dtype)
  end)

  it("lets a head that is tied stand for itself", function()
    pico.write(path("tied"), 5, { tied = true })
    local _, plan, count = entries_of(linear("tied", "tied"))
    assert.equal(20, count)
    assert.is_true(plan.config.tie_word_embeddings)
    local entries
    entries, plan = entries_of(linear("tied", "a"))
    assert.equal("model.embed_tokens.weight", entries["lm_head.weight"].sources[1].name)
    assert.is_false(plan.config.tie_word_embeddings)
  end)

  it("leaves out tables that can be computed", function()
    pico.write(path("table"), 6, { change = function(tensors)
      tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = core.ones(1)
    end })
    local entries, _, count = entries_of(linear("a", "table"))
    assert.equal(21, count)
    assert.is_nil(entries["model.layers.0.self_attn.rotary_emb.inv_freq"])
  end)

  it("copies integers that are the same everywhere", function()
    local function with(value)
      return { change = function(tensors)
        tensors["model.steps"] = { dtype = "I64", shape = { 1 }, data = ("<i8"):pack(value) }
      end }
    end
    pico.write(path("five"), 1, with(5))
    pico.write(path("five2"), 2, with(5))
    pico.write(path("six"), 2, with(6))
    assert.equal("copy", entries_of(linear("five", "five2"))["model.steps"].method)
    refused(linear("five", "six"), "merge: tensor `model.steps` holds integers, which are not " ..
      "merged, and differs between `@five` and `@six`")
  end)

  it("needs nothing of an architecture but that layers have numbers", function()
    for i, name in ipairs { "x", "y" } do
      core.manual_seed(i)
      local tensors = { ["transformer.wte.weight"] = core.randn(6, 4) }
      for l = 0, 11 do
        tensors[("transformer.h.%d.attn.c_attn.weight"):format(l)] = core.randn(4, 12)
        tensors[("vision.blocks.%d.w"):format(l % 3)] = core.randn(2)
      end
      assert(require("moelua.checkpoint").save(path(name), tensors))
      assert(system.write(path(name) .. "/config.json", json.encode({ model_type = "strange",
        n_layer = 12 })))
    end
    local entries, plan = entries_of [[
merge_method: linear
slices:
  - sources: [{model: "@x", layer_range: [0, 12]}, {model: "@y", layer_range: [0, 12]}]
  - sources: [{model: "@x", layer_range: [0, 12]}, {model: "@y", layer_range: [0, 12]}]
parameters: {weight: [1, 12]}
]]
    assert.equal(24, plan.config.n_layer)
    assert.same({ 5, 5 }, entries["transformer.h.16.attn.c_attn.weight"].params.weight)
    assert.same({ 1, 1 }, entries["vision.blocks.2.w"].params.weight)
  end)

  it("gathers what config.json says of each layer", function()
    pico.write(path("lists"), 7, { layers = 4, config = { layer_types = json.array { "a", "b", "c",
      "d" }, mlp_only_layers = json.array { 1 }, first_k_dense_replace = 2 } })
    local function stack(first, second)
      return ([[
merge_method: passthrough
slices:
  - sources: [{model: "@lists", layer_range: [%s]}]
  - sources: [{model: "@lists", layer_range: [%s]}]
]]):format(first, second)
    end
    local _, plan = entries_of(stack("0, 3", "2, 4"))
    assert.same({ "a", "b", "c", "c", "d" }, plan.config.layer_types)
    assert.same({ 1 }, plan.config.mlp_only_layers)
    assert.equal(2, plan.config.first_k_dense_replace)
    refused(stack("0, 3", "1, 4"), "merge: config.json: layer 3 of the result is dense and " ..
      "follows mixtures, which first_k_dense_replace cannot say")
  end)

  it("of several stages knows what the earlier ones will make", function()
    local entries, plan = entries_of [[
name: stacked
merge_method: passthrough
slices:
  - sources: [{model: "@a", layer_range: [0, 2]}]
  - sources: [{model: "@b", layer_range: [0, 2]}]
dtype: bfloat16
---
merge_method: linear
models: [{model: stacked}, {model: stacked}]
parameters: {weight: 1}
]]
    assert.equal("BF16", entries[layer(3, "mlp.up_proj")].dtype)
    assert.equal(4, plan.config.num_hidden_layers)
  end)

  it("can be read", function()
    local plan = assert(plan_of(linear("a", "half") .. "dtype: bfloat16\n"))
    local text = plan.text
    assert.truthy(text:find("a       llama        2      21.7 k  21 F32           64  86.7 kB", 1,
      true))
    assert.truthy(text:find("result  llama        2      21.7 k  21 BF16          64  43.3 kB", 1,
      true))
    assert.truthy(text:find("mlp.up_proj%s+2  48 x 32  BF16  linear  normalize true, weight 1 1"))
    assert.truthy(text:find("read      130 kB\nwrite     43.3 kB\n", 1, true))
    assert.truthy(text:find("nothing was written", 1, true))
    local facts = plan.facts
    assert.equal(21, #facts.stages[1].tensors)
    assert.equal(facts.totals.kept, 43328)
    assert.truthy(json.encode(facts))
    assert.is_false(system.exists(path("out")))
  end)
end)

describe("a plan complains of", function()
  it("models that are not there, all of them", function()
    local plan, message = plan_of(linear("a", "no", "none"))
    assert.is_nil(plan)
    assert.truthy(message:find("^merge: 2 things are wrong\n  model `[^\n]*/no`: "))
    assert.truthy(message:find("\n  model `[^\n]*/none`: [^\n]*config.json", 1))
  end)

  it("adapters, which nobody has merged yet", function()
    refused(linear("a", "b+adapter"), "merge: @m.yml:4: model `@b`: adapters are not " ..
      "applied here: `adapter`\nhint: merge the adapter into its model first")
  end)

  it("shapes and names, with how many tensors have it so", function()
    pico.write(path("wide"), 8, { hidden = 56 })
    pico.write(path("less"), 9, { change = function(tensors)
      tensors[layer(0, "mlp.up_proj")], tensors[layer(1, "mlp.up_proj")] = nil, nil
    end })
    refused(linear("a", "wide", "less"), "merge: 2 things are wrong\n" ..
      "  tensor `model.layers.0.mlp.down_proj.weight` is [32 x 48] in `@a`, [32 x 56] in " ..
      "`@wide` (and 3 more tensors)\n" ..
      "  `@less` has no tensor `model.layers.0.mlp.up_proj.weight`, `@a` has (and 1 more tensor)")
  end)

  it("vocabularies that differ", function()
    pico.write(path("words"), 10, { vocab = 66 })
    refused(linear("a", "words"), "merge: tensor `model.embed_tokens.weight` is [64 x 32] in " ..
      "`@a`, [66 x 32] in `@words` (and 1 more tensor)\n" ..
      "hint: their vocabularies differ: tokenizer_source: union, base or the path of a model " ..
      "says which the result has")
  end)

  it("numbers of layers", function()
    refused(linear("a", "deep"), "merge: 2 layers of `@a`, 5 layers of `@deep`: as many are " ..
      "expected of both")
    refused("merge_method: passthrough\nslices: [{sources: [{model: \"@a\", " ..
      "layer_range: [0, 7]}]}]\n", "merge: slices[1]: layers 0 to 6 of `@a` are asked for, it " ..
      "has 2 layers")
  end)

  it("numbers of models, and bases that are missing", function()
    refused("merge_method: ties\nmodels: [\"@a\", \"@b\"]\nparameters: {weight: 1}\n",
      "merge: ties needs a base model\nhint: base_model names it")
    refused("merge_method: slerp\nbase_model: \"@a\"\nmodels: [\"@a\", \"@b\", \"@half\"]\n" ..
      "parameters: {t: 0.5}\n", "merge: slerp takes 1 model beside its base, there are 2")
    refused("merge_method: model_stock\nbase_model: \"@a\"\nmodels: [\"@b\"]\n",
      "merge: model_stock takes at least 2 models beside its base, there is 1")
    refused("merge_method: passthrough\nmodels: [\"@a\", \"@b\"]\n",
      "merge: passthrough takes 1 model, there are 2")
    refused("merge_method: ties\nbase_model: \"@a\"\nslices:\n  - sources: [{model: \"@b\"}]\n" ..
      "parameters: {weight: 1}\n", "merge: slices[1]: ties needs the base model `@a` among the " ..
      "sources")
  end)

  it("parameters that are missing or do not go together", function()
    refused("merge_method: slerp\nbase_model: \"@a\"\nmodels: [\"@b\"]\n", "merge: tensor " ..
      "`model.embed_tokens.weight`: parameter 't' is missing: slerp needs it (and 20 more tensors)")
    refused("merge_method: linear\nmodels:\n  - \"@a\"\n  - {model: \"@b\", parameters: " ..
      "{weight: [{filter: mlp, value: 1}]}}\n", "merge: 2 things are wrong\n" ..
      "  model `@a`, tensor `model.embed_tokens.weight`: parameter 'weight' is missing: linear " ..
      "needs it for every model (and 20 more tensors)\n" ..
      "  model `@b`, tensor `model.embed_tokens.weight`: parameter 'weight' is missing: linear " ..
      "needs it for every model (and 14 more tensors)")
    refused("merge_method: linear\nbase_model: \"@b\"\nmodels: [{model: \"@a\", parameters: " ..
      "{weight: 1}}]\n", "merge: tensor `model.embed_tokens.weight`: the base model `@b` has no " ..
      "'weight': for linear it is a model like the others (and 20 more tensors)\n" ..
      "hint: list it among the models, or leave base_model out")
    refused("merge_method: della\nbase_model: \"@a\"\nmodels: [{model: \"@b\", parameters: " ..
      "{weight: 1, density: 0.66, epsilon: [{filter: o_proj, value: 0.5}, {value: 0.05}]}}]\n",
      "merge: model `@b`, tensor `model.layers.0.self_attn.o_proj.weight`: density 0.66 with " ..
      "epsilon 0.5 keeps elements with probabilities from 0.16 to 1.16: all must lie between 0 " ..
      "and 1 (and 1 more tensor)")
    refused("merge_method: ties\nbase_model: \"@a\"\nmodels: [{model: \"@b\", parameters: " ..
      "{weight: 1, density: 0.03}}]\n", "merge: model `@b`, tensor " ..
      "`model.layers.0.input_layernorm.weight`: density 0.03 of 32 elements keeps none (and 4 " ..
      "more tensors)")
  end)

  it("architectures that differ, unless they may", function()
    pico.write(path("other"), 11, { config = { model_type = "mistral", num_attention_heads = 8,
      num_key_value_heads = 8, rope_theta = 5e5 } })
    refused(linear("a", "other"), "merge: 3 things are wrong\n" ..
      "  the architecture is llama in `@a`, mistral in `@other`\n" ..
      "  hint: allow_crimes merges them all the same, where names and shapes agree\n" ..
      "  the number of attention heads is 16 in `@a`, 8 in `@other`\n" ..
      "  the number of key and value heads is 16 in `@a`, 8 in `@other`")
    local plan = assert(plan_of(linear("a", "other"), { allow_crimes = true }))
    assert.same({ ("rope_theta is 10000.0 in `%s`, 500000.0 in `%s`: the result has the first")
      :format(path("a"), path("other")) }, plan.stages[1].warnings)
    assert.truthy(plan.text:find("warning   rope_theta is", 1, true))
  end)

  it("a result that would be written over a model, or nowhere", function()
    refused(linear("a", "b"), "merge: out is `@a`, which is one of the models",
      { plan = false, out = path("a/") })
    local made, message = merge.merge({ method = "linear", models = { path("a") },
      parameters = { weight = 1 } })
    assert.is_nil(made)
    assert.equal("merge: out is missing: the folder of the result", message)
  end)

  it("files that are no YAML", function()
    refused("a: [1\n", "merge: @m.yml: decode: line 2, column 1: while parsing a flow sequence, " ..
      "did not find expected ',' or ']'")
    local _, message, code = merge.merge(path("nothing.yml"), { out = path("out") })
    assert.equal("missing", code)
    assert.truthy(message:find("nothing.yml", 1, true))
    assert.has_error(function() merge.merge(7) end, nil)
  end)
end)
