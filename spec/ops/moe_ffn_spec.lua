local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local ids = support.ids

-- W2 (silu(W1 x) * W3 x), by dense ops: one expert over all tokens.
local function expert(x, w1, w3, w2) return (x:linear(w1):silu() * x:linear(w3)):linear(w2) end

-- The same sum over slots by masks: every expert sees every token.
local function dense(x, gates, experts, w1, w3, w2)
  local y, rows = nil, experts:totable()
  for e = 1, w1:size(1) do
    local mask = {}
    for t, row in ipairs(rows) do
      mask[t] = {}
      for s, id in ipairs(row) do mask[t][s] = id == e - 1 and 1 or 0 end
    end
    local share = (gates * moe.tensor(mask)):sum(2):reshape(-1, 1)
    local part = expert(x, w1:select(1, e), w3:select(1, e), w2:select(1, e)) * share
    y = y and y + part or part
  end
  return y
end

-- One token in plain Lua.
local function scalar(x, gates, experts, w1, w3, w2)
  local y = {}
  for d = 1, #x do y[d] = 0 end
  for s, e in ipairs(experts) do
    for i = 1, #w1[e + 1] do
      local g, u = 0, 0
      for d = 1, #x do
        g = g + w1[e + 1][i][d] * x[d]
        u = u + w3[e + 1][i][d] * x[d]
      end
      local a = g / (1 + math.exp(-g)) * u
      for d = 1, #x do y[d] = y[d] + gates[s] * w2[e + 1][d][i] * a end
    end
  end
  return y
end

-- {T, k, E, I, d}
local function make(T, k, E, I, d)
  local gates, experts = moe.randn(T, E, { seed = 1 }):topk_route(k)
  return moe.randn(T, d, { seed = 2 }), gates, experts, moe.randn(E, I, d, { seed = 3, std = 0.5 }),
    moe.randn(E, I, d, { seed = 4, std = 0.5 }), moe.randn(E, d, I, { seed = 5, std = 0.5 })
end

local function same_gradients(inputs)
  local dy = moe.randn(inputs[1]:size(1), inputs[1]:size(2), { seed = 6 })
  local function grads(f)
    local leaves = {}
    for i = 1, 6 do leaves[i] = i == 3 and inputs[3] or inputs[i]:clone():requires_grad() end
    (f(table.unpack(leaves)) * dy):sum():backward()
    return leaves
  end
  local got, want = grads(moe.moe_ffn), grads(dense)
  for i = 1, 6 do
    if i ~= 3 then close(got[i]:grad(), want[i]:grad(), 5e-5) end
  end
  return got
end

