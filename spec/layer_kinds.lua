-- layer_kinds.lua: every kind of layer in every configuration that differs, as a table; layers of
-- these cases, small and filled with numbers, and what they are given. What sets a case apart from
-- others stands in its row:
--
--   ties = k        with equal logits a token's slots in evaluation are the experts 0 .. k-1
--   numbered        "always" or "train": experts are told apart by their number, which hashes and
--                   draws of noise go by, so that with experts exchanged it is another function
--   drops           "always" or "train": an expert takes no more than its capacity
--   bigrams         the choice of experts looks at the id before, too
--   unchecked       no logits that could be refused: NaN comes out as NaN

local core = require("moelua.core")
local ffn = require("moelua.ffn")
local moe = require("moelua")
local nn = require("moelua.nn")

-- Sequences of a batch, their length, the width of tokens, and experts.
local B, S, DIM, EXPERTS = 4, 6, 8, 4
local kinds = { sequences = B, length = S, dim = DIM }

-- ---- the table ----------------------------------------------------------------------------------

local function routed(name, router, more)
  local case = { name = name, ffn = { kind = "moe", hidden = 12, experts = EXPERTS,
    router = router } }
  for key, value in pairs(more or {}) do
    if key == "ffn" then
      for option, given in pairs(value) do case.ffn[option] = given end
    else
      case[key] = value
    end
  end
  return case
end

local function mixed(name, more)
  local case = { name = name, unchecked = true,
    ffn = { kind = "mot", hidden = 12, experts = 6, group = B } }
  for option, given in pairs(more or {}) do case.ffn[option] = given end
  return case
end

local tight = 0.5       -- a capacity that certainly drops something

