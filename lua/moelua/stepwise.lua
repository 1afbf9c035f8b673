-- stepwise.lua: whether a model can write text one token at a time, as it was evaluated.
--
-- A token that has been read must not change any more, and must not depend on whatever other texts
-- are written at the same time: all layers must be causal and not coupled, see traits.lua.

local raise = require("moelua.core").raise

local stepwise = {}

local function reason(traits)
  if not traits.causal then return "an output depends on later positions" end
  if traits.coupled == "batch" then
    return "an output depends on the other sequences of the batch"
  end
  return "an output depends on the other positions of its sequence"
end

local function remedy(layer)
  if layer.kind == "mot" then
    return "moe.transition(model) makes it a mixture of token choice, to be trained a little more"
  end
  if layer.router and layer.router.capacity then return "no router with capacity.evaluation" end
  return "routers that choose for each token by itself, as \"topk\""
end

--- Raises with the reason when the model is none that writes text token by token.
---@param where string the function that was called
---@param model moelua.Model
function stepwise.check(where, model)
  for i, child in ipairs(model:children()) do
    local traits = child[2]:traits()
    if not traits.causal or traits.coupled ~= "no" then
      raise("%s: layer %d cannot go token by token: %s\nhint: %s", where, i, reason(traits),
        remedy(model.config.ffn[i]))
    end
  end
end

return stepwise
