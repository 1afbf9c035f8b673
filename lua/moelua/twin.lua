-- twin.lua: models that are made from another model: copies, and models of the same tensors whose
-- feed-forward layers have other options.

local core = require("moelua.core")
local expect = require("moelua.expect")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")

local twin = {}

-- What a model has beside its tensors.
local function inherit(made, from)
  made.tokenizer, made.generation_config = from.tokenizer, from.generation_config
  return made
end

--- See Model:copy.
function twin.copy(m)
  local made = model.Model(m.config, m.embedding:dtype())
  local list = nn.saved(made)
  core.no_grad(function()
    for i, entry in ipairs(nn.saved(m)) do list[i][2]:copy_(entry[2]) end
  end)
  return inherit(made, m)
end

-- Plain data, in tables of its own.
local function deep_copy(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do out[k] = deep_copy(v) end
  return out
end

local function shape_text(tensor) return "[" .. table.concat(tensor:shape(), " x ") .. "]" end

-- Every tensor of `made` becomes that of the same name; they keep their shapes.
local function share(made, tensors)
  for _, entry in ipairs(nn.saved(made)) do
    local name, blank, layer, field = table.unpack(entry)
    local tensor = tensors[name]
    local shape, wanted = tensor and shape_text(tensor) or "not there", shape_text(blank)
    if shape ~= wanted then
      core.raise("with_ffn: %s would be %s, but is %s\nhint: only options that leave the " ..
        "weights as they are can be changed", name, wanted, shape)
    end
    layer[field] = tensor
  end
end

--- See Model:with_ffn.
function twin.with_ffn(m, change)
  expect(type(change) == "function", "with_ffn", "change", "a function", change)
  local list, tensors = {}, {}
  for i, layer in ipairs(m.config.ffn) do
    local opts = deep_copy(layer)
    list[i] = change(opts, i) or opts
  end
  for _, entry in ipairs(nn.saved(m)) do tensors[entry[1]] = entry[2] end
  local made = model.Model(model.check_config(options.merge(m.config, { ffn = list })),
    m.embedding:dtype())
  share(made, tensors)
  return inherit(made, m)
end

return twin
