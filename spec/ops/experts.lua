-- experts.lua -- what the specs of moe_ffn share: the op's formula with all its gradients in plain
-- Lua, and how far the op is from it.

local moe = require("moelua")

local experts = {}

local NAMES = { "x", "gates", "w1", "w3", "w2" }
experts.names = NAMES

--- Inputs for T tokens with k slots, E experts of I hidden columns, d inputs.
function experts.make(T, k, E, I, d)
  local gates, chosen = moe.randn(T, E, { seed = 1 }):topk_route(k)
  return { x = moe.randn(T, d, { seed = 2 }), gates = gates, experts = chosen,
    w1 = moe.randn(E, I, d, { seed = 3, std = 0.3 }),
    w3 = moe.randn(E, I, d, { seed = 4, std = 0.3 }),
    w2 = moe.randn(E, d, I, { seed = 5, std = 0.3 }), dy = moe.randn(T, d, { seed = 6 }) }
end

--- Tensors y, and by name the gradients of <y, dy>.
function experts.computed(given)
  local leaf = {}
  for _, name in ipairs(NAMES) do leaf[name] = given[name]:clone():requires_grad() end
  local y = moe.moe_ffn(leaf.x, leaf.gates, given.experts, leaf.w1, leaf.w3, leaf.w2);
  (y * given.dy):sum():backward()
  local out = { y = y:detach() }
  for _, name in ipairs(NAMES) do out[name] = leaf[name]:grad() end
  return out
end

local function zeros(n)
  local list = {}
  for i = 1, n do list[i] = 0 end
  return list
end

-- Adds what slot s of token t contributes. v: nested tables of what was given; out: flat ones.
local function add_slot(v, out, t, s)
  local e, gate, x, dy = v.experts[t][s], v.gates[t][s], v.x[t], v.dy[t]
  local w1, w3, w2 = v.w1[e + 1], v.w3[e + 1], v.w2[e + 1]
  local d, I, pair = #x, #w1, (t - 1) * #v.gates[t] + s
  for i = 1, I do
    local g, u, back = 0, 0, 0
    for j = 1, d do
      g, u, back = g + w1[i][j] * x[j], u + w3[i][j] * x[j], back + w2[j][i] * dy[j]
    end
    local sigmoid = 1 / (1 + math.exp(-g))
    local a = g * sigmoid * u
    local dg = gate * back * u * sigmoid * (1 + g * (1 - sigmoid))
    local du = gate * back * g * sigmoid
    out.gates[pair] = out.gates[pair] + back * a
    for j = 1, d do
      local row, in_w1, in_w2 = (t - 1) * d + j, (e * I + i - 1) * d + j, (e * d + j - 1) * I + i
      out.y[row] = out.y[row] + gate * w2[j][i] * a
      out.x[row] = out.x[row] + dg * w1[i][j] + du * w3[i][j]
      out.w1[in_w1] = out.w1[in_w1] + dg * x[j]
      out.w3[in_w1] = out.w3[in_w1] + du * x[j]
      out.w2[in_w2] = out.w2[in_w2] + gate * dy[j] * a
    end
  end
end

--- The same as flat lists, by loops.
function experts.expected(given)
  local v, out = {}, { y = zeros(given.x:count()) }
  for name, tensor in pairs(given) do v[name] = tensor:totable() end
  for _, name in ipairs(NAMES) do out[name] = zeros(given[name]:count()) end
  for t = 1, #v.x do
    for s = 1, #v.gates[t] do
      if v.experts[t][s] ~= -1 then add_slot(v, out, t, s) end
    end
  end
  return out
end

-- |got - want| / |want|
local function distance(got, want)
  local difference, norm = 0, 0
  for i, value in ipairs(got:reshape(-1):totable()) do
    difference, norm = difference + (value - want[i]) ^ 2, norm + want[i] ^ 2
  end
  return difference == 0 and 0 or math.sqrt(difference / norm)
end

--- Throws unless everything computed is within `bound` of the norm of what is expected.
function experts.agrees(given, want, bound)
  for name, tensor in pairs(experts.computed(given)) do
    local off = distance(tensor, want[name])
    assert(off <= bound, ("%s is off by %.2g of its norm"):format(name, off))
  end
end

--- Runs f with matrix products in bf16.
function experts.in_bf16(f)
  local before = moe.precision("bf16")
  local ok, message = pcall(f)
  moe.precision(before)
  assert(ok, message)
end

return experts
