-- Loading models that others wrote: defaults, what is refused, damaged folders.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local hf_config = require("moelua.hf_config")
local json, system = core.json, core.system

local function saved(m, opts)
  local folder = helper.tmpdir() .. "/model"
  assert(m:save(folder, opts))
  return folder
end

local function config_of(folder) return json.decode(system.read(folder .. "/config.json")) end

-- A folder as saved, with the fields of config.json changed (json.null to remove one).
local function edited(m, changes, removed)
  local folder = saved(m)
  local config = config_of(folder)
  for k, v in pairs(changes or {}) do config[k] = v end
  for _, k in ipairs(removed or {}) do config[k] = nil end
  system.write(folder .. "/config.json", json.encode(config))
  return folder
end

local function refused(folder, message, code)
  local m, got, kind = moe.load(folder)
  assert.is_nil(m)
  assert.equal(folder .. ": " .. message, got)
  assert.equal(code, kind)
end

describe("loading", function()
  local dense = models.tiny()

  it("fills absent fields with the defaults of the family", function()
    local absent = { "rms_norm_eps", "rope_theta", "head_dim", "hidden_act", "moelua",
      "num_key_value_heads", "max_position_embeddings", "initializer_range", "rope_scaling" }
    local llama = assert(moe.load(edited(dense, {}, absent))).config
    assert.equal(1e-6, llama.norm_eps)
    assert.equal(10000, llama.rope_theta)
    assert.equal(2048, llama.context)
    assert.equal(2, llama.kv_heads)
    assert.equal(8, llama.head_dim)
    local mixed = models.tiny({ heads = 8, dim = 16, head_dim = 2,
      ffn = models.mixture({ experts = 8 }) })
    absent[#absent + 1], absent[#absent + 2] = "num_local_experts", "num_experts_per_tok"
    absent[3] = "rms_norm_eps"
    local mixtral = assert(moe.load(edited(mixed, {}, absent))).config
    assert.equal(1e-5, mixtral.norm_eps)
    assert.equal(1e6, mixtral.rope_theta)
    assert.equal(131072, mixtral.context)
    assert.equal(8, mixtral.ffn[1].experts)
    assert.equal(2, mixtral.ffn[1].router.k)
    assert.equal("switch", mixtral.ffn[1].router.balance.form)
  end)

  it("reads nulls as absent, mistral as llama, and the newer spelling of rope", function()
    assert.equal(8, assert(moe.load(edited(dense, { head_dim = json.null }))).config.head_dim)
    local mistral = assert(moe.load(edited(dense, { model_type = "mistral",
      sliding_window = 4096 })))
    models.same(dense, mistral)
    local newer = edited(dense, { rope_parameters = { rope_type = "default", rope_theta = 777.0 } },
      { "rope_theta", "rope_scaling" })
    assert.equal(777, assert(moe.load(newer)).config.rope_theta)
  end)

  it("has the balance loss of a foreign Mixtral in Switch's form", function()
    local m = models.tiny({ ffn = models.mixture() })
    local config = assert(moe.load(edited(m, { router_aux_loss_coef = 0.5 }, { "moelua" }))).config
    assert.same({ form = "switch", coef = 0.5, scope = "batch", reduce = "pooled" },
      config.ffn[1].router.balance)
    config = assert(moe.load(edited(m, { router_aux_loss_coef = 0 }, { "moelua" }))).config
    assert.is_nil(config.ffn[1].router.balance)
  end)

  it("refuses what it would compute differently", function()
    local function unsupported(changes, message)
      refused(edited(dense, changes), "config.json: " .. message, "unsupported")
    end
    unsupported({ model_type = "gpt2" }, "model_type 'gpt2' is not supported\nhint: deepseek, " ..
      "llama, mistral, mixtral, moelua, olmoe, qwen2, qwen2_moe, qwen3 and qwen3_moe are")
    unsupported({ hidden_act = "gelu" }, "hidden_act is 'gelu', which is not supported\n" ..
      "hint: 'silu' is")
    unsupported({ rope_scaling = { rope_type = "longrope", factor = 8 } },
      "rope_scaling of type 'longrope' is not supported\n" ..
      "hint: linear, dynamic, llama3 and yarn are")
    unsupported({ partial_rotary_factor = 0.5 },
      "partial_rotary_factor is 0.5, which is not supported\nhint: 1 is")
    unsupported({ quantization_config = { bits = 4 } },
      "quantization_config is not supported\nhint: load the checkpoint that was quantised")
    unsupported({ model_type = "deepseek", scoring_func = "sigmoid" },
      "scoring_func is 'sigmoid', which is not supported\nhint: 'softmax' is")
  end)

  it("says which field of config.json is wrong", function()
    local function wrong(changes, message, removed)
      refused(edited(dense, changes, removed), "config.json: " .. message, "format")
    end
    wrong({ hidden_size = "wide" },
      "'hidden_size' has the wrong type: integer expected, got \"wide\"")
    wrong({}, "'num_hidden_layers' is missing: integer expected",
      { "num_hidden_layers" })
    wrong({ num_attention_heads = 0 }, "moe.model.new: heads must be at least 1, not 0")
    wrong({ num_key_value_heads = 0 }, "moe.model.new: kv_heads must be at least 1, not 0")
    local mixed = models.tiny({ ffn = models.mixture() })
    refused(edited(mixed, { num_experts_per_tok = 5 }),
      "config.json: router: k must be 1 to the number of experts: 5 of 4", "format")
    for _, changes in ipairs({ { sliding_window = "x" }, { moelua = 3 }, { rope_scaling = 3 },
      { rope_parameters = 3 } }) do
      local m, message, code = moe.load(edited(dense, changes))
      assert.is_nil(m)
      assert.matches(": config.json: ", message)
      assert.equal("format", code)
    end
  end)

  it("does not believe sizes that no memory holds", function()
    local m, message, code = moe.load(edited(dense, { vocab_size = 2 ^ 40 // 1 | 0,
      hidden_size = 2 ^ 30 // 1 | 0 }))
    assert.is_nil(m)
    assert.equal("string", type(message))
    assert.is_true(code == "format" or code == "memory")
  end)

  it("says what is no model directory", function()
    local folder = helper.tmpdir()
    local m, _, code = moe.load(folder .. "/none")
    assert.is_nil(m)
    assert.equal("missing", code)
    m, _, code = moe.load(folder)
    assert.is_nil(m)
    assert.equal("missing", code)
    for _, text in ipairs({ "{", "[1, 2]", "3", "null", "" }) do
      system.write(folder .. "/config.json", text)
      local message
      m, message, code = moe.load(folder)
      assert.is_nil(m)
      assert.equal(folder, message:sub(1, #folder))
      assert.equal("format", code, text)
    end
    system.write(folder .. "/config.json", json.encode((hf_config.to_json(dense.config))))
    m, _, code = moe.load(folder)
    assert.is_nil(m)
    assert.equal("missing", code)
    models.misuse(function() assert(moe.load(3)) end,
      "load: folder must be the path of a model, not 3")
  end)
end)

describe("the tensors of a folder", function()
  local m = models.tiny({ tied = true })

  -- Saves `m` with the tensors that change() leaves.
  local function with(change)
    local folder = saved(m)
    local file, tensors = assert(moe.checkpoint.open(folder)), {}
    for _, name in ipairs(file:names()) do tensors[name] = file:tensor(name):clone() end
    change(tensors)
    assert(moe.checkpoint.save(folder, tensors, { format = "pt" }))
    return folder
  end

  it("must all be there", function()
    refused(with(function(t) t["model.layers.1.mlp.up_proj.weight"] = nil end),
      "tensor 'model.layers.1.mlp.up_proj.weight' is missing", "format")
  end)

  it("must have their shapes", function()
    refused(with(function(t) t["model.norm.weight"] = moe.zeros(3) end),
      "tensor 'model.norm.weight' has shape [3], expected [16]", "format")
    refused(with(function(t) t["model.norm.weight"] = moe.zeros(4, 4) end),
      "tensor 'model.norm.weight' has shape [4 x 4], expected [16]", "format")
  end)

  it("must be numbers that weights can have", function()
    refused(with(function(t)
      t["model.norm.weight"] = { dtype = "I32", shape = { 16 }, data = ("\0"):rep(64) }
    end), "tensor 'model.norm.weight' holds I32, which no weight can be", "format")
  end)

  it("must have a place in the model", function()
    refused(with(function(t) t["model.layers.0.mlp.gate_proj.bias"] = moe.zeros(24) end),
      "tensor 'model.layers.0.mlp.gate_proj.bias' has no place in this model", "format")
    refused(with(function(t) t["model.layers.2.input_layernorm.weight"] = moe.zeros(16) end),
      "tensor 'model.layers.2.input_layernorm.weight' has no place in this model", "format")
  end)

  it("may be old rotary tables, and the head of a tied model", function()
    local folder = with(function(t)
      t["model.layers.0.self_attn.rotary_emb.inv_freq"] = moe.zeros(4)
      t["lm_head.weight"] = moe.zeros(256, 16)
    end)
    models.same(m, assert(moe.load(folder)))
  end)

  it("are damaged when the file is", function()
    local folder = saved(m)
    local path = folder .. "/model.safetensors"
    system.write(path, system.read(path):sub(1, -9))
    local loaded, message, code = moe.load(folder)
    assert.is_nil(loaded)
    assert.equal("string", type(message))
    assert.equal("format", code)
  end)

  it("come without a tokenizer that cannot be read, which is told when it is wanted", function()
    local folder = saved(m)
    assert(system.write(folder .. "/tokenizer.json", '{"model": {"type": "Unigram"}}'))
    local loaded = assert(moe.load(folder))
    assert.is_nil(loaded.tokenizer)
    models.misuse(function() loaded:generate("a") end,
      "generate: the tokenizer of the model cannot be read: tokenizer.open: " .. folder ..
      "/tokenizer.json: model \"Unigram\" is not supported: it is BPE that is")
    os.remove(folder .. "/tokenizer.json")
    assert.is_nil(assert(moe.load(folder)).no_tokenizer)
  end)
end)
