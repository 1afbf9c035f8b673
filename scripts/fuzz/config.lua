-- config.lua: JSON files of a model, made up nearly valid, and what must come of reading them.
-- Loaded once by config.c; fuzz(bytes) then does one test and returns the seconds it took.
local folder = ...
local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local family = require("moelua.family")
local hf_config = require("moelua.hf_config")
local model = require("moelua.model")
local tokenizer = require("moelua.tokenizer")
local json = core.json

local choices = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "choices.lua")
local open, pick, one_of = choices.open, choices.pick, choices.one_of

-- ---- texts ------------------------------------------------------------------------------------

local base = { vocab = 16, dim = 4, layers = 2, heads = 2, hidden = 8, context = 8 }
local mixture = { kind = "moe", hidden = 8, experts = 2, router = { k = 1 } }
local shared = { kind = "moe", hidden = 8, experts = 3, activation = "gelu", router = { k = 2 },
  shared = { experts = 2, hidden = 4, gate = true } }

local gated = { kind = "moe", hidden = 8, experts = 2, router = { k = 1, gate = "all" },
  shared = { experts = 1, hidden = 4, gate = true } }

local function routed(router)
  return { kind = "moe", hidden = 8, experts = 2, router = router }
end

local function config_of(ffn, tied, more)
  local options = { ffn = ffn, tied = tied }
  for key, value in pairs(base) do options[key] = value end
  for key, value in pairs(more or {}) do options[key] = value end
  return options
end

local made = {      -- models in folders, whose config.json is replaced
  llama = model.new(config_of(nil, true)),
  mixtral = model.new(config_of(mixture, false)),
  moelua = model.new(config_of({ { kind = "dense" }, mixture }, true)),
  shared = model.new(config_of({ shared, { kind = "dense", activation = "relu" } }, true)),
  routers = model.new(config_of({ routed({ kind = "hash", by = "balanced" }),
    routed({ k = 1, gate = "sigmoid", scale = 2, jitter = 0.1, bias = { rate = 0.1 },
      capacity = { evaluation = 2 }, balance = { form = "device", groups = 2 } }) }, true)),
  tokens = model.new(config_of({ { kind = "mot", hidden = 4, experts = 4, group = 2,
    temperature = "learned" }, { kind = "mot", hidden = 8, experts = 2, group = 2,
    activation = "swiglu", temperature = { from = 2, to = 1, steps = 9 } } }, true)),
  yarn = model.new(config_of(nil, true, { attention_bias = "all", mlp_bias = true,
    rope_scaling = { rope_type = "yarn", factor = 4, original_max_position_embeddings = 2 } })),
  llama3 = model.new(config_of(nil, true, { rope_scaling = { rope_type = "llama3", factor = 8,
    low_freq_factor = 1, high_freq_factor = 4 } })),
  qwen2 = model.new(config_of({ gated, { kind = "dense" } }, true, { attention_bias = "qkv" })),
  qwen3 = model.new(config_of({ { kind = "dense" }, mixture }, true, { qk_norm = "head" })),
  olmoe = model.new(config_of(mixture, false, { qk_norm = "whole", clip_qkv = 2 })),
  deepseek = model.new(config_of({ { kind = "dense" }, routed({ k = 1, gate = "all" }) }, true)),
  domains = model.new(config_of({ routed({ kind = "domain", domains = { "a", "b" } }),
    routed({ kind = "expert_choice", over = "batch" }) }, true)),
}
local texts = {}  -- name -> JSON value of a file that is right
assert(core.system.make_folder(folder))
for name, m in pairs(made) do
  assert(m:save(folder .. "/" .. name))
  texts[name] = (hf_config.to_json(m.config))
end
assert(made.llama:save(folder .. "/shards", { max_shard_size = 1000 }))
assert(tokenizer.bytes():save(folder))

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local INDEX = folder .. "/shards/model.safetensors.index.json"
local TOKENIZER = folder .. "/tokenizer.json"
texts.index = json.decode(read(INDEX))
texts.tokenizer = json.decode(read(TOKENIZER))
texts.job = { name = "code", attempts = 1, model = "runs/seed",
  options = { steps = 400, lr = 3e-3 }, modules = json.array({}), data = { code = "data/code" } }
for name, value in pairs(texts) do texts[name] = json.encode(value) end

