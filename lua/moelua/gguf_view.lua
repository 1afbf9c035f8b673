-- gguf_view.lua: a GGUF file as the Hugging Face directory that it was made from: the fields of
-- config.json, and the tensors under the names of its family, of which queries and keys have their
-- rows in another order and experts lie in stacks. Nothing but headers is read.
--
--   local hf, file = gguf_view.open("model.gguf")
--   hf.model_type, hf.hidden_size ...       file:names()  file:info(name)  file:source(name)

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local gguf_names = require("moelua.gguf_names")
local gguf_rope = require("moelua.gguf_rope")
local hf_config = require("moelua.hf_config")
local json = core.json

local view = {}

local MOST_EXPERTS = 4096       -- limits.lua

-- ---- the family -------------------------------------------------------------------------------

-- Of several families of one architecture: that of mixtures when there are experts, else the dense
-- one that is written first.
local function family_of(arch, experts)
  for _, family in ipairs(hf_config.families) do
    local gguf = family.gguf
    if gguf and gguf.arch == arch then
      local mixture = false
      for _, key in pairs(gguf.keys) do mixture = mixture or key == "expert_count" end
      if mixture == (experts > 0) then return family end
    end
  end
end

local function known_architectures()
  local list, seen = {}, {}
  for _, family in ipairs(hf_config.families) do
    local arch = family.gguf and family.gguf.arch
    if arch and not seen[arch] then
      seen[arch] = true
      list[#list + 1] = arch
    end
  end
  table.sort(list)
  return table.concat(list, ", ", 1, #list - 1) .. " and " .. list[#list]
end

-- ---- the fields -------------------------------------------------------------------------------

-- What was a short decimal before it became an f32.
local function decimal(x)
  if math.type(x) ~= "float" or x ~= x or x - x ~= 0 then return x end
  for digits = 1, 9 do
    local short = tonumber(("%." .. digits .. "g"):format(x))
    if string.pack("<f", short) == string.pack("<f", x) then return short + 0.0 end
  end
  return x
end

-- The value of a key, which may be a list of the values of all layers when they are the same.
local function value_of(self, key)
  local value = self.file:metadata(self.arch .. "." .. key)
  if type(value) ~= "table" then return decimal(value) end
  for _, other in ipairs(value) do
    if other ~= value[1] then
      core.raise("%s.%s differs from layer to layer, which is not supported", self.arch, key)
    end
  end
  return decimal(value[1])
end

-- Keys that change what a model computes, and their only supported values.
local NEUTRAL = { ["attention.sliding_window"] = 0, ["attention.max_alibi_bias"] = 0,
  ["attention.causal"] = true, ["expert_weights_scale"] = 1, ["expert_gating_func"] = 1,
  ["expert_group_count"] = 1, ["logit_scale"] = 1, ["residual_scale"] = 1, ["embedding_scale"] = 1,
  ["attention.scale"] = 0, ["use_parallel_residual"] = false, ["expert_group_used_count"] = 1 }

local function check_neutral(self)
  local keys = {}
  for key in pairs(NEUTRAL) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local value = value_of(self, key)
    if value ~= nil and value ~= NEUTRAL[key] and value ~= 0 then
      core.raise("%s.%s is %s, which is not supported", self.arch, key, tostring(value))
    end
  end
  local normed, fixed = value_of(self, "expert_weights_norm"), self.family.gguf.fixed or {}
  local expected = fixed.norm_topk_prob ~= false
  if normed ~= nil and normed ~= expected then
    core.raise("%s.expert_weights_norm is %s where the architecture means %s", self.arch,
      tostring(normed), tostring(expected))
  end
end

-- The size of a dimension of the first layer's tensor of this name.
local function size_of(self, name, dimension)
  for i = 0, 63 do                                -- the first layers may be dense
    local stored = name:format(i)
    local info = self.present[stored] and self.file:info(stored)
    if info then return info.shape[dimension] end
    if stored == name then return nil end
  end
end

-- Where older converters wrote no key, the tensors tell.
local function infer(self, hf)
  hf.vocab_size = hf.vocab_size or size_of(self, "token_embd.weight", 1)
  hf.num_key_value_heads = hf.num_key_value_heads or hf.num_attention_heads
  if self.family.gguf.keys.moe_intermediate_size and not hf.moe_intermediate_size then
    hf.moe_intermediate_size = size_of(self, "blk.%d.ffn_gate_exps.weight", 2)
  end
  if self.family.gguf.keys.shared_expert_intermediate_size
    and not hf.shared_expert_intermediate_size then
    hf.shared_expert_intermediate_size = size_of(self, "blk.%d.ffn_gate_shexp.weight", 1)
  end
  hf.tie_word_embeddings = not self.present["output.weight"]
  if self.family.defaults.attention_bias ~= nil then
    hf.attention_bias = self.present["blk.0.attn_q.bias"] == true
  end
  if self.family.defaults.mlp_bias ~= nil then
    hf.mlp_bias = self.present["blk.0.ffn_gate.bias"] == true
  end
end

local TOKENS = { bos_token_id = "bos_token_id", eos_token_id = "eos_token_id",
  pad_token_id = "padding_token_id" }

local FLOATS = { [0] = "float32", [1] = "float16", [32] = "bfloat16" }

local function fields_of(self)
  local family = self.family
  local hf = { model_type = family.model_type, architectures = { family.architecture },
    hidden_act = "silu" }
  for field, key in pairs(family.gguf.keys) do hf[field] = value_of(self, key) end
  for field, value in pairs(family.gguf.fixed or {}) do
    if value ~= json.null then hf[field] = value end
  end
  if family.model_type == "olmoe" then hf.clip_qkv = value_of(self, "attention.clamp_kqv") end
  infer(self, hf)
  for field, key in pairs(TOKENS) do hf[field] = self.file:metadata("tokenizer.ggml." .. key) end
  hf.torch_dtype = FLOATS[self.file:metadata("general.file_type") or 0] or "float32"
  return hf
end

-- The rotated part of a head, and its frequencies.
local function read_rope(self, hf)
  self.head_dim = hf.head_dim or math.type(hf.hidden_size) == "integer"
    and math.type(hf.num_attention_heads) == "integer" and hf.num_attention_heads > 0
    and hf.hidden_size // hf.num_attention_heads
  if math.type(self.head_dim) ~= "integer" or self.head_dim < 2 or self.head_dim % 2 > 0 then
    core.raise("heads of size %s cannot be rotated", tostring(self.head_dim))
  end
  for _, key in ipairs({ "rope.dimension_count", "attention.value_length" }) do
    local value = value_of(self, key)
    if value ~= nil and value ~= self.head_dim then
      core.raise("%s.%s is %s, which is not supported: heads have %d", self.arch, key,
        tostring(value), self.head_dim)
    end
  end
  hf.rope_scaling = gguf_rope.read(self, hf, value_of)
end

-- ---- the tensors ------------------------------------------------------------------------------

-- The order of rows of queries or keys; the same tensor for all layers.
local function rows_of(self, stored, info)
  local n = info.shape[1]
  if not n or n % self.head_dim ~= 0 or info.bytes == 0 then
    core.raise("tensor `%s` has %s rows, no whole heads of %d", stored, tostring(n), self.head_dim)
  end
  self.rows[n] = self.rows[n] or gguf_names.rows_here(n, self.head_dim)
  return self.rows[n]
end

-- One entry for each expert of a stack [E x R x C].
local function add_stack(self, entries, stored, name, shape)
  local E, rows, columns = shape[1], shape[2], shape[3]
  if #shape ~= 3 or E > MOST_EXPERTS then
    core.raise("tensor `%s` is no stack of at most %d experts", stored, MOST_EXPERTS)
  end
  for e = 0, E - 1 do
    entries[self.file_name(self.family, name, e)] = { name = stored, first = e * rows * columns,
      shape = { rows, columns } }
  end
end

local function add_tensor(self, entries, stored)
  if stored == "rope_freqs.weight" then return end
  local name, expert = gguf_names.ours(stored)
  local canonical = name and self.file_name(self.family, name, expert or 0)
  if not canonical then
    core.raise("tensor `%s` is none of a %s", stored, self.family.architecture)
  end
  local info = self.file:info(stored)
  local part = name:match("^layers%.%d+%.(.*)$") or name
  if part:find("^ffn%.experts%.") and not expert then
    add_stack(self, entries, stored, name, info.shape)
  elseif self.family.gguf.permuted and (part:find("^attention%.[qk]$")
    or part:find("^attention%.[qk]_bias$")) then
    entries[canonical] = { name = stored, rows = rows_of(self, stored, info) }
  elseif part == "ffn.shared_gate" and #info.shape == 1 then
    entries[canonical] = { name = stored, first = 0, shape = { 1, info.shape[1] } }
  else
    entries[canonical] = { name = stored }
  end
end

-- ---- all of it --------------------------------------------------------------------------------

local function read(file)
  local arch = file:metadata("general.architecture")
  if type(arch) ~= "string" then core.raise("the key `general.architecture` is missing") end
  local self = { file = file, arch = arch, present = {}, rows = {},
    file_name = require("moelua.pretrained").file_name }
  local experts = file:metadata(arch .. ".expert_count") or 0
  self.family = family_of(arch, type(experts) == "number" and experts or 0)
  if not self.family then
    core.raise("the architecture `%s`%s is not supported\nhint: %s are", arch,
      experts ~= 0 and " with experts" or "", known_architectures())
  end
  local stored = file:names()
  for _, name in ipairs(stored) do self.present[name] = true end
  check_neutral(self)
  local hf, entries = fields_of(self), {}
  read_rope(self, hf)
  for _, name in ipairs(stored) do add_tensor(self, entries, name) end
  return hf, require("moelua.tensor_view")(file, entries)
end

--- Opens a GGUF file as what config.json and the checkpoint of a directory would be.
---@param path string
---@return table? hf
---@return table|string file_or_message
---@return string? code
function view.open(path)
  local file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  local ok, hf, found = core.attempt(read, file)
  if ok then return hf, found end
  file:close()
  return nil, ("%s: %s"):format(path, hf), "unsupported"
end

return view
