-- diverged.lua: where the numbers of a training step stopped being finite.

local core = require("moelua.core")

local diverged = {}

-- 0 times a number is 0, unless the number is infinite or NaN.
local function is_finite(tensor) return (tensor:detach() * 0):sum():item() == 0 end

-- Runs the layers one after another; a router refuses logits that are NaN.
local function in_forward(model, ids)
  local x = model.embedding:embedding(ids)
  for i, layer in ipairs(model.layers) do
    local ok, y = pcall(layer, x, { stats = false })
    if not ok or not is_finite(y) then return ("the output of layers.%d"):format(i - 1) end
    x = y
  end
  return is_finite(model.norm(x)) and "the logits" or "the output of norm"
end

local function first_place(model, ids, what)
  local params = model:parameters()
  for _, entry in ipairs(params) do
    if not is_finite(entry[2]) then return entry[1] end
  end
  for i = #params, 1, -1 do           -- backward comes from the end
    local grad = params[i][2]:grad()
    if grad and not is_finite(grad) then return "the gradient of " .. params[i][1] end
  end
  return what == "gradient" and "the sum of its squares" or in_forward(model, ids)
end

--- The tensor where NaN or infinity first appears, in words: looks at the parameters, then at
--- their gradients, then runs the layers on the batch. `what` is what was noticed: "loss" or
--- "gradient".
function diverged.place(model, ids, what)
  local scope = core.scope()
  local ok, place = pcall(core.no_grad, first_place, model, ids, what)
  scope:close()
  return ok and place or "a place that is not known"
end

return diverged
