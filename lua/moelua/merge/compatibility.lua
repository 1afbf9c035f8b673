-- merge/compatibility.lua: what models must agree in besides the shapes of their tensors, which
-- say nothing of heads, rotations or activations.

local core = require("moelua.core")

local json = core.json

local compatibility = {}

-- What changes the meaning of the weights: { name, keys of config.json }.
local MUST = {
  { "architecture", "model_type" },
  { "number of attention heads", "num_attention_heads", "n_head" },
  { "number of key and value heads", "num_key_value_heads" },
  { "size of a head", "head_dim" },
  { "activation", "hidden_act", "activation_function" },
  { "number of experts of a token", "num_experts_per_tok" },
}

-- What may differ between models that are merged all the same; the result has that of one.
local MAY = {
  { "rope_theta", "rope_theta" },
  { "rope_scaling", "rope_scaling" },
  { "epsilon of the norms", "rms_norm_eps", "layer_norm_epsilon" },
  { "context", "max_position_embeddings", "n_positions" },
  { "sliding window", "sliding_window" },
}

-- The value of the first key that a configuration has; newer ones have those of the rotation in a
-- table of their own.
local function value_of(hf, keys)
  local nested = type(hf.rope_parameters) == "table" and hf.rope_parameters or {}
  for i = 2, #keys do
    local value = hf[keys[i]]
    if value == nil then value = nested[keys[i]] end
    if value ~= nil and value ~= json.null then return value end
  end
end

local function text_of(value)
  if type(value) == "table" then return json.encode(value) end
  return tostring(value)
end

local function differ(a, b, keys)
  local x, y = value_of(a.hf, keys), value_of(b.hf, keys)
  if x == nil or y == nil or x == y or text_of(x) == text_of(y) then return false end
  return true, text_of(x), text_of(y)
end

-- The files of two tokenizers, or what those hold when the files are not the same.
local function same_tokens(a, b)
  local x, y = core.system.read(a.path .. "/tokenizer.json"),
    core.system.read(b.path .. "/tokenizer.json")
  if not x or not y or x == y then return true end
  local first, second = a.opened:tokenizer(), b.opened:tokenizer()
  return not first or not second or first:hash() == second:hash()
end

--- Compares a model with the one whose configuration the result has.
---@param template table
---@param model table
---@param united boolean the vocabularies are united
---@param mixed boolean other architectures are allowed
---@param found table of problems.lua
---@param warnings string[]
function compatibility.check(template, model, united, mixed, found, warnings)
  for _, keys in ipairs(MUST) do
    local differs, x, y = differ(template, model, keys)
    if differs and not mixed then
      found:add(nil, ("the %s is %s in `%s`, %s in `%s`%s"):format(keys[1], x, template.path, y,
        model.path, keys[2] == "model_type" and "\nhint: allow_crimes merges them all the same, " ..
        "where names and shapes agree" or ""))
    end
  end
  for _, keys in ipairs(MAY) do
    local differs, x, y = differ(template, model, keys)
    if differs then
      warnings[#warnings + 1] = ("%s is %s in `%s`, %s in `%s`: the result has the first"):format(
        keys[1], x, template.path, y, model.path)
    end
  end
  if not united and template.vocab == model.vocab and not same_tokens(template, model) then
    warnings[#warnings + 1] = ("`%s` and `%s` have as many rows of tokens, but other tokens; " ..
      "tokenizer_source: union would match them"):format(template.path, model.path)
  end
end

return compatibility
