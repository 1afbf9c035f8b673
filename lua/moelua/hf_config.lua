-- hf_config.lua: config.json of a Hugging Face directory, read and written. What it describes is
-- our configuration of a model, see model.check_config. Each family of models has its own fields
-- and names, which one table in families/NAME.lua tells:
--
--   model_type, architecture    as in config.json
--   order       a model that we made is written as the first family, by this number, that says
--               exactly what it is; without, the family is only for what was read as such
--   defaults    of fields that may be absent; their types are those of the fields
--   types       of its other fields that mean something when they are absent
--   synonyms    another name of a field -> its name
--   windowed    its attention may see no more than sliding_window positions
--   read(hf)    -> the options of model.new; or nil and what is not supported. hf has no nulls,
--               all defaults, and rotary positions as rope_theta and a complete rope_scaling
--   write(config)  -> its own fields, beside those of family_parts.write, or nil and the reason why
--               it cannot. It need not look at everything: what is read from the fields again must
--               be the same configuration, or the family is not the one
--   names       our names of tensors -> those of files, see family_parts.lua
--   aliases     other names in files -> ours
--   fused       names of stacks in files -> ours
--   gguf        { arch, permuted = are rows of q and k in another order there?, keys = field ->
--               key behind the architecture, fixed = values of fields that the architecture means }
--
-- config.hf keeps what config.json says beyond all that and others may want to read again: the
-- model_type where it is not the first that fits, ids of special tokens, a sliding window.

local core = require("moelua.core")
local model = require("moelua.model")
local options = require("moelua.options")
local parts = require("moelua.family_parts")
local rope_scaling = require("moelua.rope_scaling")
local json = core.json

local hf_config = {}

-- ---- families ---------------------------------------------------------------------------------

