-- noisy_topk.lua: noise that the router learns, and losses that count by it.
--
-- variant "shazeer" (Shazeer et al. 2017), eps ~ N(0, 1):
--   H = x W_g + eps softplus(x W_noise),  G = softmax over the k largest of H
--   P_i = Phi(((x W_g)_i - kth_excluding(H, k, i)) / softplus(x W_noise)_i)
--   loss = importance CV(sum_x G)^2 + load CV(sum_x P)^2
-- variant "v-moe" (Riquelme et al. 2021):
--   H = x W_g + eps / N,  G = the k largest of softmax(H), as they are
--   P_i = Phi(((x W_g)_i - k-th largest of H) N)
--   loss = importance CV(sum_x softmax(x W_g))^2 + load CV(sum_x P)^2
--
-- CV^2 is the population variance divided by the square of the mean. There is noise in training
-- only, and these losses with it. In the first variant both weights begin at zero.

local core = require("moelua.core")
local topk = require("moelua.routers.topk")
local weight = require("moelua.parameter")

local noisy = {}

noisy.options = {
  k = { "integer", 2 },
  variant = { { "shazeer", "v-moe" }, "shazeer" },
  noise = { "number", 1 },              -- factor of eps
  importance = { "number", 0.1 }, load = { "number", 0.1 },       -- coefficients of the losses
}
noisy.parameters = { "noise" }

-- What the variants do not share: gates (see topk.lua), the standard deviation of the noise, what
-- a noisy logit has to exceed for its expert to win, and what "importance" is of the mean gates
-- and of the mean probabilities.
local variants = {
  shazeer = { gate = "selected" },
  ["v-moe"] = { gate = "all" },
}

function variants.shazeer.std(router, x)
  return core.linear(x:reshape(-1, router.dim), router.noise, nil, "f32"):softplus()
end

function variants.shazeer.threshold(h, k) return h:kth_excluding(k) end

function variants.shazeer.importance(mean_gates) return mean_gates end

variants["v-moe"].std = function(router) return 1 / router.count end

variants["v-moe"].threshold = function(h, k)
  local _, experts = h:topk_route(k)
  local kth = experts:narrow(2, k, 1):one_hot(h:size(2)):reshape(-1, h:size(2))
  return (h * kth):sum(-1, true)
end

variants["v-moe"].importance = function(_, mean_probabilities) return mean_probabilities end

local function check_load(opts, experts)
  if opts.load == 0 then return end
  if opts.noise == 0 then
    core.raise("router: without noise there is no load loss, which is made from the probability " ..
      "that the noise lets an expert win\nhint: load = 0")
  end
  if opts.variant == "shazeer" and opts.k == experts then
    core.raise("router: k = %d of %d experts leaves none to win over, which the load loss counts" ..
      "\nhint: load = 0", opts.k, experts)
  end
end

function noisy.check(opts, experts)
  topk.check_k(opts, experts)
  for _, name in ipairs({ "noise", "importance", "load" }) do
    if not (opts[name] >= 0 and opts[name] < math.huge) then
      core.raise("router: %s must be finite and not negative, not %s", name, opts[name])
    end
  end
  check_load(opts, experts)
end

function noisy.remedy(opts)
  return opts.k == 1 and opts.variant == "shazeer" and opts.load == 0 and
    "a load loss, or variant = \"v-moe\"" or nil
end

function noisy.init(router, where)
  if router.opts.variant ~= "shazeer" then return end
  core.no_grad(function() router.weight:fill_(0) end)
  router.noise = weight({ std = 0 }, "noise", where.experts, where.dim)
end

-- Squared coefficient of variation.
local function cv_squared(v)
  local mean = v:mean()
  return ((v - mean) ^ 2):mean() / mean ^ 2
end

local function importance_loss(variant, logits, gates, experts, mask)
  local u, p = logits:softmax(-1):routing_shares(gates, experts, "btx", 1, mask)
  return cv_squared(variant.importance(u, p))
end

local function load_loss(margin, std, mask)
  local p = (margin / std):normal_cdf()
  return cv_squared((mask and p * mask:reshape(-1, 1) or p):sum(1))
end

function noisy.route(router, logits, how, x)
  local opts, variant = router.opts, variants[router.opts.variant]
  if not how.train then return logits:topk_route(opts.k, variant.gate) end
  local eps = router:draw("randn", "noise", how, logits:size(1), router.count)
  local std = variant.std(router, x) * opts.noise
  local h = logits + eps * std
  local gates, experts = h:topk_route(opts.k, variant.gate)
  local loss = importance_loss(variant, logits, gates, experts, how.mask) * opts.importance
  if opts.load ~= 0 then
    loss = loss + load_loss(logits - variant.threshold(h, opts.k), std, how.mask) * opts.load
  end
  return gates, experts, { loss = loss }
end

function noisy.slots(opts) return opts.k end

function noisy.traits() return { causal = true, coupled = "no" } end

return noisy
