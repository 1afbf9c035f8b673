-- sample.lua: one expert per token, drawn: Sample Top-1 of Branch-Train-MiX (Sukhbaatar et al.
-- 2024), after Jang et al. 2017.
--
--   training    y = softmax((l + G) / tau),  G_i = -log(-log U_i),  i = argmax y,  gate y_i
--               tau = max(least, start exp(-rate step))
--   inference   "sample": i ~ softmax(l), that is argmax (l + G), gate 1; "argmax": i = argmax l
--
-- The weight y_i is that of the draw, as the paper has it: not divided by anything, so that even at
-- the last tau training sees smaller outputs than inference. The temperature has no part in which
-- expert wins.

local core = require("moelua.core")
local options = require("moelua.options")

local sample = {}

sample.options = {
  temperature = "table",          -- { start = 1, rate = 1e-4, least = 0.5 }
  first = { { "soft", "sample" }, "soft" },           -- the first mixture layer, in the paper soft
  inference = { { "sample", "argmax" }, "sample" },
}

local declared_temperature = { start = { "number", 1 }, rate = { "number", 1e-4 },
  least = { "number", 0.5 } }

function sample.check(opts)
  local tau = options.check("router.temperature", opts.temperature, declared_temperature)
  if not (tau.least > 0 and tau.start > 0 and tau.rate >= 0 and tau.start < math.huge) then
    core.raise("router.temperature: start and least must be above 0 and rate at least 0, not " ..
      "%s, %s and %s", tau.start, tau.least, tau.rate)
  end
  opts.temperature = tau
end

--- Soft routing for the first mixture layer, with the same losses.
function sample.for_layer(opts, is_first)
  if not is_first or opts.first == "sample" then return opts end
  return { kind = "soft", balance = opts.balance, z_loss = opts.z_loss, jitter = opts.jitter,
    scale = opts.scale }
end

--- tau of a step.
function sample.temperature(opts, step)
  local tau = opts.temperature
  return math.max(tau.least, tau.start * math.exp(-tau.rate * (step or 0)))
end

--- l + G: the largest of these is a draw from softmax(l).
function sample.perturbed(router, logits, how)
  local u = router:draw("rand", "gumbel", how, core.size(logits, 1), router.count)
  u = u * (1 - 2^-24) + 2^-25           -- above 0 and below 1, where G would be infinite
  return logits - (-u:log()):log()
end

function sample.route(router, logits, how)
  local opts = router.opts
  local drawn = how.train or opts.inference == "sample"
  local l = drawn and sample.perturbed(router, logits, how) or logits
  if how.train then return (l / sample.temperature(opts, how.step)):topk_route(1, "all") end
  local gates, experts = l:topk_route(1, "selected")     -- the only gate: 1
  return gates, experts
end

function sample.slots() return 1 end

function sample.traits() return { causal = true, coupled = "no" } end

return sample
