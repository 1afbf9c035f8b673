-- train_step.lua: the gradient of one training step. The batch goes through the model in
-- micro-batches, one after the other, and what they leave is the mean of their gradients: that of
-- the whole batch, in the memory that a part of it takes.

local core = require("moelua.core")
local balance = require("moelua.balance")
local diverged = require("moelua.diverged")
local routing = require("moelua.routing")

local train_step = {}

-- Micro-batch `micro`, counted from 0: ids, targets, and what the layers are told with them.
local function part_of(job, batch, micro)
  local n = job.opts.batch // job.opts.accumulate
  local function rows(tensor) return tensor:narrow(1, micro * n + 1, n) end
  return rows(batch.x), rows(batch.y), { train = true, step = job.step + 1, micro = micro,
    seed = job.opts.seed, labels = rows(batch.labels) }
end

-- What a method of the model makes of ids x. A router refuses logits that are not finite before
-- there is a loss.
local function run_model(job, method, how, x, ...)
  local results = table.pack(pcall(job.model[method], job.model, x, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local refused = diverged.refused(results[2])
  if not refused then error(results[2], 0) end
  diverged.refuse_step(job, "loss", refused, x, how)
end

-- ---- the whole step in a balance loss -----------------------------------------------------------

-- Does a balance loss of the model look at the whole step?
local function needs_shares(config)
  for _, ffn in ipairs(config.ffn) do
    if ffn.router and balance.needs_step(ffn.router.balance) then return true end
  end
  return false
end

-- Appends the shares of each layer to its list; they outlive `scope`.
local function collect_shares(lists, infos, layers, scope)
  for i = 1, layers do
    local shares = infos[i] and infos[i].balance
    if shares then
      scope:keep(shares.u, shares.p)
      lists[i] = lists[i] or {}
      table.insert(lists[i], shares)
    end
  end
end

-- A balance loss is no mean over micro-batches: it has products of means. Their factors are
-- measured first, in a pass that leaves no gradient and that nobody counts.
local function shares_of(job, batch)
  local lists, shares = {}, {}
  local function measure(micro)
    local scope <close> = core.scope()
    local x, _, how = part_of(job, batch, micro)
    how.stats, how.again = false, true
    local _, infos = run_model(job, "forward", how, x, how)
    collect_shares(lists, infos, job.model.config.layers, scope)
  end
  for micro = 0, job.opts.accumulate - 1 do core.no_grad(measure, micro) end
  for layer, list in pairs(lists) do shares[layer] = balance.average(list) end
  return shares
end

-- ---- the gradient -------------------------------------------------------------------------------

-- Adds the gradient of a micro-batch, and its figures to `done`.
local function add_part(job, batch, micro, done)
  local _ <close> = core.scope()
  local x, y, how = part_of(job, batch, micro)
  how.stats, how.shares = batch.logged, batch.shares
  local loss, info = run_model(job, "loss", how, x, y, how)
  local value, n = loss:item(), job.opts.accumulate
  if not diverged.is_finite(value) then diverged.refuse_step(job, "loss", value, x, how) end
  if n > 1 then loss = loss * (1 / n) end
  loss:backward()
  done.loss, done.nll = done.loss + value / n, done.nll + info.nll:item() / n
  if how.stats then routing.add(done.routing, info.layers, job.model.config.layers, x:count()) end
end

-- The figures of the mixture layers for the log; nil when there are none.
local function figures_of(sums)
  local list = {}
  for i, sum in ipairs(sums) do list[i] = sum and routing.figures(sum) end
  return routing.logged(list)
end

--- Leaves the gradient of the next step in the parameters. batch: x, y, labels of the whole step,
--- and whether its figures are wanted. Returns plain data: loss and nll, means over the batch, the
--- norm of the gradient, and figures of the routing.
---@param job table of moe.train
---@param batch { x: moelua.Tensor, y: moelua.Tensor, labels: moelua.Tensor, logged: boolean }
---@return { loss: number, nll: number, norm: number, routing: table? }
function train_step.gradient(job, batch)
  local done = { loss = 0.0, nll = 0.0, routing = {} }
  if job.opts.accumulate > 1 and needs_shares(job.model.config) then
    batch.shares = shares_of(job, batch)
  end
  for micro = 0, job.opts.accumulate - 1 do add_part(job, batch, micro, done) end
  done.norm = job.optimizer:norm()
  if not diverged.is_finite(done.norm) then
    local x, _, how = part_of(job, batch, job.opts.accumulate - 1)
    diverged.refuse_step(job, "gradient", done.norm, x, how)
  end
  return { loss = done.loss, nll = done.nll, norm = done.norm, routing = figures_of(done.routing) }
end

return train_step
