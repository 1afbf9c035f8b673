-- Tensors as values: making them, what they are, copies and operators.

local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local rejects, ids = support.rejects, support.ids

describe("making tensors", function()
  it("zeros, ones and full take sizes or a table of sizes", function()
    assert.same({ { 0, 0, 0 }, { 0, 0, 0 } }, moe.zeros(2, 3):totable())
    assert.same({ { { 1 }, { 1 } } }, moe.ones({ 1, 2, 1 }):totable())
    assert.same({ { -2.5, -2.5 } }, moe.full(-2.5, 1, 2):totable())
    assert.same({ 7, 7, 7 }, moe.full(7, { 3 }):totable())
    assert.equal(1, moe.ones():item())
    assert.same({}, moe.ones({}):shape())
    assert.same({ 0, 3 }, moe.zeros(0, 3):shape())
    assert.equal(0, moe.zeros(0, 3):count())
  end)

  it("arange counts from 0, or from the first number to the last, both included", function()
    assert.same({ 0, 1, 2, 3 }, moe.arange(4):totable())
    assert.same({ 2, 3, 4 }, moe.arange(2, 4):totable())
    assert.same({ 3, 1, -1 }, moe.arange(3, -2, -2):totable())
    close(moe.arange(0, 1, 0.1), { 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1 }, 1e-7)
    assert.same({ 0 }, moe.arange(0):shape())
    assert.same({ 0 }, moe.arange(2, 1):shape())
    assert.same({ 1 }, moe.arange(5, 5):shape())
  end)

  it("tensor reads nested tables, f32 or i32", function()
    local x = moe.tensor({ { 1, 2.5, -3 }, { 4, 5, 6 } })
    assert.same({ 2, 3 }, x:shape())
    assert.equal("f32", x:dtype())
    assert.same({ { 1, 2.5, -3 }, { 4, 5, 6 } }, x:totable())
    local i = moe.tensor({ -2147483648, 2147483647, 3.0 }, "i32")
    assert.equal("i32", i:dtype())
    assert.same({ -2147483648, 2147483647, 3 }, i:totable())
    assert.equal("integer", math.type(i:totable()[1]))
    assert.equal("float", math.type(x:totable()[1][1]))
    assert.equal(3.5, moe.tensor(3.5):item())
    assert.same({ 0 }, moe.tensor({}):shape())
    assert.same({ 2, 0 }, moe.tensor({ {}, {} }):shape())
    local deep = moe.tensor({ { { { { { { { 4 } } } } } } } })
    assert.equal(8, deep:dim())
    assert.equal(4, deep:item())
  end)

  it("says what is wrong with a size or an element", function()
    rejects("zeros: sizes must be integers, not 1.5", moe.zeros, 1.5)
    rejects("zeros: sizes must be integers, not x", moe.zeros, { 2, "x" })
    rejects("ones: sizes must not be negative: [2 x -1]", moe.ones, 2, -1)
    rejects("zeros: at most 8 dimensions, not 9", moe.zeros, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    rejects("full: nothing may follow the table of sizes, but there is i32", moe.full, 1, { 2 },
      "i32")
    rejects("a tensor of shape [4611686018427387904 x 4] is too large", moe.zeros, 1 << 62, 4)
    rejects("arange: the step must not be 0", moe.arange, 1, 2, 0)
    rejects("arange: 0.0 to 1e+300 in steps of 1.0 is no sensible range", moe.arange, 0, 1e300)
    rejects("tensor: element 2 is string, not a number", moe.tensor, { 1, "2" })
    rejects("tensor: element 3 is nil, not a number", moe.tensor, { { 1, 2 }, { nil, 3 } })
    rejects("tensor: element 2 is 1.5, which is no i32", moe.tensor, { 1, 1.5 }, "i32")
    rejects("tensor: element 1 is 2147483648.0, which is no i32", moe.tensor, { 1 << 31 }, "i32")
    rejects("tensor: rows of different lengths: 2 and 1", moe.tensor, { { 1, 2 }, { 3 } })
    rejects("tensor: a row is number, not a table of 2", moe.tensor, { { 1, 2 }, 3 })
    rejects("tensor: element 2 is table, not a number", moe.tensor, { 1, { 2 } })
    rejects('tensor: element type must be "f32" or "i32", not "f64"', moe.tensor, { 1 }, "f64")
    local endless = {}
    endless[1] = endless
    rejects("tensor: more than 8 levels", moe.tensor, endless)
  end)

  it("names the user's line", function()
    local ok, message = pcall(function() moe.zeros(2):reshape(3) end)
    assert.is_false(ok)
    assert.matches("tensor_spec%.lua:%d+: reshape: %[2%] has 2 elements and cannot become %[3%]$",
      message)
  end)
end)

describe("a tensor", function()
  it("tells its shape, sizes, count and type", function()
    local x = moe.zeros(2, 3, 5)
    assert.same({ 2, 3, 5 }, x:shape())
    assert.equal(2, x:size(1))
    assert.equal(5, x:size(-1))
    assert.equal(2, x:size(-3))
    assert.equal(30, x:count())
    assert.equal(3, x:dim())
    rejects("size: there is no dimension 0 in [2 x 3 x 5]", x.size, x, 0)
    rejects("size: there is no dimension 4 in [2 x 3 x 5]", x.size, x, 4)
    rejects("size: there is no dimension -4 in [2 x 3 x 5]", x.size, x, -4)
  end)

  it("counts dimensions from 1, and from -1 at the end", function()
    local x = moe.arange(6):reshape(2, 3)
    close(x:sum(1), { 3, 5, 7 }, 0)
    close(x:sum(-2), { 3, 5, 7 }, 0)
    close(x:sum(2), { 3, 12 }, 0)
    close(x:sum(-1), { 3, 12 }, 0)
    rejects("sum: dim counts from 1 (or from -1, the last), not 0", x.sum, x, 0)
    rejects("sum: there is no dimension 3 in [2 x 3]", x.sum, x, 3)
    rejects("sum: there is no dimension -3 in [2 x 3]", x.sum, x, -3)
  end)

  it("gives its only element", function()
    assert.equal(4, ids({ { 4 } }):item())
    assert.equal("integer", math.type(ids({ 4 }):item()))
    assert.equal(7, moe.arange(10):narrow(1, 8, 1):item())
    rejects("item: the tensor [2 x 1] holds 2 numbers, not one", moe.zeros(2, 1).item,
      moe.zeros(2, 1))
    rejects("item: the tensor [0] holds 0 numbers, not one", moe.zeros(0).item, moe.zeros(0))
  end)

  it("becomes a table in the order of its indices, whatever its strides", function()
    local x = moe.arange(12):reshape(2, 2, 3)
    assert.same({ { { 0, 6 }, { 3, 9 } }, { { 1, 7 }, { 4, 10 } }, { { 2, 8 }, { 5, 11 } } },
      x:transpose(1, 3):totable())
    assert.same({ { 1, 4 }, { 7, 10 } }, x:select(3, 2):totable())
    assert.same({ {}, {} }, moe.zeros(2, 0):totable())
    assert.equal(5, moe.tensor(5):totable())
  end)

  it("prints a header and a corner of 8 x 8", function()
    assert.equal("Tensor f32 [2 x 2]\n           1       -2.5\n       1e+10          0",
      tostring(moe.tensor({ { 1, -2.5 }, { 1e10, 0 } })))
    assert.equal("Tensor i32 [3]\n        1      -2       3", tostring(ids({ 1, -2, 3 })))
    assert.equal("Tensor f32 []\n         0.5", tostring(moe.tensor(0.5)))
    assert.equal("Tensor f32 [0 x 4]", tostring(moe.zeros(0, 4)))
    assert.equal("Tensor f32 [2 x 0]", tostring(moe.zeros(2, 0)))
    local lines = {}
    for line in tostring(moe.arange(90):reshape(9, 10)):gmatch("[^\n]+") do
      lines[#lines + 1] = line
    end
    assert.equal(10, #lines)
    assert.equal("Tensor f32 [9 x 10]", lines[1])
    assert.equal("           0          1          2          3          4          5          6"
      .. "          7  ...", lines[2])
    assert.equal("          70         71         72         73         74         75         76"
      .. "         77  ...", lines[9])
    assert.equal("  ...", lines[10])
    assert.equal("Tensor f32 [2 x 2]\n           0          2\n           1          3",
      tostring(moe.arange(4):reshape(2, 2):transpose()))
  end)

  it("can be freed by hand, and says so afterwards", function()
    local x = moe.ones(3)
    x:free()
    x:free()
    assert.equal("Tensor (released)", tostring(x))
    local text = "bad argument #1: the tensor was released\n"
      .. "hint: scope:keep(x) lets a tensor outlive its scope"
    rejects(text, moe.exp, x)
    rejects(text, function() return x + 1 end)
    rejects(text, function() return -x end)
    rejects(text, x.shape, x)
    rejects("bad argument #2: the tensor was released\n"
      .. "hint: scope:keep(x) lets a tensor outlive its scope", function() return 1 + x end)
    rejects("bad argument #1: a tensor expected, got number", x.free, 4)
    rejects("bad argument #1: a tensor expected, got userdata", x.item, io.stdout)
  end)

  it("is not fooled by other tables and userdata", function()
    rejects("exp: x must be a tensor, not table", moe.exp, { 1 })
    rejects("exp: x must be a tensor, not userdata", moe.exp, io.stdout)
    rejects("exp: x must be a tensor, not nil", moe.exp)
    rejects('exp: x must be a tensor, not "1"', moe.exp, "1")
    rejects("exp: 2 arguments, but it takes at most 1\nhint: exp(x:tensor -> tensor)", moe.exp,
      moe.ones(1), 2)
    assert.equal("moelua.Tensor", getmetatable(moe.ones(1)))
  end)

  it("hashes its bytes where they are", function()
    local x = moe.randn(5, 3)
    assert.equal(require("moelua.core").system.hash(x:bytes()), x:hash())
    assert.equal(x:narrow(1, 2, 3):clone():hash(), x:narrow(1, 2, 3):hash())
    assert.equal(moe.zeros(0):hash(), moe.zeros(0, 4):hash())
    rejects("hash: the tensor is not contiguous", moe.hash, x:transpose())
  end)
end)

describe("copies", function()
  it("clone is contiguous, apart from the original, and outside the tape", function()
    local x = moe.arange(6):reshape(2, 3):requires_grad()
    local y = x:detach():transpose():clone()
    assert.same({ { 0, 3 }, { 1, 4 }, { 2, 5 } }, y:totable())
    assert.is_true(y:is_contiguous())
    local z = x:clone()
    assert.is_false(z:tracks_grad())
    z:fill_(9)
    close(x, { { 0, 1, 2 }, { 3, 4, 5 } }, 0)
    assert.same({ 1, 2 }, ids({ 1, 2 }):clone():totable())
  end)

  it("to converts between element types", function()
    local x = moe.tensor({ { 1.9, -1.9 }, { 3e9, 0 / 0 } })
    assert.same({ { 1, 2147483647 }, { -1, 0 } }, x:transpose():to("i32"):totable())
    assert.same({ -7, 8 }, ids({ -7, 8 }):to("f32"):totable())
    assert.equal("f32", ids({ 1 }):to("f32"):dtype())
    assert.equal(x, x:to("f32"))
    rejects('to: unknown element type "f64"\nhint: f32, i32, bf16 or f16', x.to, x, "f64")
  end)

  it("to rounds to the nearest bf16 and f16, ties to even", function()
    local x = moe.tensor({ 1, 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, -3.14159, 65504, 65520, 2 ^ -24, 2 ^ -25,
      1e-40, 1 / 0 })
    assert.same({ 1, 1, 1 + 2 ^ -6, -3.140625, 65536, 65536, 2 ^ -24, 2 ^ -25 },
      x:narrow(1, 1, 8):to("bf16"):to("f32"):totable())
    assert.same({ 1, 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, -3.140625, 65504, 1 / 0, 2 ^ -24, 0, 0, 1 / 0 },
      x:to("f16"):to("f32"):totable())
    assert.same({ 1 + 2 ^ -9, 1 + 2 ^ -9 + 2 ^ -10 },
      moe.tensor({ 1 + 2 ^ -9, 1 + 2 ^ -9 + 2 ^ -10 }):to("f16"):to("f32"):totable())
    local nan = moe.tensor({ 0 / 0 })
    for _, dtype in ipairs({ "bf16", "f16" }) do
      local back = nan:to(dtype):to("f32"):item()
      assert.is_true(back ~= back)
      assert.equal(dtype, nan:to(dtype):dtype())
    end
    rejects('exp: x is bf16, but must be f32\nhint: x:to("f32")', moe.exp, x:to("bf16"))
  end)

  it("every bf16 and f16 number survives the way through f32", function()
    local half = moe.arange(-2048, 2048)
    close(half:to("f16"):to("f32"), half, 0)
    close((half / 4096):to("f16"):to("f32"), half / 4096, 0)
    local eighth = moe.arange(-256, 256)
    close(eighth:to("bf16"):to("f32"), eighth, 0)
  end)

  it("bytes are the elements in memory", function()
    assert.equal(string.pack("<i4i4", 1, -2), ids({ 1, -2 }):bytes())
    assert.equal(moe.double and 24 or 12, #moe.zeros(3):bytes())
    rejects("bytes: the tensor is not contiguous", moe.zeros(2, 3):transpose().bytes,
      moe.zeros(2, 3):transpose())
  end)
end)

describe("operators", function()
  local a, b = moe.tensor({ 6, -8, 1 }), moe.tensor({ 2, 4, -0.5 })

  it("work element by element, with numbers on either side", function()
    close(a + b, { 8, -4, 0.5 }, 0)
    close(a - b, { 4, -12, 1.5 }, 0)
    close(a * b, { 12, -32, -0.5 }, 0)
    close(a / b, { 3, -2, -2 }, 0)
    close(-a, { -6, 8, -1 }, 0)
    close(a ^ 2, { 36, 64, 1 }, 0)
    close(a + 1, { 7, -7, 2 }, 0)
    close(1 + a, { 7, -7, 2 }, 0)
    close(1 - a, { -5, 9, 0 }, 0)
    close(a - 1, { 5, -9, 0 }, 0)
    close(2 * a, { 12, -16, 2 }, 0)
    close(24 / a, { 4, -3, 24 }, 0)
    close(a / 2, { 3, -4, 0.5 }, 0)
    close(moe.add(1, 2), 3, 0)
  end)

  it("broadcast", function()
    close(moe.tensor({ { 1 }, { 2 } }) + moe.tensor({ 10, 20 }), { { 11, 21 }, { 12, 22 } }, 0)
    rejects("add: shapes do not fit: [3] and [2]", function() return a + moe.ones(2) end)
  end)

  it("are differentiable on both sides", function()
    local da, db = support.grads({ 1, 10, 100 }, function(x, y) return (x - y) * 3 end, { 1, 2, 3 },
      { 4, 5, 6 })
    close(da, { 3, 30, 300 }, 0)
    close(db, { -3, -30, -300 }, 0)
    close(support.grads({ 1, 1 }, function(x) return 2 - x end, { 1, 2 }), { -1, -1 }, 0)
    close(support.grads({ 1, 1 }, function(x) return 2 / x end, { 1, 2 }), { -2, -0.5 }, 1e-6)
  end)

  it("refuse what is no number", function()
    rejects('add: b must be a tensor or a number, not "1"', function() return a + "1" end)
    rejects("add: a must be a tensor or a number, not nil", function() return nil + a end)
    rejects("add: b must be a tensor or a number, not table", function() return a + {} end)
    rejects("add: b is i32, but must be f32\nhint: b:to(\"f32\")",
      function() return a + ids({ 1, 2, 3 }) end)
    rejects("pow: exponent must be a number, not userdata", function() return a ^ a end)
  end)
end)
