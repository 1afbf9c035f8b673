-- experts.lua -- what the specs of moe_ffn share: the op's formula with all its gradients in plain
-- Lua, and how far the op is from it.

local moe = require("moelua")

local experts = {}

local NAMES = { "x", "gates", "w1", "w3", "w2" }
experts.names = NAMES

--- Phi(x), to 1e-12: its series around 0, or the continued fraction of its tail.
function experts.phi(x)
  local a, root = math.abs(x), math.sqrt(2 * math.pi)
  if a > 3 then
    local fraction = a
    for n = 100, 1, -1 do fraction = a + n / fraction end
    local tail = math.exp(-a * a / 2) / root / fraction
    return x < 0 and tail or 1 - tail
  end
  local term, sum = x, x
  for n = 1, 60 do
    term = -term * x * x / (2 * n)
    sum = sum + term / (2 * n + 1)
  end
  return 0.5 + sum / root
end

--- The activations of two-matrix experts: f(x) and f'(x).
experts.curves = {
  relu = function(x) return math.max(x, 0), x > 0 and 1 or 0 end,
  gelu = function(x)
    local phi = experts.phi(x)
    return x * phi, phi + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
  end,
  silu = function(x)
    local sigmoid = 1 / (1 + math.exp(-x))
    return x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))
  end,
}

--- Inputs for T tokens with k slots, E experts of I hidden columns, d inputs; without w3 unless the
--- activation is "swiglu", as it is when left out.
function experts.make(T, k, E, I, d, activation)
  local gates, chosen = moe.randn(T, E, { seed = 1 }):topk_route(k)
  activation = activation or "swiglu"
  return { x = moe.randn(T, d, { seed = 2 }), gates = gates, experts = chosen,
    w1 = moe.randn(E, I, d, { seed = 3, std = 0.3 }),
    w3 = activation == "swiglu" and moe.randn(E, I, d, { seed = 4, std = 0.3 }) or nil,
    w2 = moe.randn(E, d, I, { seed = 5, std = 0.3 }), dy = moe.randn(T, d, { seed = 6 }),
    activation = activation }
end

--- The op of these inputs.
function experts.apply(given)
  return moe.moe_ffn(given.x, given.gates, given.experts, given.w1, given.w3, given.w2,
    given.activation)
end

--- Tensors y, and by name the gradients of <y, dy>.
function experts.computed(given)
  local leaf = { experts = given.experts, activation = given.activation }
  for _, name in ipairs(NAMES) do
    leaf[name] = given[name] and given[name]:clone():requires_grad()
  end
  local y = experts.apply(leaf);
  (y * given.dy):sum():backward()
  local out = { y = y:detach() }
  for _, name in ipairs(NAMES) do out[name] = leaf[name] and leaf[name]:grad() end
  return out
end

local function zeros(n)
  local list = {}
  for i = 1, n do list[i] = 0 end
  return list
end

-- The hidden number a = f(g) u and what it changes by with g and with u; u = 1 without w3.
local function hidden(v, g, u)
  local f, slope = experts.curves[v.w3 and "silu" or v.activation](g)
  return f * u, slope * u, f
end

-- Adds what slot s of token t contributes. v: nested tables of what was given; out: flat ones.
local function add_slot(v, out, t, s)
  local e, gate, x, dy = v.experts[t][s], v.gates[t][s], v.x[t], v.dy[t]
  local w1, w3, w2 = v.w1[e + 1], v.w3 and v.w3[e + 1], v.w2[e + 1]
  local d, I, pair = #x, #w1, (t - 1) * #v.gates[t] + s
  for i = 1, I do
    local g, u, back = 0, w3 and 0 or 1, 0
    for j = 1, d do
      g, back = g + w1[i][j] * x[j], back + w2[j][i] * dy[j]
      if w3 then u = u + w3[i][j] * x[j] end
    end
    local a, by_g, by_u = hidden(v, g, u)
    local dg, du = gate * back * by_g, gate * back * by_u
    out.gates[pair] = out.gates[pair] + back * a
    for j = 1, d do
      local row, in_w1, in_w2 = (t - 1) * d + j, (e * I + i - 1) * d + j, (e * d + j - 1) * I + i
      out.y[row] = out.y[row] + gate * w2[j][i] * a
      out.x[row] = out.x[row] + dg * w1[i][j] + (w3 and du * w3[i][j] or 0)
      out.w1[in_w1] = out.w1[in_w1] + dg * x[j]
      if w3 then out.w3[in_w1] = out.w3[in_w1] + du * x[j] end
      out.w2[in_w2] = out.w2[in_w2] + gate * dy[j] * a
    end
  end
end

--- The same as flat lists, by loops.
function experts.expected(given)
  local v, out = {}, { y = zeros(given.x:count()) }
  for name, value in pairs(given) do
    v[name] = type(value) == "userdata" and value:totable() or value
  end
  for _, name in ipairs(NAMES) do out[name] = given[name] and zeros(given[name]:count()) end
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

--- Throws unless everything computed is within `bound` of the norm of what is expected; so must y
--- be without gradients, for which few tokens go another way.
function experts.agrees(given, want, bound)
  local function check(name, tensor)
    local off = distance(tensor, want[name])
    assert(off <= bound, ("%s is off by %.2g of its norm"):format(name, off))
  end
  for name, tensor in pairs(experts.computed(given)) do check(name, tensor) end
  check("y", experts.apply(given))
end

--- Runs f with matrix products in bf16.
function experts.in_bf16(f)
  local before = moe.precision("bf16")
  local ok, message = pcall(f)
  moe.precision(before)
  assert(ok, message)
end

return experts
