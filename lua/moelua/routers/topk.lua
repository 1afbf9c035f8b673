-- topk.lua: each token goes to the k experts of its largest logits.
--
--   S = the k largest of l_1 .. l_N
--   gate "selected"   g_i = exp l_i / sum_S exp l_j            (BTX, Mixtral)
--   gate "all"        g_i = exp l_i / sum_j exp l_j            (Switch, DeepSeekMoE)
--   gate "sigmoid"    g_i = s_i / sum_S s_j,  s = sigmoid(l)   (DeepSeek-V3; k = 1: g = s)
--
-- With bias = { rate } the load is balanced without a loss (Wang et al. 2024): a bias b per expert
-- takes part in the selection alone, S = the k largest of s_i + b_i, and after each step
--
--   b_i = b_i + rate * sign(mean load - load_i)
--
-- where the load is that of the step's whole batch. rate = 0 freezes the bias.
--
-- With skip = n each token does without its n best experts and takes the next k: how much a model
-- that has been trained depends on them (Dai et al. 2024, figure 4). Gates over the selected are
-- then over those; gate "all" keeps the probabilities among all experts.

local core = require("moelua.core")
local options = require("moelua.options")

local topk = {}

topk.options = {
  k = { "integer", 2 },
  gate = { { "selected", "all", "sigmoid" }, "selected" },
  bias = "table|boolean",         -- { rate = 1e-3 }; false: none
  skip = "integer",               -- how many of the best experts of each token are left out
}
topk.buffers = { "bias" }

local declared_bias = { rate = { "number", 1e-3 } }

--- Refuses a k that there are not enough experts for.
function topk.check_k(opts, experts)
  if opts.k < 1 or experts and opts.k > experts then
    core.raise("router: k must be 1 to the number of experts: %d of %s", opts.k,
      experts or "any number")
  end
end

local function check_skip(opts, experts)
  local skip = opts.skip
  if not skip then return end
  if skip < 0 or experts and opts.k + skip > experts then
    core.raise("router: without the best %d of %s experts there are no %d left", skip,
      experts or "all", opts.k)
  end
  if opts.gate == "sigmoid" and opts.k == 1 then
    core.raise("router: skip is not for k = 1 with gate = \"sigmoid\", whose gates are not " ..
      "normalised")
  end
end

function topk.check(opts, experts)
  topk.check_k(opts, experts)
  check_skip(opts, experts)
  if not opts.bias then return end
  opts.bias = options.check("router.bias", opts.bias, declared_bias)
  if not (opts.bias.rate >= 0 and opts.bias.rate < math.huge) then
    core.raise("router.bias: rate must be finite and not negative, not %s", opts.bias.rate)
  end
end

function topk.remedy(opts)
  return opts.k == 1 and opts.gate == "selected" and "gate = \"all\", as in Switch" or nil
end

function topk.init(router)
  if not router.opts.bias then return end
  router.bias, router.counts = core.zeros(router.count), core.zeros(router.count)
end

-- Adds up how often each expert is chosen in a step; an interrupted step counts for nothing, and
-- neither does what a block computes a second time.
local function count(router, experts, how)
  if not how.train or how.again or router.opts.bias.rate == 0 then return end
  core.no_grad(function()
    if how.micro == 0 then router.counts:fill_(0) end
    local chosen = how.mask and experts:keep_slots(how.mask:reshape(-1)) or experts
    router.counts:copy_(router.counts + chosen:bincount(router.count))
  end)
end

-- sigmoid(l) as probabilities, for the balance loss (Megatron).
local function shares(logits)
  local s = logits:sigmoid()
  return s / s:sum(-1, true)
end

-- The experts after the best `skip`, and their gates.
local function next_best(opts, gates, experts)
  gates = gates:narrow(2, opts.skip + 1, opts.k)
  if opts.gate ~= "all" then gates = gates / gates:sum(-1, true) end
  return gates, experts:narrow(2, opts.skip + 1, opts.k):contiguous()
end

function topk.route(router, logits, how)
  local opts = router.opts
  local gates, experts = logits:topk_route(opts.k + (opts.skip or 0), opts.gate, router.bias)
  if opts.skip then gates, experts = next_best(opts, gates, experts) end
  if opts.bias then count(router, experts, how) end
  return gates, experts, { scores = opts.gate == "sigmoid" and shares(logits) or nil }
end

local function sign(x) return x > 0 and 1 or x < 0 and -1 or 0 end

function topk.after_step(router)
  if not router.opts.bias then return end
  local load, bias, total = router.counts:totable(), router.bias:totable(), 0
  for _, n in ipairs(load) do total = total + n end
  for e, n in ipairs(load) do
    bias[e] = bias[e] + router.opts.bias.rate * sign(total / #load - n)
  end
  core.no_grad(function()
    router.bias:copy_(core.tensor(bias))
    router.counts:fill_(0)
  end)
end

function topk.slots(opts) return opts.k end

function topk.traits() return { causal = true, coupled = "no" } end

return topk
