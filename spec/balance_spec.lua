local moe = require("moelua")
local balance = require("moelua.balance")
local helper = require("spec.helper")
local support = require("spec.ops.support")

local close, ids, rejects = helper.close, support.ids, support.rejects
local forms = { "btx", "switch", "gshard", "deepseek", "device" }

local function options_of(given, experts)
  if given.form == "device" and not given.groups then
    given.groups = 2
  end
  given.coef = given.coef or 1
  return balance.options(given, experts)
end

-- Loss and shares of logits routed to the k best.
local function loss_of(logits, k, given, how)
  local gates, experts = logits:topk_route(k)
  return balance.loss(options_of(given, logits:size(2)), logits:softmax(-1), gates, experts, how)
end

-- Row t is the first one, shifted by t: each expert gets each rank equally often.
local function cyclic(row)
  local rows = {}
  for t = 1, #row do
    rows[t] = {}
    for e = 1, #row do rows[t][e] = row[(e + t - 2) % #row + 1] end
  end
  return moe.tensor(rows)
end

local function collapsed(N)
  local rows = {}
  for t = 1, 12 do
    rows[t] = {}
    for e = 1, N do rows[t][e] = e == 2 and 60 or 0 end
  end
  return moe.tensor(rows)
end

describe("a balance loss", function()
  it("of an even load is k in the form of Switch and 1 in all others", function()
    for k = 1, 3 do
      for form, value in pairs({ btx = 1, switch = k, gshard = 1, deepseek = 1, device = 1 }) do
        close(loss_of(cyclic({ 2, 1, 0, -1, -2, -3 }), k, { form = form }), value, 1e-6)
      end
    end
  end)

  it("of a collapse on one expert is their number, shared by the k of a token", function()
    for k, want in ipairs({ { btx = 6, switch = 6, gshard = 6, deepseek = 6, device = 2 },
      { btx = 6, switch = 6, gshard = 6, deepseek = 3, device = 2 } }) do
      for form, value in pairs(want) do
        close(loss_of(collapsed(6), k, { form = form }), value, 1e-5)
      end
    end
  end)

  it("may fall below its value of an even load: counts are no probabilities", function()
    local rows = {}
    for t = 1, 10 do
      local p = t <= 6 and 0.51 or 0.01
      rows[t] = { math.log(p), math.log(1 - p) }
    end
    for _, form in ipairs({ "switch", "gshard", "deepseek" }) do
      close(loss_of(moe.tensor(rows), 1, { form = form }), 0.924, 1e-6)
    end
  end)

  it("is at least 1 under soft routing, where u is p", function()
    local logits = moe.randn(20, 4, { seed = 1 })
    local gates, experts = logits:topk_route(4)
    local opts = balance.options({ coef = 1 })
    local loss, shares = balance.loss(opts, logits:softmax(-1), gates, experts)
    close(shares.u, shares.p, 1e-6)
    assert.is_true(loss:item() > 1)
  end)

  it("is multiplied by its coefficient, and absent without options or with 0", function()
    local logits = moe.randn(9, 4, { seed = 1 })
    close(loss_of(logits, 2, { coef = 0.01 }), loss_of(logits, 2, { coef = 1 }) * 0.01, 1e-9)
    assert.is_nil((loss_of(logits, 2, { coef = 0 })))
    assert.is_nil((balance.loss(nil, logits, logits:topk_route(2))))
  end)

  it("of DeepSeekMoE has relative loads f that sum to the number of experts", function()
    local logits = moe.randn(50, 6, { seed = 1 })
    local _, shares = loss_of(logits, 3, { form = "deepseek" })
    close(shares.u:sum() * 6, 6, 1e-5)
  end)

  it("has the closed-form gradient; that of btx goes through both factors", function()
    local T, N, k = 30, 5, 2
    local start = moe.randn(T, N, { seed = 3 })
    for _, form in ipairs({ "btx", "switch", "gshard", "deepseek" }) do
      local logits = start:clone():requires_grad()
      local loss, shares = loss_of(logits, k, { form = form, coef = 0.3 })
      loss:backward()
      local p, u, mean = start:softmax(-1):totable(), shares.u:totable()[1], shares.p:totable()[1]
      local gates, experts = start:topk_route(k)
      gates, experts = gates:totable(), experts:totable()
      local want = {}
      for t = 1, T do
        local average, mixed = 0, 0
        for e = 1, N do average = average + u[e] * p[t][e] end
        for s = 1, k do mixed = mixed + gates[t][s] * mean[experts[t][s] + 1] end
        want[t] = {}
        for e = 1, N do want[t][e] = 0.3 * N / T * p[t][e] * (u[e] - average) end
        for s = 1, form == "btx" and k or 0 do
          local e = experts[t][s] + 1
          want[t][e] = want[t][e] + 0.3 * N / T * gates[t][s] * (mean[e] - mixed)
        end
      end
      close(logits:grad() * T, moe.tensor(want) * T, 1e-6)
    end
  end)
end)

