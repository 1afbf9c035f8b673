-- A GGUF file seen as the Hugging Face directory that it was made from.
local core = require("moelua.core")
local gguf_names = require("moelua.gguf_names")
local gguf_view = require("moelua.gguf_view")
local hf_config = require("moelua.hf_config")
local made = require("spec.checkpoint_files")
local options = require("moelua.options")

local files = core.checkpoint

-- A file with these tensors (zeros of a shape unless they are tensors) and metadata.
local function write(tensors, metadata)
  local path, plan = made.fresh_path(".gguf"), {}
  for name, t in pairs(tensors) do
    plan[name] = { dtype = "F32", shape = type(t) == "table" and t or t:shape() }
  end
  local writer <close> = assert(files.create_gguf(path, plan, metadata))
  for _, name in ipairs(writer:names()) do
    local t = tensors[name]
    assert(writer:put(name, type(t) == "table" and core.zeros(table.unpack(t)) or t))
  end
  assert(writer:close())
  return path
end

-- Keys of an architecture, from short names.
local function keys(arch, more)
  local metadata = { ["general.architecture"] = arch }
  for name, value in pairs(options.merge({ block_count = 1, embedding_length = 8,
    feed_forward_length = 6, context_length = 64, ["attention.head_count"] = 2,
    ["attention.head_count_kv"] = 1, ["attention.layer_norm_rms_epsilon"] = 1e-5,
    ["rope.freq_base"] = 500000.0 }, more or {})) do
    metadata[arch .. "." .. name] = value
  end
  return metadata
end

local function dense(more)
  return options.merge({ ["token_embd.weight"] = { 10, 8 }, ["output_norm.weight"] = { 8 },
    ["blk.0.attn_norm.weight"] = { 8 }, ["blk.0.ffn_norm.weight"] = { 8 },
    ["blk.0.attn_q.weight"] = { 8, 8 }, ["blk.0.attn_k.weight"] = { 4, 8 },
    ["blk.0.attn_v.weight"] = { 4, 8 }, ["blk.0.attn_output.weight"] = { 8, 8 },
    ["blk.0.ffn_gate.weight"] = { 6, 8 }, ["blk.0.ffn_up.weight"] = { 6, 8 },
    ["blk.0.ffn_down.weight"] = { 8, 6 } }, more or {})
end

-- One layer of a mixture of three experts, without the dense tensors.
local function mixture(more)
  local tensors = dense(options.merge({ ["blk.0.ffn_gate_inp.weight"] = { 3, 8 },
    ["blk.0.ffn_gate_exps.weight"] = { 3, 6, 8 }, ["blk.0.ffn_up_exps.weight"] = { 3, 6, 8 },
    ["blk.0.ffn_down_exps.weight"] = { 3, 8, 6 } }, more or {}))
  for _, part in ipairs { "gate", "up", "down" } do
    tensors["blk.0.ffn_" .. part .. ".weight"] = nil
  end
  return tensors
end

