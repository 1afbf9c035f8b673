-- routers.lua: the same tokens through one router after another: which experts get them, and what
-- the answer for a token depends on.
--   scripts/run examples/routers.lua

local moe = require("moelua")
moe.manual_seed(1)

-- Eight sequences of 32 tokens that lean to one side, so that an untrained router has favourites.
local dim, experts = 16, 4
local x = moe.randn(8, 32, dim) + moe.randn(1, 1, dim)
local ids = (moe.rand(8, 32) * 100):to("i32")

local routers = {
  { kind = "topk", k = 2 },                         -- BTX, Mixtral
  { kind = "switch" },                              -- one expert, which drops what is too much
  { kind = "gshard" },                              -- the best, and by chance the second
  { kind = "noisy_topk", k = 2 },                   -- noise in training
  { kind = "soft" },                                -- every expert, by its probability
  { kind = "expert_choice", over = "sequence" },    -- experts choose tokens: later ones, too
  { kind = "expert_choice", over = "batch" },       -- or among sequences, at one position
  { kind = "base" },                                -- as many tokens for each, in training
  { kind = "hash" },                                -- by the token's id; nothing is learnt
}

print("router          load of the experts, %   dropped, %   an answer depends on")
for _, options in ipairs(routers) do
  local layer = moe.nn.MoE { dim = dim, hidden = 32, experts = experts, std = 0.3, seed = 1,
    router = options }
  local _, info = layer(x, { train = true, ids = ids })
  local load = {}
  for e, share in ipairs(info.load) do load[e] = ("%5.1f"):format(100 * share) end
  local traits = layer:traits(true)
  local depends = not traits.causal and "later tokens" or
    traits.coupled == "batch" and "other sequences" or "its own past"
  print(("%-15s %s %12.1f   %s"):format(options.kind, table.concat(load, " "), 100 * info.dropped,
    depends))
end
