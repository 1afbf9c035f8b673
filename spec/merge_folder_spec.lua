-- Merges from beginning to end: the folder that comes out, its files, and how a merge goes on.

local checkpoint = require("moelua.checkpoint")
local core = require("moelua.core")
local helper = require("spec.helper")
local lfs = require("lfs")
local methods = require("moelua.merge.methods")
local moe = require("moelua")
local pico = require("spec.pico")
local tokenizer = require("moelua.tokenizer")

local json, system = core.json, core.system

local folder = helper.tmpdir()
local function path(name) return folder .. "/" .. name end
local function read(name) return (assert(system.read(path(name)))) end

pico.write(path("base"), 1)
pico.write(path("a"), 2)
pico.write(path("b"), 3)

-- A configuration with these models, each with a weight.
local function config(method, base, models, parameters)
  local list = {}
  for i, name in ipairs(models) do
    list[i] = { model = path(name), parameters = { weight = 0.6 - 0.2 * (i - 1) } }
  end
  if not (methods.table[method] or { each = { weight = true } }).each.weight then
    for i, name in ipairs(models) do list[i] = { model = path(name) } end
  end
  return { method = method, base_model = base and path(base), models = list,
    parameters = parameters, quiet = true }
end

local function merge(given, more)
  for key, value in pairs(more or {}) do given[key] = value end
  given.out = path(given.out or "out")
  return assert(moe.merge(given))
end

local function tensor(name, of) return checkpoint.open(path(name)):tensor(of) end

local UP = "model.layers.1.mlp.up_proj.weight"