describe("a balance loss of groups", function()
  local logits = moe.randn(40, 6, { seed = 1 })

  it("is that of the experts when each is a group", function()
    local expert, device = logits:clone():requires_grad(), logits:clone():requires_grad()
    local by_expert = loss_of(expert, 2, { form = "deepseek" })
    local by_device = loss_of(device, 2, { form = "device", groups = 6 })
    close(by_device, by_expert, 1e-6)
    by_expert:backward()
    by_device:backward()
    close(device:grad(), expert:grad(), 1e-7)
  end)

  it("is the sum of p times the mean of f, which is 1, when all are one group", function()
    close(loss_of(logits, 2, { form = "device", groups = 1 }), 1, 1e-6)
  end)

  it("is the sum over groups of the mean relative load and the sum of scores", function()
    local _, shares = loss_of(logits, 2, { form = "deepseek" })
    local f, p, want = (shares.u * 6):totable()[1], shares.p:totable()[1], 0
    for d = 0, 2 do
      want = want + (f[2 * d + 1] + f[2 * d + 2]) / 2 * (p[2 * d + 1] + p[2 * d + 2])
    end
    close(loss_of(logits, 2, { form = "device", groups = 3 }), want, 1e-6)
  end)

  it("may have the loss of the experts beside it, with its own coefficient", function()
    local both = loss_of(logits, 2, { form = "device", groups = 3, coef = 0.05,
      expert_coef = 0.003 })
    local want = loss_of(logits, 2, { form = "device", groups = 3, coef = 0.05 })
      + loss_of(logits, 2, { form = "deepseek", coef = 0.003 })
    close(both, want, 1e-7)
  end)
end)

describe("the scope of a balance loss", function()
  it("of sequences is the mean of their losses", function()
    local logits = moe.randn(12, 4, { seed = 1 })
    for _, form in ipairs(forms) do
      local want = 0
      for s = 1, 3 do
        want = want + loss_of(logits:narrow(1, 4 * s - 3, 4), 2, { form = form }):item() / 3
      end
      close(loss_of(logits, 2, { form = form, scope = "sequence" }, { segments = 3 }), want, 1e-6)
      local batch = loss_of(logits, 2, { form = form }, { segments = 3 }):item()
      assert.is_true(math.abs(batch - want) > 1e-3)
    end
  end)

  it("leaves padding out, and sequences of nothing else", function()
    local logits = moe.randn(8, 4, { seed = 1 })
    local padding = moe.randn(4, 4, { seed = 2 }) * 9
    -- Two sequences of four tokens, then of six, and a third one.
    local padded = moe.concat({ logits:narrow(1, 1, 4), padding:narrow(1, 1, 2),
      logits:narrow(1, 5, 4), padding:narrow(1, 3, 2), padding, padding:narrow(1, 1, 2) }, 1)
    local mask = moe.tensor({ { 1, 1, 1, 1, 0, 0 }, { 1, 1, 1, 1, 0, 0 }, { 0, 0, 0, 0, 0, 0 } })
    for _, scope in ipairs({ "batch", "sequence" }) do
      for _, form in ipairs(forms) do
        local given = { form = form, scope = scope }
        local plain, leaf = logits:clone():requires_grad(), padded:clone():requires_grad()
        local want = loss_of(plain, 2, given, { segments = 2 })
        local got = loss_of(leaf, 2, given, { segments = 3, mask = mask })
        close(got, want, 1e-6)
        want:backward()
        got:backward()
        close(leaf:grad():narrow(1, 1, 4), plain:grad():narrow(1, 1, 4), 1e-7)
        close(leaf:grad():narrow(1, 7, 4), plain:grad():narrow(1, 5, 4), 1e-7)
        close(leaf:grad():narrow(1, 11, 8), moe.zeros(8, 4), 0)
      end
    end
  end)

  it("of a step without shares is the batch", function()
    local logits = moe.randn(12, 4, { seed = 1 })
    close(loss_of(logits, 2, { scope = "step" }), loss_of(logits, 2, {}), 0)
  end)

  -- Value and gradient of `count` micro-batches, each weighted as its share of the step.
  local function in_micro_batches(logits, count, given, mask)
    local size = logits:size(1) // count
    local function each(leaf, i, whole)
      local how = { shares = whole, mask = mask and mask:narrow(1, (i - 1) * size + 1, size) }
      return loss_of(leaf:narrow(1, (i - 1) * size + 1, size), 2, given, how)
    end
    local list = {}
    for i = 1, count do
      list[i] = select(2, each(logits, i))
    end
    local whole, leaf, value = balance.average(list), logits:clone():requires_grad(), 0
    for i = 1, count do
      local loss = each(leaf, i, whole) / count
      loss:backward()
      value = value + loss:item()
    end
    return value, leaf:grad()
  end

  it("of a step gives the gradient and the value of the whole, however it is divided", function()
    local logits = moe.randn(24, 4, { seed = 1 })
    local uneven = moe.tensor({ 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1,
      1, 1 })
    for _, form in ipairs(forms) do
      for _, mask in ipairs({ false, uneven }) do
        local leaf = logits:clone():requires_grad()
        local loss = loss_of(leaf, 2, { form = form }, { mask = mask or nil })
        loss:backward()
        for _, count in ipairs({ 1, 2, 3, 8 }) do
          local value, grad = in_micro_batches(logits, count, { form = form, scope = "step" },
            mask or nil)
          close(value, loss, 1e-6)
          close(grad * 24, leaf:grad() * 24, 1e-6)
        end
        -- Losses of the micro-batches alone give another one.
        local _, other = in_micro_batches(logits, 3, { form = form }, mask or nil)
        assert.is_true((other - leaf:grad()):pow(2):sum():item() > 1e-7)
      end
    end
  end)
end)

