-- Views share storage, and the few functions that write keep to their rules.

local moe = require("moelua")
local close = require("spec.helper").close
local support = require("spec.ops.support")

local rejects, ids = support.rejects, support.ids

describe("views", function()
  it("of narrow, select, transpose and contiguous reshape share storage", function()
    local x = moe.zeros(3, 4)
    local views = { x:narrow(1, 2, 2), x:select(2, 3), x:transpose(), x:reshape(4, 3),
      x:reshape(-1) }
    x:fill_(3)
    for _, view in ipairs(views) do
      close(view, moe.full(3, view:shape()), 0)
    end
    views[1]:fill_(5)
    close(x, { { 3, 3, 3, 3 }, { 5, 5, 5, 5 }, { 5, 5, 5, 5 } }, 0)
    close(views[2], { 3, 5, 5 }, 0)
  end)

  it("of another reshape is a copy", function()
    local x = moe.arange(6):reshape(2, 3)
    local y = x:transpose():reshape(6)
    x:fill_(9)
    close(y, { 0, 3, 1, 4, 2, 5 }, 0)
    local z = moe.arange(12):reshape(3, 4):narrow(2, 2, 2)
    local copied = z:reshape(-1)
    copied:fill_(-1)
    close(z, { { 1, 2 }, { 5, 6 }, { 9, 10 } }, 0)
  end)

  it("a contiguous part of a tensor reshapes without a copy", function()
    local x = moe.zeros(4, 3)
    local y = x:narrow(1, 2, 2):reshape(6)
    y:fill_(1)
    close(x, { { 0, 0, 0 }, { 1, 1, 1 }, { 1, 1, 1 }, { 0, 0, 0 } }, 0)
  end)

  it("outlive the tensor they were made from", function()
    local view = moe.arange(1000):narrow(1, 501, 3)
    collectgarbage()
    collectgarbage()
    moe.zeros(1000):fill_(7)
    close(view, { 500, 501, 502 }, 0)
  end)
end)