describe("moe_ffn", function()
  for _, size in ipairs({ { 1, 1, 1, 1, 1 }, { 5, 2, 3, 7, 3 }, { 301, 3, 7, 11, 19 },
    { 67, 1, 5, 9, 6 }, { 130, 4, 4, 5, 17 } }) do
    local what = table.concat(size, ", ")
    it("is the gated sum of the experts for T, k, E, I, d = " .. what, function()
      local x, gates, experts, w1, w3, w2 = make(table.unpack(size))
      local y, want = moe.moe_ffn(x, gates, experts, w1, w3, w2), {}
      local X, G, S = x:totable(), gates:totable(), experts:totable()
      local A, B, C = w1:totable(), w3:totable(), w2:totable()
      for t = 1, size[1] do want[t] = scalar(X[t], G[t], S[t], A, B, C) end
      close(y, want, 2e-5)
    end)

    it("has the gradients of dense ops for T, k, E, I, d = " .. what, function()
      same_gradients({ make(table.unpack(size)) })
    end)
  end

  it("gives the gate of a slot the gradient <dy, E(x)>, whatever the gate", function()
    local x, _, experts, w1, w3, w2 = make(9, 2, 4, 5, 3)
    local gates = moe.zeros(9, 2):requires_grad()
    local dy = moe.randn(9, 3, { seed = 7 });
    (moe.moe_ffn(x, gates, experts, w1, w3, w2) * dy):sum():backward()
    local want = {}
    for s = 1, 2 do
      local one = moe.moe_ffn(x, moe.ones(9, 1), experts:narrow(2, s, 1):contiguous(), w1, w3, w2)
      want[s] = (one * dy):sum(2):reshape(9, 1)
    end
    close(gates:grad(), moe.concat(want, 2), 1e-5)
  end)

  it("leaves experts without tokens out, with a gradient of zero", function()
    local x, gates, _, w1, w3, w2 = make(6, 2, 5, 3, 4)
    local experts = ids({ { 3, 1 }, { 1, 3 }, { 3, 1 }, { 3, 1 }, { 1, 3 }, { 3, 1 } })
    local leaves = same_gradients({ x, gates, experts, w1, w3, w2 })
    for i = 4, 6 do
      for _, e in ipairs({ 1, 3, 5 }) do
        close(leaves[i]:grad():select(1, e), leaves[i]:select(1, e):detach() * 0, 0)
      end
    end
    -- and adds nothing to a gradient that is there
    local w = w1:clone():requires_grad();
    (moe.moe_ffn(x, gates, experts, w, w3, w2):sum() + w:sum()):backward()
    close(w:grad():select(1, 5), moe.ones(3, 4), 0)
  end)

  it("adds the gradients of one tensor in several places", function()
    local x, gates, experts, w = make(300, 2, 4, 64, 64)
    local function grads(shared)
      local leaves = {}
      for i = 1, 3 do
        leaves[i] = leaves[shared[i]] or w:clone():requires_grad()
      end
      moe.moe_ffn(x, gates, experts, leaves[1], leaves[2], leaves[3]):sum():backward()
      return leaves
    end
    local apart = grads({ 1, 2, 3 })
    for _, shared in ipairs({ { 1, 1, 3 }, { 1, 2, 1 }, { 1, 2, 2 }, { 1, 1, 1 } }) do
      local want = {}
      for i = 1, 3 do
        local g = apart[i]:grad()
        want[shared[i]] = want[shared[i]] and want[shared[i]] + g or g
      end
      for _ = 1, 5 do
        local got = grads(shared)
        for i, g in pairs(want) do close(got[i]:grad(), g, 1e-4) end
      end
    end
  end)

  it("lets all tokens go to one expert", function()
    for _, e in ipairs({ 0, 2 }) do
      local x, _, _, w1, w3, w2 = make(130, 1, 3, 5, 4)
      local experts, gates = ids(moe.full(e, 130, 1):totable()), moe.rand(130, 1, { seed = 8 })
      local alone = expert(x, w1:select(1, e + 1), w3:select(1, e + 1), w2:select(1, e + 1))
      close(moe.moe_ffn(x, gates, experts, w1, w3, w2), alone * gates, 1e-5)
      same_gradients({ x, gates, experts, w1, w3, w2 })
    end
  end)

  it("lets a token choose one expert twice", function()
    local x, _, _, w1, w3, w2 = make(3, 1, 2, 5, 4)
    local slots = ids({ { 1, 1 }, { 0, 0 }, { 1, 1 } })
    local twice = moe.moe_ffn(x, moe.full(0.25, 3, 2), slots, w1, w3, w2)
    local once = moe.moe_ffn(x, moe.full(0.5, 3, 1), ids({ { 1 }, { 0 }, { 1 } }), w1, w3, w2)
    close(twice, once, 1e-6)
  end)

  it("does not depend on the numbering of the experts", function()
    local x, gates, experts, w1, w3, w2 = make(70, 2, 5, 7, 6)
    local order, rank = { 3, 0, 4, 2, 1 }, {}
    for i, e in ipairs(order) do rank[e] = i - 1 end
    local renamed = experts:totable()
    for _, row in ipairs(renamed) do
      for s, e in ipairs(row) do row[s] = rank[e] end
    end
    local function permuted(w)
      local shape = w:shape()
      return w:reshape(5, -1):gather_rows(ids(order)):reshape(shape)
    end
    local y = moe.moe_ffn(x, gates, experts, w1, w3, w2)
    local z = moe.moe_ffn(x, gates, ids(renamed), permuted(w1), permuted(w3), permuted(w2))
    assert.equal(y:bytes(), z:bytes())
  end)

  it("computes a token the same way whatever stands beside it", function()
    local x, gates, experts, w1, w3, w2 = make(90, 2, 4, 7, 6)
    local y = moe.moe_ffn(x, gates, experts, w1, w3, w2)
    for _, part in ipairs({ { 1, 1 }, { 11, 7 }, { 25, 66 } }) do
      local function some(t) return t:narrow(1, part[1], part[2]) end
      close(moe.moe_ffn(some(x), some(gates), some(experts), w1, w3, w2), some(y), 2e-6)
    end
  end)

  it("loses nothing between taking rows apart and putting them together", function()
    -- Experts that are all W2 (silu(x) * x) with W2 = 1 give x times the sum of the gates.
    local d, E = 5, 3
    local eye = {}
    for i = 1, d do
      eye[i] = {}
      for j = 1, d do eye[i][j] = i == j and 1 or 0 end
    end
    local stack = moe.tensor({ eye, eye, eye })
    local logits, x = moe.randn(41, E, { seed = 1 }), moe.randn(41, d, { seed = 2 })
    for k = 1, E do
      local gates, experts = logits:topk_route(k, "all")
      local y = moe.moe_ffn(x, gates, experts, stack, stack, stack)
      close(y, x:silu() * x * gates:sum(2):reshape(41, 1), 1e-6)
      assert.equal(k * 41, experts:bincount(E):sum():item())
    end
  end)

  it("takes strided input and no tokens", function()
    local x, gates, experts, w1, w3, w2 = make(5, 2, 3, 7, 4)
    local function turned(t) return t:transpose(1, 2):contiguous():transpose(1, 2) end
    local y = moe.moe_ffn(turned(x), turned(gates), turned(experts), turned(w1), turned(w3),
      turned(w2))
    close(y, moe.moe_ffn(x, gates, experts, w1, w3, w2), 0)
    local weight = w1:clone():requires_grad()
    y = moe.moe_ffn(x:narrow(1, 1, 0), gates:narrow(1, 1, 0), experts:narrow(1, 1, 0), weight,
      w3, w2)
    assert.same({ 0, 4 }, y:shape())
    y:sum():backward()
    close(weight:grad(), moe.zeros(3, 7, 4), 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("moe_ffn: " .. text, moe.moe_ffn, ...) end
    local x, g, e = moe.ones(2, 3), moe.ones(2, 1), ids({ { 0 }, { 3 } })
    local w1, w2 = moe.ones(4, 5, 3), moe.ones(4, 3, 5)
    says("x must have 2 dimensions, not [3]", moe.ones(3), g, e, w1, w1, w2)
    says("gates must have 2 dimensions, not [2]", x, moe.ones(2), e, w1, w1, w2)
    says("w1 must have 3 dimensions, not [5 x 3]", x, g, e, moe.ones(5, 3), w1, w2)
    says("gates and experts differ: [2 x 1] and [1 x 2]", x, g, ids({ { 0, 3 } }), w1, w1, w2)
    says("every token needs at least one slot: gates are [2 x 0]", x, moe.ones(2, 0),
      ids({ {}, {} }), w1, w1, w2)
    says("one row of gates per token is needed: [2 x 1] and x [5 x 3]", moe.ones(5, 3), g, e, w1,
      w1, w2)
    says("w1 [E x I x d] does not fit x [.. x d]: [4 x 5 x 3] and [2 x 7]", moe.ones(2, 7), g, e,
      w1, w1, w2)
    says("w1 and w3 [E x I x d] differ: [4 x 5 x 3] and [4 x 3 x 5]", x, g, e, w1, w2, w2)
    local text = "w1 [E x I x d] and w2 [E x d x I] do not fit: "
    says(text .. "[4 x 5 x 3] and [4 x 5 x 3]", x, g, e, w1, w1, w1)
    says(text .. "[4 x 5 x 3] and [3 x 5]", x, g, e, w1, nil, moe.ones(3, 5), "relu")
    says("swiglu needs w3 beside w1 [4 x 5 x 3]\nhint: give w3, or an activation for two " ..
      "matrices: relu, gelu or silu", x, g, e, w1, nil, w2)
    says("w3 [4 x 5 x 3] is for swiglu alone\nhint: nil in its place", x, g, e, w1, w1, w2, "gelu")
    says('activation must be one of "swiglu", "relu", "gelu", "silu", not "tanh"', x, g, e, w1, nil,
      w2, "tanh")
    says("the element types differ: f32 and bf16", x, g, e, w1, nil, w2:to("bf16"), "relu")
    says("experts has 4 at position 1, but must be 0 to 3", x, g, ids({ { 4 }, { 0 } }), w1, w1, w2)
    says("experts has -2 at position 2, but must be 0 to 3", x, g, ids({ { 0 }, { -2 } }), w1, w1,
      w2)
    says('experts is f32, but must be i32\nhint: experts:to("i32")', x, g, g, w1, w1, w2)
    says('w3 is i32, but must be f32\nhint: w3:to("f32")', x, g, e, w1, e, w2)
  end)
end)
