-- btx.lua: Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv 2403.07816) on real text.
--
--   1. Branch: copy a seed model once per domain.
--   2. Train each copy on its domain: no communication.
--   3. Mix: the feed-forward layers become the experts of a mixture, the seed's too; everything
--      else is averaged; a router per layer is new.
--   4. Finetune the mixture on all domains together, with a balance loss.
--
-- Beside it stand the seed, the experts, their plain weight average, and a dense model that gets
-- the same compute after the seed on all domains together.

local moe = require("moelua")
local run = require("moelua.run")

-- Rates chosen on the validation split with seed 101, mean bits per byte at 1e-3, 2e-3, 4e-3, 8e-3:
-- btx 2.574 2.561 2.606 2.722, dense 2.451 2.412 2.404 2.437.
local opt = moe.options {
  name = "btx",
  about = "Branch-Train-MiX: train domain experts from one seed, mix them into one MoE, finetune.",
  options = {
    { "domain", {}, "name=path of a file or folder; replaces the three standard domains",
      repeatable = true },
    { "max_bytes", 8000000, "text used of each domain", min = 1 },
    { "from", nil, "a model to branch, a Hugging Face directory or .gguf file, instead of a " ..
      "seed model; try --btx-lr and --dense-lr 1e-4", type = "string" },
    { "dim", 128, "model width", min = 1 },
    { "layers", 4, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "hidden", 352, "width of the feed-forward layers", min = 1 },
    { "context", 128, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "seed_steps", 400, "steps of the seed model", min = 1 },
    { "expert_steps", 200, "steps of each expert", min = 1 },
    { "mix_steps", 100, "finetuning steps of the mixture", min = 1 },
    { "k", 2, "experts a token goes to", min = 1 },
    { "balance", 0.01, "coefficient of the load-balancing loss", min = 0 },
    { "lr", 3e-3, "peak learning rate of the seed model", min = 0 },
    { "btx_lr", 2e-3, "of the experts and of the finetuning", min = 0 },
    { "dense_lr", 4e-3, "of the dense comparison", min = 0 },
    { "workers", nil, "branches trained at the same time", type = "integer", min = 1 },
    { "eval_windows", 512, "windows of each domain in the final table", min = 1 },
    { "split", "test", "what the final table reads", choices = { "test", "validation" } },
  },
  presets = {
    smoke = { seed_steps = 40, expert_steps = 20, mix_steps = 16, eval_windows = 64,
      max_bytes = 2000000, save_every = 8 },
    tiny = { seed_steps = 10, expert_steps = 5, mix_steps = 5, eval_windows = 8, dim = 32,
      layers = 2, heads = 2, hidden = 64, context = 64, batch = 8, max_bytes = 200000,
      save_every = 2 },
  },
}

local seed = opt.from and run.check(moe.load(opt.from))
local study = moe.study.open(opt, { recipe = "btx", title = "Branch-Train-MiX",
  tokenizer = seed and seed.tokenizer,
  about = "Copies of one seed model were trained on one domain each, without communication; " ..
    "their feed-forward layers, and the seed's, became the experts of a mixture, which was " ..
    "finetuned on all domains together. The dense model had the same compute after the seed." })
local domains = study.domains
study:need(opt.k <= #study.names + 1, "--k is %d: there are %d experts, the seed's and one per " ..
  "domain", opt.k, #study.names + 1)
local training = { batch = opt.batch, lr = opt.btx_lr }
local function with(more) return moe.options.merge(training, more) end

-- The seed model, on all domains together, unless there is one.
local seed_cost = moe.study.sum()
if not seed then
  seed = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads,
    hidden = opt.hidden, vocab = 256, context = opt.context, std = 0.06, seed = opt.seed }
  seed.tokenizer = moe.tokenizer.bytes()
  seed_cost = study:train("seed", seed,
    with { data = domains, steps = opt.seed_steps, lr = opt.lr })
end
study:arm("seed", seed, seed_cost)

-- Branch and train.
local experts, costs = study:branch(seed,
  with { steps = opt.expert_steps, workers = opt.workers }, seed_cost)
for i, name in ipairs(study.names) do
  study:arm("expert " .. name, experts[i], moe.study.sum(seed_cost, costs[i]))
end
local models = { seed, table.unpack(experts) }
local branched = moe.study.sum(seed_cost, table.unpack(costs))
study:arm("weight average", moe.average(models), branched)

-- Mix, and finetune.
local mixed = moe.mix(models, { seed = opt.seed,
  router = { k = opt.k, gate = "selected", balance = { form = "btx", coef = opt.balance } } })
study:arm("btx, just mixed", mixed, branched)
local mix_cost = study:train("mix", mixed, with { data = domains, steps = opt.mix_steps }, branched)
local btx = study:arm("btx", mixed, moe.study.sum(branched, mix_cost))
study:routing(btx, { "seed", table.unpack(study.names) })
study:keep(mixed)

-- A dense model with the same compute after the seed, in one uninterrupted schedule.
local dense = seed:copy()
local per_step = costs[1].flops / opt.expert_steps
local dense_steps = math.floor((branched.flops - seed_cost.flops + mix_cost.flops) / per_step + 0.5)
local dense_cost = study:train("dense", dense,
  with { data = domains, steps = dense_steps, lr = opt.dense_lr }, seed_cost)
study:arm("dense, same compute", dense, moe.study.sum(seed_cost, dense_cost))

local function expert(name) return "expert " .. name end
study:best_on_own_domain(expert)
study:better("btx", { "seed" })
for _, name in ipairs(study.names) do study:better("btx", { expert(name) }) end
study:better("btx", { "weight average", "btx, just mixed", "dense, same compute" })
study:finish()
