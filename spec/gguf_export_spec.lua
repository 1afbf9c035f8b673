-- Models as GGUF files: what is read again is the same model, and what llama.cpp would compute
-- differently is refused.
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local export = require("moelua.gguf_export")
local made = require("spec.checkpoint_files")
local moe = require("moelua")
local nn = require("moelua.nn")
local outline = require("moelua.outline")
local pretrained = require("moelua.pretrained")

local system = core.system
local FAMILIES = "spec/golden/families/"

local function golden(name) return assert(moe.load(FAMILIES .. name)) end

local function written(m, given)
  local path = made.fresh_path(".gguf")
  assert(export.write(m, path, given))
  return path
end

local function refused(text, m)
  local path = made.fresh_path(".gguf")
  local done, message, code = export.write(m, path)
  assert.is_nil(done)
  assert.equal("unsupported", code)
  assert.truthy(message:find(text, 1, true), message)
  assert.is_false(system.exists(path))
end

local ids = {}
for i = 1, 17 do ids[i] = i * 7 % 61 end

local function small(more)
  local config = { dim = 64, layers = 2, heads = 4, kv_heads = 2, hidden = 96, vocab = 61,
    context = 64, seed = 3 }
  for name, value in pairs(more or {}) do config[name] = value end
  if config.ffn then config.hidden = nil end
  return moe.model.new(config)
end

-- Mixtures of `experts` experts in the second layer, and in the first too when it is told.
local function mixture(experts, first)
  local layer = { kind = "moe", experts = experts or 4, hidden = 96,
    router = { kind = "topk", k = 2 } }
  return small { ffn = { first or layer, layer } }
end

describe("a model written as GGUF and read again", function()
  for _, name in ipairs { "llama", "llama-bias", "llama-head_dim", "llama-linear", "llama-llama3",
    "llama-tied", "llama-yarn", "mistral", "mixtral", "olmoe", "qwen2_moe", "qwen3_moe",
    "deepseek" } do
    it("has the same logits: " .. name, function()
      local m = golden(name)
      local again = assert(moe.load(written(m)))
      assert.equal(m:logits(ids):bytes(), again:logits(ids):bytes())
    end)
  end

  it("has more experts in a layer than an op takes tensors", function()
    local m = mixture(66)
    local folder = made.fresh_path("")
    assert(m:save(folder))
    local want = m:logits(ids):bytes()
    assert.equal(want, assert(moe.load(written(m))):logits(ids):bytes())
    assert.equal(want, assert(moe.load(written(assert(pretrained.open(folder))))):logits(ids)
      :bytes())
    local out = made.fresh_path(".gguf")
    assert(moe.export(folder, out))
    assert.equal(want, assert(moe.load(out)):logits(ids):bytes())
  end)

  it("is close in f16, bf16 and q8_0", function()
    local m = small()
    local exact = m:logits(ids)
    for dtype, bound in pairs { f16 = 1e-3, bf16 = 1e-2, q8_0 = 2e-2 } do
      local diff = assert(moe.load(written(m, { dtype = dtype }))):logits(ids) - exact
      local error_share = (diff * diff):sum():item() / (exact * exact):sum():item()
      assert.truthy(error_share < bound ^ 2, dtype)
    end
  end)

  it("comes from the disk as it does from memory", function()
    for _, name in ipairs { "llama", "mixtral-fused", "qwen2_moe" } do
      local P <close> = assert(pretrained.open(FAMILIES .. name))
      local named = { name = name }
      assert.equal(system.read(written(golden(name), named)), system.read(written(P, named)))
    end
  end)

  it("can be described by the caller", function()
    local m = mixture()
    local tensors = {}
    for _, entry in ipairs(nn.saved(m)) do tensors[entry[1]] = entry[2] end
    local described = { config = m.config, list = function() return outline(m.config) end,
      tensor = function(name) return tensors[name]:detach() end }
    local named = { name = "four" }
    assert.equal(system.read(written(m, named)), system.read(written(described, named)))
  end)
end)