-- Every module of the folder, whether it has been loaded or not, in the order of writing.
local function all_families()
  local list = {}
  for name in pairs(package.preload) do
    if name:find("^moelua%.families%.") then list[#list + 1] = require(name) end
  end
  table.sort(list, function(a, b)
    local x, y = a.order or math.huge, b.order or math.huge
    if x ~= y then return x < y end
    return a.model_type < b.model_type
  end)
  return list
end

--- All families, in the order in which they are tried.
hf_config.families = all_families()

--- The family of a model_type; nil when there is none.
---@param model_type any
---@return table? family
function hf_config.family(model_type)
  for _, family in ipairs(hf_config.families) do
    if family.model_type == model_type then return family end
  end
end

local function known_types()
  local names = {}
  for i, family in ipairs(hf_config.families) do names[i] = family.model_type end
  table.sort(names)
  return table.concat(names, ", ", 1, #names - 1) .. " and " .. names[#names]
end

-- ---- reading ----------------------------------------------------------------------------------

-- A null means what a missing field means.
local function without_nulls(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do
    if v ~= json.null then out[k] = without_nulls(v) end
  end
  return out
end

-- Fields without defaults that every family may have.
local field_types = {
  hidden_size = "integer", num_hidden_layers = "integer", num_attention_heads = "integer",
  intermediate_size = "integer", num_key_value_heads = "integer", head_dim = "integer",
  initializer_range = "number", hidden_act = "string", tie_word_embeddings = "boolean",
  sliding_window = "number", use_sliding_window = "boolean",
  moelua = "table", rope_parameters = "table", rope_scaling = "table", rope_theta = "number",
  original_max_position_embeddings = "integer", partial_rotary_factor = "number",
}

local function type_of_default(value)
  return math.type(value) == "integer" and "integer" or type(value)
end

-- Fills in what is absent and refuses what has the wrong type.
local function complete(hf, family)
  local declared = {}
  for _, types in ipairs({ field_types, family.types or {} }) do
    for name, kind in pairs(types) do declared[name] = kind end
  end
  for name, value in pairs(family.defaults) do
    declared[name] = { type_of_default(value), value }
  end
  local given = {}
  for name in pairs(declared) do given[name] = hf[name] end
  local out = options.merge(hf, options.check("config.json", given, declared))
  options.check("config.json: moelua", { router = (hf.moelua or {}).router }, { router = "table" })
  return out
end

-- Rotary positions in both spellings: rope_theta and rope_scaling { type or rope_type, ... }, or
-- one table rope_parameters; where both are, the older one counts. Options that are not those of
-- the type mean nothing.
local function rope_of(hf)
  local given = hf.rope_scaling or hf.rope_parameters or {}
  local kind = given.rope_type or given.type or "default"
  local theta = hf.rope_theta or given.rope_theta
  if given.partial_rotary_factor or hf.partial_rotary_factor then
    local share = given.partial_rotary_factor or hf.partial_rotary_factor
    if share ~= 1 then return nil, parts.only({ partial_rotary_factor = share },
      "partial_rotary_factor", 1) end
  end
  if kind == "default" then return theta end
  local declared = rope_scaling.declared[kind]
  if not declared then
    return nil, ("rope_scaling of type '%s' is not supported\nhint: %s are"):format(
      type(kind) == "string" and kind or core.describe(kind), rope_scaling.known)
  end
  local scaling = { rope_type = kind }
  for name in pairs(declared) do scaling[name] = given[name] end
  return theta, nil, scaling
end

-- The scaling with what it takes from elsewhere in the file.
local function complete_scaling(hf, scaling, family)
  if not scaling then return nil end
  local ours = family.model_type == "moelua"
  local most = hf.max_position_embeddings
  scaling.original_max_position_embeddings = hf.original_max_position_embeddings or
    scaling.original_max_position_embeddings
  if scaling.rope_type == "linear" then
    scaling.original_max_position_embeddings = nil
  elseif scaling.rope_type == "dynamic" and not ours then
    scaling.original_max_position_embeddings = most
  end
  local first = scaling.original_max_position_embeddings
  if scaling.rope_type == "yarn" and not scaling.factor and math.type(first) == "integer" then
    scaling.factor = most / first
  end
  return rope_scaling.check("config.json", scaling, most)
end

-- What is nowhere supported.
local function unsupported(hf)
  local obstacle = parts.only(hf, "hidden_act", "silu")
  if obstacle then return obstacle end
  if hf.quantization_config then
    return "quantization_config is not supported\nhint: load the checkpoint that was quantised"
  end
end

-- The window of attention; nil when there is none.
local function window_of(hf, family)
  local window = hf.sliding_window
  if not family.windowed or hf.use_sliding_window == false then return nil end
  return window and window > 0 and window or nil
end

-- Our options, complete; or nil and what is not supported.
local function convert(hf, family)
  hf = without_nulls(hf)
  for other, name in pairs(family.synonyms or {}) do
    if hf[name] == nil then hf[name] = hf[other] end
  end
  local given = {}
  for _, name in ipairs({ "rope_parameters", "rope_scaling" }) do given[name] = hf[name] end
  options.check("config.json", given, { rope_parameters = "table", rope_scaling = "table" })
  local theta, obstacle, scaling = rope_of(hf)
  if obstacle then return nil, obstacle end
  hf.rope_theta = theta
  hf = complete(hf, family)
  obstacle = unsupported(hf)
  if obstacle then return nil, obstacle end
  hf.rope_scaling = complete_scaling(hf, scaling, family)
  local opts
  opts, obstacle = family.read(hf)
  if not opts then return nil, obstacle end
  local window = window_of(hf, family)
  if window then opts.context = math.min(opts.context, math.floor(window)) end
  for _, name in ipairs({ "seed", "recompute", "freeze" }) do
    opts[name] = hf.moelua and hf.moelua[name]
  end
  return model.check_config(opts)
end

-- ---- writing ----------------------------------------------------------------------------------

-- Settings of a router that only training needs.
local function router_settings(layer)
  local routing = layer.router
  local capacity = routing.capacity
  return { balance = routing.balance, z_loss = routing.z_loss, jitter = routing.jitter,
    capacity = capacity and not capacity.evaluation and capacity or nil }
end

-- What to name first of two layers that differ.
local function before(x, y)
  if (x == "kind") ~= (y == "kind") then return x == "kind" end
  return tostring(x) < tostring(y)
end

-- The first place where two values differ, as { path, a, b }; nil when they are the same.
local function difference(a, b, path)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a ~= b and { path, a, b } or nil
  end
  local names = {}
  for name in pairs(a) do names[#names + 1] = name end
  for name in pairs(b) do
    if a[name] == nil then names[#names + 1] = name end
  end
  table.sort(names, before)
  for _, name in ipairs(names) do
    local inside = type(name) == "number" and ("%s[%d]"):format(path, name) or
      path == "" and name or path .. "." .. tostring(name)
    local found = difference(a[name], b[name], inside)
    if found then return found end
  end
end

-- Fields that are kept as they were read, unless the family writes the same.
local carried = { "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings",
  "sliding_window", "use_sliding_window", "max_window_layers", "attention_dropout",
  "output_router_logits" }

-- The fields, and on top of them what was read with the model. A window says what the context is:
-- another context, or a family without one, has no use for it.
local function with_carried(out, config, family)
  local kept = options.merge(config.hf or {}, {})
  kept.model_type = nil
  local most = kept.max_position_embeddings or config.context
  local window = kept.use_sliding_window ~= false and kept.sliding_window or most
  if not family.windowed or math.min(most, window > 0 and window or most) ~= config.context then
    for _, name in ipairs({ "max_position_embeddings", "sliding_window", "use_sliding_window",
      "max_window_layers" }) do kept[name] = nil end
  end
  return options.merge(out, kept)
end

-- All fields of a model as this family has them; nil and the reason why it cannot say what it is.
local function express(config, family)
  local own, reason = family.write(config)
  if not own then return nil, reason end
  local out = options.merge(parts.write(config), own)
  out.model_type, out.architectures = family.model_type, { family.architecture }
  if family.model_type == "moelua" then return out end
  local mixture = parts.first(config, "moe")
  if mixture then out.moelua.router = router_settings(mixture) end
  local ok, again, obstacle = core.attempt(convert, out, family)
  if not ok or not again then return nil, obstacle or again end
  local bare = options.merge(config, {})
  bare.hf = nil
  local found = difference(bare, again, "")
  if not found then return out end
  return nil, ("%s is %s, where it can only say %s"):format(found[1], core.describe(found[2]),
    core.describe(found[3]))
end

--- config.json of a model as a family has it; nil and the reason why the family cannot say what
--- the model is.
---@param config table
---@param model_type string
---@return table? hf
---@return string? reason
function hf_config.express(config, model_type)
  local family = hf_config.family(model_type)
  if not family then
    core.raise("the model_type '%s' is not known\nhint: %s are", tostring(model_type),
      known_types())
  end
  local out, reason = express(config, family)
  return out and with_carried(out, config, family), reason
end

-- The first family that fits, and its fields.
local function choose(config, preferred)
  local out = preferred and express(config, preferred)
  if out then return out, preferred end
  for _, family in ipairs(hf_config.families) do
    out = family.order and express(config, family)
    if out then return out, family end
  end
end

--- config.json of a model, as a table, and the family that it is written in: that which it was read
--- in, if that still fits, or the first that does.
---@param config table
---@return table hf
---@return table family
function hf_config.to_json(config)
  local out, family = choose(config, config.hf and hf_config.family(config.hf.model_type))
  return with_carried(out, config, family), family
end

-- ---- the whole --------------------------------------------------------------------------------

-- What is to be kept of what was read; nil when there is nothing.
local function kept_of(hf, family, config)
  local written, natural = choose(config)
  local kept = {}
  if natural ~= family then
    kept.model_type = family.model_type
    written = express(config, family) or written
  end
  for _, name in ipairs(carried) do
    local value = hf[name]
    if value == json.null then value = nil end
    local ours = written[name]
    if ours == json.null then ours = nil end
    if value ~= nil and difference(value, ours, "") then kept[name] = value end
  end
  return next(kept) and kept or nil
end

-- Where config.json has another name for an option of model.new.
local field_names = { dim = "hidden_size", layers = "num_hidden_layers",
  heads = "num_attention_heads", kv_heads = "num_key_value_heads", vocab = "vocab_size",
  context = "max_position_embeddings", norm_eps = "rms_norm_eps", tied = "tie_word_embeddings",
  std = "initializer_range", hidden = "intermediate_size" }

-- A complaint about an option, as one about the field of config.json that it was read from.
local function about_field(message)
  local name, rest = message:match("^[%w_.]+: option '([%w_]+)' (.*)$")
  if not name then name, rest = message:match("^option '([%w_]+)' (.*)$") end
  if not name then return (message:gsub("^config%.json: ", "")) end
  return ("'%s' %s"):format(field_names[name] or name, rest)
end

--- Our configuration from a config.json that was read, and its family; nil, message, code when we
--- cannot.
---@param hf any
---@return table? config
---@return table|string family_or_message
---@return string? code
function hf_config.from_json(hf)
  if type(hf) ~= "table" or #hf > 0 then return nil, "config.json: no JSON object", "format" end
  local kind = hf.model_type
  if kind == nil or kind == json.null then
    return nil, "config.json: 'model_type' is missing", "format"
  end
  if type(kind) == "table" then
    return nil, "config.json: model_type must be a string, not a table", "format"
  end
  local family = hf_config.family(kind)
  if not family then
    return nil, ("config.json: model_type '%s' is not supported\nhint: %s are")
      :format(tostring(kind), known_types()), "unsupported"
  end
  local ok, config, obstacle = core.attempt(convert, hf, family)
  if not ok then return nil, "config.json: " .. about_field(config), obstacle end
  if not config then return nil, "config.json: " .. obstacle, "unsupported" end
  config.hf = kept_of(hf, family, config)
  return config, family
end

return hf_config
