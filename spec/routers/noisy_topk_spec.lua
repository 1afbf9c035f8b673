-- Noisy top-k: Shazeer's equations and V-MoE's, element by element in plain Lua.
local helper = require("spec.helper")
local misuse = require("spec.models").misuse
local moe = require("moelua")
local options = require("moelua.options")
local router = require("moelua.router")
local support = require("spec.routers.support")

local T, N, K = 12, 5, 2
local train = { train = true, step = 3, micro = 0, seed = 4 }
local x = moe.randn(T, N, { seed = 7 })

-- The distribution function of N(0, 1), by its series.
local function phi(z)
  if z < -6 then return 0 elseif z > 6 then return 1 end
  local term, sum = z, z
  for n = 1, 200 do
    term = -term * z * z / (2 * n)
    sum = sum + term / (2 * n + 1)
  end
  return 0.5 + sum / math.sqrt(2 * math.pi)
end

local function largest(row, k, without)
  local list = {}
  for i, v in ipairs(row) do
    if i ~= without then list[#list + 1] = v end
  end
  table.sort(list, function(a, b) return a > b end)
  return list[k]
end

local function cv_squared(v)
  local mean, var = 0, 0
  for _, a in ipairs(v) do mean = mean + a / #v end
  for _, a in ipairs(v) do var = var + (a - mean) ^ 2 / #v end
  return var / mean ^ 2
end

local function noisy_router(more)
  local made = support.router(options.merge({ kind = "noisy_topk", k = K }, more or {}), N)
  if made.noise then
    moe.no_grad(function() made.noise:copy_(moe.randn(N, N, { seed = 9 })) end)
  end
  return made
end

-- Gates [T x N], importance and load of a variant, from the paper's equations. mask: 0 or 1.
local function by_hand(made, mask)
  local shazeer = made.opts.variant == "shazeer"
  local eps = made:draw("randn", "noise", train, T, N):totable()
  local raw = shazeer and x:linear(made.noise):totable()
  local gates, importance, load = {}, {}, {}
  for i = 1, N do importance[i], load[i] = 0, 0 end
  for t, l in ipairs(x:totable()) do
    local h, std, kept = {}, {}, {}
    for i = 1, N do
      std[i] = shazeer and math.log(1 + math.exp(raw[t][i])) or 1 / N
      h[i] = l[i] + eps[t][i] * std[i]
    end
    for i = 1, N do kept[i] = h[i] >= largest(h, K) and h[i] or -math.huge end
    gates[t] = support.softmax(shazeer and kept or h)
    local clean = support.softmax(l)
    for i = 1, N do
      if kept[i] == -math.huge then gates[t][i] = 0 end
      local limit = shazeer and largest(h, K, i) or largest(h, K)
      load[i] = load[i] + mask[t] * phi((l[i] - limit) / std[i])
      importance[i] = importance[i] + mask[t] * (shazeer and gates[t] or clean)[i]
    end
  end
  return gates, cv_squared(importance), cv_squared(load)
end

local all = {}
for t = 1, T do all[t] = 1 end

describe("noisy_topk", function()
  for _, variant in ipairs({ "shazeer", "v-moe" }) do
    it("has the gates and losses of " .. variant, function()
      local made = noisy_router({ variant = variant, importance = 0.3, load = 0.7 })
      local gates, experts, info = made:route(x, train)
      local dense = (experts:one_hot(N) * gates:reshape(T, K, 1)):sum(2)
      local want, importance, load = by_hand(made, all)
      helper.close(dense, want, 2e-5)
      helper.close(info.loss, 0.3 * importance + 0.7 * load, 2e-4)
      assert.is_true(importance > 0.01 and load > 0.01)
    end)

    it("leaves padding out of the losses of " .. variant, function()
      local made = noisy_router({ variant = variant })
      local mask = { 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1 }
      local with = options.merge(train, { mask = moe.tensor(mask) })
      local _, _, info = made:route(x, with)
      local _, importance, load = by_hand(made, mask)
      helper.close(info.loss, 0.1 * importance + 0.1 * load, 1e-4)
    end)

    it("has no noise and no loss in evaluation: " .. variant, function()
      local gates, experts, info = noisy_router({ variant = variant }):route(x)
      local want, same = x:topk_route(K, variant == "shazeer" and "selected" or "all")
      assert.equal(same:bytes(), experts:bytes())
      helper.close(gates, want, 1e-6)
      assert.is_nil(info.loss)
    end)

    it("reaches all weights with its losses: " .. variant, function()
      local made = noisy_router({ variant = variant })
      local _, _, info = made:route(x, train)
      info.loss:backward()
      for _, entry in ipairs(made:parameters("router.")) do
        assert.is_true((entry[2]:grad() ^ 2):sum():item() > 1e-8, entry[1])
      end
    end)
  end

  it("begins at zero, and noise alone chooses", function()
    local made = router.Router({ kind = "noisy_topk", k = 1 }, { dim = 6, experts = 4,
      init = { std = 0.3, seed = 1, name = "r." } })
    local names = {}
    for i, entry in ipairs(made:parameters("layers.0.ffn.router.")) do
      names[i] = entry[1]
      assert.equal(0, (entry[2] ^ 2):sum():item())
    end
    assert.same({ "layers.0.ffn.router", "layers.0.ffn.router.noise" }, names)
    local n = 4000
    local _, _, info = made:route(moe.randn(n, 6, { seed = 1 }), train)
    for e = 1, 4 do support.frequency(info.counts[e], n, 1 / 4) end
  end)

  it("has one weight in V-MoE's variant, drawn as others are", function()
    local made = router.Router({ kind = "noisy_topk", variant = "v-moe" }, { dim = 6, experts = 4,
      init = { std = 0.3, seed = 1, name = "r." } })
    assert.equal(1, #made:parameters("router."))
    assert.is_true((made.weight ^ 2):sum():item() > 0.1)
  end)

  it("has noise by step, micro-batch and seed", function()
    local made = noisy_router()
    local function bytes(more)
      return (made:route(x, options.merge(train, more))):bytes()
    end
    assert.equal(bytes({}), bytes({}))
    for _, more in ipairs({ { step = 4 }, { micro = 1 }, { seed = 5 } }) do
      assert.not_equal(bytes({}), bytes(more))
    end
  end)

  it("refuses a load loss that is not defined", function()
    misuse(function() router.options({ kind = "noisy_topk", noise = 0 }) end,
      "router: without noise there is no load loss, which is made from the probability that the " ..
        "noise lets an expert win\nhint: load = 0")
    misuse(function() router.options({ kind = "noisy_topk", k = 4 }, 4) end,
      "router: k = 4 of 4 experts leaves none to win over, which the load loss counts\n" ..
        "hint: load = 0")
    assert.equal(0, router.options({ kind = "noisy_topk", noise = 0, load = 0 }).noise)
    misuse(function() router.options({ kind = "noisy_topk", importance = -1 }) end,
      "router: importance must be finite and not negative, not -1")
  end)

  it("cannot learn from one gate that is always 1", function()
    local function check(more)
      router.check_trainable(router.options(options.merge({ kind = "noisy_topk", k = 1 }, more)))
    end
    check({})
    check({ load = 0, variant = "v-moe" })
    assert.is_false(pcall(check, { load = 0 }))
  end)
end)
