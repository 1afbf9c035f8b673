-- expert_choice.lua: every expert chooses its tokens (Zhou et al. 2022, "Mixture-of-experts with
-- expert choice routing").
--
--   S = softmax of each token's logits, over the experts
--   expert e takes the C = round(c n / N) tokens of a group of n with the largest S[:, e],
--   and S is the gate, not renormalised; in evaluation, where texts may be short, at least one
--
-- All experts have the same load; a token has from 0 to N experts, c on average. A group is
--   over = "sequence"   all tokens of a sequence: later ones compete with earlier ones, which a
--                       language model must not know of. For encoders.
--   over = "batch"      the tokens that stand at one position of all sequences: causal, but what a
--                       sequence gets depends on its company. Sequences of a batch that share text
--                       would tell each other what follows.
-- Padding is chosen when nothing else is left.

local core = require("moelua.core")

local expert_choice = {}

expert_choice.options = {
  factor = { "number", 2 },             -- c: the experts of a token, on average
  over = { { "sequence", "batch" }, "sequence" },
  balance = false, capacity = false,    -- the load is even as it is
}

function expert_choice.check(opts, experts)
  if not (opts.factor > 0 and opts.factor <= (experts or math.huge)) then
    core.raise("router: factor must be above 0 and at most the number of experts: %s of %s",
      opts.factor, experts or "any number")
  end
end

-- How many of `tokens` tokens an expert takes.
local function capacity_of(opts, experts, tokens, train)
  local capacity = math.floor(opts.factor * tokens / experts + 0.5)
  if capacity >= 1 or not train then return math.max(1, math.min(capacity, tokens)) end
  local sequence = opts.over == "sequence"
  core.raise("router: an expert takes round(factor tokens / experts) = round(%s * %d / %d) = 0 " ..
    "tokens of %s\nhint: %s of at least %d, fewer experts, or a larger factor", opts.factor, tokens,
    experts, sequence and "a sequence" or "a position of the batch",
    sequence and "sequences" or "batches", math.ceil(experts / (2 * opts.factor)))
end

function expert_choice.route(router, logits, how, x)
  local B, S, opts = x:size(1), x:size(2), router.opts
  local capacity = capacity_of(opts, router.count, opts.over == "sequence" and S or B, how.train)
  return logits:reshape(B, S, router.count):expert_choice_route(capacity, opts.over, how.mask)
end

function expert_choice.slots(opts) return opts.factor end

function expert_choice.traits(opts)
  if opts.over == "sequence" then return { causal = false, coupled = "sequence" } end
  return { causal = true, coupled = "batch", group = "batch" }
end

return expert_choice
