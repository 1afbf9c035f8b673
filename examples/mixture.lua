-- mixture.lua: what a load-balancing loss does to a mixture of two experts.
--   scripts/run examples/mixture.lua

local moe = require("moelua")
moe.manual_seed(1)

-- Two kinds of vectors; each kind has its own linear map to learn.
local dim, xs, ys = 8, {}, {}
for kind = 1, 2 do
  xs[kind] = moe.randn(64, dim) + moe.randn(1, dim)
  ys[kind] = xs[kind]:matmul(moe.randn(dim, dim))
end
local x, y = moe.concat(xs), moe.concat(ys)

-- Top-1 routing as in the Switch Transformer: gates from a softmax over all experts.
local function train(coef)
  local layer = moe.nn.MoE { dim = dim, hidden = 8, experts = 2, std = 0.1, seed = 1,
    router = { k = 1, gate = "all", balance = { form = "switch", coef = coef } } }
  local optimizer = moe.optimizer(layer, { lr = 1e-2 })
  local loss
  for _ = 1, 300 do
    local out, info = layer(x)
    loss = ((out - y) * (out - y)):mean()
    local total = info.loss and loss + info.loss or loss
    total:backward()
    optimizer:step()
  end
  return layer, loss:item()
end

for _, coef in ipairs({ 0, 0.5 }) do
  local layer, loss = train(coef)
  print(("balance loss x %.1f: loss %.2f"):format(coef, loss))
  for kind = 1, 2 do
    local _, info = layer(xs[kind])
    print(("  kind %d: %3.0f %% to expert 1, %3.0f %% to expert 2"):format(kind,
      100 * info.load[1], 100 * info.load[2]))
  end
end