describe("every method", function()
  -- As mergekit's own tests use them.
  local parameters = { slerp = { t = 0.35 }, ties = { density = 0.3 }, sce = { select_topk = 0.5 },
    dare_ties = { density = 0.66 }, dare_linear = { density = 0.66 },
    della = { density = 0.66, epsilon = 0.05, lambda = 0.5 },
    della_linear = { density = 0.66, epsilon = 0.05, lambda = 0.5 }, nearswap = { t = 1e-4 },
    breadcrumbs = { density = 0.9 }, breadcrumbs_ties = { density = 0.9 },
    karcher = { max_iter = 5 }, ramplus_tl = { r = 0.05, alpha = 1 } }

  for _, name in ipairs(methods.names()) do
    it("makes a whole model: " .. name, function()
      local method = methods.table[name]
      local base = method.base == "needed" and "base" or nil
      local count = math.min(method.models[2], 2)
      local made = merge(config(name, base, { "a", "b" }, parameters[name]),
        { out = name, fresh = true, models = count == 1 and { path("a") } or nil,
          dtype = "bfloat16" })
      assert.equal(21, made.tensors)
      assert.equal(21, #made.lines)
      local file = checkpoint.open(path(name))
      assert.equal(21, #file:names())
      assert.equal("BF16", file:info(UP).dtype)
      local up = file:tensor(UP)
      local sum = (up * up):sum():item()
      assert.is_true(sum == sum and sum > 100 and sum < 1e5)
      assert.is_true(moe.verify(path(name)))
    end)
  end
end)

describe("a merge", function()
  it("is what its method says", function()
    merge(config("linear", nil, { "a", "b" }))
    helper.close(tensor("out", UP), 0.6 * tensor("a", UP) + 0.4 * tensor("b", UP), 1e-6)
    merge(config("task_arithmetic", "base", { "a", "b" }, { lambda = 0.5 }), { fresh = true })
    local base = tensor("base", UP)
    helper.close(tensor("out", UP), base + 0.5 * (0.6 * (tensor("a", UP) - base) +
      0.4 * (tensor("b", UP) - base)), 1e-6)
    merge(config("slerp", "base", { "a" }, { t = { { filter = "mlp", value = { 0, 1 } },
      { value = 0 } } }), { fresh = true })
    helper.close(tensor("out", UP), tensor("a", UP), 1e-6)
    helper.close(tensor("out", "lm_head.weight"), tensor("base", "lm_head.weight"), 1e-6)
  end)

  it("stacks layers", function()
    merge({ method = "passthrough", quiet = true, slices = {
      { sources = { { model = path("a"), layer_range = { 0, 2 } } } },
      { sources = { { model = path("b"), layer_range = { 1, 2 }, parameters = {
        scale = { { filter = "o_proj", value = 0 }, { value = 2 } } } } } },
    } }, { out = "stack" })
    assert.equal(3, json.decode(read("stack/config.json")).num_hidden_layers)
    helper.close(tensor("stack", "model.layers.2.mlp.up_proj.weight"), 2 * tensor("b", UP), 0)
    helper.close(tensor("stack", "model.layers.2.self_attn.o_proj.weight"), core.zeros(32, 32), 0)
    helper.close(tensor("stack", UP), tensor("a", UP), 0)
    local model = assert(moe.load(path("stack")))
    assert.equal(3, model.config.layers)
  end)

  it("stacks layers whose feed-forward parts differ", function()
    local dense = { kind = "dense", hidden = 16 }
    local mixture = { kind = "moe", hidden = 8, experts = 2, router = { k = 1 } }
    local model = moe.model.new { dim = 8, layers = 3, heads = 2, vocab = 16, context = 8,
      ffn = { dense, mixture, dense }, seed = 1 }
    assert(model:save(path("kinds")))
    local function slice(first, last)
      return { sources = { { model = path("kinds"), layer_range = { first, last } } } }
    end
    merge({ method = "passthrough", quiet = true, slices = { slice(0, 2), slice(1, 3) } },
      { out = "kinds4" })
    local kinds = {}
    for i, ffn in ipairs(assert(moe.load(path("kinds4"))).config.ffn) do kinds[i] = ffn.kind end
    assert.same({ "dense", "moe", "moe", "dense" }, kinds)
  end)

  it("draws its masks from the seed alone", function()
    local function made(seed, memory)
      local name = ("dare-%d-%s"):format(seed, memory)
      merge(config("dare_ties", "base", { "a", "b" }, { density = 0.5 }), { seed = seed,
        memory = memory, out = name })
      return tensor(name, UP):hash()
    end
    local first = made(1, "512M")
    assert.equal(first, made(1, "64M"))
    assert.not_equal(first, made(2, "512M"))
  end)

  it("may be a function of the user's", function()
    local names = {}
    local made = merge({ quiet = true, out = "own", base_model = path("base"),
      models = { { model = path("a"), parameters = { share = { 1, 3 } } }, path("b") },
      parameters = { gain = { { filter = "mlp", value = 2 }, { value = 1 } }, share = 5 },
      method = function(tensors, base, params, name)
        names[#names + 1] = name
        assert.equal(2, #tensors)
        return params.gain * base + params.share[1] * tensors[1] + params.share[2] * tensors[2]
      end })
    assert.equal(21, #names)
    helper.close(tensor("own", UP), 2 * tensor("base", UP) + 3 * tensor("a", UP) +
      5 * tensor("b", UP), 1e-6)
    assert.equal("function", made.lines[1].method)
    local ok, message = pcall(moe.merge, { quiet = true, out = path("own2"), models = { path("a") },
      method = function() return core.ones(1) end })
    assert.is_false(ok)
    assert.truthy(tostring(message):find("merge: the method made [1] of tensor `", 1, true))
  end)

  it("of several stages keeps nothing of those on the way", function()
    local text = ([[
name: ab
merge_method: linear
models:
  - {model: "@a", parameters: {weight: 0.5}}
  - {model: "@b", parameters: {weight: 0.5}}
---
name: scaled
merge_method: passthrough
models: [{model: "@base", parameters: {scale: 3}}]
---
merge_method: linear
models: [{model: ab}, {model: scaled}, {model: ab}]
parameters: {weight: 1, normalize: false}
]]):gsub("@", folder .. "/")
    assert(system.write(path("multi.yml"), text))
    assert(moe.merge(path("multi.yml"), { out = path("multi"), quiet = true }))
    helper.close(tensor("multi", UP), tensor("a", UP) + tensor("b", UP) + 3 * tensor("base", UP),
      1e-5)
    assert.is_false(system.exists(path("multi/.merge")))
    local inputs = json.decode(read("multi/merge.json")).inputs
    assert.equal(3, #inputs)
    assert.equal(path("a"), inputs[1].path)
    assert.equal(path("base"), inputs[3].path)
    local card = read("multi/README.md")
    assert.truthy(card:find("`scaled` was merged with the method `passthrough`, from:\n\n- `base`",
      1, true))
  end)

  it("rounds what it reads to dtype, and what it writes to out_dtype", function()
    local function scaled(more)
      local given = { method = "passthrough", models = { path("three") }, quiet = true,
        parameters = { scale = 1000 } }
      merge(given, { out = "round", fresh = true, dtype = more.dtype, out_dtype = more.out_dtype })
      local file = checkpoint.open(path("round"))
      return file:tensor("model.norm.weight"):totable()[1], file:info("model.norm.weight").dtype
    end
    pico.write(path("three"), 12, { change = function(tensors)
      tensors["model.norm.weight"] = core.full(1.003, 32)
    end })
    assert.same({ 1000, "BF16" }, { scaled { dtype = "bfloat16" } })
    assert.same({ 1004, "BF16" }, { scaled { out_dtype = "bfloat16" } })
    assert.same({ 1000, "F32" }, { scaled { dtype = "bfloat16", out_dtype = "float32" } })
    local value, dtype = scaled {}
    assert.near(1003, value, 1e-3)
    assert.equal("F32", dtype)
  end)

  it("reads GGUF files as it reads folders", function()
    assert(moe.export(path("a"), path("a.gguf"), { dtype = "f32" }))
    merge({ method = "linear", models = { path("a.gguf"), path("a") }, quiet = true,
      parameters = { weight = 1 } }, { out = "gguf" })
    for _, name in ipairs(checkpoint.open(path("a")):names()) do
      helper.close(tensor("gguf", name), tensor("a", name), 0)
    end
    assert.equal("llama", json.decode(read("gguf/config.json")).model_type)
  end)

  it("splits its files where it is told to", function()
    merge(config("linear", nil, { "a", "b" }), { out = "shards", max_shard_size = 30000 })
    assert.truthy(system.exists(path("shards/model.safetensors.index.json")))
    assert.is_true(moe.verify(path("shards")))
  end)
end)

describe("beside its tensors a merge has", function()
  local files = { ["tokenizer.json"] = '{ "model": 1 }\n', ["generation_config.json"] = "{}\n",
    ["tokenizer_config.json"] = '{"chat_template": "{{ a }}", "x": 1}' }
  pico.write(path("chat"), 4, { files = files })

  it("the files of its tokenizer, byte for byte", function()
    merge(config("linear", nil, { "chat", "a" }), { out = "carried" })
    for name, text in pairs(files) do assert.equal(text, read("carried/" .. name)) end
  end)

  it("the chat template that was asked for", function()
    pico.write(path("chat2"), 5, { files = { ["chat_template.jinja"] = "{{ b }}" } })
    pico.write(path("chat3"), 6, { files = { ["chat_template.jinja"] = "{{ b }}" } })
    local function template(wanted)
      merge(config("linear", nil, { "chat", "chat2", "chat3" }), { out = "template", fresh = true,
        chat_template = wanted })
      return json.decode(read("template/tokenizer_config.json"))
    end
    assert.same({ chat_template = "{{ b }}", x = 1 }, template("auto"))
    assert.equal("{{ c }}", template("{{ c }}").chat_template)
    assert.truthy(template("chatml").chat_template:find("<|im_start|>", 1, true))
  end)

  it("a manifest, by which it can be checked", function()
    merge(config("linear", nil, { "a", "b" }), { out = "facts", hash_inputs = true, seed = 7 })
    local facts = json.decode(read("facts/merge.json"))
    assert.equal(7, facts.seed)
    assert.equal(path("a"), facts.inputs[1].path)
    local input = facts.inputs[1].files[2]
    assert.equal(path("a/model.safetensors"), input.path)
    assert.equal(system.hash_file(input.path), input.hash)
    assert.equal(system.file_size(input.path), input.size)
    assert.is_true(moe.verify(path("facts")))
    assert(system.write(path("facts/README.md"), "my own words"))
    assert.is_true(moe.verify(path("facts")))
    local text = read("facts/model.safetensors")
    assert(system.write(path("facts/model.safetensors"), text:sub(1, -2) .. "\0"))
    local whole, message, code = moe.verify(path("facts"))
    assert.is_nil(whole)
    assert.truthy(message:find("model.safetensors", 1, true))
    assert.equal("format", code)
    assert(system.write(path("facts/model.safetensors"), text .. "x"))
    os.remove(path("facts/config.json"))
    whole, message = moe.verify(path("facts"))
    assert.is_nil(whole)
    assert.equal(("verify: %s: config.json is missing; model.safetensors has %d bytes, %d were " ..
      "written"):format(path("facts"), #text + 1, #text), message)
    whole, message, code = moe.verify(path("a"))
    assert.is_nil(whole)
    assert.equal("missing", code)
    assert.truthy(message:find("merge.json", 1, true))
  end)

  it("a card without claims", function()
    pico.write(path("named"), 7, { config = { _name_or_path = "owner/model-7B" } })
    merge(config("ties", "base", { "named", "b" }, { density = 0.5 }), { out = "card" })
    local text = read("card/README.md")
    assert.truthy(text:find("---\nbase_model:\n- owner/model-7B\nlibrary_name: transformers\n" ..
      "tags:\n- moelua\n- merge\n---\n\n# card\n", 1, true))
    assert.truthy(text:find("the method `ties` ([paper](https://arxiv.org/abs/2306.01708))", 1,
      true))
    local yaml = text:match("```yaml\n(.*)\n```")
    assert.equal("ties", core.yaml.decode(yaml)[1].merge_method)
    assert.equal(read("card/mergekit_config.yml"), yaml .. "\n")
  end)

  it("a report of every tensor, and a summary by kind", function()
    local made = merge(config("ties", "base", { "a", "b" }, { density = 0.5 }), { out = "report" })
    local line
    for text in read("report/merge.jsonl"):gmatch("[^\n]+") do
      local each = assert(json.decode(text))
      if each.name == UP then line = each end
    end
    assert.same({ path("a"), path("b") }, line.models)
    assert.equal(path("base"), line.base)
    helper.close(line.parameters.weight, { 0.6, 0.4 }, 1e-12)
    assert.near(0.5, line.kept[1], 1e-6)
    assert.is_true(line.agreement > 0 and line.agreement < 1)
    local base, a = tensor("base", UP), tensor("a", UP)
    local cosine = (base * a):sum():item() / math.sqrt((base * base):sum():item() *
      (a * a):sum():item())
    assert.near(cosine, line.cosine[1], 1e-5)
    assert.near(math.sqrt(((a - base) * (a - base)):sum():item() / (base * base):sum():item()),
      line.distance[1], 1e-5)
    assert.equal(12, #made.table.rows)
    local html = read("report/report.html")
    assert.truthy(html:find("<h2>Tables</h2>", 1, true))
    assert.truthy(html:find(UP, 1, true))
  end)
end)

describe("a merge that is there", function()
  it("is not made again", function()
    local given = config("linear", nil, { "a", "b" })
    merge(given, { out = "once" })
    local file = path("once/model.safetensors")
    local before = lfs.attributes(file, "modification")
    assert(lfs.touch(file, before - 100))
    given.out = "once"
    local again = merge(given)
    assert.equal(21, again.tensors)
    assert.equal(before - 100, lfs.attributes(file, "modification"))
  end)

  it("is not written over, unless that is asked for", function()
    merge(config("linear", nil, { "a", "b" }), { out = "kept" })
    local other = config("linear", nil, { "b", "a" })
    other.out = path("kept")
    local made, message = moe.merge(other)
    assert.is_nil(made)
    assert.equal(("merge: %s holds another merge\nhint: --fresh writes over it, --out names " ..
      "another folder"):format(path("kept")), message)
    other.fresh = true
    assert(moe.merge(other))
    helper.close(tensor("kept", UP), 0.6 * tensor("b", UP) + 0.4 * tensor("a", UP), 1e-6)
    pico.write(path("model"), 8)
    other.fresh, other.out = false, path("model")
    made, message = moe.merge(other)
    assert.is_nil(made)
    assert.truthy(message:find("holds a model that is no merge", 1, true))
  end)

  it("goes on where it was cut short", function()
    local calls, fails = 0, true
    local function method(tensors)
      calls = calls + 1
      if fails and calls == 12 then error("the power goes") end
      return 2 * tensors[1]
    end
    local given = { quiet = true, out = path("resumed"), max_shard_size = 30000, method = method,
      models = { path("a") } }
    assert.is_false(pcall(moe.merge, given))
    assert.is_false(system.exists(path("resumed/model.safetensors.index.json")))
    assert.is_nil((moe.verify(path("resumed"))))
    fails = false
    local made = assert(moe.merge(given))
    assert.is_true(calls < 12 + 21)
    assert.equal(21, #made.lines)
    helper.close(tensor("resumed", UP), 2 * tensor("a", UP), 0)
    assert.is_true(moe.verify(path("resumed")))
  end)

  it("goes on with the stage where it was cut short", function()
    local calls, fails = 0, true
    local function halved(tensors) return 0.5 * tensors[1] end
    local function method(tensors)
      calls = calls + 1
      if fails then error("the power goes") end
      return tensors[1] + tensors[2]
    end
    local given = { out = path("staged"), quiet = true }
    local stages = { { name = "half", method = halved, models = { path("a") } },
      { method = method, models = { "half", path("b") } } }
    assert.is_false(pcall(moe.merge, stages, given))
    local half = path("staged/.merge/stages/half/model.safetensors")
    local before = lfs.attributes(half, "modification") - 100
    assert(lfs.touch(half, before))
    assert.is_false(pcall(moe.merge, stages, given))
    assert.equal(before, lfs.attributes(half, "modification"))
    fails = false
    assert(moe.merge(stages, given))
    assert.equal(2 + 21, calls)
    helper.close(tensor("staged", UP), 0.5 * tensor("a", UP) + tensor("b", UP), 1e-6)
    assert.is_false(system.exists(half))
  end)

  it("waits for nobody else's work", function()
    assert(system.make_folder(path("busy/.merge")))
    local lock = assert(system.lock(path("busy/.merge/lock")))
    local given = config("linear", nil, { "a", "b" })
    given.out = path("busy")
    local made, message, code = moe.merge(given)
    lock:release()
    assert.is_nil(made)
    assert.equal("busy", code)
    assert.equal(path("busy") .. " is in use by another process", message)
    assert(moe.merge(given))
  end)
end)

describe("vocabularies", function()
  -- A byte-level tokenizer of these tokens, as files.
  local function files_of(list)
    local vocab = {}
    for i, token in ipairs(list) do vocab[token] = i - 1 end
    local level = { type = "ByteLevel", add_prefix_space = false, use_regex = true }
    return assert(tokenizer.from_table({ pre_tokenizer = level, decoder = level,
      added_tokens = json.array({}), model = { type = "BPE", vocab = vocab,
      merges = json.array({}) } })):files()
  end
  pico.write(path("xyz"), 9, { vocab = 3, files = files_of { "x", "y", "z" } })
  pico.write(path("wzy"), 10, { vocab = 4, files = files_of { "w", "z", "y", "v" } })

  local function united(wanted, out)
    local given = config("linear", nil, { "xyz", "wzy" })
    given.tokenizer = wanted
    merge(given, { out = out })
    return checkpoint.open(path(out))
  end
  local EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
  local function row(name, i, of) return tensor(name, of or EMBED):narrow(1, i, 1) end

  it("are united by their tokens", function()
    local file = united({ source = "union" }, "union")
    assert.same({ 5, 32 }, file:info(EMBED).shape)
    assert.same({ 5, 32 }, file:info(HEAD).shape)
    assert.equal(5, json.decode(read("union/config.json")).vocab_size)
    local tok = assert(tokenizer.open(path("union")))
    assert.equal(5, tok.vocab)
    for _, of in ipairs { EMBED, HEAD } do
      local made = file:tensor(of)
      local function at(token) return made:narrow(1, tok:id(token) + 1, 1) end
      helper.close(at("x"), row("xyz", 1, of), 1e-6)
      helper.close(at("y"), 0.6 * row("xyz", 2, of) + 0.4 * row("wzy", 3, of), 1e-6)
      helper.close(at("z"), 0.6 * row("xyz", 3, of) + 0.4 * row("wzy", 2, of), 1e-6)
      helper.close(at("w"), row("wzy", 1, of), 1e-6)
    end
  end)

  it("give a model the base's row of a token that it lacks, or the mean without a base", function()
    pico.write(path("xw"), 11, { vocab = 2, files = files_of { "x", "w" } })
    local given = config("linear", nil, { "xyz", "wzy", "xw" })
    given.tokenizer_source = "union"
    merge(given, { out = "mean" })
    local tok, made = assert(tokenizer.open(path("mean"))), tensor("mean", EMBED)
    local y, other = row("xyz", 2), row("wzy", 3)
    helper.close(made:narrow(1, tok:id("y") + 1, 1), (0.6 * y + 0.4 * other +
      0.2 * 0.5 * (y + other)) * (1 / 1.2), 1e-6)
    given.base_model = path("wzy")
    merge(given, { out = "lent" })
    tok, made = assert(tokenizer.open(path("lent"))), tensor("lent", EMBED)
    helper.close(made:narrow(1, tok:id("y") + 1, 1), (0.6 * y + 0.6 * other) * (1 / 1.2), 1e-6)
  end)

  it("may be one model's, with rows to round it up", function()
    local file = united({ source = path("wzy"), pad_to_multiple_of = 8 }, "padded")
    assert.same({ 8, 32 }, file:info(EMBED).shape)
    helper.close(file:tensor(EMBED):narrow(1, 3, 1), 0.6 * row("xyz", 2) + 0.4 * row("wzy", 3),
      1e-6)
    assert.equal(read("wzy/tokenizer.json"), read("padded/tokenizer.json"))
  end)

  it("take a token from the model that is named", function()
    local file = united({ source = "base",
      tokens = { y = { source = path("wzy"), force = true } } }, "forced")
    assert.same({ 3, 32 }, file:info(EMBED).shape)
    helper.close(file:tensor(EMBED):narrow(1, 2, 1), row("wzy", 3), 1e-6)
    helper.close(file:tensor(EMBED):narrow(1, 1, 1), row("xyz", 1), 1e-6)
    local given = config("linear", nil, { "xyz", "wzy" })
    given.tokenizer, given.out = { source = "base", tokens = { v = { source = path("wzy") },
      x = { source = path("wzy") }, y = {} } }, path("wrong")
    local _, message = moe.merge(given)
    assert.equal(("merge: 3 things are wrong\n  tokenizer.tokens: the result has no token 'v'\n" ..
      "  tokenizer.tokens: 'x' has no row of its own in '%s'\n" ..
      "  tokenizer.tokens: the source of 'y' is missing: the path of a merged model is expected")
      :format(path("wzy")), message)
  end)

  it("that are the same stay as they are", function()
    local given = config("linear", nil, { "xyz", "xyz" })
    given.tokenizer_source = "union"
    merge(given, { out = "same" })
    assert.equal(read("xyz/tokenizer.json"), read("same/tokenizer.json"))
  end)
end)
