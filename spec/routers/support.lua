-- support.lua: what the specs of the routers share.
local moe = require("moelua")
local router = require("moelua.router")

local support = {}

local function identity(n)
  local rows = {}
  for i = 1, n do
    rows[i] = {}
    for j = 1, n do rows[i][j] = i == j and 1 or 0 end
  end
  return moe.tensor(rows)
end

--- A router whose logits are its input: dim = experts, the weight is the unit matrix.
function support.router(opts, experts)
  local made = router.Router(opts, { dim = experts, experts = experts,
    init = { std = 0.5, seed = 1, name = "layers.0.ffn.router." } })
  if made.weight then moe.no_grad(function() made.weight:copy_(identity(experts)) end) end
  return made
end

--- gates, experts, info of a new router with these logits, a tensor or rows [T x N] (or sequences
--- of rows).
function support.route(opts, logits, how)
  logits = type(logits) == "table" and moe.tensor(logits) or logits
  return support.router(opts, logits:shape()[logits:dim()]):route(logits, how)
end

--- A mixture layer of dim 6 with such a router, `more` its options beside the kind.
function support.layer(kind, more, experts)
  local opts = { kind = kind }
  for name, value in pairs(more or {}) do opts[name] = value end
  return moe.nn.MoE({ dim = 6, hidden = 5, experts = experts or 4, std = 0.7, seed = 3,
    router = opts })
end

--- Input of such a layer.
function support.input(B, S) return moe.randn(B, S, 6, { seed = 1, stream = "x" }) end

--- `row` T times.
function support.repeated(row, T)
  local rows = {}
  for t = 1, T do rows[t] = row end
  return rows
end

--- softmax in plain Lua.
function support.softmax(row)
  local sum, p = 0, {}
  for i, l in ipairs(row) do p[i] = math.exp(l); sum = sum + p[i] end
  for i = 1, #p do p[i] = p[i] / sum end
  return p
end

--- Throws unless `count` of `n` independent draws is what probability p gives, within 4 sigma.
function support.frequency(count, n, p)
  local sigma = math.sqrt(n * p * (1 - p))
  if math.abs(count - n * p) > 4 * sigma then
    error(("%d of %d draws where %.1f +- %.1f are expected"):format(count, n, n * p, sigma), 2)
  end
end

return support
