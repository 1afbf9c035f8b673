-- gguf_export.lua: a model as a GGUF file that llama.cpp runs.
--
--   assert(gguf_export.write(m, "model.gguf", { dtype = "q8_0" }))
--
-- The model is one in memory, or what pretrained.open returns; of that, one tensor after the other
-- is read. A model that no architecture of GGUF says exactly is refused, with the reason.

local core = require("moelua.core")
local gguf_names = require("moelua.gguf_names")
local gguf_rope = require("moelua.gguf_rope")
local hf_config = require("moelua.hf_config")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local outline = require("moelua.outline")
local join_rows = require("moelua.rows").join
local files, json, raise = core.checkpoint, core.json, core.raise

local export = {}

local MOST_EXPERTS = 512        -- LLAMA_MAX_EXPERTS of llama.cpp
local UNUSED = 5                -- the type of a token that stands for nothing

-- ---- what there is to write -------------------------------------------------------------------

-- A model in memory: a list of { name, shape }, and the numbers by name.
local function in_memory(m)
  local list, tensors = {}, {}
  for i, entry in ipairs(nn.saved(m)) do
    list[i] = { name = entry[1], shape = entry[2]:shape() }
    tensors[entry[1]] = entry[2]
  end
  return { config = m.config, tokenizer = m.tokenizer, list = function() return list end,
    tensor = function(name) return tensors[name]:detach():to("f32") end }
end

-- The experts of a stack on disk, where each lies by itself.
local function read_stack(P, name, count)
  local experts = {}
  for e = 1, count do
    local t, message, code = P.file:tensor(P:name(name, e - 1), "f32")
    if not t then return nil, message, code end
    experts[e] = t:reshape(1, table.unpack(t:shape()))
  end
  return join_rows(experts)
end

local function on_disk(P)
  local tokenizer, message, code = P:tokenizer()
  return { config = P.config, tokenizer = tokenizer,
    no_tokens = code ~= "missing" and message or nil,
    list = function() return outline(P.config) end,
    tensor = function(name)
      local layer = name:match("^layers%.(%d+)%.ffn%.experts%.")
      if layer then return read_stack(P, name, P.config.ffn[layer + 1].experts) end
      return P.file:tensor(P:name(name), "f32")
    end }
end

local function donor_of(m)
  if getmetatable(m) == model.Model then return in_memory(m) end
  if type(m) == "table" and m.config then
    if m.list and m.tensor then return m end
    if m.file and m.family then return on_disk(m) end
  end
  raise("gguf_export.write: a model or what pretrained.open returns is expected, not %s",
    core.describe(m))
end

-- ---- can it be said? --------------------------------------------------------------------------

local function text(value)
  return type(value) == "table" and json.encode(value) or tostring(value)
end

-- The first field, in order of names, whose value the architecture fixes to another one.
local function fixed_otherwise(hf, family)
  local fixed, names = family.gguf.fixed or {}, {}
  for name in pairs(fixed) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local got, wanted = hf[name], text(fixed[name])
    if got == nil then got = json.null end
    if text(got) ~= wanted then
      return ("the architecture `%s` of llama.cpp means %s = %s; this model has %s"):format(
        family.gguf.arch, name, wanted, text(got))
    end
  end
end

-- Why the architecture of a family is not what this model is; nil when it is.
local function obstacle_of(config, hf, family)
  local arch, obstacle = family.gguf.arch, fixed_otherwise(hf, family)
  if obstacle then return obstacle end
  local scaling = config.rope_scaling
  if scaling and scaling.rope_type == "llama3" and arch ~= "llama" then
    return ("the architecture `%s` of llama.cpp has no frequencies of Llama 3"):format(arch)
  end
  for number, layer in ipairs(config.ffn) do
    if layer.kind == "moe" and layer.experts > MOST_EXPERTS then
      return ("layer %d has %d experts, llama.cpp takes at most %d"):format(number, layer.experts,
        MOST_EXPERTS)
    end
  end
  if arch == "deepseek" and (hf.n_shared_experts or json.null) == json.null then
    return "the architecture `deepseek` of llama.cpp has shared experts; this model has none"
  end
