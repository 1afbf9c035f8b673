-- config.json of every family: absent fields, what is carried along, and which mistakes are told.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local hf_config = require("moelua.hf_config")
local json, system = core.json, core.system

local GOLDEN = "spec/golden/families/"

local function golden(name) return json.decode(assert(system.read(GOLDEN .. name ..
  "/config.json"))) end

-- What config.json says, with fields changed (json.null to remove one).
local function changed(name, changes)
  local hf = golden(name)
  for k, v in pairs(changes or {}) do
    if v == json.null then v = nil end
    hf[k] = v
  end
  return hf
end

local function read(name, changes) return assert(hf_config.from_json(changed(name, changes))) end

local function refused(name, changes, message, code)
  local config, got, kind = hf_config.from_json(changed(name, changes))
  assert.is_nil(config)
  assert.equal("config.json: " .. message, got)
  assert.equal(code or "format", kind)
end

-- A golden model in a folder of its own, with another config.json and more files.
local function folder_of(name, changes, files)
  local folder = helper.tmpdir() .. "/model"
  assert(system.make_folder(folder))
  assert(system.write(folder .. "/model.safetensors",
    assert(system.read(GOLDEN .. name .. "/model.safetensors"))))
  assert(system.write(folder .. "/config.json", json.encode(changed(name, changes))))
  for file, text in pairs(files or {}) do assert(system.write(folder .. "/" .. file, text)) end
  return folder
end

local function saved(m)
  local folder = helper.tmpdir() .. "/model"
  assert(m:save(folder))
  return folder, json.decode(system.read(folder .. "/config.json"))
end

local null = json.null

describe("absent fields have the defaults of their family:", function()
  local common = { rms_norm_eps = null, rope_theta = null, max_position_embeddings = null,
    vocab_size = null, num_key_value_heads = null, head_dim = null, rope_scaling = null,
    router_aux_loss_coef = null, norm_topk_prob = null, hidden_act = null,
    tie_word_embeddings = null, initializer_range = null, rope_parameters = null }

  local function defaults(name, changes)
    local all = {}
    for _, list in ipairs({ common, changes }) do
      for k, v in pairs(list) do all[k] = v end
    end
    local c = read(name, all)
    return { c.vocab, c.context, c.norm_eps, c.rope_theta, c.kv_heads, c.head_dim, c.tied }, c
  end

  it("llama, mistral", function()
    assert.same({ 32000, 2048, 1e-6, 1e4, 4, 8, false }, (defaults("llama", {})))
    local eight = { num_attention_heads = 8, hidden_size = 64 }
    assert.same({ 32000, 131072, 1e-6, 1e4, 8, 8, false },
      (defaults("mistral", { num_attention_heads = 8, hidden_size = 64, sliding_window = null })))
    assert.same({ 32000, 131072, 1e-5, 1e6, 8, 8, false }, (defaults("mixtral", eight)))
  end)

  it("olmoe, qwen, deepseek", function()
    local list, c = defaults("olmoe", { num_experts = null, num_experts_per_tok = null })
    assert.same({ 50304, 4096, 1e-5, 1e4, 4, 8, false }, list)
    assert.same({ 64, 8, "all", 0.01 }, { c.ffn[1].experts, c.ffn[1].router.k,
      c.ffn[1].router.gate, c.ffn[1].router.balance.coef })
    list, c = defaults("qwen2_moe", { num_experts = null, num_experts_per_tok = null,
      moe_intermediate_size = null, shared_expert_intermediate_size = null, qkv_bias = null,
      num_attention_heads = 16, hidden_size = 64, mlp_only_layers = null,
      decoder_sparse_step = null })
    assert.same({ 151936, 32768, 1e-6, 1e4, 16, 4, false }, list)
    assert.same({ 60, 4, "all", 1408, 5632 }, { c.ffn[1].experts, c.ffn[1].router.k,
      c.ffn[1].router.gate, c.ffn[1].hidden, c.ffn[1].shared.hidden })
    assert.equal("qkv", c.attention_bias)
    list, c = defaults("qwen3_moe", { num_experts = null, num_local_experts = null,
      num_experts_per_tok = null, moe_intermediate_size = null })
    assert.same({ 151936, 32768, 1e-6, 1e4, 4, 8, false }, list)
    assert.same({ 128, 8, 768 }, { c.ffn[1].experts, c.ffn[1].router.k, c.ffn[1].hidden })
    list, c = defaults("deepseek", { first_k_dense_replace = null, n_shared_experts = null,
      n_routed_experts = 64 })
    assert.same({ 102400, 2048, 1e-6, 1e4, 4, 8, false }, list)
    assert.same({ "moe", 64, "all" }, { c.ffn[1].kind, c.ffn[1].experts, c.ffn[1].router.gate })
    assert.is_nil(c.ffn[1].shared)
    assert.same({ form = "deepseek", coef = 0.001, scope = "sequence", reduce = "sum" },
      c.ffn[1].router.balance)
  end)

  it("a deepseek without routed experts is dense", function()
    assert.equal("dense", read("deepseek", { n_routed_experts = null }).ffn[3].kind)
  end)
end)

