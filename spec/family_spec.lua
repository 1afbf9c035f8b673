-- Models as Hugging Face directories: names, fields, round trips, and what is refused.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
local family = require("moelua.family")
local json, system = core.json, core.system

local function new_folder() return helper.tmpdir() .. "/model" end

local function saved(m, opts)
  local folder = new_folder()
  assert(m:save(folder, opts))
  return folder
end

local function config_of(folder) return json.decode(system.read(folder .. "/config.json")) end

local function tensors_of(folder)
  local file, map = assert(moe.checkpoint.open(folder)), {}
  for _, name in ipairs(file:names()) do
    local info = file:info(name)
    map[name] = info.dtype .. " " .. table.concat(info.shape, "x")
  end
  return map
end

-- A mixture with numbers in every field that are not the defaults of any family.
local odd = { dim = 16, layers = 2, heads = 4, kv_heads = 2, head_dim = 6, vocab = 300,
  context = 48, rope_theta = 5000, norm_eps = 3e-5, std = 0.07, seed = 9, tied = false }

describe("a dense model", function()
  local m = models.tiny(odd)
  local folder = saved(m)

  it("has every field of Llama", function()
    local config = config_of(folder)
    local null = json.null
    assert.same({
      model_type = "llama", architectures = { "LlamaForCausalLM" },
      vocab_size = 300, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2,
      num_attention_heads = 4, num_key_value_heads = 2, head_dim = 6, hidden_act = "silu",
      max_position_embeddings = 48, initializer_range = 0.07, rms_norm_eps = 3e-5,
      rope_theta = 5000.0, rope_scaling = null, attention_bias = false, mlp_bias = false,
      attention_dropout = 0.0, tie_word_embeddings = false, use_cache = true,
      bos_token_id = null, eos_token_id = null, torch_dtype = "float32", moelua = { seed = 9 },
    }, config)
  end)

  it("has the names and shapes of Llama", function()
    local want = { ["model.embed_tokens.weight"] = "F32 300x16", ["model.norm.weight"] = "F32 16",
      ["lm_head.weight"] = "F32 300x16" }
    for l = 0, 1 do
      local layer = ("model.layers.%d."):format(l)
      want[layer .. "input_layernorm.weight"] = "F32 16"
      want[layer .. "post_attention_layernorm.weight"] = "F32 16"
      want[layer .. "self_attn.q_proj.weight"] = "F32 24x16"
      want[layer .. "self_attn.k_proj.weight"] = "F32 12x16"
      want[layer .. "self_attn.v_proj.weight"] = "F32 12x16"
      want[layer .. "self_attn.o_proj.weight"] = "F32 16x24"
      want[layer .. "mlp.gate_proj.weight"] = "F32 24x16"
      want[layer .. "mlp.up_proj.weight"] = "F32 24x16"
      want[layer .. "mlp.down_proj.weight"] = "F32 16x24"
    end
    assert.same(want, tensors_of(folder))
    assert.same({ format = "pt" }, assert(moe.checkpoint.open(folder)):metadata())
  end)

  it("puts each matrix where Llama has it", function()
    local file = assert(moe.checkpoint.open(folder))
    for ours, theirs in pairs({ w1 = "gate_proj", w3 = "up_proj", w2 = "down_proj" }) do
      assert.equal(m.layers[2].ffn[ours]:bytes(),
        file:tensor("model.layers.1.mlp." .. theirs .. ".weight"):bytes())
    end
    assert.equal(m.layers[1].ffn_norm.weight:bytes(),
      file:tensor("model.layers.0.post_attention_layernorm.weight"):bytes())
  end)

  it("comes back bit for bit", function()
    local again = assert(moe.load(folder))
    models.same(m, again)
    assert.same(m.config, again.config)
    assert.equal(folder, again.path)
    assert.equal(folder, m.path)
  end)

  it("has no head when it is tied", function()
    local tied = saved(models.tiny())
    assert.is_true(config_of(tied).tie_word_embeddings)
    assert.is_nil(tensors_of(tied)["lm_head.weight"])
    models.same(models.tiny(), assert(moe.load(tied)))
  end)
end)