end

-- What may be said of it: the family that it was read in, or is written in, comes first.
local function candidates(config)
  local _, own = hf_config.to_json(config)
  local list = { own }
  for _, family in ipairs(hf_config.families) do
    if family ~= own and family.order then list[#list + 1] = family end
  end
  return list
end

-- The fields of config.json in a family whose architecture in llama.cpp computes what the model
-- does; or nil and why there is none: what its own family lacks, and the two that most models are.
local function express(config)
  local lines = {}
  for i, family in ipairs(candidates(config)) do
    if family.gguf then
      local hf, reason = hf_config.express(config, family.model_type)
      local obstacle = not hf and reason or obstacle_of(config, hf, family)
      if not obstacle then return hf, family end
      if i == 1 or family.model_type == "llama" or family.model_type == "mixtral" then
        lines[#lines + 1] = ("as %s: %s"):format(family.model_type, obstacle)
      end
    end
  end
  return nil, "GGUF has no architecture for this model\n" .. table.concat(lines, "\n")
    .. "\nhint: dense layers can be mixtures of identical experts, narrower experts can be widened"
    .. " with zeros"
end

-- ---- metadata ---------------------------------------------------------------------------------

local FILE_TYPES = { f32 = 0, f16 = 1, q8_0 = 7, bf16 = 32 }

local function set_fields(set, config, hf, family)
  for field, key in pairs(family.gguf.keys) do
    local value = hf[field]
    if value ~= nil and value ~= json.null then set(key, value) end
  end
  set("context_length", config.context)           -- a window is what may be seen exactly
  set("rope.dimension_count", config.head_dim)
  set("attention.key_length", config.head_dim)
  set("attention.value_length", config.head_dim)
  set("attention.layer_norm_rms_epsilon", config.norm_eps + 0.0)
  set("rope.freq_base", config.rope_theta + 0.0)
  if family.gguf.arch == "deepseek" then set("expert_weights_scale", 1.0) end
end

-- The vocabulary has as many tokens as the embedding has rows.
-- Returns why that cannot be, if it cannot: a tokenizer that is there must not be lost.
local function set_tokens(metadata, donor)
  local tokenizer, config = donor.tokenizer, donor.config
  if not tokenizer then
    metadata["tokenizer.ggml.model"] = "no_vocab"
    return donor.no_tokens
  end
  local given, reason = tokenizer:gguf()
  if not given then return reason end
  for key, value in pairs(given) do
    if type(value) ~= "table" or #value > 0 then metadata[key] = value end
  end
  local tokens = given["tokenizer.ggml.tokens"] or {}
  if #tokens > config.vocab then
    return ("the tokenizer has %d tokens, the model %d"):format(#tokens, config.vocab)
  end
  local function pad(key, make)
    local list = metadata["tokenizer.ggml." .. key]
    if type(list) ~= "table" then return end
    list = table.move(list, 1, #list, 1, {})
    for i = #list + 1, config.vocab do list[i] = make(i - 1) end
    metadata["tokenizer.ggml." .. key] = list
  end
  pad("tokens", function(id) return ("[PAD%d]"):format(id) end)
  pad("token_type", function() return UNUSED end)
  pad("scores", function() return -1000.0 end)
end

-- Metadata, and the frequencies that are a tensor: nil, reason when there is no way to say it.
local function describe(donor, hf, family, opts)
  local arch, config = family.gguf.arch, donor.config
  local metadata = { ["general.architecture"] = arch, ["general.type"] = "model",
    ["general.name"] = opts.name, ["general.file_type"] = FILE_TYPES[opts.dtype],
    ["general.quantization_version"] = opts.dtype == "q8_0" and 2 or nil }
  local function set(key, value) metadata[arch .. "." .. key] = value end
  set_fields(set, config, hf, family)
  local obstacle = set_tokens(metadata, donor)
  if obstacle then return nil, obstacle end
  local name, frequencies = gguf_rope.write(config.rope_scaling, config, set, metadata)
  if not name and frequencies then return nil, frequencies end
  return metadata, frequencies
end

-- ---- tensors ----------------------------------------------------------------------------------

-- What llama.cpp wants in f32: vectors, and the routers, on which much depends.
local function is_precise(name, shape)
  return #shape < 2 or name:find("%.router$") ~= nil or name:find("%.shared_gate$") ~= nil
end

local function type_of(name, shape, dtype)
  if is_precise(name, shape) then return "F32" end
  if dtype == "q8_0" and shape[#shape] % 32 ~= 0 then return "F16" end
  return dtype:upper()
end

-- The plan of the file, and by the names in it those of ours.
local function plan_of(donor, dtype)
  local plan, ours = {}, {}
  for _, entry in ipairs(donor.list()) do
    local name, shape = entry.name, entry.shape
    local stored = gguf_names.of(name)
    if not stored then return nil, ("GGUF has no name for `%s`"):format(name) end
    if name:find("%.shared_gate$") then shape = { shape[#shape] } end
    plan[stored] = { dtype = type_of(name, shape, dtype), shape = shape }
    ours[stored] = name
  end
  return plan, ours
end

-- The numbers as the file has them: rows of queries and keys in its order.
local function convert(t, name, shape, config, permuted)
  if permuted and (name:find("%.attention%.[qk]$") or name:find("%.attention%.[qk]_bias$")) then
    local n = t:size(1)
    t = t:reshape(n, -1):gather_rows(gguf_names.rows_there(n, config.head_dim))
  end
  return t:reshape(table.unpack(shape))
end

local function put(writer, stored, donor, plan, name, permuted)
  local _ <close> = core.scope()
  local t, message, code = donor.tensor(name)
  if not t then return nil, message, code end
  return writer:put(stored, convert(t, name, plan[stored].shape, donor.config, permuted))
end

local function write_tensors(writer, donor, plan, ours, special, permuted)
  for _, stored in ipairs(writer:names()) do
    local done, message, code
    if special[stored] then
      done, message, code = writer:put(stored, special[stored])
    else
      done, message, code = put(writer, stored, donor, plan, ours[stored], permuted)
    end
    if not done then return nil, message, code end
  end
  return writer:close()
end

--- Writes a model as a GGUF file. Vectors, norms and routers stay f32 whatever the dtype; of q8_0,
--- matrices whose rows are no multiple of 32 become f16.
---@param m table a model, what pretrained.open returns, or the description of a model: config,
---  tokenizer, list() -> { { name, shape } ... } as outline.lua has them, tensor(name) -> f32
---@param path string
---@param given { dtype?: "f32"|"f16"|"bf16"|"q8_0", name?: string }? dtype: f32 unless given; name:
---  that of the model in the file, without one that of the file
---@return boolean? done
---@return string? message
---@return string? code "unsupported" when llama.cpp has no architecture that computes the same
function export.write(m, path, given)
  local opts = options.check("gguf_export.write", given, { name = "string",
    dtype = { { "f32", "f16", "bf16", "q8_0" }, "f32" } })
  opts.name = opts.name or path:match("([^/]+)%.gguf$")
  local donor = donor_of(m)
  local function refuse(reason) return nil, ("export: %s"):format(reason), "unsupported" end
  local hf, family = express(donor.config)
  if not hf then return refuse(family) end
  local metadata, frequencies = describe(donor, hf, family, opts)
  if not metadata then return refuse(frequencies) end
  local plan, ours = plan_of(donor, opts.dtype)
  if not plan then return refuse(ours) end
  local special = {}
  if frequencies then
    local name = "rope_freqs.weight"
    plan[name], special[name] = { dtype = "F32", shape = { #frequencies } },
      core.tensor(frequencies)
  end
  local writer <close>, why, kind = files.create_gguf(path, plan, metadata)
  if not writer then return nil, why, kind end
  return write_tensors(writer, donor, plan, ours, special, family.gguf.permuted)
end

return export
