-- topk.lua: token-choice routing, the k largest logits of each token (Shazeer et al. 2017).
--
--   S = the k largest of l_1 .. l_N
--   gate "selected"   g_i = exp l_i / sum_S exp l_j      i in S     (BTX, Mixtral)
--   gate "all"        g_i = exp l_i / sum_j exp l_j                 (Switch, DeepSeekMoE)
--   gate "sigmoid"    g_i = s_i / sum_S s_j,  s = sigmoid(l)        (DeepSeek-V3)

local core = require("moelua.core")

local topk = {}

topk.options = {
  k = { "integer", 2 },
  gate = { { "selected", "all", "sigmoid" }, "selected" },
}

function topk.check(opts, experts)
  if opts.k < 1 or experts and opts.k > experts then
    core.raise("router: k must be 1 to the number of experts: %d of %s", opts.k,
      experts or "any number")
  end
end

function topk.route(router, logits) return logits:topk_route(router.opts.k, router.opts.gate) end

function topk.slots(opts) return opts.k end

function topk.traits() return { causal = true, coupled = "no" } end

return topk