describe("the balance loss of a model", function()
  local layers = { moe.randn(20, 4, { seed = 1 }), moe.randn(20, 4, { seed = 2 }) * 3 }

  local function infos_of(given, leaves)
    local infos = {}
    for i, logits in ipairs(leaves or layers) do
      local loss, shares = loss_of(logits, 2, given)
      infos[2 * i] = { loss = loss, balance = shares }      -- every other layer is dense
    end
    return infos
  end

  it("is the sum or the mean over the layers that have one", function()
    for _, form in ipairs(forms) do
      local want = 0
      for _, logits in ipairs(layers) do
        want = want + loss_of(logits, 2, { form = form }):item()
      end
      close(balance.total(infos_of({ form = form }), 5), want, 1e-6)
      close(balance.total(infos_of({ form = form, reduce = "mean" }), 5), want / 2, 1e-6)
    end
  end)

  it("pooled is that of the tokens of all layers put together", function()
    for _, form in ipairs(forms) do
      local leaves = { layers[1]:clone():requires_grad(), layers[2]:clone():requires_grad() }
      local all = moe.concat(layers, 1):requires_grad()
      local want = loss_of(all, 2, { form = form })
      local got = balance.total(infos_of({ form = form, reduce = "pooled" }, leaves), 5)
      close(got, want, 1e-6)
      want:backward()
      got:backward()
      close(leaves[1]:grad(), all:grad():narrow(1, 1, 20), 1e-7)
      close(leaves[2]:grad(), all:grad():narrow(1, 21, 20), 1e-7)
    end
  end)

  it("pooled over a step has the gradient of the whole", function()
    local given = { reduce = "pooled", scope = "step" }
    local whole = infos_of(given)
    local want = balance.total(whole, 5):item()
    local value = 0
    local steps = {}
    for turn = 1, 2 do                          -- the first one only sums up
      local infos = {}
      for half = 1, 2 do
        infos[half] = {}
        for i, logits in ipairs(layers) do
          local loss, shares = loss_of(logits:narrow(1, half * 10 - 9, 10), 2, given,
            { shares = steps[2 * i] })
          infos[half][2 * i] = { loss = loss, balance = shares }
        end
        if turn == 2 then value = value + balance.total(infos[half], 5):item() / 2 end
      end
      for i = 2, 4, 2 do
        steps[i] = balance.average({ infos[1][i].balance, infos[2][i].balance })
      end
    end
    close(value, want, 1e-6)
  end)

  it("has everything else added", function()
    local infos = infos_of({ reduce = "mean" })
    local alone = balance.total(infos, 5):item()
    infos[2].rest, infos[3] = moe.full(0.5), { rest = moe.full(0.25) }
    close(balance.total(infos, 5), alone + 0.75, 1e-6)
    close(balance.total({ [2] = { rest = moe.full(2) } }, 2), 2, 0)
    assert.is_nil(balance.total({}, 3))
    assert.is_nil(balance.total(infos_of({ coef = 0, reduce = "mean" }), 5))
  end)

  it("refuses to pool what differs", function()
    local infos = infos_of({ reduce = "pooled", coef = 0.01 })
    infos[4].balance.options = options_of({ reduce = "pooled", coef = 0.02 })
    rejects("router.balance: layers whose losses are pooled differ in coef: 0.01 and 0.02",
      balance.total, infos, 5)
    infos = infos_of({ reduce = "pooled" }, { layers[1], moe.randn(20, 3, { seed = 1 }) })
    rejects("router.balance: layers whose losses are pooled have 4 and 3 experts", balance.total,
      infos, 5)
  end)
end)