-- Values that somebody might write, or a broken disk.
local odd = {
  "0", "-1", "-0", "1", "2", "3", "4", "7", "8", "16", "4096", "4097", "65536", "100000",
  "2147483647", "2147483648", "1000000000000", "9223372036854775807", "9223372036854775808",
  "-9223372036854775808", "18446744073709551616", "1e18", "1e308", "1e400", "-1e400", "1e-400",
  "0.5", "2.0", "NaN", "Infinity", "null", "true", "false", "[]", "{}", "[[]]", "[null]",
  "[1,2]", "{\"a\":1}", "\"\"", "\"x\"", "\"4\"", "\"\\u0000\"", "\"\\ud800\"", "\"\xff\"", "",
  ",", "}", "[1", "01", ("["):rep(150) .. ("]"):rep(150), ("["):rep(250) .. ("]"):rep(250),
  ("["):rep(5000), "\"" .. ("x"):rep(5000) .. "\"", "1" .. ("0"):rep(400),
  "{\"type\":\"linear\"}", "{\"type\":{}}", "{\"rope_type\":7}", "{\"rope_theta\":\"a\"}",
  "{\"router\":1}", "{\"router\":{\"balance\":3}}",
  "{\"router\":{\"balance\":{\"coef\":\"a\"}}}", "{\"experts\":2}", "{\"experts\":4096}",
  "{\"experts\":2,\"hidden\":2147483647}", "\"gelu\"", "\"swiglu\"", "\"sigmoid\"",
  "{\"seed\":1.5}", "\"llama\"", "\"mistral\"", "\"mixtral\"", "\"moelua\"", "\"olmoe\"",
  "\"qwen2_moe\"", "\"qwen3_moe\"", "\"deepseek\"",
  "{\"rope_type\":\"dynamic\",\"factor\":3}",
  "{\"rope_type\":\"yarn\",\"factor\":1e30}", "{\"rope_type\":\"yarn\"}", "[0,1]", "[2,5]",
  "\"dense\"", "\"moe\"", "\"../x\"",
  "\"model.safetensors\"",
}

-- Keys that are read, also where the text has none yet.
local keys = {
  "model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads",
  "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rope_theta",
  "rope_scaling", "rope_parameters", "sliding_window", "hidden_act", "attention_bias", "mlp_bias",
  "num_local_experts", "num_experts_per_tok", "router_aux_loss_coef", "rms_norm_eps",
  "tie_word_embeddings", "initializer_range", "moelua", "ffn", "merges",
  "num_experts", "n_routed_experts", "n_shared_experts", "moe_intermediate_size",
  "shared_expert_intermediate_size", "mlp_only_layers", "decoder_sparse_step", "moe_layer_freq",
  "first_k_dense_replace", "norm_topk_prob", "qkv_bias", "qk_norm", "clip_qkv", "aux_loss_alpha",
  "use_sliding_window", "factor", "original_max_position_embeddings", "beta_fast", "eos_token_id",
  "added_tokens", "normalizer", "kind", "activation", "shared", "segments", "gate",
}