kinds.cases = {
  routed("topk selected", { k = 2 }, { ties = 2 }),
  routed("topk all", { k = 2, gate = "all" }, { ties = 2 }),
  routed("topk sigmoid", { k = 2, gate = "sigmoid", scale = 2.5 }, { ties = 2 }),
  routed("topk of one, all", { k = 1, gate = "all" }, { ties = 1 }),
  routed("topk of one, sigmoid", { k = 1, gate = "sigmoid" }, { ties = 1 }),
  routed("topk of all", { k = EXPERTS }, { ties = EXPERTS }),
  routed("topk with a bias", { k = 2, gate = "sigmoid", bias = { rate = 1e-3 } }, { ties = 2 }),
  routed("topk with all losses and jitter", { k = 2, jitter = 0.1, z_loss = 1e-3,
    balance = { form = "btx" } }, { ties = 2 }),
  routed("topk with a capacity by position", { k = 2, capacity = { factor = tight } },
    { ties = 2, drops = "train" }),
  routed("topk with a capacity of first choices", { k = 2,
    capacity = { factor = tight, policy = "choice" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity of large gates", { k = 2,
    capacity = { factor = tight, policy = "probability" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity within the sequence", { k = 2,
    capacity = { factor = tight, scope = "sequence" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity in evaluation", { k = 2,
    capacity = { factor = tight, evaluation = tight, renormalise = true } },
    { drops = "always" }),
  routed("switch", { kind = "switch", capacity = { factor = tight, formula = "megatron" } },
    { ties = 1, drops = "train" }),
  routed("noisy topk", { kind = "noisy_topk" }, { ties = 2, numbered = "train" }),
  routed("noisy topk as in V-MoE", { kind = "noisy_topk", variant = "v-moe" },
    { ties = 2, numbered = "train" }),
  routed("gshard random", { kind = "gshard", capacity = false }, { ties = 2 }),
  routed("gshard sampling", { kind = "gshard", second = "sampling", capacity = false },
    { ties = 2, numbered = "train" }),
  routed("gshard all", { kind = "gshard", second = "all",
    capacity = { factor = 1, formula = "gshard", policy = "choice" } },
    { ties = 2, drops = "train" }),
  routed("sample, drawn in evaluation", { kind = "sample", first = "sample" },
    { numbered = "always" }),
  routed("sample, the largest in evaluation", { kind = "sample", first = "sample",
    inference = "argmax" }, { ties = 1, numbered = "train" }),
  routed("soft", { kind = "soft" }, { ties = EXPERTS }),
  routed("expert choice over the sequence", { kind = "expert_choice" }),
  routed("expert choice over the batch", { kind = "expert_choice", over = "batch" }),
  routed("base", { kind = "base" }, { ties = 1 }),
  routed("hash", { kind = "hash" }, { numbered = "always", unchecked = true }),
  routed("hash of two", { kind = "hash", k = 2 },
    { numbered = "always", unchecked = true }),
  routed("hash of bigrams", { kind = "hash", by = "bigram" },
    { numbered = "always", bigrams = true, unchecked = true }),
  routed("balanced hash", { kind = "hash", by = "balanced", vocab = 256 },
    { unchecked = true }),
  routed("domain", { kind = "domain", domains = { "a", "b", "c", "d" } },
    { numbered = "always", unchecked = true }),
  routed("shared experts", { k = 2, gate = "all" }, { ties = 2, ffn = { shared = 2 } }),
  routed("a gated shared expert", { k = 2 }, { ties = 2,
    ffn = { shared = { experts = 1, gate = true } } }),
  routed("fine-grained", { k = 2, gate = "all" }, { ties = 3,
    ffn = { experts = 2, segments = 2, shared = 1 } }),
  routed("relu experts", { k = 2 }, { ties = 2, ffn = { activation = "relu" } }),
  routed("gelu experts", { k = 2 }, { ties = 2, ffn = { activation = "gelu" } }),
  routed("silu experts", { k = 2 }, { ties = 2, ffn = { activation = "silu" } }),
  mixed("mixture of tokens"),
  mixed("mixture of tokens, temperature learned", { temperature = "learned" }),
  mixed("mixture of tokens, temperature by step",
    { temperature = { from = 2, to = 0.5, steps = 10 } }),
  mixed("mixture of tokens, uniform", { uniform = true }),
  mixed("mixture of tokens, relu", { activation = "relu" }),
  mixed("mixture of one token", { group = 1 }),
  { name = "dense", ffn = { kind = "dense", hidden = 12 }, unchecked = true },
  { name = "dense relu", ffn = { kind = "dense", hidden = 12, activation = "relu" },
    unchecked = true },
}

-- ---- layers and what they are given -------------------------------------------------------------

--- Normal numbers of that name.
function kinds.numbers(name, ...)
  local shape = { ... }
  shape[#shape + 1] = { seed = 5, stream = name }
  return moe.randn(table.unpack(shape))
end

--- Gives every tensor of a layer or model numbers of its own, also those that begin with zeros.
function kinds.fill(layer)
  core.no_grad(function()
    for _, entry in ipairs(nn.saved(layer)) do
      local name, tensor = entry[1], entry[2]
      if name:match("temperature$") then
        tensor:fill_(0.7)
      elseif tensor:dtype() == "f32" then
        tensor:copy_(kinds.numbers(name, table.unpack(tensor:shape())) * 0.6)
      else                                          -- a table of experts: the other way round
        tensor:copy_((EXPERTS - 1 - tensor:to("f32")):to("i32"))
      end
    end
  end)
  return layer
end

--- The layer of a case; `more` replaces options of its ffn.
function kinds.layer(case, more)
  local given = {}
  for _, list in ipairs({ case.ffn, more or {} }) do
    for key, value in pairs(list) do given[key] = value end
  end
  return kinds.fill(ffn.layer(ffn.options("probe", given), { dim = DIM, seed = 1, std = 0.1 }))
end

local function ids_of(name, rows)
  return (moe.rand(rows, S, { seed = 5, stream = name }) * 50):to("i32")
end

--- An input of `rows` sequences: x, and what comes along with it.
function kinds.input(name, rows, train)
  local labels = {}
  for b = 1, rows do labels[b] = b % EXPERTS end
  return { x = kinds.numbers(name, rows, S, DIM), how = { train = train, step = 3, micro = 0,
    seed = 7, ids = ids_of(name .. " ids", rows), labels = moe.tensor(labels, "i32") } }
end

return kinds
