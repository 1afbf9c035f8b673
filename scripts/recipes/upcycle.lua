-- upcycle.lua: Sparse Upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055) on real text.
--
--   1. Train a dense model, or take one.
--   2. Replace its feed-forward layers by mixtures, whose experts are copies of them, behind new
--      routers; with gates that sum to one it is still the same function.
--   3. Train on.
--
-- With so much extra compute, as shares of what the dense model cost, the mixture stands beside the
-- dense model trained on, a mixture of experts from scratch, and what others do at step 2: gates
-- that do not sum to one, noise, and Drop-Upcycling (Nakamura et al. 2025, arXiv 2502.19261), which
-- draws half of the hidden units of every copy anew.

local moe = require("moelua")
local run = require("moelua.run")

local opt = moe.options {
  name = "upcycle", compares = true,
  about = "Sparse upcycling beside going on densely and a mixture from scratch, at equal compute.",
  options = {
    { "from", nil, "a model to upcycle, a Hugging Face directory or .gguf file, instead of a " ..
      "dense model; --steps tell what compute is counted by; try --lr 1e-4", type = "string" },
    { "experts", 8, "copies of each feed-forward layer", min = 1 },
    { "k", 2, "experts a token goes to", min = 1 },
    { "balance", 0.01, "coefficient of the balance loss", min = 0 },
    { "drop", 0.5, "share of the hidden units that Drop-Upcycling draws anew", min = 0 },
    { "noise", 0.02, "deviation of the noise on half of the hidden units", min = 0 },
    { "dim", 64, "model width", min = 1 },
    { "layers", 2, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "hidden", 176, "width of the feed-forward layers", min = 1 },
    { "context", 128, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "steps", 600, "steps of the dense model", min = 10 },
    { "dense_lr", 8e-3, "peak learning rate of the dense model", min = 0 },
  },
  presets = {
    smoke = { seeds = 2, steps = 100, eval_windows = 32, max_bytes = 2000000, context = 32 },
    tiny = { seeds = 2, steps = 10, eval_windows = 3, context = 16, dim = 16, hidden = 16,
      heads = 2, experts = 4, batch = 4, max_bytes = 200000 },
    full = { steps = 1500, dim = 128, layers = 4, hidden = 352, eval_windows = 1024 },
  },
}

local dense = opt.from and run.check(moe.load(opt.from))
local study = moe.study.open(opt, { recipe = "upcycle", title = "Sparse upcycling",
  tokenizer = dense and dense.tokenizer,
  about = "A dense model became a mixture of experts and was trained on, beside the dense model " ..
    "itself and a mixture from scratch with the same compute." })
study:need(opt.k <= opt.experts, "--k is %d: there are %d experts", opt.k, opt.experts)

-- The dense model that everything begins with, on all domains together, unless there is one.
local cost = moe.study.sum()
if not dense then
  dense = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads, vocab = 256,
    context = opt.context, hidden = opt.hidden, std = 0.06, seed = opt.seed }
  dense.tokenizer = moe.tokenizer.bytes()
  cost = study:train("dense", dense,
    { data = study.domains, steps = opt.steps, batch = opt.batch, lr = opt.dense_lr })
end
study:arm("dense", dense, cost)

local function router(gate)
  return { k = opt.k, gate = gate, balance = { form = "switch", coef = opt.balance } }
end
local function upcycled(gate, vary)
  return function(seed)
    return moe.upcycle(dense, { experts = opt.experts, router = router(gate), vary = vary,
      seed = seed })
  end
end
local function from_scratch(seed)
  local new = moe.model.new(moe.options.merge(dense.config, { seed = seed, ffn = { kind = "moe",
    hidden = dense.config.ffn[1].hidden, experts = opt.experts, router = router("selected") } }))
  new.tokenizer = dense.tokenizer
  return new
end
local normal, raw = upcycled("selected"), upcycled("all")
study:arm("just upcycled", normal(opt.seed), cost)
study:arm("just upcycled, gates not normalised", raw(opt.seed), cost)

-- Each share of extra compute is a comparison of its own: every run has a schedule of its own.
for _, percent in ipairs { 10, 30, 100 } do
  local function named(name) return ("%s +%d %%"):format(name, percent) end
  local arms = study:compare { steps = math.ceil(opt.steps * percent / 100),
    rates = { 2e-3, 4e-3, 8e-3, 16e-3 }, training = { batch = opt.batch } }
  local function add(name, make) return arms:add(named(name), make, { before = cost }) end
  add("dense", function() return dense:copy() end)
  local result = add("upcycled", normal)
  add("upcycled, gates not normalised", raw)
  add("drop-upcycled", upcycled("selected", { form = "drop", share = opt.drop }))
  add("upcycled with noise", upcycled("selected", { form = "noise", std = opt.noise }))
  arms:add(named("mixture from scratch"), from_scratch)
  for _, other in ipairs { "dense", "mixture from scratch", "upcycled, gates not normalised",
      "drop-upcycled" } do
    arms:beats(named("upcycled"), named(other))
  end
  if percent == 100 then
    study:routing(result)
    study:keep(arms:model(named("upcycled")))
  end
end

study:better("dense", { "just upcycled, gates not normalised" })
study:finish()
