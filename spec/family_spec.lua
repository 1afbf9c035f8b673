-- Models as Hugging Face directories: names, fields, round trips, and what is refused.
local helper = require("spec.helper")
local models = require("spec.models")
local moe = require("moelua")
local core = require("moelua.core")
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

-- Types and shapes of what both families have alike.
local function without_ffn()
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
  end
  return want
end

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
    local want = without_ffn()
    for l = 0, 1 do
      local layer = ("model.layers.%d."):format(l)
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
        balance = { form = "btx", coef = 0.02, scope = "batch", reduce = "sum" },
        z_loss = 1e-3 } },
    }, config_of(folder))
  end)

  it("has the names and shapes of Mixtral", function()
    local want = without_ffn()
    for l = 0, 1 do
      local layer = ("model.layers.%d."):format(l)
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
    assert.equal(m:logits({ 1, 2, 3 }):bytes(), again:logits({ 1, 2, 3 }):bytes())
    local config = config_of(folder)
    return config.model_type, config.architectures[1]
  end

  it("have the model type moelua, and come back", function()
    for _, ffn in ipairs({
      { models.mixture(), models.mixture({ experts = 3 }) },              -- counts differ
      { models.mixture(), models.mixture({ router = { k = 1, balance = { coef = 0.01 } } }) },
      { models.mixture(), models.mixture({ hidden = 8 }) },
      { models.mixture(), models.mixture({ router = { z_loss = 0.5 } }) },
      { { hidden = 8 }, { hidden = 12 } },                                -- dense widths differ
      { activation = "gelu" },
      models.mixture({ shared = { experts = 2, hidden = 6 } }),
      models.mixture({ shared = { experts = 2, hidden = 6, gate = true } }),
    }) do
      local kind, architecture = type_of(ffn)
      assert.equal("moelua", kind)
      assert.equal("MoeluaForCausalLM", architecture)
    end
  end)

  it("are DeepSeek with shared experts, other gates, or dense layers first", function()
    for _, ffn in ipairs({
      { {}, models.mixture() }, { models.mixture(), {} },
      models.mixture({ router = { gate = "all" } }),
      models.mixture({ shared = 1 }),
      models.mixture({ segments = 2, shared = 1, router = { gate = "all" } }),
    }) do
      local kind, architecture = type_of(ffn)
      assert.equal("deepseek", kind)
      assert.equal("DeepseekForCausalLM", architecture)
    end
    assert.equal("deepseek", (type_of({ {}, {}, models.mixture(), {}, models.mixture() },
      { layers = 5 })))
    assert.equal("moelua", (type_of({ {}, models.mixture(), {}, models.mixture() },
      { layers = 4 })))
  end)

  it("are Qwen or OLMoE when attention is theirs", function()
    local gated = models.mixture({ shared = { experts = 1, hidden = 6, gate = true } })
    assert.equal("qwen2_moe", (type_of(gated, { attention_bias = "qkv" })))
    assert.equal("qwen2_moe", (type_of({ gated, {} }, { attention_bias = "qkv" })))
    assert.equal("qwen2_moe", (type_of(gated)))
    assert.equal("moelua", (type_of(gated, { attention_bias = "all" })))
    assert.equal("qwen3_moe", (type_of(models.mixture(), { qk_norm = "head" })))
    assert.equal("qwen3_moe", (type_of({ {}, models.mixture(), {} },
      { qk_norm = "head", head_dim = 6, layers = 3 })))
    assert.equal("olmoe", (type_of(models.mixture(), { qk_norm = "whole" })))
    assert.equal("olmoe", (type_of(models.mixture(), { qk_norm = "whole", clip_qkv = 3 })))
    assert.equal("moelua", (type_of(models.mixture(), { clip_qkv = 3 })))
    assert.equal("moelua", (type_of({}, { qk_norm = "whole" })))
    assert.equal("qwen3", (type_of({}, { qk_norm = "head", attention_bias = "all" })))
    assert.equal("qwen2", (type_of({}, { attention_bias = "qkv" })))
    assert.equal("llama", (type_of({}, { attention_bias = "all", mlp_bias = true })))
    assert.equal("moelua", (type_of({}, { attention_bias = "qkv", head_dim = 6 })))
  end)

  -- Every kind of router, and what changes what a model computes.
  local routers = {
    { kind = "topk", k = 2, bias = { rate = 1e-3 } },
    { kind = "topk", k = 2, gate = "sigmoid", scale = 2.5, bias = { rate = 1e-3 } },
    { kind = "topk", k = 1, scale = 0.5 },
    { kind = "topk", k = 2, capacity = { evaluation = 1 } },
    { kind = "switch" }, { kind = "noisy_topk" }, { kind = "gshard" }, { kind = "soft" },
    { kind = "sample", inference = "argmax" },
    { kind = "expert_choice", over = "sequence", factor = 1.5 },
    { kind = "expert_choice", over = "batch", factor = 3 }, { kind = "base" },
    { kind = "hash", by = "random" }, { kind = "hash", by = "balanced", k = 2 },
    { kind = "hash", by = "bigram" },
    { kind = "domain", domains = { "a", "b", "c", "d" } },
  }
  for i, router in ipairs(routers) do
    it(("come back with all tensors: router %d, %s"):format(i, router.kind), function()
      local m = models.tiny({ ffn = models.mixture({ router = router }) })
      moe.no_grad(function()
        for _, entry in ipairs(m:buffers()) do
          local buffer = entry[2]
          if buffer:dtype() == "f32" then buffer:copy_(moe.randn(buffer:shape())) end
        end
      end)
      local folder = saved(m)
      local again = assert(moe.load(folder))
      assert.same(m.config, again.config)
      assert.equal("moelua", config_of(folder).model_type)
      assert.equal(moe.nn.fingerprint(m), moe.nn.fingerprint(again))
      assert.equal(moe.nn.fingerprint(m), moe.nn.fingerprint(m:copy()))
      local ids = moe.tensor({ { 1, 2, 3, 4, 5, 6 }, { 7, 8, 9, 1, 2, 3 } }, "i32")
      local how = { labels = moe.tensor({ 1, 3 }, "i32"), seed = 1 }
      assert.equal(m:logits(ids, how):bytes(), again:logits(ids, how):bytes())
    end)
  end

  for _, more in ipairs({ {}, { temperature = "learned" }, { uniform = true },
    { temperature = { from = 2, to = 0.5, steps = 10 }, activation = "swiglu" } }) do
    it("come back with all tensors: a mixture of tokens, " .. core.json.encode(more), function()
      local layer = { kind = "mot", hidden = 6, experts = 4, group = 2 }
      for name, value in pairs(more) do layer[name] = value end
      local m = models.tiny({ ffn = { {}, layer } })
      local folder = saved(m)
      local again = assert(moe.load(folder))
      assert.same(m.config, again.config)
      assert.equal("moelua", config_of(folder).model_type)
      models.same(m, again)
      models.same(m, m:copy())
      local ids = moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, "i32")
      assert.equal(m:logits(ids):bytes(), again:logits(ids):bytes())
      local names = tensors_of(folder)
      assert.equal("F32 6x16", names["model.layers.1.block_sparse_moe.experts.3.w1.weight"])
      assert.equal(not more.uniform and "F32 4x16" or nil,
        names["model.layers.1.mlp.controller.weight"])
      assert.equal(more.temperature == "learned" and "F32 1" or nil,
        names["model.layers.1.mlp.temperature"])
    end)
  end

  it("name the bias and the table of a router", function()
    local names = tensors_of(saved(models.tiny({ ffn = { models.mixture({ router = { k = 2,
      bias = { rate = 1e-3 } } }), models.mixture({ router = { kind = "hash",
      by = "balanced" } }) } })))
    assert.equal("F32 4", names["model.layers.0.block_sparse_moe.gate.e_score_correction_bias"])
    assert.equal("I32 256x1", names["model.layers.1.block_sparse_moe.gate.table"])
    assert.is_nil(names["model.layers.1.block_sparse_moe.gate.weight"])
  end)

  it("are no Mixtral for what only looks like one", function()
    for _, router in ipairs({ { k = 2, scale = 1 }, { k = 2, capacity = { evaluation = 2 } },
      { k = 2, bias = { rate = 0.1 } } }) do
      assert.equal("moelua", (type_of(models.mixture({ router = router }))))
    end
    assert.equal("mixtral", (type_of(models.mixture({ router = { k = 2, jitter = 0.1,
      capacity = { factor = 1 }, z_loss = 0.5,
      balance = { form = "switch", reduce = "pooled", scope = "step" } } }))))
  end)

  it("name shared experts and their gate as others do", function()
    local folder = saved(models.tiny({ ffn = models.mixture({
      shared = { experts = 2, hidden = 6, gate = true } }) }))
    local names = tensors_of(folder)
    assert.equal("F32 12x16", names["model.layers.1.mlp.shared_experts.gate_proj.weight"])
    assert.equal("F32 12x16", names["model.layers.1.mlp.shared_experts.up_proj.weight"])
    assert.equal("F32 16x12", names["model.layers.1.mlp.shared_experts.down_proj.weight"])
    assert.equal("F32 1x16", names["model.layers.1.mlp.shared_expert_gate.weight"])
    assert.same({ experts = 2, hidden = 6, gate = true }, config_of(folder).ffn[1].shared)
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
    assert.equal("make_folder: " .. blocked .. ": a file has this name", message)
    assert.equal("io", code)
    models.misuse(function() assert(models.tiny():save(blocked, { dtyp = "f32" })) end,
      "checkpoint.save: unknown option 'dtyp'\nhint: did you mean 'dtype'?")
  end)
