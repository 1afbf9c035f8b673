-- gradients.lua: fit a line. Tensors, gradients, and an optimizer by hand.
--   scripts/run examples/gradients.lua

local moe = require("moelua")
moe.manual_seed(1)

-- y = 3 x + 2, with a little noise
local x = moe.randn(64, 1)
local y = x * 3 + 2 + moe.randn(64, 1) * 0.1

local slope = moe.zeros(1, 1):requires_grad()
local offset = moe.zeros(1):requires_grad()

for step = 1, 50 do
  local error = x:linear(slope, offset) - y
  local loss = (error * error):mean()
  loss:backward()
  moe.no_grad(function()
    for _, p in ipairs({ slope, offset }) do
      p:copy_(p - p:grad() * 0.2)
      p:zero_grad()
    end
  end)
  if step % 10 == 0 then print(("step %d  loss %.4f"):format(step, loss:item())) end
end
print(("y = %.2f x + %.2f"):format(slope:item(), offset:item()))