describe("gguf_export", function()
  it("keeps vectors and routers in f32, and rows of odd widths in f16", function()
    local file = assert(checkpoint.open(written(mixture(), { dtype = "q8_0", name = "four" })))
    local function dtype(name) return file:info(name).dtype end
    assert.equal("Q8_0", dtype("token_embd.weight"))
    assert.equal("Q8_0", dtype("blk.0.attn_q.weight"))
    assert.equal("F32", dtype("blk.0.attn_norm.weight"))
    assert.equal("F32", dtype("output_norm.weight"))
    assert.equal("F32", dtype("blk.1.ffn_gate_inp.weight"))
    assert.same({ dtype = "Q8_0", shape = { 4, 96, 64 }, bytes = 4 * 96 * 68 },
      file:info("blk.1.ffn_gate_exps.weight"))
    file = assert(checkpoint.open(written(small { hidden = 80 }, { dtype = "q8_0" })))
    assert.equal("F16", file:info("blk.0.ffn_down.weight").dtype)
    assert.equal("Q8_0", file:info("blk.0.ffn_up.weight").dtype)
  end)

  it("says what llama.cpp asks for", function()
    local file = assert(checkpoint.open(written(mixture(), { dtype = "q8_0", name = "four" })))
    assert.same({ ["general.architecture"] = "llama", ["general.type"] = "model",
      ["general.name"] = "four", ["general.file_type"] = 7, ["general.quantization_version"] = 2,
      ["llama.vocab_size"] = 61, ["llama.context_length"] = 64, ["llama.embedding_length"] = 64,
      ["llama.block_count"] = 2, ["llama.feed_forward_length"] = 96,
      ["llama.attention.head_count"] = 4, ["llama.attention.head_count_kv"] = 2,
      ["llama.attention.key_length"] = 16, ["llama.attention.value_length"] = 16,
      ["llama.attention.layer_norm_rms_epsilon"] = string.unpack("<f", string.pack("<f", 1e-5)),
      ["llama.rope.dimension_count"] = 16, ["llama.rope.freq_base"] = 10000.0,
      ["llama.expert_count"] = 4, ["llama.expert_used_count"] = 2,
      ["tokenizer.ggml.model"] = "no_vocab" }, file:metadata())
    local path = written(small {})
    assert.equal(path:match("([^/]+)%.gguf$"),
      assert(checkpoint.open(path)):metadata("general.name"))
  end)

  it("writes the frequencies of Llama 3", function()
    local file = assert(checkpoint.open(written(golden("llama-llama3"), { dtype = "f16" })))
    assert.same({ dtype = "F32", shape = { 4 }, bytes = 16 }, file:info("rope_freqs.weight"))
    local divisors = file:tensor("rope_freqs.weight"):totable()
    assert.near(4 / (1 + 3 * (16 / (2 * math.pi) - 1) / 3), divisors[1], 1e-6)
    assert.same({ 4.0, 4.0 }, { divisors[3], divisors[4] })
  end)

  it("fills the vocabulary up to the rows of the embedding", function()
    local m, count = small(), 60
    m.tokenizer = { gguf = function()
      local tokens, types = {}, {}
      for i = 1, count do tokens[i], types[i] = "t" .. i, 1 end
      return { ["tokenizer.ggml.model"] = "gpt2", ["tokenizer.ggml.tokens"] = tokens,
        ["tokenizer.ggml.token_type"] = types, ["tokenizer.ggml.merges"] = {},
        ["tokenizer.ggml.bos_token_id"] = 3 }
    end }
    local file = assert(checkpoint.open(written(m)))
    local tokens = file:metadata("tokenizer.ggml.tokens")
    assert.equal(61, #tokens)
    assert.equal("t60", tokens[60])
    assert.equal("[PAD60]", tokens[61])
    assert.equal(5, file:metadata("tokenizer.ggml.token_type")[61])
    assert.equal(3, file:metadata("tokenizer.ggml.bos_token_id"))
    assert.is_nil(file:metadata("tokenizer.ggml.merges"))
    count = 62
    refused("the tokenizer has 62 tokens, the model 61", m)
    m.tokenizer = { gguf = function() return nil, "it splits words by their colour" end }
    refused("export: it splits words by their colour", m)
  end)

  it("refuses what llama.cpp has no architecture for, with the reason", function()
    refused("\nas mixtral: ", mixture(4,
      { kind = "dense", hidden = 96 }))
    refused("as mixtral: ", small { ffn = { kind = "moe", experts = 4, hidden = 96,
      router = { kind = "expert_choice" } } })
    refused("rotary positions scaled by `dynamic` do not exist in GGUF", golden("llama-dynamic"))
    refused("means clip_qkv = null; this model has 0.8", golden("olmoe-clip"))
    refused("means mlp_only_layers = []; this model has [1]", golden("qwen3_moe-raw"))
    refused("layer 1 has 513 experts, llama.cpp takes at most 512", moe.model.new { dim = 8,
      layers = 1, heads = 1, vocab = 3, context = 8, ffn = { kind = "moe", experts = 513,
        hidden = 4, router = { kind = "topk", k = 2 } } })
  end)

  it("wants a model", function()
    local ok, message = pcall(export.write, 7, "x.gguf")
    assert.is_false(ok)
    assert.truthy(message:find("gguf_export.write: a model or what pretrained.open returns is "
      .. "expected, not 7", 1, true), message)
  end)
end)
