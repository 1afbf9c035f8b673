-- mixture.lua: a mixture layer learns to tell two kinds of input apart.
--   scripts/run examples/mixture.lua

local moe = require("moelua")
moe.manual_seed(1)

-- Two kinds of vectors; each kind has its own linear map to learn.
local kinds, dim = 2, 8
local centre = { moe.randn(1, dim) * 3, moe.randn(1, dim) * 3 }
local map = { moe.randn(dim, dim), moe.randn(dim, dim) }
local xs, ys = {}, {}
for kind = 1, kinds do
  xs[kind] = moe.randn(64, dim) + centre[kind]
  ys[kind] = xs[kind]:matmul(map[kind])
end
local x, y = moe.concat(xs), moe.concat(ys)

local layer = moe.nn.MoE { dim = dim, hidden = 32, experts = 2, std = 0.3,
  router = { k = 1, gate = "all", balance = { form = "switch", coef = 0.01 } } }
local optimizer = moe.optimizer(layer, { lr = 1e-2 })

for step = 1, 300 do
  local out, info = layer(x)
  local loss = ((out - y) * (out - y)):mean()
  ;(loss + info.loss):backward()
  optimizer:step()
  if step % 100 == 0 then
    print(("step %d  loss %6.3f  load %.2f %.2f"):format(step, loss:item(), table.unpack(info.load)))
  end
end

-- Where do the two kinds go?
for kind = 1, kinds do
  local _, info = layer(xs[kind])
  print(("kind %d goes to expert 1: %3.0f %%"):format(kind, 100 * info.load[1]))
end
