-- moe.lua: a mixture of experts of any configuration, trained from scratch beside a dense model
-- with the same compute per token.

local moe = require("moelua")

local opt, given = moe.options {
  name = "moe", compares = true,
  about = "Train a mixture of experts from scratch, beside a dense model of the same compute.",
  options = {
    { "experts", 8, "experts of a mixture layer", min = 1 },
    { "hidden", 176, "width of an expert before --segments", min = 1 },
    { "k", nil, "experts a token goes to", type = "integer", min = 1 },
    { "router", "topk", "how tokens and experts meet", choices = moe.router.kinds },
    { "gate", nil, "weights of the experts", choices = { "selected", "all", "sigmoid" } },
    { "balance", "switch", "form of the balance loss",
      choices = { "btx", "switch", "gshard", "deepseek", "none" } },
    { "coef", 0.01, "coefficient of the balance loss", min = 0 },
    { "z_loss", nil, "coefficient of the router's z-loss", type = "number", min = 0 },
    { "jitter", nil, "noise on the input of the router in training", type = "number", min = 0 },
    { "capacity", nil, "capacity factor; tokens beyond it are dropped", type = "number", min = 0 },
    { "shared", 0, "shared experts, which every token uses", min = 0 },
    { "segments", nil, "parts that each expert is cut into", type = "integer", min = 1 },
    { "pattern", "m", "layers from the first on, repeated: m mixture, d dense; as dm" },
    { "dim", 128, "model width", min = 1 },
    { "layers", 4, "layers", min = 1 },
    { "heads", 4, "attention heads", min = 1 },
    { "context", 128, "tokens of a sequence", min = 1 },
    { "batch", 32, "sequences of a step", min = 1 },
    { "steps", 400, "steps of the mixture", min = 1 },
    { "tuning_steps", 100, "steps of each run that tries a learning rate", min = 1 },
  },
  presets = {
    smoke = { seeds = 2, steps = 40, tuning_steps = 10, eval_windows = 32, max_bytes = 2000000 },
    tiny = { seeds = 2, steps = 6, tuning_steps = 2, eval_windows = 4, max_bytes = 200000, dim = 32,
      layers = 2, heads = 2, hidden = 32, context = 32, batch = 4 },
    full = { steps = 4000, tuning_steps = 400, eval_windows = 1024 },
  },
}

local study = moe.study.open(opt, { recipe = "moe", title = "A mixture of experts",
  about = "A mixture, and a dense model whose feed-forward layers are as wide as what a token " ..
    "uses of the mixture's, trained with the same compute." })
study:need(opt.pattern:find("^[md]+$"), "--pattern is '%s': letters m and d expected", opt.pattern)

-- What the command line leaves open is as each kind of router has it; top-k gets a balance loss.
local router = { kind = opt.router, k = opt.k, gate = opt.gate, z_loss = opt.z_loss,
  jitter = opt.jitter, capacity = opt.capacity and { factor = opt.capacity },
  domains = opt.router == "domain" and study.names or nil }
if opt.balance == "none" then
  router.balance = false
elseif opt.router == "topk" or given.balance or given.coef then
  router.balance = { form = opt.balance, coef = opt.coef }
end
local by_domain = opt.router == "domain" and not given.experts      -- then each has one
local mixture = { kind = "moe", experts = by_domain and #study.names or opt.experts,
  hidden = opt.hidden, shared = opt.shared, segments = opt.segments, router = router }

local function model(ffn)
  return function(seed)
    local new = moe.model.new { dim = opt.dim, layers = opt.layers, heads = opt.heads, vocab = 256,
      context = opt.context, ffn = ffn, std = 0.06, seed = seed }
    new.tokenizer = moe.tokenizer.bytes()
    return new
  end
end

-- Dense layers have the compute of a mixture layer.
local width = moe.flops.dense_width(mixture, opt.dim)
local dense, pattern = { kind = "dense", hidden = width }, {}
for i = 1, opt.layers do
  local at = (i - 1) % #opt.pattern + 1
  pattern[i] = opt.pattern:sub(at, at) == "m" and mixture or dense
end

local arms = study:compare { steps = opt.steps, tuning_steps = opt.tuning_steps, points = 20,
  rates = { 2e-3, 4e-3, 8e-3 }, training = { batch = opt.batch, eval_windows = 32 } }
study:routing(arms:add("mixture", model(pattern)))
arms:add("dense", model(dense))
arms:beats("mixture", "dense")
arms:reach("dense")
study:keep(arms:model("mixture"))
study:finish()
