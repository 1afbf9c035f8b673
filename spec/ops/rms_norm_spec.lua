local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

-- One row: its values, and 1 / rms.
local function norm(x, w, eps)
  local square, y = 0, {}
  for i = 1, #x do square = square + x[i] * x[i] end
  local r = 1 / math.sqrt(square / #x + eps)
  for i = 1, #x do y[i] = x[i] * r * w[i] end
  return y, r
end

describe("rms_norm", function()
  it("divides each row by its root mean square and multiplies by the weight", function()
    local x, w = moe.tensor({ { 3, 4 }, { 0, 0 } }), moe.tensor({ 1, 10 })
    local r = 1 / math.sqrt(12.5)
    close(moe.rms_norm(x, w, 0):narrow(1, 1, 1), { { 3 * r, 40 * r } }, 1e-6)
    close(moe.rms_norm(x, w), { { 3 * r, 40 * r }, { 0, 0 } }, 1e-5)
    for _, d in ipairs({ 1, 3, 8, 15, 16, 17, 47, 96 }) do
      local rows, weight = moe.randn(3, d, { seed = 1 }), moe.randn(d, { seed = 2 })
      local want = {}
      for t, row in ipairs(rows:totable()) do want[t] = norm(row, weight:totable(), 0.01) end
      close(rows:rms_norm(weight, 0.01), want, 2e-6)
    end
  end)

  it("works on any rank, on no rows, and through strides", function()
    local x, w = moe.randn(2, 3, 5), moe.randn(5)
    close(x:rms_norm(w), x:reshape(6, 5):rms_norm(w), 0)
    close(x:select(1, 1):select(1, 2):rms_norm(w),
      norm(x:select(1, 1):select(1, 2):totable(), w:totable(), 1e-5), 2e-6)
    assert.same({ 0, 5 }, moe.zeros(0, 5):rms_norm(w):shape())
    assert.same({ 2, 0 }, moe.zeros(2, 0):rms_norm(moe.zeros(0)):shape())
    close(x:transpose(1, 3):contiguous():transpose(1, 3):rms_norm(w), x:rms_norm(w), 0)
  end)

  it("does not mix rows", function()
    local x, w = moe.randn(5, 19), moe.randn(19)
    local before = x:rms_norm(w):narrow(1, 1, 4):clone()
    x:narrow(1, 5, 1):fill_(1e6)
    assert.equal(before:bytes(), x:rms_norm(w):narrow(1, 1, 4):clone():bytes())
  end)

  it("is right where the squares of the values have no place among the floats", function()
    local x, w = moe.randn(2, 37, { seed = 1 }), moe.randn(37, { seed = 2 })
    local dy = moe.randn(2, 37, { seed = 3 })
    local function gradients(scale)
      local a, b = (x * scale):requires_grad(), w:detach():requires_grad()
      local y = a:rms_norm(b, 0);
      (y * dy):sum():backward()
      return y, a:grad() * scale, b:grad()
    end
    local y, dx, dw = gradients(1)
    for _, scale in ipairs({ 1e19, 1e30, 1e37, 1e-19, 1e-25, 1e-30 }) do
      local other, other_dx, other_dw = gradients(scale)
      close(other, y, 1e-5)
      close(other_dx, dx, 1e-5)
      close(other_dw, dw, 1e-5)
    end
    close(moe.tensor({ 1e30, -1e30 }):rms_norm(moe.ones(2)), { 1, -1 }, 1e-6)
    close(moe.tensor({ 1e-30, 0 }):rms_norm(moe.ones(2)), { 0, 0 }, 1e-6)
    local inf, nan = math.huge, 0 / 0
    close(moe.tensor({ inf, 1 }):rms_norm(moe.ones(2)), { nan, 0 }, 0)
    close(moe.tensor({ nan, 1 }):rms_norm(moe.ones(2)), { nan, nan }, 0)
  end)

  it("has the gradients of the formula, also in more rows than one task takes", function()
    local T, d, eps = 131, 19, 0.02
    local x, w = moe.randn(T, d, { seed = 1 }), moe.randn(d, { seed = 2 })
    local dy = moe.randn(T, d, { seed = 3 })
    local X, W, DY = x:totable(), w:totable(), dy:totable()
    local dx, dw = {}, moe.zeros(d):totable()
    for t = 1, T do
      local _, r = norm(X[t], W, eps)
      local mean = 0
      for i = 1, d do
        mean = mean + W[i] * DY[t][i] * X[t][i] * r * r / d
        dw[i] = dw[i] + DY[t][i] * X[t][i] * r
      end
      dx[t] = {}
      for i = 1, d do dx[t][i] = r * (W[i] * DY[t][i] - X[t][i] * mean) end
    end
    x:requires_grad()
    w:requires_grad();
    (x:rms_norm(w, eps) * dy):sum():backward()
    close(x:grad(), dx, 1e-5)
    close(w:grad(), dw, 1e-5)
    local alone = w:detach():clone():requires_grad();
    (x:detach():rms_norm(alone, eps) * dy):sum():backward()
    close(alone:grad(), w:grad(), 0)
  end)

  it("refuses what does not fit", function()
    local function says(text, ...) support.rejects("rms_norm: " .. text, moe.rms_norm, ...) end
    says("weight must have one element per column: [2 x 3] and [2]", moe.ones(2, 3), moe.ones(2))
    says("weight must have one element per column: [2 x 3] and [1 x 3]", moe.ones(2, 3),
      moe.ones(1, 3))
    says("weight must have one element per column: [] and [1]", moe.tensor(1), moe.ones(1))
    says("eps must not be negative: -1", moe.ones(2, 3), moe.ones(3), -1)
  end)
end)
