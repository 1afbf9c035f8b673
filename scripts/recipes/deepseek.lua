-- deepseek.lua: DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066) on real text.
--
--   1. Cut each of N experts into m parts, and let a token use m K of them instead of K: as many
--      parameters, as much compute, many more combinations.
--   2. Set one of the parts aside for every token: the shared expert.
--
-- Then, without training, take the shared expert away and let a token use one more routed expert.

local moe = require("moelua")

local opt = moe.options {
  name = "deepseek", compares = true,
  about = "Fine-grained and shared experts at equal parameters and equal compute.",
  options = {
    { "experts", 8, "experts of a mixture layer before they are cut", min = 2 },
    { "k", 2, "of these experts, how many a token uses", min = 1 },
    { "hidden", 128, "width of an expert before it is cut", min = 4 },
    { "coef", 0.01, "coefficient of the balance loss", min = 0 },
    { "dim", 64, "model width", min = 1 },
    { "layers", 2, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "context", 128, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "steps", 900, "steps of each model", min = 1 },
    { "tuning_steps", 150, "steps of each run that tries a learning rate", min = 1 },
  },
  presets = {
    smoke = { seeds = 2, steps = 40, tuning_steps = 8, eval_windows = 32, max_bytes = 2000000,
      context = 32 },
    tiny = { seeds = 2, steps = 4, tuning_steps = 1, eval_windows = 4, context = 16, dim = 16,
      hidden = 16, heads = 2, batch = 4, max_bytes = 200000 },
    full = { steps = 4000, tuning_steps = 400, dim = 128, layers = 4, hidden = 352,
      eval_windows = 1024 },
  },
}

local study = moe.study.open(opt, { recipe = "deepseek",
  title = "Fine-grained and shared experts",
  about = "Experts cut into m parts, of which a token uses m times as many, with and without " ..
    "one that every token uses; parameters and compute are the same." })
local arms = study:compare { steps = opt.steps, tuning_steps = opt.tuning_steps,
  rates = { 4e-3, 8e-3, 16e-3 }, training = { batch = opt.batch } }

local function model(segments, shared)
  return function(seed)
    local new = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads, vocab = 256,
      context = opt.context, std = 0.06, seed = seed,
      ffn = { kind = "moe", experts = opt.experts, hidden = opt.hidden, segments = segments,
        shared = shared, router = { kind = "topk", k = opt.k, gate = "all",
          balance = { form = "deepseek", coef = opt.coef } } } }
    new.tokenizer = moe.tokenizer.bytes()
    return new
  end
end

-- Section 4.5: the shared expert does nothing, and one more of the routed takes part.
local function without_shared(trained)
  return trained:with_ffn(function(ffn) ffn.shared, ffn.router.k = nil, ffn.router.k + 1 end)
end

for _, m in ipairs { 1, 2, 4 } do
  local plain, shared = ("m = %d"):format(m), ("m = %d, 1 shared"):format(m)
  local last = arms:add(plain, model(m, 0))
  arms:add(shared, model(m, 1))
  arms:derive(shared .. ", taken away", shared, without_shared)
  if m == 4 then study:routing(last) end
end

arms:beats("m = 2", "m = 1")
arms:beats("m = 4", "m = 1")
arms:beats("m = 4, 1 shared", "m = 4")
for _, m in ipairs { 1, 2, 4 } do
  local name = ("m = %d, 1 shared"):format(m)
  arms:beats(name, name .. ", taken away")
end
study:keep(arms:model("m = 4, 1 shared"))
study:finish()