describe("options of a balance loss", function()
  it("are those of BTX when nothing is said, and stay as they are", function()
    local opts = balance.options({})
    assert.same({ form = "btx", coef = 0.01, scope = "batch", reduce = "sum" }, opts)
    assert.same(opts, balance.options(opts))
    local device = balance.options({ form = "device", groups = 4, expert_coef = 0.003 }, 8)
    assert.same(device, balance.options(device, 8))
    assert.is_nil(balance.options(nil))
    assert.is_nil(balance.options(false))
  end)

  it("tell whether the shares of a step are needed", function()
    assert.is_true(balance.needs_step(balance.options({ scope = "step" })))
    assert.is_false(balance.needs_step(balance.options({})))
    assert.is_false(balance.needs_step(nil))
  end)

  it("are refused when they do not fit", function()
    local function says(text, ...) rejects("router.balance: " .. text, balance.options, ...) end
    says("option 'form' is 'even': unknown\nhint: known are btx, switch, gshard, deepseek, device",
      { form = "even" })
    says("coef must be a number from 0: -1", { coef = -1 })
    says("coef must be a number from 0: inf", { coef = math.huge })
    says("expert_coef must be a number from 0: -0.5", { form = "device", expert_coef = -0.5 })
    says('groups is for form = "device", not "switch"', { form = "switch", groups = 2 })
    says('expert_coef is for form = "device", not "btx"', { expert_coef = 1 })
    says('form "device" needs groups of equal size: 8 experts in no groups', { form = "device" }, 8)
    says('form "device" needs groups of equal size: 8 experts in 3 groups',
      { form = "device", groups = 3 }, 8)
    says('form "device" needs groups of equal size: any number of experts in 0 groups',
      { form = "device", groups = 0 })
    rejects("balance.loss: opts must be what balance.options returns, not a table", balance.loss,
      {}, moe.ones(1, 1), moe.ones(1, 1), ids({ { 0 } }))
  end)
end)

describe("z_loss", function()
  it("is (ln N)^2 where all logits are 0", function()
    for _, N in ipairs({ 1, 2, 8, 64 }) do
      close(balance.z_loss(moe.zeros(5, N)), math.log(N) ^ 2, 1e-6)
    end
  end)

  it("has the gradient 2 lse softmax / T", function()
    local logits = (moe.randn(30, 5, { seed = 1 }) * 3):requires_grad()
    local rows, want = logits:totable(), {}
    local p = logits:detach():softmax(-1):totable()
    for t, row in ipairs(rows) do
      local sum = 0
      for _, l in ipairs(row) do sum = sum + math.exp(l) end
      want[t] = {}
      for e = 1, 5 do want[t][e] = 2 / 30 * math.log(sum) * p[t][e] end
    end
    balance.z_loss(logits):backward()
    close(logits:grad(), want, 1e-6)
  end)

  it("stands large logits, and experts that are ruled out", function()
    close(balance.z_loss(moe.tensor({ { 1000, 1000 } })), (1000 + math.log(2)) ^ 2, 1e-6)
    local logits = moe.tensor({ { -math.huge, 0, 0 } }):requires_grad()
    local loss = balance.z_loss(logits)
    close(loss, math.log(2) ^ 2, 1e-6)
    loss:backward()
    close(logits:grad(), { { 0, math.log(2), math.log(2) } }, 1e-6)
  end)

  it("leaves padding out", function()
    local logits = moe.randn(4, 3, { seed = 1 })
    local padded = moe.concat({ logits, moe.randn(2, 3) * 9 }, 1)
    local mask = moe.tensor({ { 1, 1, 1 }, { 1, 0, 0 } })
    close(balance.z_loss(padded, mask), balance.z_loss(logits), 1e-6)
    close(balance.z_loss(padded, moe.zeros(6)), 0, 0)
  end)
end)
