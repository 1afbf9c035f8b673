-- noisy_topk.lua: noise that the router learns, and losses that count by it.
--
-- variant "shazeer" (Shazeer et al. 2017), eps ~ N(0, 1):
--   H = x W_g + eps softplus(x W_noise),  G = softmax over the k largest of H
--   P_i = Phi(((x W_g)_i - kth_excluding(H, k, i)) / softplus(x W_noise)_i)
--   importance CV(sum_x G)^2 + load CV(sum_x P)^2
-- variant "v-moe" (Riquelme et al. 2021), eps ~ N(0, 1 / N^2):
--   H = x W_g + eps,  G = the k largest of softmax(H), as they are
--   P_i = Phi(((x W_g)_i - k-th largest of H) N)
--   importance CV(sum_x softmax(x W_g))^2 + load CV(sum_x P)^2
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

function noisy.check(opts, experts)
  topk.check_k(opts, experts)
  for _, name in ipairs({ "noise", "importance", "load" }) do
    if not (opts[name] >= 0 and opts[name] < math.huge) then
      core.raise("router: %s must be finite and not negative, not %s", name, opts[name])
    end
  end
  if opts.noise == 0 and opts.load ~= 0 then
    core.raise("router: without noise the load loss is not defined: it is the probability that " ..
      "the noise lets an expert win\nhint: load = 0")
  end
  if experts and opts.load ~= 0 and opts.k == experts and opts.variant == "shazeer" then
    core.raise("router: k = %d of %d experts leaves none out: the load loss is not defined\n" ..
      "hint: load = 0", opts.k, experts)
  end
end

function noisy.init(router, where)
  if router.opts.variant ~= "shazeer" then return end
  core.no_grad(function() router.weight:fill_(0) end)
  router.noise = weight({ std = 0 }, "noise", where.experts, where.dim)
end

function noisy.remedy(opts)
  return opts.k == 1 and opts.variant == "shazeer" and opts.load == 0 and
    "a load loss; or variant = \"v-moe\"" or nil
end

-- The standard deviation of the noise [T x N], or a number.
local function spread(router, x)
  if router.opts.variant == "v-moe" then return router.opts.noise / router.count end
  local raw = core.linear(x:reshape(-1, router.dim), router.noise, nil, "f32")
  return raw:softplus() * router.opts.noise
end

-- What a noisy logit has to exceed for its expert to win [T x N].
local function threshold(router, noisy_logits)
  local k = router.opts.k
  if router.opts.variant == "shazeer" then return noisy_logits:kth_excluding(k) end
  local _, experts = noisy_logits:topk_route(k)
  local kth = experts:narrow(2, k, 1):one_hot(router.count):reshape(-1, router.count)
  return (kth * noisy_logits):sum(-1, true)
end

-- Squared coefficient of variation, with the population variance.
local function cv_squared(v)
  local mean = v:mean()
  local off = v - mean
  return (off * off):mean() / (mean * mean)
end

local function sum_of_tokens(values, mask)
  return (mask and values * mask:reshape(-1, 1) or values):sum(1)
end

local function importance(router, logits, gates, experts, mask)
  local u, p = core.routing_shares(logits:softmax(-1), gates, experts, "btx", 1, mask)
  return cv_squared(router.opts.variant == "shazeer" and u or p)
end

local function load(router, logits, noisy_logits, std, mask)
  local p = ((logits - threshold(router, noisy_logits)) / std):normal_cdf()
  return cv_squared(sum_of_tokens(p, mask))
end

function noisy.route(router, logits, how, x)
  local opts = router.opts
  local gate = opts.variant == "shazeer" and "selected" or "all"
  if not how.train then return logits:topk_route(opts.k, gate) end
  local std = spread(router, x)
  local eps = router:draw("randn", "noise", how, core.size(logits, 1), router.count)
  local h = logits + eps * std
  local gates, experts = h:topk_route(opts.k, gate)
  local loss = importance(router, logits, gates, experts, how.mask) * opts.importance
  if opts.load ~= 0 then
    loss = loss + load(router, logits, h, std, how.mask) * opts.load
  end
  return gates, experts, { loss = loss }
end

function noisy.slots(opts) return opts.k end

function noisy.traits() return { causal = true, coupled = "no" } end

return noisy