-- The same in a folder of parts, with each the tensors that are given for it.
local function write_parts(parts, metadata)
  local stem, total = made.fresh_path(""), 0
  for _, tensors in ipairs(parts) do
    for _ in pairs(tensors) do total = total + 1 end
  end
  for i, tensors in ipairs(parts) do
    local own = options.merge(i == 1 and metadata or {}, { ["split.no"] = i - 1,
      ["split.count"] = #parts, ["split.tensors.count"] = total })
    assert(os.rename(write(tensors, own), ("%s-%05d-of-%05d.gguf"):format(stem, i, #parts)))
  end
  return ("%s-00001-of-%05d.gguf"):format(stem, #parts), stem
end

local function opened(tensors, metadata)
  local hf, file, code = gguf_view.open(write(tensors, metadata))
  assert.is_nil(code, file)
  return hf, file
end

local function refused(text, tensors, metadata)
  local path = write(tensors, metadata)
  local hf, message, got = gguf_view.open(path)
  assert.is_nil(hf)
  assert.equal("unsupported", got)
  assert.equal(path .. ": ", message:sub(1, #path + 2))
  assert.truthy(message:find(text, 1, true), message)
end

describe("the order of rows", function()
  it("puts the halves of a head side by side, and apart again", function()
    assert.same({ 0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11 }, gguf_names.rows_here(12, 6):totable())
    assert.same({ 0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11 }, gguf_names.rows_there(12, 6):totable())
  end)

  it("is the formula of the converter", function()
    local n, D = 24, 8
    local x = core.arange(n):reshape(n // D, 2, D // 2):transpose(2, 3):reshape(n)
    assert.same(x:totable(), gguf_names.rows_there(n, D):to("f32"):totable())
  end)
end)

describe("gguf_view", function()
  it("tells the fields of a Llama", function()
    local hf = opened(dense(), keys("llama", { ["attention.key_length"] = 4,
      ["rope.dimension_count"] = 4 }))
    assert.equal("llama", hf.model_type)
    assert.equal(10, hf.vocab_size)
    assert.equal(1e-5, hf.rms_norm_eps)         -- a short decimal, though it was an f32
    assert.equal(500000.0, hf.rope_theta)
    assert.equal(4, hf.head_dim)
    assert.is_true(hf.tie_word_embeddings)
    assert.is_nil(hf.rope_scaling)
    local config = assert(hf_config.from_json(hf))
    assert.equal(1, config.kv_heads)
    assert.equal(64, config.context)
  end)

  it("has its names, and q and k in another order", function()
    local _, file = opened(dense { ["output.weight"] = { 10, 8 } }, keys("llama"))
    assert.same({ "lm_head.weight", "model.embed_tokens.weight",
      "model.layers.0.input_layernorm.weight", "model.layers.0.mlp.down_proj.weight",
      "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
      "model.layers.0.post_attention_layernorm.weight", "model.layers.0.self_attn.k_proj.weight",
      "model.layers.0.self_attn.o_proj.weight", "model.layers.0.self_attn.q_proj.weight",
      "model.layers.0.self_attn.v_proj.weight", "model.norm.weight" }, file:names())
    assert.same({ dtype = "F32", shape = { 8, 8 }, bytes = 256 },
      file:info("model.layers.0.self_attn.q_proj.weight"))
    local source = file:source("model.layers.0.self_attn.q_proj.weight")
    assert.equal("blk.0.attn_q.weight", source.name)
    assert.same({ 0, 2, 1, 3, 4, 6, 5, 7 }, source.rows:totable())
    assert.same({ 0, 2, 1, 3 },
      file:source("model.layers.0.self_attn.k_proj.weight").rows:totable())
    assert.is_nil(file:source("model.layers.0.self_attn.v_proj.weight").rows)
  end)

  it("takes experts out of their stacks", function()
    local hf, file = opened(mixture(), keys("llama", { expert_count = 3, expert_used_count = 2 }))
    assert.equal("mixtral", hf.model_type)
    assert.equal(3, hf.num_local_experts)
    local name = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
    assert.same({ dtype = "F32", shape = { 6, 8 }, bytes = 192 }, file:info(name))
    local source = file:source(name)
    assert.equal("blk.0.ffn_gate_exps.weight", source.name)
    assert.equal(96, source.first)
    assert.same({ 6, 8 }, source.shape)
    assert.equal("F32", file:info("model.layers.0.block_sparse_moe.gate.weight").dtype)
  end)

  it("reads experts that old files keep each by itself", function()
    local tensors = mixture()
    for old, stack in pairs { gate = { 6, 8 }, up = { 6, 8 }, down = { 8, 6 } } do
      tensors["blk.0.ffn_" .. old .. "_exps.weight"] = nil
      for e = 0, 2 do tensors[("blk.0.ffn_%s.%d.weight"):format(old, e)] = stack end
    end
    local _, file = opened(tensors, keys("llama", { expert_count = 3, expert_used_count = 2 }))
    assert.same({ file = file.file, name = "blk.0.ffn_up.1.weight" },
      file:source("model.layers.0.block_sparse_moe.experts.1.w3.weight"))
  end)

  it("knows Qwen2-MoE, whose widths old converters left to the tensors", function()
    local hf, file = opened(mixture { ["output.weight"] = { 10, 8 },
      ["blk.0.attn_q.bias"] = { 8 }, ["blk.0.attn_k.bias"] = { 4 }, ["blk.0.attn_v.bias"] = { 4 },
      ["blk.0.ffn_gate_shexp.weight"] = { 5, 8 }, ["blk.0.ffn_up_shexp.weight"] = { 5, 8 },
      ["blk.0.ffn_down_shexp.weight"] = { 8, 5 }, ["blk.0.ffn_gate_inp_shexp.weight"] = { 8 } },
      keys("qwen2moe", { expert_count = 3, expert_used_count = 2 }))
    assert.equal("qwen2_moe", hf.model_type)
    assert.equal(6, hf.moe_intermediate_size)
    assert.equal(5, hf.shared_expert_intermediate_size)
    assert.is_false(hf.norm_topk_prob)
    assert.same({ 1, 8 }, file:info("model.layers.0.mlp.shared_expert_gate.weight").shape)
    assert.is_nil(file:source("model.layers.0.self_attn.q_proj.weight").rows)
    assert(hf_config.from_json(hf))
  end)

  it("reads scaled rotary positions", function()
    local linear = opened(dense(), keys("llama", { ["rope.scaling.type"] = "linear",
      ["rope.scaling.factor"] = 4.0 }))
    assert.same({ rope_type = "linear", factor = 4.0 }, linear.rope_scaling)
    assert.same({ rope_type = "linear", factor = 2.0 },
      opened(dense(), keys("llama", { ["rope.scale_linear"] = 2.0 })).rope_scaling)
    local yarn = opened(dense(), keys("llama", { ["rope.scaling.type"] = "yarn",
      ["rope.scaling.factor"] = 4.0, ["rope.scaling.original_context_length"] = 16 }))
    assert.same({ rope_type = "yarn", factor = 4.0, original_max_position_embeddings = 16 },
      yarn.rope_scaling)
    refused("rotary positions scaled by `longrope` are not supported", dense(),
      keys("llama", { ["rope.scaling.type"] = "longrope" }))
  end)

  it("finds what Llama 3's divisors were made of", function()
    local scaling = { rope_type = "llama3", factor = 32.0, low_freq_factor = 1.0,
      high_freq_factor = 4.0, original_max_position_embeddings = 8192 }
    local divisors = require("moelua.gguf_rope").divisors(scaling, 500000.0, 64)
    assert.equal(32, divisors[32])
    local wide = { ["embedding_length"] = 128, ["rope.dimension_count"] = 64 }
    local tensors = dense { ["rope_freqs.weight"] = core.tensor(divisors),
      ["blk.0.attn_q.weight"] = { 128, 128 }, ["blk.0.attn_k.weight"] = { 64, 128 } }
    assert.same(scaling, opened(tensors, keys("llama", wide)).rope_scaling)
    divisors[16] = 5.0
    tensors["rope_freqs.weight"] = core.tensor(divisors)
    refused("are not those of a known scaling", tensors, keys("llama", wide))
    tensors["rope_freqs.weight"] = core.ones(31)
    refused("has not the 32 numbers of a head", tensors, keys("llama", wide))
    tensors["rope_freqs.weight"] = core.ones(32)
    assert.is_nil(opened(tensors, keys("llama", wide)).rope_scaling)
  end)

  it("opens a file of several parts by the first", function()
    local first, second = dense(), { ["output.weight"] = core.full(7, 10, 8) }
    local path, stem = write_parts({ first, second }, keys("llama"))
    local hf, file = gguf_view.open(path)
    assert.equal("llama", hf.model_type)
    assert.is_false(hf.tie_word_embeddings)
    assert.equal(560, file:tensor("lm_head.weight"):sum():item())
    assert.equal("output.weight", file:source("lm_head.weight").name)
    file:close()
    for _, case in ipairs({ { { first, first }, "have tensor `blk.0.attn_k.weight`" },
      { { first, second, {} }, nil } }) do
      local other = write_parts(case[1], keys("llama"))
      if not case[2] then
        assert(os.remove((other:gsub("00001%-of", "00003-of"))))
        case[2] = "00003-of-00003.gguf: No such file"
      end
      local got, message = gguf_view.open(other)
      assert.is_nil(got)
      assert.truthy(message:find(case[2], 1, true), message)
    end
    assert(os.rename(stem .. "-00001-of-00002.gguf", stem .. "-00002-of-00002.gguf"))
    local _, message = gguf_view.open(stem .. "-00002-of-00002.gguf")
    assert.truthy(message:find("hint: open the first one, NAME-00001-of-00002.gguf", 1, true))
  end)

  it("refuses what it would compute differently", function()
    refused("the architecture `gemma` is not supported\nhint: deepseek, llama, olmoe, ", dense(),
      keys("gemma"))
    refused("the architecture `olmoe` is not supported", dense(), keys("olmoe"))
    refused("the key `general.architecture` is missing", dense(), {})
    refused("llama.attention.sliding_window is 16, which is not supported", dense(),
      keys("llama", { ["attention.sliding_window"] = 16 }))
    refused("llama.expert_weights_norm is false where the architecture means true", mixture(),
      keys("llama", { expert_count = 3, expert_used_count = 2, expert_weights_norm = false }))
    refused("llama.attention.head_count differs from layer to layer", dense(),
      keys("llama", { ["attention.head_count"] = { 2, 3 } }))
    refused("llama.rope.dimension_count is 2, which is not supported: heads have 4", dense(),
      keys("llama", { ["rope.dimension_count"] = 2 }))
    refused("heads of size 7 cannot be rotated", dense(),
      keys("llama", { ["attention.key_length"] = 7 }))
    refused("tensor `blk.0.attn_q.weight` has 6 rows, no whole heads of 4",
      dense { ["blk.0.attn_q.weight"] = { 6, 8 } }, keys("llama"))
    refused("tensor `blk.0.ssm_a` is none of a LlamaForCausalLM",
      dense { ["blk.0.ssm_a"] = { 6 } }, keys("llama"))
    refused("is no stack of at most 4096 experts",
      mixture { ["blk.0.ffn_up_exps.weight"] = { 6, 8 } },
      keys("llama", { expert_count = 3, expert_used_count = 2 }))
  end)
end)
