-- The fused op against a composition of basic ops, and what must hold of mixtures of tokens
-- (Antoniak et al. 2023): the numbers in brackets count the invariants of the method.
local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

-- The experts' FFN over rows m [E x G x d].
local function experts(m, w1, w3, w2, activation)
  local hidden = m:matmul(w1:transpose(2, 3))
  if activation == "swiglu" then
    hidden = hidden:silu() * m:matmul(w3:transpose(2, 3))
  else
    hidden = hidden[activation](hidden)
  end
  return hidden:matmul(w2:transpose(2, 3))
end

-- Tokens of a group side by side: [groups x g x d], from x [B x S x d]; and back.
local function grouped(x, g)
  local B, S, d = table.unpack(x:shape())
  return x:reshape(B // g, g, S, d):transpose(2, 3):contiguous():reshape(-1, g, d)
end
local function ungrouped(y, B, S)
  local g, d = y:size(2), y:size(3)
  return y:reshape(B // g, S, g, d):transpose(2, 3):contiguous():reshape(B, S, d)
end

-- w [groups x E x g]
local function weights(x, controller, w1, temperature, g)
  if not controller then return moe.full(1 / g, x:size(1), w1:size(1), g) end
  local logits = x:matmul(controller:transpose()) / (temperature or 1)
  return logits:transpose(2, 3):softmax(-1)
end

local function composed(x, controller, w1, w3, w2, temperature, g, activation)
  local B, S = x:size(1), x:size(2)
  x = grouped(x, g)
  local w = weights(x, controller, w1, temperature, g)
  local o = experts(w:matmul(x):transpose(1, 2):contiguous(), w1, w3, w2, activation or "relu")
  return ungrouped(w:transpose(2, 3):matmul(o:transpose(1, 2):contiguous()), B, S)
end

local LEAVES = { 1, 2, 3, 4, 5, 6 }

-- x, controller, w1, w3, w2, temperature, group, activation
local function make(size, activation, uniform)
  local B, S, g, E, h, d = table.unpack(size)
  return { moe.randn(B, S, d, { seed = 1 }), not uniform and moe.randn(E, d, { seed = 2 }) or nil,
    moe.randn(E, h, d, { seed = 3, std = 0.4 }),
    activation == "swiglu" and moe.randn(E, h, d, { seed = 4, std = 0.4 }) or nil,
    moe.randn(E, d, h, { seed = 5, std = 0.4 }), moe.tensor({ 1.3 }), g, activation }
end

local function run(f, args) return f(table.unpack(args, 1, 8)) end

-- y and the gradients of everything that has one.
local function results(f, args)
  local copy = {}
  for i = 1, 8 do copy[i] = args[i] end
  for _, i in ipairs(LEAVES) do copy[i] = args[i] and args[i]:clone():requires_grad() end
  local y = run(f, copy)
  local shape = y:shape();
  (y * moe.randn(shape[1], shape[2], shape[3], { seed = 6 })):sum():backward()
  local list = { y:detach() }
  for _, i in ipairs(LEAVES) do list[i + 1] = copy[i] and copy[i]:grad() end
  return list
end

-- Tensors that many sums went into are compared by their size.
local function alike(got, want, tolerance)
  for i = 1, 7 do
    assert.equal(want[i] == nil, got[i] == nil)
    if want[i] then
      local scale = math.max(1, (want[i] * want[i]):mean():item() ^ 0.5)
      close(got[i] / scale, want[i] / scale, tolerance)
    end
  end
end

local SIZES = { { 1, 1, 1, 1, 1, 1 }, { 2, 3, 2, 3, 4, 5 }, { 6, 5, 3, 4, 33, 17 },
  { 35, 2, 35, 5, 7, 9 }, { 64, 3, 32, 33, 5, 40 }, { 8, 130, 4, 2, 70, 3 }, { 4, 9, 1, 3, 6, 33 },
  { 4, 7, 4, 1, 800, 6 } }

describe("mixture_of_tokens", function()
  for _, size in ipairs(SIZES) do
    it("is the composition of basic ops for B, S, g, E, h, d = " .. table.concat(size, ", "),
      function()
        for _, activation in ipairs({ "relu", "gelu", "silu", "swiglu" }) do
          local args = make(size, activation)
          alike(results(moe.mixture_of_tokens, args), results(composed, args), 3e-5)
        end
        local args = make(size, "relu", true)
        args[6] = nil
        alike(results(moe.mixture_of_tokens, args), results(composed, args), 3e-5)
      end)
  end

  it("takes a long sum over many groups", function()
    local args = make({ 2, 1000, 2, 2, 5, 4 }, "relu")
    alike(results(moe.mixture_of_tokens, args), results(composed, args), 3e-5)
  end)

  if not moe.double then
    it("is close in bf16, whose rounding touches the experts alone", function()
      local args = make({ 64, 5, 32, 9, 45, 50 }, "swiglu")
      local want = results(moe.mixture_of_tokens, args)
      local before = moe.precision("bf16")
      local ok, got = pcall(results, moe.mixture_of_tokens, args)
      moe.precision(before)
      assert(ok, got)
      for i = 1, 7 do
        local error, size = got[i] - want[i], want[i] * want[i]
        local ratio = ((error * error):sum():item() / size:sum():item()) ^ 0.5
        assert.is_true(ratio < 0.02, ("result %d is off by %.3g"):format(i, ratio))
      end
      assert.not_equal(want[1]:bytes(), got[1]:bytes())
    end)
  end

  it("needs no gradients", function()
    local args = make({ 6, 5, 3, 4, 33, 17 }, "gelu")
    close(moe.no_grad(run, moe.mixture_of_tokens, args), run(composed, args), 3e-5)
  end)

  it("gives gradients to those that want one", function()
    local args = make({ 6, 5, 3, 4, 33, 17 }, "swiglu")
    local all = results(moe.mixture_of_tokens, args)
    for _, i in ipairs(LEAVES) do
      local some = { table.unpack(args, 1, 8) }
      some[i] = args[i]:clone():requires_grad();
      (run(moe.mixture_of_tokens, some) * moe.randn(6, 5, 17, { seed = 6 })):sum():backward()
      assert.equal(all[i + 1]:bytes(), some[i]:grad():bytes())
    end
  end)

  it("adds to gradients that are there, also of one tensor in several places", function()
    local w, x = moe.randn(3, 3, 3, { seed = 1 }), moe.randn(4, 2, 3, { seed = 2 })
    local C = moe.randn(3, 3, { seed = 3 })
    local apart = {}
    for i = 1, 3 do apart[i] = w:clone():requires_grad() end
    moe.mixture_of_tokens(x, C, apart[1], apart[2], apart[3], 1, 2, "swiglu"):sum():backward()
    local one = w:clone():requires_grad();
    (moe.mixture_of_tokens(x, C, one, one, one, 1, 2, "swiglu"):sum() + one:sum()):backward()
    close(one:grad(), apart[1]:grad() + apart[2]:grad() + apart[3]:grad() + 1, 1e-5)
    local square = moe.randn(3, 1, 1, { seed = 4 }):requires_grad()     -- x, w1 and w2
    local parts = {}
    for i = 1, 3 do parts[i] = square:detach():clone():requires_grad() end
    local c1 = moe.randn(3, 1, { seed = 5 })
    moe.mixture_of_tokens(square, c1, square, nil, square, 1, 3, "silu"):sum():backward()
    moe.mixture_of_tokens(parts[1], c1, parts[2], nil, parts[3], 1, 3, "silu"):sum():backward()
    close(square:grad(), parts[1]:grad() + parts[2]:grad() + parts[3]:grad(), 1e-5)
  end)

  it("takes strided input, and no tokens", function()
    local args = make({ 6, 5, 3, 4, 7, 9 }, "relu")
    local turned = { table.unpack(args, 1, 8) }
    turned[1] = args[1]:transpose(1, 2):contiguous():transpose(1, 2)
    turned[3] = args[3]:transpose(2, 3):contiguous():transpose(2, 3)
    close(run(moe.mixture_of_tokens, turned), run(moe.mixture_of_tokens, args), 0)
    for _, shape in ipairs({ { 0, 5 }, { 6, 0 } }) do
      turned[1] = moe.zeros(shape[1], shape[2], 9):requires_grad()
      turned[3] = args[3]:clone():requires_grad()
      turned[2] = args[2]:clone():requires_grad()
      local y = run(moe.mixture_of_tokens, turned)
      assert.same({ shape[1], shape[2], 9 }, y:shape())
      y:sum():backward()
      close(turned[3]:grad(), moe.zeros(4, 7, 9), 0)
      close(turned[2]:grad(), moe.zeros(4, 9), 0)
    end
  end)
end)

describe("a mixture of tokens", function()
  local B, S, g, E, h, d = 6, 4, 3, 5, 8, 7
  local args = make({ B, S, g, E, h, d }, "relu")
  local x, C, w1, w2 = args[1], args[2], args[3], args[5]
  local function mix(input, temperature, controller)
    return moe.mixture_of_tokens(input, controller or C, w1, nil, w2, temperature or 1, g)
  end
  -- The dense FFN that has the hidden columns of all experts side by side.
  local function dense(input)
    local wide = w2:transpose(1, 2):contiguous():reshape(d, E * h)
    return input:linear(w1:reshape(E * h, d)):relu():linear(wide)
  end

  it("with groups of one is the dense FFN of all experts together (1)", function()
    close(moe.mixture_of_tokens(x, C, w1, nil, w2, 0.5, 1), dense(x), 2e-5)
  end)

  it("follows a permutation of the members of a group (2)", function()
    local order = support.ids({ 2, 0, 1, 3, 5, 4 })     -- within 0..2 and 3..5
    close(mix(x:gather_rows(order)), mix(x):gather_rows(order), 1e-5)
    local across = support.ids({ 3, 1, 2, 0, 4, 5 })    -- which a change of groups does not
    local distance = mix(x:gather_rows(across)) - mix(x):gather_rows(across)
    assert.is_true((distance * distance):max():item() > 1e-3)
  end)

  it("couples exactly the group of a token, at its position (3)", function()
    local y = mix(x)
    for _, at in ipairs({ { 1, 1 }, { 2, 3 }, { 5, 4 } }) do
      local other = x:clone()
      other:select(1, at[1]):select(1, at[2]):fill_(2.5)
      local z = mix(other)
      for b = 1, B do
        for s = 1, S do
          local member = (b - 1) // g == (at[1] - 1) // g and s == at[2]
          local same = y:select(1, b):select(1, s):contiguous():bytes() ==
            z:select(1, b):select(1, s):contiguous():bytes()
          assert.equal(not member, same)
        end
      end
    end
  end)

  it("at a high temperature gives everyone the experts of the mean (4)", function()
    local mean = grouped(x, g):mean(2, true)                    -- [groups x 1 x d]
    local want = dense(mean) / g
    local members = {}
    for i = 1, g do members[i] = want end
    close(mix(x, 1e7), ungrouped(moe.concat(members, 2), B, S), 1e-5)
    close(moe.mixture_of_tokens(x, nil, w1, nil, w2, nil, g),
      ungrouped(moe.concat(members, 2), B, S), 1e-5)
  end)

  it("at a low temperature lets each expert choose one token (5)", function()
    local tokens, want = grouped(x, g), {}
    local choice = tokens:matmul(C:transpose()):transpose(2, 3):argmax(-1):totable()   -- [q x E]
    for q = 1, tokens:size(1) do
      local rows = {}
      for i = 1, g do
        local row = moe.zeros(1, d)
        for e = 1, E do
          if choice[q][e] == i - 1 then
            local token = tokens:select(1, q):narrow(1, i, 1)
            row = row + token:linear(w1:select(1, e)):relu():linear(w2:select(1, e))
          end
        end
        rows[i] = row
      end
      want[q] = moe.concat(rows, 1):reshape(1, g, d)
    end
    close(mix(x, 1e-5), ungrouped(moe.concat(want, 1), B, S), 2e-5)
  end)

  it("of equal tokens is the dense FFN of one, divided by their number (6)", function()
    local one = moe.randn(1, S, d, { seed = 8 })
    local members = {}
    for i = 1, g do members[i] = one end
    local y = mix(moe.concat(members, 1))
    for b = 1, g do close(y:narrow(1, b, 1), dense(one) / g, 1e-5) end
  end)

  it("has weights that sum to one: experts which give the same give it to the group once (6)",
    function()
      -- FFN(m) = 1 in every column, whatever m: y_i = sum_e w_ie, so the group has E in all.
      local none, ones = moe.zeros(E, 1, d), moe.ones(E, d, 1)
      local constant = moe.concat({ none, none }, 2)
      local y = moe.mixture_of_tokens(x, C, constant, nil, moe.concat({ ones, ones }, 3), 1, g)
      close(y, moe.zeros(B, S, d), 0)                   -- relu(0) = 0
      local swiglu = moe.mixture_of_tokens(x, C, w1, w1, moe.zeros(E, d, h), 1, g, "swiglu")
      close(swiglu, moe.zeros(B, S, d), 0)
      -- A linear FFN, relu(m) - relu(-m) = m: y_i = sum_e w_ie m_e.
      local eye = {}
      for i = 1, d do
        eye[i] = {}
        for j = 1, d do eye[i][j] = i == j and 1 or 0 end
      end
      local plus, all = moe.tensor(eye), {}
      for e = 1, E do all[e] = plus:reshape(1, d, d) end
      all = moe.concat(all, 1)
      local both = moe.concat({ all, -all }, 2)
      local back = both:transpose(2, 3):contiguous()
      y = moe.mixture_of_tokens(moe.ones(B, S, d), C, both, nil, back, 1, g)
      close(grouped(y, g):sum(2), moe.full(E, B // g * S, d), 1e-5)
    end)

  it("sends gradients to every expert (6)", function()
    local leaf = { w1:clone():requires_grad(), w2:clone():requires_grad() }
    local y = moe.mixture_of_tokens(x, C, leaf[1], nil, leaf[2], 1e-3, g);
    (y * y):sum():backward()
    for e = 1, E do
      for i = 1, 2 do
        local grad = leaf[i]:grad():select(1, e)
        assert.is_true((grad * grad):sum():item() > 1e-6)
      end
    end
  end)

  it("depends on the controller divided by the temperature alone", function()
    close(mix(x, 0.25), mix(x, 1, C * 4), 1e-5)
    close(mix(x, moe.tensor({ 0.25 })), mix(x, 0.25), 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...)
      support.rejects("mixture_of_tokens: " .. text, moe.mixture_of_tokens, ...)
    end
    says("x must have 3 dimensions, not [4 x 7]", moe.ones(4, 7), C, w1, nil, w2, nil, g)
    says("w1 must have 3 dimensions, not [5 x 7]", x, C, C, nil, w2, nil, g)
    says("w1 [E x I x d] does not fit x [.. x d]: [5 x 8 x 7] and [6 x 4 x 3]",
      moe.ones(6, 4, 3), C, w1, nil, w2, nil, g)
    says("w1 [E x I x d] and w2 [E x d x I] do not fit: [5 x 8 x 7] and [5 x 8 x 7]", x, C, w1, nil,
      w1, nil, g)
    says("w1 and w3 [E x I x d] differ: [5 x 8 x 7] and [5 x 7 x 8]", x, C, w1, w2, w2, nil, g,
      "swiglu")
    says("swiglu needs w3 beside w1 [5 x 8 x 7]\n" ..
      "hint: give w3, or an activation for two matrices: relu, gelu or silu", x, C, w1, nil, w2,
      nil, g, "swiglu")
    says("w3 [5 x 8 x 7] is for swiglu alone\nhint: nil in its place", x, C, w1, w1, w2, nil, g)
    says("the controller must be [5 x 7], not [7 x 5]", x, moe.ones(7, 5), w1, nil, w2, nil, g)
    says("temperature must be one number, not [2]", x, C, w1, nil, w2, moe.ones(2), g)
    says("temperature must be above 0, not 0\n" ..
      "hint: a learned temperature wants a smaller learning rate", x, C, w1, nil, w2, 0, g)
    says("group must be at least 1, not 0", x, C, w1, nil, w2, nil, 0)
    says("6 sequences are no whole number of groups of 4\n" ..
      "hint: a batch must be a multiple of the group", x, C, w1, nil, w2, nil, 4)
    -- Without sequences or hidden columns, sizes cost no memory.
    local none, wide = moe.zeros(0, 4, 7), 1 << 30
    says(("a matrix of %d rows or columns is too large (the limit is 2147483647)"):format(
      math.maxinteger), none, C, w1, nil, w2, nil, math.maxinteger)
    says(("a matrix of %d rows or columns is too large (the limit is 2147483647)"):format(
      wide * wide), none, nil, moe.zeros(wide, 0, 7), nil, moe.zeros(wide, 7, 0), nil, wide)
    says('activation must be one of "swiglu", "relu", "gelu", "silu", not "sliu"\n' ..
      'hint: did you mean "silu"?', x, C, w1, nil, w2, nil, g, "sliu")
  end)
end)