describe("layers", function()
  local function pattern(name, changes)
    local list = {}
    for i, layer in ipairs(read(name, changes).ffn) do list[i] = layer.kind:sub(1, 1) end
    return table.concat(list)
  end

  it("are dense where the family says so", function()
    assert.equal("mdmd", pattern("qwen3_moe", { num_hidden_layers = 4,
      mlp_only_layers = { 1, 3 } }))
    assert.equal("dmdm", pattern("qwen3_moe", { num_hidden_layers = 4, decoder_sparse_step = 2 }))
    assert.equal("dddm", pattern("qwen2_moe", { num_hidden_layers = 4, decoder_sparse_step = 2,
      mlp_only_layers = { 1 } }))
    assert.equal("dddd", pattern("qwen2_moe", { num_hidden_layers = 4, decoder_sparse_step = 0 }))
    assert.equal("ddmm", pattern("deepseek", { num_hidden_layers = 4, first_k_dense_replace = 2 }))
    assert.equal("ddddm", pattern("deepseek", { num_hidden_layers = 5, first_k_dense_replace = 3,
      moe_layer_freq = 2 }))
  end)

  it("come back in the same family, whatever the pattern", function()
    for _, case in ipairs({ { "qwen3_moe", { decoder_sparse_step = 2, num_hidden_layers = 5 } },
      { "qwen3_moe", { mlp_only_layers = { 0, 1 } } }, { "qwen2_moe", { mlp_only_layers = { 0 } } },
      { "qwen2_moe", { qkv_bias = false } }, { "deepseek", { n_routed_experts = null } },
      { "deepseek", { num_hidden_layers = 6, moe_layer_freq = 2, first_k_dense_replace = 3 } },
      { "deepseek", { norm_topk_prob = true } }, { "mistral", { sliding_window = 8 } } }) do
      local config = read(case[1], case[2])
      local hf, family = hf_config.to_json(config)
      assert.equal(case[1], family.model_type)
      assert.same(config, (assert(hf_config.from_json(hf))))
    end
  end)
end)

describe("what others need", function()
  it("is carried along: special tokens, windows, how to generate", function()
    local text = '{"temperature": 0.6}\n'
    local m = assert(moe.load(folder_of("mistral", { eos_token_id = json.array({ 2, 7 }),
      sliding_window = 12, max_position_embeddings = 50 }, { ["generation_config.json"] = text })))
    assert.equal(12, m.config.context)
    for _, twin in ipairs({ m, m:copy(), m:with_ffn(function() end) }) do
      local folder, hf = saved(twin)
      assert.same({ "mistral", 1, { 2, 7 }, 12, 50 }, { hf.model_type, hf.bos_token_id,
        hf.eos_token_id, hf.sliding_window, hf.max_position_embeddings })
      assert.equal(text, system.read(folder .. "/generation_config.json"))
      assert.same(m.config, assert(moe.load(folder)).config)
    end
  end)

  it("is left out where it no longer holds", function()
    local config = read("mistral", { sliding_window = 12, max_position_embeddings = 50 })
    config.context = 10
    local hf = hf_config.to_json(config)
    assert.same({ 10, null, "mistral" }, { hf.max_position_embeddings, hf.sliding_window,
      hf.model_type })
    config = read("mistral", { sliding_window = 12, max_position_embeddings = 50 })
    config.qk_norm = "head"             -- which Mistral cannot say, but Qwen3, which has windows
    hf = hf_config.to_json(config)
    assert.same({ "qwen3", 50, 12 }, { hf.model_type, hf.max_position_embeddings,
      hf.sliding_window })
  end)

  it("is read from both spellings", function()
    local old = read("llama", { rope_theta = 500.0,
      rope_scaling = { type = "linear", factor = 2.0 } })
    local new = read("llama", { rope_theta = null, rope_scaling = null,
      rope_parameters = { rope_type = "linear", factor = 2.0, rope_theta = 500.0 } })
    assert.same(old, new)
    assert.same({ rope_type = "linear", factor = 2.0 }, old.rope_scaling)
    local hf = hf_config.to_json(new)
    assert.same({ rope_type = "linear", factor = 2.0 }, hf.rope_scaling)
    assert.equal(500, hf.rope_theta)
    assert.is_nil(hf.rope_parameters)
    -- where both are, the older one counts
    assert.equal(3, read("llama", { rope_scaling = { type = "linear", factor = 3 },
      rope_parameters = { rope_type = "yarn", factor = 2 } }).rope_scaling.factor)
    local yarn = read("llama", { rope_scaling = { rope_type = "yarn", factor = 4, finetuned = true,
      original_max_position_embeddings = 16 }, original_max_position_embeddings = 8 }).rope_scaling
    assert.equal(8, yarn.original_max_position_embeddings)
  end)
end)

