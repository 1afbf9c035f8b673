-- routers.lua: ways in which tokens and experts meet, at equal active compute.
--
-- Each arm is the same model with another router. A token uses as much of the feed-forward layers
-- in all of them: who asks one expert has experts as wide as a dense layer, who asks two has
-- experts half as wide, who asks all has eight narrow ones.

local moe = require("moelua")

local opt = moe.options {
  name = "routers", compares = true,
  about = "Compare routers at equal active compute: loss, load, and what experts know of domains.",
  options = {
    { "experts", 8, "experts of a mixture layer", min = 2 },
    { "hidden", 176, "width of the feed-forward layers that a token uses", min = 1 },
    { "dim", 64, "model width", min = 1 },
    { "layers", 2, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "context", 128, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "steps", 450, "steps of each model", min = 1 },
    { "tuning_steps", 80, "steps of each run that tries a learning rate", min = 1 },
  },
  presets = {
    smoke = { seeds = 2, steps = 40, tuning_steps = 8, eval_windows = 32, context = 32, dim = 32,
      hidden = 64 },
    tiny = { seeds = 2, steps = 4, tuning_steps = 1, eval_windows = 3, context = 16, dim = 16,
      layers = 2, heads = 2, hidden = 16, batch = 3, max_bytes = 200000 },
    full = { steps = 4000, tuning_steps = 400, dim = 128, layers = 4, hidden = 352,
      eval_windows = 1024 },
  },
}

local study = moe.study.open(opt, { recipe = "routers", title = "Routers",
  about = "The same model with one router after another, at equal active compute." })
local arms = study:compare { steps = opt.steps, tuning_steps = opt.tuning_steps,
  rates = { 2e-3, 4e-3, 8e-3, 16e-3 }, training = { batch = opt.batch, group = opt.batch } }

local function add(name, router)
  local slots = moe.router.slots(moe.router.options(router, opt.experts), opt.experts)
  return arms:add(name, function(seed)
    local model = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads,
      vocab = 256, context = opt.context, std = 0.06, seed = seed,
      ffn = { kind = "moe", experts = opt.experts, hidden = math.ceil(opt.hidden / slots),
        router = router } }
    model.tokenizer = moe.tokenizer.bytes()
    return model
  end)
end

local switch = { form = "switch", coef = 0.01 }
local deepseek = { form = "deepseek", coef = 0.01 }
study:routing(add("top-2", { kind = "topk", k = 2, gate = "selected", balance = switch }))
add("top-2, no balance", { kind = "topk", k = 2, gate = "selected", balance = false })
add("noisy top-2", { kind = "noisy_topk", k = 2 })
add("gshard", { kind = "gshard" })
add("sigmoid", { kind = "topk", k = 2, gate = "sigmoid", balance = deepseek })
-- A bias moves ten times faster than in the paper: there are hundreds of steps, not 100 000.
add("loss-free bias", { kind = "topk", k = 2, gate = "sigmoid", bias = { rate = 1e-2 } })
add("switch", { kind = "switch" })
add("sample top-1", { kind = "sample", first = "sample", balance = switch })
add("hash", { kind = "hash", by = "bigram" })
add("BASE", { kind = "base" })
add("expert choice", { kind = "expert_choice", factor = 2, over = "batch" })
add("expert choice, sequence", { kind = "expert_choice", factor = 2, over = "sequence" })
add("soft", { kind = "soft" })

for _, name in ipairs { "top-2", "noisy top-2", "gshard", "loss-free bias" } do
  arms:lower("cv", name, "top-2, no balance")
end
arms:balanced("expert choice")
arms:balanced("BASE")
arms:beats("top-2", "hash")
arms:beats("top-2", "top-2, no balance")
study:keep(arms:model("top-2"))
study:finish()
