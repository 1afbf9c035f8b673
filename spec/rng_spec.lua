-- Random numbers are a function of seed, stream and position.

local core = require("moelua.core")
local moe = require("moelua")
local close = require("spec.helper").close
local rejects = require("spec.ops.support").rejects

local function words(...)
  local list = { core.philox(...) }
  for i, word in ipairs(list) do list[i] = ("%08x"):format(word) end
  return table.concat(list, " ")
end

describe("philox", function()
  it("is Philox4x32-10 as published (Random123, kat_vectors)", function()
    assert.equal("6627e8d5 e169c58d bc57ac4c 9b00dbd8", words(0, 0, 0))
    assert.equal("408f276d 41c83b0e a20bc7c6 6d5451fd", words(-1, -1, -1))
    -- counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0, lowest words first
    assert.equal("d16cfe09 94fdcceb 5001e420 24126ea1",
      words(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88))
  end)
end)

local function moments(x)
  local n, mean = x:count(), x:mean():item()
  local centred = x - mean
  local square = centred * centred
  local variance = square:mean():item()
  return mean, variance, (square * centred):mean():item() / variance ^ 1.5,
    (square * square):mean():item() / variance ^ 2, n
end

describe("random tensors", function()
  local N = 200003

  it("rand is uniform on [0, 1) in steps of 2^-24", function()
    local x = moe.rand(N, { seed = 5, stream = "test" })
    local mean, variance, skew = moments(x)
    close(mean, 1 / 2, 4 / math.sqrt(12 * N))
    close(variance, 1 / 12, 0.001)
    close(skew, 0, 0.02)
    assert.is_true((-x):max():item() <= 0)
    assert.is_true(x:max():item() < 1)
    assert.is_true(x:max():item() > 1 - 1e-4)
    if not moe.double then
      for _, u in ipairs(x:narrow(1, 1, 1000):totable()) do
        assert.equal(0, u * 2 ^ 24 % 1)
      end
    end
    local tenth = {}
    for i = 1, 10 do tenth[i] = 0 end
    for _, u in ipairs(x:totable()) do
      local i = math.floor(u * 10) + 1
      tenth[i] = tenth[i] + 1
    end
    local chi2 = 0
    for i = 1, 10 do chi2 = chi2 + (tenth[i] - N / 10) ^ 2 / (N / 10) end
    assert.is_true(chi2 < 33.7, "chi square of 9 degrees: " .. chi2)        -- p = 1e-4
  end)

  it("randn is normal", function()
    local x = moe.randn(N, { seed = 5, stream = "test" })
    local mean, variance, skew, kurtosis = moments(x)
    close(mean, 0, 4 / math.sqrt(N))
    close(variance, 1, 4 * math.sqrt(2 / N))
    close(skew, 0, 4 * math.sqrt(6 / N))
    close(kurtosis, 3, 4 * math.sqrt(24 / N))
    local inside, extreme = 0, 0
    for _, z in ipairs(x:totable()) do
      if math.abs(z) < 1 then inside = inside + 1 end
      if math.abs(z) > 3 then extreme = extreme + 1 end
    end
    close(inside / N, 0.682689, 0.0042)
    close(extreme / N, 0.0026998, 0.0005)
    local flat = x:totable()                    -- Box and Muller make pairs: are they independent?
    local product = 0
    for i = 1, N - 1, 2 do product = product + flat[i] * flat[i + 1] end
    close(product / (N / 2), 0, 4 / math.sqrt(N / 2))
  end)

  it("take std and mean", function()
    local plain = moe.randn(7, { seed = 3 })
    close(moe.randn(7, { seed = 3, std = 0.25, mean = -2 }), plain * 0.25 - 2, 1e-6)
    close(moe.randn({ 7 }, { seed = 3, std = 0 }), moe.zeros(7), 0)
  end)

  it("do not depend on how they are cut", function()
    for _, make in ipairs({ moe.rand, moe.randn }) do
      local long = make(40009, { seed = 9, stream = "a" })
      close(make(10007, { seed = 9, stream = "a" }), long:narrow(1, 1, 10007), 0)
      close(make(3, 5, { seed = 9, stream = "a" }), long:narrow(1, 1, 15):reshape(3, 5), 0)
    end
    local long = moe.rand(10007, { seed = 9, stream = "a" }):totable()
    for _, i in ipairs({ 0, 1, 2, 3, 8191, 8192, 10006 }) do
      assert.equal(long[i + 1], core.uniform(9, "a", i))
    end
  end)

  it("are the blocks of Philox: two 53-bit uniforms, or a pair of Box and Muller", function()
    local stream = math.tointeger("0x" .. core.system.hash("some name"))
    local how = { seed = 12, stream = "some name" }
    local uniform, normal = moe.rand(600, how):totable(), moe.randn(600, how):totable()
    for block = 0, 299 do
      local a, b, c, d = core.philox(12, stream, block)
      local u, v = ((a << 32 | b) >> 11) * 2.0 ^ -53, ((c << 32 | d) >> 11) * 2.0 ^ -53
      close({ uniform[2 * block + 1], uniform[2 * block + 2] }, { u, v }, 2 ^ -24)
      local radius = math.sqrt(-2 * math.log(1 - u))
      close({ normal[2 * block + 1], normal[2 * block + 2] },
        { radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v) }, 1e-6)
    end
  end)

  it("differ between streams, seeds and calls", function()
    local seen = {}
    local function new(x)
      local key = table.concat(x:totable(), " ")
      assert.is_nil(seen[key])
      seen[key] = true
    end
    new(moe.randn(3, { seed = 1, stream = "a" }))
    new(moe.randn(3, { seed = 1, stream = "b" }))
    new(moe.randn(3, { seed = 2, stream = "a" }))
    new(moe.randn(3, { seed = 1, stream = "" }))
    moe.manual_seed(1)
    for _ = 1, 4 do new(moe.randn(3)) end
    moe.manual_seed(2)
    new(moe.randn(3))
  end)

  it("repeat after manual_seed, and named streams ignore it", function()
    moe.manual_seed(77)
    local first, second = moe.randn(5), moe.rand(5)
    local named = moe.randn(5, { seed = 3, stream = "x" })
    moe.manual_seed(77)
    close(moe.randn(5), first, 0)
    close(moe.rand(5), second, 0)
    close(moe.randn(5, { seed = 3, stream = "x" }), named, 0)
    moe.manual_seed(-1)
    assert.is_false(moe.randn(5):totable()[1] == first:totable()[1])
    moe.manual_seed(1)
  end)

  it("a seed alone stands for the first draw after manual_seed and draws nothing", function()
    moe.manual_seed(31)
    local first, second = moe.randn(4), moe.randn(4)
    moe.manual_seed(31)
    close(moe.randn(4, { seed = 31 }), first, 0)
    close(moe.randn(4, { seed = 31 }), first, 0)
    close(moe.randn(4), first, 0)
    close(moe.randn(4), second, 0)
    moe.manual_seed(1)
  end)

  it("stay the same from version to version", function()
    local how = { seed = 1, stream = "golden" }
    close(moe.randn(3, how), { 0.0894468576, 0.926964164, -0.470618814 }, 1e-7)
    close(moe.rand(3, how), { 0.35184902, 0.234689832, 0.964511573 }, 1e-7)
  end)

  it("below a bound are even, and reach every number", function()
    local count = { [0] = 0, 0, 0, 0, 0, 0, 0 }
    for i = 0, 6999 do
      local n = core.uniform(4, "dice", i, 7)
      count[n] = count[n] + 1
    end
    local chi2 = 0
    for n = 0, 6 do chi2 = chi2 + (count[n] - 1000) ^ 2 / 1000 end
    assert.is_true(chi2 < 27.9, "chi square of 6 degrees: " .. chi2)        -- p = 1e-4
    assert.equal(0, core.uniform(4, "dice", 3, 1))
  end)

  it("refuse options they do not know", function()
    rejects("randn: unknown option 'sdt'\nhint: did you mean 'std'?", moe.randn, 2, { sdt = 1 })
    rejects("rand: std must be a number, not \"x\"", moe.rand, 2, { std = "x" })
    rejects("rand: seed must be an integer, not 1.5", moe.rand, 2, { seed = 1.5 })
    rejects("rand: stream must be a string, not 3", moe.rand, 2, { stream = 3 })
    rejects("rand: sizes must not be negative: [-2]", moe.rand, -2)
  end)
end)