describe("a mixture", function()
  local opts = { ffn = models.mixture({ experts = 3, hidden = 10,
    router = { k = 2, balance = { form = "btx", coef = 0.02 }, z_loss = 1e-3 } }) }
  for k, v in pairs(odd) do opts[k] = v end
  local m = models.tiny(opts)
  local folder = saved(m)

  it("has every field of Mixtral", function()
    local null = json.null
    assert.same({
      model_type = "mixtral", architectures = { "MixtralForCausalLM" },
      vocab_size = 300, hidden_size = 16, intermediate_size = 10, num_hidden_layers = 2,
      num_attention_heads = 4, num_key_value_heads = 2, head_dim = 6, hidden_act = "silu",
      max_position_embeddings = 48, initializer_range = 0.07, rms_norm_eps = 3e-5,
      rope_theta = 5000.0, rope_scaling = null, attention_dropout = 0.0,
      tie_word_embeddings = false, use_cache = true, bos_token_id = null, eos_token_id = null,
      torch_dtype = "float32", sliding_window = null, num_local_experts = 3,
      num_experts_per_tok = 2, router_aux_loss_coef = 0.02, router_jitter_noise = 0.0,
      output_router_logits = false, moelua = { seed = 9, router = {
        balance = { form = "btx", coef = 0.02 }, z_loss = 1e-3 } },
    }, config_of(folder))
  end)

  it("has the names and shapes of Mixtral", function()
    local want = { ["model.embed_tokens.weight"] = "F32 300x16", ["model.norm.weight"] = "F32 16",
      ["lm_head.weight"] = "F32 300x16" }
    for l = 0, 1 do
      local layer = ("model.layers.%d."):format(l)
      want[layer .. "input_layernorm.weight"] = "F32 16"
      want[layer .. "post_attention_layernorm.weight"] = "F32 16"
      want[layer .. "self_attn.q_proj.weight"] = "F32 24x16"
      want[layer .. "self_attn.k_proj.weight"] = "F32 12x16"
      want[layer .. "self_attn.v_proj.weight"] = "F32 12x16"
      want[layer .. "self_attn.o_proj.weight"] = "F32 16x24"
      want[layer .. "block_sparse_moe.gate.weight"] = "F32 3x16"
      for e = 0, 2 do
        local expert = ("%sblock_sparse_moe.experts.%d."):format(layer, e)
        want[expert .. "w1.weight"] = "F32 10x16"
        want[expert .. "w2.weight"] = "F32 16x10"
        want[expert .. "w3.weight"] = "F32 10x16"
      end
    end
    assert.same(want, tensors_of(folder))
  end)

  it("takes the stacks of experts apart in order", function()
    local file = assert(moe.checkpoint.open(folder))
    for e = 0, 2 do
      assert.equal(m.layers[2].ffn.experts.w3:detach():select(1, e + 1):clone():bytes(),
        file:tensor(("model.layers.1.block_sparse_moe.experts.%d.w3.weight"):format(e)):bytes())
    end
  end)

  it("comes back bit for bit, with what training needs", function()
    local again = assert(moe.load(folder))
    models.same(m, again)
    assert.same(m.config, again.config)
    helper.close(again:logits({ 1, 2, 3 }), m:logits({ 1, 2, 3 }), 0)
  end)
end)

describe("other mixtures", function()
  local function type_of(ffn, more)
    local opts = { ffn = ffn }
    for k, v in pairs(more or {}) do opts[k] = v end
    local m = models.tiny(opts)
    local folder = saved(m)
    local again = assert(moe.load(folder))
    models.same(m, again)
    assert.same(m.config, again.config)
    local config = config_of(folder)
    return config.model_type, config.architectures[1]
  end

  it("have the model type moelua, and come back", function()
    for _, ffn in ipairs({
      { {}, models.mixture() },                                           -- a dense layer
      { models.mixture(), models.mixture({ experts = 3 }) },              -- counts differ
      { models.mixture(), models.mixture({ router = { k = 1, balance = { coef = 0.01 } } }) },
      { models.mixture(), models.mixture({ hidden = 8 }) },
      { models.mixture(), models.mixture({ router = { z_loss = 0.5 } }) },
      models.mixture({ router = { gate = "all" } }),
      { { hidden = 8 }, { hidden = 12 } },                                -- dense widths differ
    }) do
      local kind, architecture = type_of(ffn)
      assert.equal("moelua", kind)
      assert.equal("MoeluaForCausalLM", architecture)
    end
  end)

  it("are Mixtral when all layers are alike", function()
    assert.equal("mixtral", (type_of(models.mixture())))
    assert.equal("mixtral", (type_of(models.mixture({ router = { k = 4 } }))))
    assert.equal("mixtral", (type_of({ models.mixture() }, { layers = 1 })))
    assert.equal("llama", (type_of({ {}, {} })))
  end)
end)

