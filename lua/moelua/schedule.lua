-- schedule.lua: learning rates by step. Each kind warms up linearly over `warmup` steps, whose last
-- has the full rate; steps count from 1, and the last of all has the floor.

local expect = require("moelua.expect")
local raise = require("moelua.core").raise
local hint = require("moelua.options").hint

local schedule = {}

-- What remains of the peak at progress p, 0 (end of warm-up) to 1 (last step).
local shape = {
  constant = function() return 1 end,
  linear = function(p, floor) return 1 - (1 - floor) * p end,
  -- Half a cosine (Loshchilov and Hutter 2017, SGDR, without restarts).
  cosine = function(p, floor) return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * p)) end,
  -- Warm-up, stable, decay (Hu et al. 2024, MiniCPM): the full rate until the last `decay` share of
  -- the steps, then linear.
  wsd = function(p, floor, decay)
    local start = 1 - decay
    if p <= start then return 1 end
    return 1 - (1 - floor) * (p - start) / decay
  end,
}
schedule.kinds = { "constant", "cosine", "linear", "wsd" }

--- The rate at `step` of `steps`. opts: kind, lr (peak), warmup (steps), floor (share of the peak
--- at the end), decay (wsd: share of the steps).
---@param opts table
---@param step integer
---@param steps integer
---@return number
function schedule.rate(opts, step, steps)
  expect(type(opts) == "table", "schedule.rate", "opts", "a table", opts)
  local f = shape[opts.kind]
  if not f then
    raise("schedule: unknown kind '%s'%s", tostring(opts.kind), hint(opts.kind, schedule.kinds))
  end
  expect(type(opts.lr) == "number", "schedule.rate", "lr", "a number", opts.lr)
  expect(type(step) == "number", "schedule.rate", "step", "a number", step)
  expect(type(steps) == "number", "schedule.rate", "steps", "a number", steps)
  local warmup = opts.warmup or 0
  if step <= warmup then return opts.lr * step / warmup end
  local progress = steps > warmup and (step - warmup) / (steps - warmup) or 1
  return opts.lr * f(math.min(progress, 1), opts.floor or 0, opts.decay or 0.2)
end

return schedule
