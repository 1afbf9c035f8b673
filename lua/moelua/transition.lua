-- transition.lua: a mixture of tokens becomes a mixture of experts that tokens choose (transition
-- tuning, Antoniak et al. 2023), which answers one sequence at a time.
--
--   local model = moe.transition(mot, { k = 1, gate = "all" })      -- then train it a little more
--
-- Experts stay as they are, and the controller becomes the router. What the group was for, a token
-- for every expert, is gone, so the loss jumps and has to be tuned down again, in about a tenth of
-- the steps before.

local core = require("moelua.core")
local expect = require("moelua.expect")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local raise = core.raise

local DEFAULT = { kind = "topk", k = 1, gate = "all" }

-- The options of the mixture of experts in place of layer i.
local function layer_with(i, layer, routing)
  if layer.kind ~= "mot" then return layer end
  if layer.uniform then
    raise("transition: layer %d mixes all tokens alike: it has no controller to route with", i)
  end
  return { kind = "moe", hidden = layer.hidden, experts = layer.experts,
    activation = layer.activation, router = routing }
end

local function config_with(config, routing)
  local list, found = {}, false
  for i, layer in ipairs(config.ffn) do
    list[i] = layer_with(i, layer, routing)
    found = found or layer.kind == "mot"
  end
  if not found then raise("transition: the model has no mixture of tokens") end
  return model.check_config(options.merge(config, { ffn = list }))
end

-- The tensors of a model by their names, with the controllers of its mixtures of tokens as routers:
-- logits are divided by the temperature as it was at the end.
local function tensors_of(m)
  local tensors = {}
  for _, entry in ipairs(nn.saved(m)) do
    local name, tensor, layer, field = table.unpack(entry)
    if field == "controller" then
      name, tensor = name:gsub("controller$", "router"), tensor:to("f32") / layer:temperature_at()
    end
    tensors[name] = tensor
  end
  return tensors
end

--- A new model in which every mixture of tokens is a mixture of experts that tokens choose, with
--- the same experts, and the controller, divided by the temperature, as the router. Options: those
--- of the routers, see router.lua; by default top-k with k = 1 and gate = "all", like Switch.
---@param m moelua.Model
---@param given table?
---@return moelua.Model
return function(m, given)
  expect(getmetatable(m) == model.Model, "transition", "model", "a model", m)
  expect(given == nil or type(given) == "table", "transition", "options", "a table", given)
  local routing = given and given.kind and given or options.merge(DEFAULT, given or {})
  local out = model.Model(config_with(m.config, routing)):to(m.embedding:dtype())
  core.no_grad(function()
    local tensors = tensors_of(m)
    for _, entry in ipairs(nn.saved(out)) do
      if tensors[entry[1]] then entry[2]:copy_(tensors[entry[1]]) end
    end
  end)
  out.tokenizer = m.tokenizer
  return out
end