describe("saving", function()
  it("keeps half precision, rounded to nearest", function()
    for dtype, names in pairs({ bf16 = { "BF16", "bfloat16" }, f16 = { "F16", "float16" },
      f32 = { "F32", "float32" } }) do
      local m = models.tiny({ ffn = models.mixture() })
      local folder = saved(m, { dtype = dtype })
      assert.equal(names[2], config_of(folder).torch_dtype)
      for name, text in pairs(tensors_of(folder)) do
        assert.matches("^" .. names[1] .. " ", text, name)
      end
      local again = assert(moe.load(folder))
      for i, entry in ipairs(m:parameters()) do
        local want = entry[2]:detach():to(dtype):to("f32")
        assert.equal(want:bytes(), again:parameters()[i][2]:bytes())
      end
    end
  end)

  it("splits into shards with an index", function()
    local m = models.tiny({ tied = false, ffn = models.mixture() })
    local folder = saved(m, { max_shard_size = 20000 })
    assert.is_false(system.exists(folder .. "/model.safetensors"))
    local index = json.decode(system.read(folder .. "/model.safetensors.index.json"))
    local files = {}
    for _, file in pairs(index.weight_map) do files[file] = true end
    local count = 0
    for file in pairs(files) do
      count = count + 1
      assert.is_true(system.exists(folder .. "/" .. file), file)
    end
    assert.is_true(count > 2)
    models.same(m, assert(moe.load(folder)))
    -- saved again as one file, the shards give way
    assert(m:save(folder))
    assert.is_true(system.exists(folder .. "/model.safetensors"))
    assert.is_false(system.exists(folder .. "/model.safetensors.index.json"))
    models.same(m, assert(moe.load(folder)))
  end)

  it("writes the tokenizer beside the model", function()
    local m = models.tiny()
    m.tokenizer = moe.tokenizer.bytes()
    local folder = saved(m)
    assert.is_true(system.exists(folder .. "/tokenizer.json"))
    assert.equal("bytes", assert(moe.load(folder)).tokenizer.name)
    assert.is_nil(assert(moe.load(saved(models.tiny()))).tokenizer)
  end)

  it("gives message and code when it cannot", function()
    local blocked = helper.tmpdir() .. "/file"
    system.write(blocked, "")
    local ok, message, code = models.tiny():save(blocked .. "/model")
    assert.is_nil(ok)
    assert.equal("string", type(message))
    assert.equal("io", code)
    models.misuse(function() assert(models.tiny():save(blocked, { dtyp = "f32" })) end,
      "checkpoint.save: unknown option 'dtyp'\nhint: did you mean 'dtype'?")
  end)
end)

-- ---- loading what others wrote ----------------------------------------------------------------

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
    assert.same({ form = "switch", coef = 0.5 }, config.ffn[1].router.balance)
    config = assert(moe.load(edited(m, { router_aux_loss_coef = 0 }, { "moelua" }))).config
    assert.is_nil(config.ffn[1].router.balance)
  end)

  it("refuses what it would compute differently", function()
    local function unsupported(changes, message)
      refused(edited(dense, changes), message, "unsupported")
    end
    unsupported({ model_type = "gpt2" }, "model_type 'gpt2' is not supported\n" ..
      "hint: llama, mistral, mixtral and moelua are")
    unsupported({ model_type = json.null }, "model_type 'nil' is not supported\n" ..
      "hint: llama, mistral, mixtral and moelua are")
    unsupported({ hidden_act = "gelu" }, "hidden_act 'gelu' is not supported")
    unsupported({ attention_bias = true }, "attention_bias is not supported")
    unsupported({ mlp_bias = true }, "mlp_bias is not supported")
    unsupported({ rope_scaling = { rope_type = "llama3", factor = 8 } },
      "rope_scaling of type 'llama3' is not supported")
    unsupported({ rope_scaling = { type = "linear", factor = 2 } },
      "rope_scaling of type 'linear' is not supported")
    unsupported({ model_type = "mistral", sliding_window = 8 },
      "sliding_window 8 is not supported")
  end)

  it("says which field of config.json is wrong", function()
    local function wrong(changes, message, removed)
      refused(edited(dense, changes, removed), "config.json: " .. message, "format")
    end
    wrong({ hidden_size = "wide" },
      "moe.model.new: option 'dim' has the wrong type: integer expected, got string")
    wrong({}, "moe.model.new: option 'layers' is missing: integer expected",
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
      assert.equal(text == "[1, 2]" and "unsupported" or "format", code, text)
    end
    system.write(folder .. "/config.json", json.encode(family.to_json(dense.config)))
    m, _, code = moe.load(folder)
    assert.is_nil(m)
    assert.equal("missing", code)
    models.misuse(function() assert(moe.load(3)) end, "load: a path is needed, not number")
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
end)
