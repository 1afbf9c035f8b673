-- diverged.lua: where the numbers of a training step stopped being finite.

local core = require("moelua.core")

local diverged = {}

-- 0 times a number is 0, unless the number is infinite or NaN.
local function is_finite(tensor)
  local _ <close> = core.scope()
  return (tensor:detach() * 0):sum():item() == 0
end

-- ---- weights and gradients --------------------------------------------------------------------

-- The number, from 1, of the first slice along the first dimension that is not finite.
local function first_slice(tensor)
  for i = 1, tensor:size(1) do
    if not is_finite(tensor:select(1, i)) then return i end
  end
end

-- The name, with the expert where the tensor is a stack of them.
local function name_of(name, tensor)
  if not name:find("%.experts%.") then return name end
  return ("%s of expert %d"):format(name, first_slice(tensor))
end

local MOMENTS = { "first", "second" }

-- The first weight that is not finite. Where its moments are not either, they were first: they
-- come into the weights with an update, and the weights into them by a gradient, which is checked.
local function in_weights(model, optimizer)
  for i, entry in ipairs(model:parameters()) do
    local name, w = entry[1], entry[2]
    for kind, moment in ipairs({ optimizer.m[i], optimizer.v[i] }) do
      if not is_finite(moment) then
        return ("the %s moment of %s"):format(MOMENTS[kind], name_of(name, moment))
      end
    end
    if not is_finite(w) then return name_of(name, w) end
  end
end

-- Backward comes from the end.
local function in_gradients(model)
  local params = model:parameters()
  for i = #params, 1, -1 do
    local grad = params[i][2]:grad()
    if grad and not is_finite(grad) then
      return "the gradient of " .. name_of(params[i][1], grad)
    end
  end
end

-- ---- the forward pass -------------------------------------------------------------------------

--- The number, NaN or infinity, for which a router refused its logits; nil for any other error.
---@param message any an error value
---@return number?
function diverged.refused(message)
  local kind = type(message) == "string" and message:match("the logit of token [^\n]* is (%a+)$")
  return kind and (kind == "NaN" and 0 / 0 or kind == "infinite" and math.huge or nil)
end

-- One block as its own forward() computes it, part by part. Returns the output, or nil and a place.
local function through_block(block, name, x)
  local normed = block.attention_norm(x)
  if not is_finite(normed) then return nil, name .. "attention_norm" end
  local h = x + block.attention(normed)
  if not is_finite(h) then return nil, name .. "attention" end
  normed = block.ffn_norm(h)
  if not is_finite(normed) then return nil, name .. "ffn_norm" end
  local ok, y, info = pcall(block.ffn, normed, { stats = false })
  if not ok then
    if diverged.refused(y) then return nil, name .. "ffn.router" end
    error(y, 0)
  end
  if not is_finite(y) then return nil, name .. "ffn" end
  if info and info.loss and not is_finite(info.loss) then
    return nil, ("the losses of %sffn.router"):format(name), true
  end
  return h + y
end

-- Row by row: all logits at once may be more than there is memory for.
local function in_logits(model, hidden)
  local head = model.head or model.embedding
  for b = 1, hidden:size(1) do
    if not is_finite(hidden:select(1, b):linear(head)) then return true end
  end
end

local function in_forward(model, ids)
  local x = model.embedding:embedding(ids)
  for i, block in ipairs(model.layers) do
    local y, place, whole = through_block(block, ("layers.%d."):format(i - 1), x)
    if place then return whole and place or "the output of " .. place end
    x = y
  end
  local hidden = model.norm(x)
  if not is_finite(hidden) then return "the output of norm" end
  return in_logits(model, hidden) and "the logits" or "the loss itself"
end

-- ---- the answers ------------------------------------------------------------------------------

-- Runs f under no_grad; what it made is gone afterwards.
local function looking(f, ...)
  local _ <close> = core.scope()
  return core.no_grad(f, ...)
end

local function first_place(model, optimizer, ids, what)
  local place = in_weights(model, optimizer) or in_gradients(model)
  if place then return place end
  return what == "gradient" and "the sum of its squares" or in_forward(model, ids)
end

--- The weight, or its moment, that is not finite, in words; nil when all are.
function diverged.in_weights(model, optimizer) return looking(in_weights, model, optimizer) end

--- The tensor where NaN or infinity first appears, in words: looks at the weights and their
--- moments, then at the gradients, then runs the layers on the batch. `what` is what was noticed:
--- "loss" or "gradient".
function diverged.place(model, optimizer, ids, what)
  return looking(first_place, model, optimizer, ids, what)
end

return diverged
