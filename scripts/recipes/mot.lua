-- mot.lua: Mixture of Tokens (Antoniak et al. 2023, arXiv 2310.15961) on real text.
--
--   1. Tokens at the same position of `group` sequences are a group.
--   2. Each expert mixes the tokens of a group into one, by weights that a controller learns, and
--      works on the mixture.
--   3. Its output goes back to all of them by the same weights.
--
-- All experts together are `group` times as wide as a dense layer: the compute is that of the dense
-- layer and of the mixing, which is counted. Beside it stand a dense model, mixtures in the later
-- layers alone, mixing that is not learned, one expert per token (Switch), experts that choose
-- their tokens, and a mixture of tokens that becomes a Switch model for the last tenth of its
-- training. Its test in groups of one, which asks every expert in full, shows what that is for.

local moe = require("moelua")

local opt = moe.options {
  name = "mot", compares = true,
  about = "Mixture of Tokens beside dense, Switch and expert choice: how soon to the same loss.",
  options = {
    { "experts", 16, "experts of a mixture of tokens", min = 1 },
    { "group", 16, "sequences whose tokens are mixed", min = 1 },
    { "hidden", 512, "width of the feed-forward layers", min = 1 },
    { "dim", 128, "model width", min = 1 },
    { "layers", 4, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "context", 64, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "steps", 300, "steps of the dense model", min = 1 },
    { "tuning_steps", 50, "steps of each run that tries a learning rate", min = 1 },
  },
  presets = {
    smoke = { seeds = 2, steps = 30, tuning_steps = 5, eval_windows = 32, dim = 64, hidden = 128 },
    tiny = { seeds = 2, steps = 4, tuning_steps = 1, eval_windows = 3, context = 16, dim = 16,
      layers = 2, heads = 2, hidden = 16, experts = 3, group = 3, batch = 3, max_bytes = 200000 },
    full = { steps = 3000, tuning_steps = 300, context = 128, eval_windows = 1024 },
  },
}

local study = moe.study.open(opt, { recipe = "mot", title = "Mixture of Tokens",
  about = "Experts that work on mixtures of tokens of several sequences, beside dense layers, " ..
    "experts for single tokens and mixtures that are not learned." })
local arms = study:compare { steps = opt.steps, tuning_steps = opt.tuning_steps, points = 20,
  rates = { 2e-3, 4e-3, 8e-3 },
  training = { batch = opt.batch, group = opt.batch, eval_windows = 32 } }

local function relu(ffn)
  return moe.options.merge({ hidden = opt.hidden, activation = "relu" }, ffn)
end
local dense = relu { kind = "dense" }
local function mixture(router)
  return relu { kind = "moe", experts = opt.group, router = router }
end
local function tokens(more)
  return relu(moe.options.merge({ kind = "mot", experts = opt.experts, group = opt.group,
    flop_matched = true }, more))
end

-- The first half of the layers, and the others.
local function model(early, later)
  return function(seed)
    local ffn = {}
    for i = 1, opt.layers do ffn[i] = i <= opt.layers // 2 and early or later or early end
    local new = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads, vocab = 256,
      context = opt.context, ffn = ffn, std = 0.06, seed = seed }
    new.tokenizer = moe.tokenizer.bytes()
    return new
  end
end

arms:add("dense", model(dense))
arms:add("MoT", model(tokens {}))
arms:add("MoT, later half", model(dense, tokens {}))
arms:add("uniform mixing", model(tokens { uniform = true }))
study:routing(arms:add("switch", model(mixture { kind = "switch" })))
arms:add("expert choice", model(mixture { kind = "expert_choice", factor = 1, over = "batch" }))
arms:add("MoT, then switch", model(tokens {}), { at = 0.9, convert = function(trained)
  return moe.transition(trained, { kind = "switch" })
end })
arms:derive("MoT, groups of one", "MoT", function(trained)
  return trained:with_ffn(function(ffn) ffn.group = 1 end)
end)

arms:reach("dense")
arms:beats("MoT", "uniform mixing")
arms:beats("MoT", "dense")
arms:beats("MoT, then switch", "switch")
arms:beats("MoT, then switch", "MoT, groups of one")
study:keep(arms:model("MoT"))
study:finish()
