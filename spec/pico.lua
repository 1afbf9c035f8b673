-- pico.lua: tiny Llamas in folders, random by our own generator, for specs of merges: 64 tokens,
-- width 32, two layers, 21 tensors, as mergekit's own tests use.

local core = require("moelua.core")
local moe = require("moelua")

local json, system = core.json, core.system

local pico = {}

local WIDTH, HIDDEN = 32, 48

-- name -> Tensor of one layer.
local function add_layer(tensors, layer, hidden)
  local prefix = ("model.layers.%d."):format(layer)
  for _, name in ipairs { "q", "k", "v", "o" } do
    tensors[prefix .. "self_attn." .. name .. "_proj.weight"] = moe.randn(WIDTH, WIDTH)
  end
  tensors[prefix .. "mlp.gate_proj.weight"] = moe.randn(hidden, WIDTH)
  tensors[prefix .. "mlp.up_proj.weight"] = moe.randn(hidden, WIDTH)
  tensors[prefix .. "mlp.down_proj.weight"] = moe.randn(WIDTH, hidden)
  tensors[prefix .. "input_layernorm.weight"] = moe.randn(WIDTH)
  tensors[prefix .. "post_attention_layernorm.weight"] = moe.randn(WIDTH)
end

--- The tensors of a model: name -> Tensor. Options: vocab, hidden, layers, tied.
function pico.tensors(seed, opt)
  moe.manual_seed(seed)
  local vocab, tensors = opt.vocab or 64, {}
  tensors["model.embed_tokens.weight"] = moe.randn(vocab, WIDTH)
  for layer = 0, (opt.layers or 2) - 1 do add_layer(tensors, layer, opt.hidden or HIDDEN) end
  tensors["model.norm.weight"] = moe.randn(WIDTH)
  if not opt.tied then tensors["lm_head.weight"] = moe.randn(vocab, WIDTH) end
  return tensors
end

local function config_of(opt)
  local config = { model_type = "llama", architectures = json.array { "LlamaForCausalLM" },
    vocab_size = opt.vocab or 64, hidden_size = WIDTH, intermediate_size = opt.hidden or HIDDEN,
    num_hidden_layers = opt.layers or 2, num_attention_heads = 16, num_key_value_heads = 16,
    hidden_act = "silu", rms_norm_eps = 1e-5, rope_theta = 10000.0, max_position_embeddings = 128,
    tie_word_embeddings = opt.tied or false, torch_dtype = "float32" }
  for key, value in pairs(opt.config or {}) do config[key] = value end
  return config
end

--- Writes a model into a folder; options as for tensors, and config (fields of config.json), dtype
--- ("bf16"), files (name -> text), change (a function of the tensors), max_shard_size.
--- Returns the path.
function pico.write(path, seed, opt)
  opt = opt or {}
  local tensors = pico.tensors(seed, opt)
  if opt.change then opt.change(tensors) end
  assert(moe.checkpoint.save(path, tensors, nil, { dtype = opt.dtype,
    max_shard_size = opt.max_shard_size }))
  assert(system.write(path .. "/config.json", json.encode(config_of(opt))))
  for name, text in pairs(opt.files or {}) do assert(system.write(path .. "/" .. name, text)) end
  return path
end

return pico
