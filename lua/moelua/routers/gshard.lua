-- gshard.lua: the best expert and a second one (Lepikhin et al. 2020).
--
--   p = softmax(l),  a = argmax p,  gates p_a / (p_a + p_b) and p_b / (p_a + p_b)
--
-- The second expert b, in training:
--   "random"     the next best, used with probability min(1, gate_b / threshold): threshold 0.5 is
--                the paper's 2 gate_b, ST-MoE's programs have 0.2
--   "sampling"   the argmax of l + Gumbel noise among the others              (fairseq)
--   "all"        the next best
-- and in evaluation the next best. Defaults are the paper's capacity, 2 ceil(S / N), filled by all
-- first choices before the second ones, and its loss, which counts first choices alone.

local core = require("moelua.core")
local sample = require("moelua.routers.sample")

local gshard = {}

gshard.options = {
  second = { { "random", "sampling", "all" }, "random" },
  threshold = { "number", 0.5 },                -- of "random"
  evaluation = { { "random", "sampling", "all" }, "all" },      -- the second one in evaluation
  balance = { "table|boolean", { form = "gshard", coef = 0.01 } },
  capacity = { "table|boolean", { factor = 2, formula = "gshard", policy = "choice" } },
}

function gshard.check(opts, experts)
  if not (opts.threshold > 0 and opts.threshold < math.huge) then
    core.raise("router: threshold must be above 0 and finite, not %s", opts.threshold)
  end
  if experts and experts < 2 then
    core.raise("router: gshard takes 2 experts per token: there are only %d", experts)
  end
end

local route = {}

function route.all(_, logits) return logits:topk_route(2, "selected") end

function route.random(router, logits, how)
  local gates, experts = logits:topk_route(2, "selected")
  local u = router:draw("rand", "second", how, gates:size(1), 1)
  local second = gates:narrow(2, 2, 1):detach() / router.opts.threshold - u
  return gates, experts:keep_slots(core.concat({ core.ones(second:shape()), second }, 2))
end

-- The first choice stays the first when it is lifted above all others.
function route.sampling(router, logits, how)
  local _, first = logits:topk_route(1)
  local lifted = sample.perturbed(router, logits, how)
    + first:one_hot(router.count):reshape(-1, router.count) * 1e9
  local _, experts = lifted:detach():topk_route(2)
  local p = logits:softmax(-1):reshape(-1, 1, router.count)
  local gates = (experts:one_hot(router.count) * p):sum(-1)
  return gates / gates:sum(-1, true), experts
end

function gshard.route(router, logits, how)
  local opts = router.opts
  return route[how.train and opts.second or opts.evaluation](router, logits, how)
end

-- As if the second expert were always used: how often it is depends on what has been learnt.
function gshard.slots() return 2 end

function gshard.traits() return { causal = true, coupled = "no" } end

return gshard
