-- diverged.lua: training whose numbers are no longer finite: where that began, and the end of it.

local core = require("moelua.core")
local options = require("moelua.options")
local run = require("moelua.run")

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
local function through_block(block, name, x, how)
  local normed = block.attention_norm(x)
  if not is_finite(normed) then return nil, name .. "attention_norm" end
  local h = x + block.attention(normed)
  if not is_finite(h) then return nil, name .. "attention" end
  normed = block.ffn_norm(h)
  if not is_finite(normed) then return nil, name .. "ffn_norm" end
  local ok, y, info = pcall(block.ffn, normed, how)
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

local function in_forward(model, ids, how)
  local x = model.embedding:embedding(ids)
  how = options.merge(how, { ids = ids, stats = false, again = true, shares = false })
  for i, block in ipairs(model.layers) do
    local y, place, whole = through_block(block, ("layers.%d."):format(i - 1), x, how)
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

local function first_place(model, optimizer, ids, how, what)
  local place = in_weights(model, optimizer) or in_gradients(model)
  if place then return place end
  return what == "gradient" and "the sum of its squares" or in_forward(model, ids, how)
end

--- The tensor where NaN or infinity first appears, in words: looks at the weights and their
--- moments, then at the gradients, then runs the layers on the batch. `how` is what the model was
--- told with it, `what` what was noticed: "loss" or "gradient".
function diverged.place(model, optimizer, ids, how, what)
  return looking(first_place, model, optimizer, ids, how, what)
end

-- ---- the end of a run -------------------------------------------------------------------------

--- Neither NaN nor infinite.
function diverged.is_finite(value) return value - value == 0 end

local function kind_of(value) return value ~= value and "NaN" or "infinite" end

--- Ends the run of moe.train.
function diverged.stop(job, fmt, ...)
  local saved = job.run and job.run.saved
  local kept = saved and ("; the state of step %d is saved"):format(saved) or ""
  run.fail(("%s: %s\nhint: try a lower rate (lr is %g) or a smaller clip%s"):format(job.opts.name,
    fmt:format(...), job.opts.lr, kept), "diverged")
end

--- Ends it at a step that is under way; `what` is the loss or the gradient.
function diverged.refuse_step(job, what, value, ids, how)
  diverged.stop(job, "the %s became %s at step %d, first in %s; the step was not applied", what,
    kind_of(value), job.step + 1, diverged.place(job.model, job.optimizer, ids, how, what))
end

--- Ends it when a weight is not finite: nothing is saved, measured or handed on that is not. A loss
--- does not tell in time: an update can break a weight that the next batches do not use.
function diverged.check_weights(job)
  local place = looking(in_weights, job.model, job.optimizer)
  if place then
    diverged.stop(job, "after step %d %s is not finite; it was not saved", job.step, place)
  end
end

--- Ends it when the validation loss is not finite.
function diverged.check_validation(job, value)
  if diverged.is_finite(value) then return end
  diverged.stop(job, "the validation loss became %s after step %d", kind_of(value), job.step)
end

return diverged
