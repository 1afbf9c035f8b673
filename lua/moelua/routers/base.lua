-- base.lua: one expert for each token, all experts equally loaded in training (Lewis et al. 2021,
-- "BASE layers").
--
--   a = the assignment of the batch that gives every expert as many tokens, with the largest sum
--       of l_{t, a_t}; in evaluation a_t = argmax l_t
--   g = sigmoid(l_{t, a_t})
--
-- No gradient goes through the assignment, and no loss is needed for the balance. Padding is
-- assigned like everything else.
--
-- The paper's layer is g F(x) + (1 - g) x, where F contains a residual connection of its own: with
-- F(x) = x + f(x) that is x + g f(x). Our blocks add the residual themselves, the layer gives
-- g f(x).
--
-- The rows of the weight begin orthogonal, each 0.1 long, as in the authors' program.

local core = require("moelua.core")

local base = {}
local LENGTH = 0.1

base.options = { balance = false, capacity = false }

-- The directions of the rows, each without what it shares with those before (Gram and Schmidt,
-- twice, because the first time leaves rounding errors); there are no more rows than columns.
local function orthonormal(w)
  local done
  for i = 1, w:size(1) do
    local row = w:narrow(1, i, 1)
    for _ = 1, done and 2 or 0 do row = row - row:matmul(done:transpose()):matmul(done) end
    row = row / (row * row):sum():sqrt():item()
    done = done and core.concat({ done, row }, 1) or row
  end
  return done
end

function base.init(router, where)
  if where.init.std == 0 then return end        -- a blank model, to be filled from a file
  core.no_grad(function()
    local w, wide = router.weight, router.count <= router.dim
    local rows = orthonormal(wide and w or w:transpose():contiguous())
    w:copy_((wide and rows or rows:transpose()) * LENGTH)
  end)
end

local function check_batch(tokens, experts)
  if tokens >= experts then return end
  core.raise("router: %d tokens cannot load %d experts equally\nhint: train with batches of at " ..
    "least %d tokens", tokens, experts, experts)
end

function base.route(router, logits, how)
  if not how.train then return logits:topk_route(1, "sigmoid") end
  check_batch(logits:size(1), router.count)
  local experts = logits:detach():balanced_assignment()
  local chosen = experts:one_hot(router.count):reshape(-1, router.count)
  return (chosen * logits):sum(-1, true):sigmoid(), experts
end

function base.slots() return 1 end

function base.traits(_, train)
  return { causal = not train, coupled = train and "batch" or "no" }
end

return base