-- Where in the text the values are: { first byte, last byte } of each that follows a colon.
local function values(text)
  local list = {}
  for _, pattern in ipairs({ '":%s*()[^%s,%[%]{}]+()', '":%s*()%b{}()', '":%s*()%b[]()' }) do
    for first, last in text:gmatch(pattern) do list[#list + 1] = { first, last - 1 } end
  end
  return list
end

local function value_for_another(text)
  local list = values(text)
  if #list == 0 then return text end
  local place = list[(pick(256) * 256 + pick(256)) % #list + 1]
  return text:sub(1, place[1] - 1) .. one_of(odd) .. text:sub(place[2] + 1)
end

-- A key more, or one that is there a second time.
local function key_more(text)
  return (text:gsub("^{", ("{%q:%s,"):format(one_of(keys), one_of(odd)):gsub("%%", "%%%%"), 1))
end

local function key_renamed(text)
  return (text:gsub(('"%s"'):format(one_of(keys)), '"other"', 1))
end

local function cut(text) return text:sub(1, #text * pick(256) // 256) end

local function byte_changed(text)
  local place = #text * pick(256) // 256
  return text:sub(1, place) .. string.char(pick(256) - 1) .. text:sub(place + 2)
end

local edits = { value_for_another, value_for_another, value_for_another, key_more, key_more,
  key_renamed, cut, byte_changed }

local function make(text)
  for _ = 2, pick(5) do text = one_of(edits)(text) end
  return text
end

-- ---- what has to hold -------------------------------------------------------------------------

local codes = {}
for code in ("missing io full format busy interrupted unsupported memory"):gmatch("%a+") do
  codes[code] = true
end
local internal = { "attempt to", "bad argument", "%.lua:%d", "stack overflow", "not enough memory",
  "no integer representation", "index is n", "traceback", "table: 0x" }

-- nil, message, code of an expected failure.
local function check_failure(text, message, code)
  if type(message) ~= "string" or not codes[code] then
    error(("no message or no code: %s, %s: %s"):format(tostring(message), tostring(code), text))
  end
  for _, pattern in ipairs(internal) do
    if message:find(pattern) then error(("an internal error: %s: %s"):format(message, text)) end
  end
end

local function whole(value, most)
  return math.type(value) == "integer" and value >= 1 and value <= most
end

local function finite(value) return value == value and value >= 0 and value < math.huge end

-- Parameters of the layer per width of the model.
local function check_ffn(ffn)
  assert(whole(ffn.hidden, 2 ^ 31), "hidden")
  local matrices = ffn.activation == "swiglu" and 3.0 or 2.0
  if ffn.kind == "dense" then return matrices * ffn.hidden end
  if ffn.kind == "mot" then
    assert(whole(ffn.experts, 4096) and whole(ffn.group, 2 ^ 31), "experts, group")
    return matrices * ffn.hidden * ffn.experts
  end
  assert(ffn.kind == "moe" and whole(ffn.experts, 4096), "experts")
  assert(ffn.router.k == nil or whole(ffn.router.k, ffn.experts), "k")
  local both = ffn.shared or { experts = 0, hidden = 0 }
  assert(ffn.shared == nil or whole(both.experts, 4096) and whole(both.hidden, 2 ^ 31))
  return matrices * (ffn.hidden * ffn.experts + both.hidden * both.experts)
end

local function check_config(config)
  for _, name in ipairs({ "dim", "vocab", "context", "heads", "kv_heads", "head_dim" }) do
    assert(whole(config[name], 2 ^ 31), name)
  end
  assert(whole(config.layers, 4096) and #config.ffn == config.layers, "layers")
  assert(config.heads % config.kv_heads == 0 and config.head_dim % 2 == 0, "heads")
  assert(finite(config.rope_theta) and config.rope_theta > 0, "rope_theta")
  assert(finite(config.norm_eps) and finite(config.std), "norm_eps, std")
  local width = 2.0 * config.head_dim * (config.heads + config.kv_heads)
  local parameters = 2.0 * config.vocab
  for _, ffn in ipairs(config.ffn) do parameters = parameters + width + check_ffn(ffn) end
  assert(parameters * config.dim <= 2.0 ^ 50, "more parameters than anybody has")
end

-- ---- readers ----------------------------------------------------------------------------------

local function try_config(text)
  local value, message, code = json.decode(text)
  if value == nil then return check_failure(text, message, code) end
  local config
  config, message, code = hf_config.from_json(value)
  if not config then return check_failure(text, message, code) end
  check_config(config)
  if config.layers > 100 then return end      -- the rest would be slow
  local written = json.encode((hf_config.to_json(config)))
  local again = assert(hf_config.from_json(json.decode(written)))
  check_config(again)
end

local function try_model(name, text)
  local path = folder .. "/" .. name
  write(path .. "/config.json", text)
  local m, message, code = family.load(path)
  if not m then return check_failure(text, message, code) end
  assert(m.config.dim == base.dim and m.config.layers == base.layers, "a model that does not fit")
  assert(m:count() <= made[name]:count(), "parameters")     -- a head that is tied is left out
end

local function try_index(text)
  write(INDEX, text)
  local file, message, code = checkpoint.open(folder .. "/shards")
  if not file then return check_failure(text, message, code) end
  for _, name in ipairs(file:names()) do
    assert(file:tensor(name):count() * 4 == file:info(name).bytes, name)
  end
  file:close()
end

local function try_tokenizer(text)
  write(TOKENIZER, text)
  local tok, message, code = tokenizer.open(TOKENIZER)
  if not tok then return check_failure(text, message, code) end
  assert(tok.vocab == 0 or whole(tok.vocab, 2 ^ 31), "vocab")
end

-- What is decoded can be encoded, and that can be decoded to the same.
local function try_json(text)
  local value, message, code = json.decode(text)
  if value == nil then return check_failure(text, message, code) end
  local encoded = json.encode(value)
  assert(json.encode(json.decode(encoded)) == encoded, encoded)
end

local names = { "llama", "mixtral", "moelua", "shared", "routers", "domains", "tokens", "yarn",
  "llama3", "qwen2", "qwen3", "olmoe", "deepseek" }
local tests = {
  function() try_config(make(texts[one_of(names)])) end,
  function() try_config(make(texts[one_of(names)])) end,
  function() try_config(make(texts[one_of(names)])) end,
  function()
    local name = one_of(names)
    try_model(name, make(texts[name]))
  end,
  function() try_index(make(texts.index)) end,
  function() try_tokenizer(make(texts.tokenizer)) end,
  function() try_json(make(texts.job)) end,
  function() try_json(choices.rest()) end,
}

local count = 0

-- luacheck: globals fuzz
function fuzz(bytes)
  open(bytes)
  local started = os.clock()
  one_of(tests)()
  count = count + 1
  if count % 64 == 0 then collectgarbage() end
  return os.clock() - started
end