describe("writing", function()
  it("fill_ and copy_ return the tensor", function()
    local x = moe.zeros(2)
    assert.equal(x, x:fill_(1))
    assert.equal(x, x:copy_(moe.tensor({ 3, 4 })))
    close(x, { 3, 4 }, 0)
    assert.same({ -5, -5 }, ids({ 1, 2 }):fill_(-5):totable())
  end)

  it("copy_ writes through strides on either side", function()
    local x = moe.zeros(3, 2)
    x:transpose():copy_(moe.arange(6):reshape(2, 3))
    close(x, { { 0, 3 }, { 1, 4 }, { 2, 5 } }, 0)
    local y = moe.zeros(2, 3)
    y:copy_(x:transpose())
    close(y, { { 0, 1, 2 }, { 3, 4, 5 } }, 0)
    local z = moe.zeros(2, 3, 4)
    z:narrow(2, 2, 1):copy_(moe.ones(2, 1, 4))
    close(z:sum(1), { { 0, 0, 0, 0 }, { 2, 2, 2, 2 }, { 0, 0, 0, 0 } }, 0)
    moe.zeros(0, 3):copy_(moe.zeros(0, 3))
    moe.tensor(1):copy_(moe.tensor(2))
  end)

  it("copy_ between overlapping parts of one storage works as if through a copy", function()
    local x = moe.arange(6)
    x:narrow(1, 2, 5):copy_(x:narrow(1, 1, 5))
    close(x, { 0, 0, 1, 2, 3, 4 }, 0)
    x = moe.arange(6)
    x:narrow(1, 1, 5):copy_(x:narrow(1, 2, 5))
    close(x, { 1, 2, 3, 4, 5, 5 }, 0)
    x = moe.arange(9):reshape(3, 3)
    x:copy_(x:transpose())
    close(x, { { 0, 3, 6 }, { 1, 4, 7 }, { 2, 5, 8 } }, 0)
  end)

  it("says what does not fit", function()
    local x = moe.zeros(2, 3)
    rejects("copy_: shapes differ: [2 x 3] and [3 x 2]", x.copy_, x, moe.zeros(3, 2))
    rejects("copy_: shapes differ: [2 x 3] and [6]", x.copy_, x, moe.zeros(6))
    rejects("copy_: element types differ: f32 and i32", x.copy_, x, x:to("i32"))
  end)

  it("fills just the elements of a view", function()
    local x = moe.zeros(2, 3)
    x:narrow(2, 2, 1):fill_(5)
    x:select(1, 1):narrow(1, 3, 1):fill_(-1)
    close(x, { { 0, 5, -1 }, { 0, 5, 0 } }, 0)
    x:transpose():fill_(0)
    close(x, { { 0, 0, 0 }, { 0, 0, 0 } }, 0)
    local numbers = moe.tensor({ { 1, 2 }, { 3, 4 } }, "i32")
    numbers:select(2, 1):fill_(7)
    assert.same({ { 7, 2 }, { 7, 4 } }, numbers:totable())
  end)

  it("to a tensor that requires gradients is an error outside no_grad", function()
    local w = moe.zeros(2, 3):requires_grad()
    local y = w * 2
    local function text(what, shape)
      return what .. ": the tensor " .. shape .. " requires gradients and must not be overwritten\n"
        .. "hint: inside moe.no_grad(function() ... end) it may be"
    end
    rejects(text("fill_", "[2 x 3]"), w.fill_, w, 1)
    rejects(text("copy_", "[2 x 3]"), w.copy_, w, moe.ones(2, 3))
    rejects(text("fill_", "[2 x 3]"), y.fill_, y, 1)
    rejects(text("fill_", "[3]"), w.fill_, w:select(1, 1), 1)
    close(w, moe.zeros(2, 3), 0)
    moe.no_grad(function() w:fill_(4) end)
    close(w, moe.full(4, 2, 3), 0)
    moe.no_grad(function() w:copy_(moe.ones(2, 3)) end)
    close(w, moe.ones(2, 3), 0)
    rejects(text("fill_", "[2 x 3]"), w.fill_, w, 1)
    w:requires_grad(false):fill_(2)
    close(w, moe.full(2, 2, 3), 0)
  end)

  it("a tensor that backward needs makes backward fail", function()
    local function text(shape, op)
      return "backward: the tensor " .. shape .. " that " .. op .. " saved was overwritten since"
    end
    local x, w = moe.ones(3), moe.ones(3):requires_grad()
    local loss = (x * w):sum()
    x:fill_(2)
    rejects(text("[3]", "mul"), loss.backward, loss)
    loss = (w * w):sum()
    moe.no_grad(function() w:fill_(2) end)
    rejects(text("[3]", "mul"), loss.backward, loss)
    loss = w:exp():sum()                       -- through another view of the saved result
    assert.is_true(pcall(loss.backward, loss))
    local y = w:exp()
    loss = y:sum()
    y:detach():narrow(1, 1, 1):fill_(0)
    rejects(text("[3]", "exp"), loss.backward, loss)
    loss = (w + x):sum()                       -- a sum saves nothing
    x:fill_(5)
    loss:backward()
  end)

  it("no op writes its inputs", function()
    local function same(name, ...)
      local before = {}
      for _, x in ipairs(type(...) == "table" and ... or { ... }) do
        if type(x) == "userdata" then
          before[x] = x:bytes()
          if x:dtype() == "f32" then x:requires_grad() end
        end
      end
      moe[name](...):sum():backward()
      for x, bytes in pairs(before) do
        assert.is_true(bytes == x:bytes(), name .. " wrote " .. tostring(x))
      end
    end
    local route = ids({ { 0, 2 }, { 1, 0 }, { 2, 1 } })
    same("add", moe.randn(3, 5), moe.randn(5))
    same("softmax", moe.randn(3, 19))
    same("linear", moe.randn(3, 5), moe.randn(7, 5), moe.randn(7))
    same("matmul", moe.randn(2, 3, 5), moe.randn(2, 5, 4))
    same("rms_norm", moe.randn(3, 19), moe.randn(19))
    same("rope", moe.randn(2, 3, 2, 4), 10000, 1)
    same("swiglu", moe.randn(3, 19), moe.randn(3, 19))
    same("attention", moe.randn(1, 5, 4, 6), moe.randn(1, 9, 2, 6), moe.randn(1, 9, 2, 6))
    same("head_cross_entropy", moe.randn(3, 5), moe.randn(7, 5), ids({ 6, 0, 3 }))
    same("topk_route", moe.randn(3, 5), 2)
    same("expert_choice_route", moe.randn(2, 3, 5), 2)
    same("moe_ffn", moe.randn(3, 5), moe.rand(3, 2), route, moe.randn(3, 4, 5), moe.randn(3, 4, 5),
      moe.randn(3, 5, 4))
    same("routing_shares", moe.rand(3, 3), moe.rand(3, 2), route)
    same("embedding", moe.randn(4, 3), ids({ 0, 3, 3 }))
    same("concat", { moe.randn(2), moe.randn(3) })
  end)
end)
