-- trial.lua: how fast a model is trained here, and in how much memory: a few real steps on random
-- tokens, with a rate of 0, after which the model is what it was.

local core = require("moelua.core")
local flops = require("moelua.flops")
local Optimizer = require("moelua.optimizer")
local precision = require("moelua.precision")
local system = core.system

local trial = {}

local BUDGET = 0.7      -- seconds of one trial, unless the fewest sequences take longer
local ALL = 2           -- seconds of all trials of a process; then speeds follow from the first

local spent, speed, known = 0, nil, {}

local function random_ids(batch, context, vocab)
  local rows = {}
  for i = 1, batch do
    rows[i] = {}
    for j = 1, context do rows[i][j] = math.random(0, vocab - 1) end
  end
  return core.tensor(rows, "i32")
end

-- As layers are told in training, all sequences of the first domain; nothing is counted.
local function how_of(batch)
  local labels = {}
  for i = 1, batch do labels[i] = 0 end
  return { train = true, again = true, stats = false, step = 1, micro = 0, seed = 1,
    labels = core.tensor(labels, "i32") }
end

local function one_step(model, optimizer, batch, context)
  local _ <close> = core.scope()
  local ids, how = random_ids(batch, context, model.config.vocab), how_of(batch)
  local began = system.clock()
  local loss = model:loss(ids, ids, how)
  loss:backward()
  optimizer:step(0)
  return system.clock() - began
end

-- The mean time of a step: as many as the budget has room for. The first one touches new memory
-- and counts only when it alone takes all the time.
local function repeat_steps(model, optimizer, batch, context)
  local sum, count = one_step(model, optimizer, batch, context), 0
  if sum > BUDGET then return sum end
  sum = 0
  repeat
    sum, count = sum + one_step(model, optimizer, batch, context), count + 1
  until sum + sum / count > BUDGET
  return sum / count
end

-- The fewest sequences that the model takes: one, or a group of those that it mixes.
local function fewest(model, batch)
  local group = model:traits(true).group
  return group == "batch" and batch or math.min(group or 1, batch)
end

-- Seconds of a step, and bytes beside the model: gradients, moments, activations. A batch that
-- would take too long is extrapolated from the fewest sequences.
local function measure(model, batch, context)
  local _ <close> = core.scope()
  local before = core.memory().live
  local optimizer, few = Optimizer(model), fewest(model, batch)
  one_step(model, optimizer, few, context)
  local single = one_step(model, optimizer, few, context)
  local held = core.memory().live - before
  local memory = core.memory().peak - before
  if single * batch / few > 5 * BUDGET then
    return single * batch / few, held + (memory - held) * batch / few
  end
  local seconds = repeat_steps(model, optimizer, batch, context)
  return seconds, core.memory().peak - before
end

--- What a training step of so many sequences takes: { seconds, memory }, memory in bytes beside the
--- parameters of the model. Models of one shape are tried once.
---@param model moelua.Model
---@param batch integer
---@param context integer
---@param name string the precision
---@return { seconds: number, memory: number }
function trial.step(model, batch, context, name)
  local count = batch * context * flops.per_token(model.config, context)
  local key = ("%.0f %d %d %s"):format(count, model:count(), batch, name)
  if known[key] then return known[key] end
  local began = system.clock()
  local result
  if speed and spent > ALL then
    result = { seconds = count / speed, memory = core.memory().peak }
  else
    local seconds, memory = precision(name, measure, model, batch, context)
    result, speed = { seconds = seconds, memory = memory }, speed or count / seconds
  end
  spent, known[key] = spent + system.clock() - began, result
  return result
end

return trial