end)

describe("saving over another model", function()
  local function new_model(seed)
    return models.tiny({ seed = seed, ffn = { {}, models.mixture() } })
  end
  local function listed(folder)
    local names = {}
    for name in require("lfs").dir(folder) do
      if name ~= "." and name ~= ".." then names[#names + 1] = name end
    end
    table.sort(names)
    return names
  end

  it("replaces all of it, and nothing else", function()
    local folder = saved(models.tiny(), { max_shard_size = 10000 })
    assert.is_true(#listed(folder) > 4)
    system.write(folder .. "/README.md", "about")
    local m = new_model(3)
    m.tokenizer = moe.tokenizer.bytes()
    assert(m:save(folder))
    assert.same({ "README.md", "config.json", "model.safetensors", "tokenizer.json",
      "tokenizer_config.json" }, listed(folder))
    models.same(m, assert(moe.load(folder)))
    assert(m:save(folder, { max_shard_size = 20000 }))
    assert.is_false(system.exists(folder .. "/model.safetensors"))
    models.same(m, assert(moe.load(folder)))
  end)

  it("keeps the old one when the new one cannot be written", function()
    local old, m = new_model(1), models.tiny()
    local folder = saved(old)
    local before = listed(folder)
    local function fails(save)
      m.tokenizer = { save = save }
      local done, ok, message, code = pcall(m.save, m, folder)
      models.same(old, assert(moe.load(folder)))
      assert.same(before, listed(folder))
      assert.is_nil(m.path)
      return done, ok, message, code
    end
    local done, ok, message, code = fails(function(_, path)
      return nil, path .. "/tokenizer.json: cannot be written: No space left on device", "full"
    end)
    assert.is_true(done)
    assert.is_nil(ok)
    assert.equal(folder .. "/tokenizer.json: cannot be written: No space left on device", message)
    assert.equal("full", code)
    assert.is_false((fails(function() error("interrupted!", 0) end)))
  end)

  it("never shows a mixture of the two, wherever it is stopped", function()
    local old, m = new_model(1), models.tiny({ seed = 2 })
    m.tokenizer = moe.tokenizer.bytes()
    local rename, stopped_at, moves = system.rename, nil, 0
    system.rename = function(...)
      moves = moves + 1
      if moves == stopped_at then error("the power is gone", 0) end
      return rename(...)
    end
    local ok, why = pcall(function()
      for stop = 1, 5 do
        local folder = saved(old)
        stopped_at, moves = stop, 0
        local done = pcall(m.save, m, folder)
        stopped_at = nil
        local left, message, code = moe.load(folder)
        if done then
          assert.equal(4, moves)
          models.same(m, assert(left, message))
        else
          assert.is_nil(left)
          assert.equal("missing", code, message)
        end
        assert(m:save(folder))
        models.same(m, assert(moe.load(folder)))
      end
    end)
    system.rename = rename
    assert(ok, why)
  end)

  it("wants a path", function()
    models.misuse(function() models.tiny():save() end,
      "save: folder must be the path of a folder, not nil")
    models.misuse(function() models.tiny():save("") end,
      'save: folder must be the path of a folder, not ""')
  end)
end)