describe("a family", function()
  it("says why it cannot say what a model is", function()
    local function reason(config, name)
      local hf, text = hf_config.express(config, name)
      assert.is_nil(hf)
      return text
    end
    local mixtral, qwen = read("mixtral"), read("qwen3_moe")
    assert.equal('layer 1 is of kind "dense", not "moe"', reason(read("llama"), "mixtral"))
    assert.equal('qk_norm is "head", not "none"', reason(qwen, "mixtral"))
    assert.equal('layer 1 is of kind "moe", not "dense"', reason(mixtral, "llama"))
    assert.equal("there are shared experts", reason(read("qwen2_moe"), "mixtral"))
    mixtral.ffn[2].router.gate = "all"
    assert.equal('ffn[2].router.gate is "all", where it can only say "selected"',
      reason(mixtral, "mixtral"))
    mixtral.ffn[1].router.gate, mixtral.head_dim = "all", 12
    assert.equal("heads of 12 are not dim / heads = 32 / 4 wide", reason(mixtral, "deepseek"))
    models.misuse(function() hf_config.express(qwen, "gpt2") end,
      "the model_type 'gpt2' is not known\nhint: deepseek, llama, mistral, mixtral, moelua, " ..
      "olmoe, qwen2, qwen2_moe, qwen3 and qwen3_moe are")
  end)
end)

describe("mistakes in config.json", function()
  it("are told with the field", function()
    refused("qwen3_moe", { moe_intermediate_size = "wide" },
      "'moe_intermediate_size' has the wrong type: integer expected, got \"wide\"")
    refused("olmoe", { norm_topk_prob = 1 },
      "'norm_topk_prob' has the wrong type: boolean expected, got 1")
    refused("qwen2_moe", { mlp_only_layers = { 0.5 } },
      "mlp_only_layers must list integers, not 0.5")
    refused("deepseek", { moe_layer_freq = 0 }, "moe_layer_freq must be at least 1, not 0")
    refused("qwen2_moe", { num_hidden_layers = 1e9 // 1 | 0 },
      "num_hidden_layers: layers must be at most 4096, not 1000000000")
    refused("deepseek", { num_hidden_layers = null },
      "'num_hidden_layers' is missing: integer expected")
    refused("qwen3_moe", { num_experts_per_tok = 6 },
      "router: k must be 1 to the number of experts: 6 of 5")
    refused("llama", { rope_scaling = { rope_type = "yarn", factor = -1 } },
      "rope_scaling: factor must be positive and below 2^31, not -1")
    refused("llama", { rope_scaling = { rope_type = "llama3", factor = 8 } },
      "rope_scaling: option 'high_freq_factor' is missing: number expected")
    refused("llama", { rope_scaling = { rope_type = { 1 } } },
      "rope_scaling of type 'a table' is not supported\n" ..
      "hint: linear, dynamic, llama3 and yarn are", "unsupported")
    refused("mistral", { sliding_window = "x" },
      "'sliding_window' has the wrong type: number expected, got \"x\"")
    refused("olmoe", { clip_qkv = -1 }, "moe.model.new: clip_qkv must be positive and finite, " ..
      "not -1")
    refused("llama", { qk_norm = 3, model_type = "moelua", attention_bias = null },
      "'qk_norm' is 3: unknown\nhint: known are none, head, whole")
  end)

  it("are told by tensors that do not fit: stacks of another shape", function()
    local folder = folder_of("mixtral-fused", { num_local_experts = 4 })
    local m, message, code = moe.load(folder)
    assert.is_nil(m)
    assert.equal(folder .. ": tensor 'model.layers.0.block_sparse_moe.gate.weight' has shape " ..
      "[5 x 32], expected [4 x 32]", message)
    assert.equal("format", code)
    folder = folder_of("mixtral-fused", { intermediate_size = 21 })
    m, message = moe.load(folder)
    assert.is_nil(m)
    assert.equal(folder .. ": tensor 'model.layers.0.block_sparse_moe.experts.0.w1.weight' has " ..
      "shape [20 x 32], expected [21 x 32]", message)
  end)
end)
