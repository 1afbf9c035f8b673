-- Products with bf16 operands: close to those in f32 and yet not those, in the places that are
-- meant, and training in them goes on bit for bit.

local models = require("spec.models")
local moe = require("moelua")
local run = require("moelua.run")
local precision = require("moelua.precision")

local prose, code = models.corpus("prose"), models.corpus("code")

-- Off by how much, relative to the norm of `want`.
local function distance(got, want)
  local difference = got - want
  return math.sqrt((difference * difference):sum():item() / (want * want):sum():item())
end

-- Result and gradients of f(inputs) for a fixed gradient of the result.
local function differentiate(name, f, ...)
  return precision(name, function(...)
    local inputs = { ... }
    for i, x in ipairs(inputs) do
      inputs[i] = x:dtype() == "f32" and x:clone():requires_grad() or x
    end
    local y = f(table.unpack(inputs))
    local list = { y:detach() };
    (y * moe.randn(y:shape(), { seed = 9 })):sum():backward()
    for _, x in ipairs(inputs) do list[#list + 1] = x:dtype() == "f32" and x:grad() or nil end
    return list
  end, ...)
end

describe("moe.precision", function()
  it("tells what it is and what it was", function()
    assert.equal("f32", moe.precision())
    assert.equal("f32", moe.precision("bf16"))
    assert.equal("bf16", moe.precision())
    assert.equal("bf16", moe.precision("f32"))
    models.misuse(function() moe.precision("f16") end,
      "precision: 'f16' is unknown\nhint: known are f32, bf16")
    assert.equal("f32", moe.precision())
  end)

  it("rounds the operands of products, and no more than that", function()
    local targets = {}
    for i = 1, 70 do targets[i] = i % 7 == 0 and -1 or i * 13 % 300 end
    local ids = moe.tensor(targets, "i32")
    local x, w = moe.randn(70, 45, { seed = 1 }), moe.randn(300, 45, { seed = 2 })
    local b = moe.randn(45, 33, { seed = 3 })
    for name, case in pairs({
      linear = { moe.linear, x, w, moe.randn(300, { seed = 4 }) },
      matmul = { moe.matmul, x, b },
      ["matmul of a batch"] = { moe.matmul, x:reshape(2, 35, 45):contiguous(),
        moe.randn(2, 45, 33, { seed = 5 }) },
      head_cross_entropy = { function(a, c) return moe.head_cross_entropy(a, c, ids) end, x, w },
    }) do
      local want, got = differentiate("f32", table.unpack(case)),
        differentiate("bf16", table.unpack(case))
      for i, tensor in ipairs(want) do
        local off, is_bias = distance(got[i], tensor), name == "linear" and i == 4
        assert(off < 0.01 and (off > 0 or is_bias), ("%s, %d: off by %g"):format(name, i, off))
      end
      assert.same(got[1]:totable(), differentiate("bf16", table.unpack(case))[1]:totable())
    end
  end)

  it("leaves a product alone that asks for f32, and so all routing", function()
    local x, w = moe.randn(70, 45, { seed = 1 }), moe.randn(8, 45, { seed = 2 })
    local function logits(a, b) return a:linear(b, nil, "f32") end
    local want, got = differentiate("f32", logits, x, w), differentiate("bf16", logits, x, w)
    for i, tensor in ipairs(want) do assert.equal(tensor:hash(), got[i]:hash()) end
    local router = moe.nn.MoE({ dim = 45, hidden = 16, experts = 8, router = { k = 3 } }).router
    local gates, experts = router:route(x)
    local others, chosen = precision("bf16", router.route, router, x)
    assert.equal(gates:hash(), others:hash())
    assert.equal(experts:hash(), chosen:hash())
  end)

  it("is part of what is computed again", function()
    local x, w = moe.randn(40, 32, { seed = 1 }), moe.randn(64, 32, { seed = 2 })
    local function gradient(wrap)
      local leaf = w:clone():requires_grad()
      local loss = precision("bf16", function()
        return wrap(function(a) return a:linear(leaf):silu() end, x):sum()
      end)
      loss:backward()
      return leaf:grad():hash()
    end
    assert.equal(gradient(function(f, ...) return f(...) end), gradient(moe.recompute))
  end)
end)

describe("training in bf16", function()
  local function new_model()
    return models.tiny({ dim = 32, hidden = 48, ffn = { {}, models.mixture({ hidden = 48 }) } })
  end
  local function options(more)
    return models.training({ code = code, prose = prose }, more)
  end

  it("ends where f32 does, within 1 %, with other bits", function()
    local last, bits = {}, {}
    for _, name in ipairs({ "f32", "bf16" }) do
      local model = new_model()
      local result = moe.train(model, options({ steps = 60, batch = 8, log_every = 20,
        precision = name }))
      last[name] = result.curve[#result.curve][2]
      bits[name] = models.bits(model)
    end
    assert(math.abs(last.bf16 / last.f32 - 1) < 0.01, ("%g, f32 %g"):format(last.bf16, last.f32))
    assert.not_same(bits.f32, bits.bf16)
    local start = moe.evaluate(new_model(), { code = code, prose = prose }).mean
    assert.is_true(last.bf16 < 0.9 * start)
  end)

  it("puts the precision back, also when it fails", function()
    moe.train(new_model(), options({ steps = 1, precision = "bf16" }))
    assert.equal("f32", moe.precision())
    local broken = models.watched(prose, function() error("the power is gone", 0) end)
    assert.is_false(pcall(moe.train, new_model(),
      models.training(broken, { steps = 2, precision = "bf16" })))
    assert.equal("f32", moe.precision())
    models.misuse(function() moe.train(new_model(), options({ precision = "bf61" })) end,
      "moe.train: option 'precision' is 'bf61': unknown\nhint: did you mean 'bf16'?")
  end)

  it("goes on where it stopped, bit for bit, and in no other precision", function()
    local function request(folder, first)
      return models.training({ code = first or code, prose = prose }, { steps = 9, batch = 3,
        out = folder, save_every = 2, log_every = 2, precision = "bf16" })
    end
    local whole, straight = models.run_folder(), new_model()
    moe.train(straight, request(whole))
    assert.equal("bf16", run.read(whole .. "/config.json").precision)
    local folder = models.run_folder()
    local broken = models.watched(code, function(n)
      if n == 6 then error("the power is gone", 0) end
    end)
    assert.is_false(pcall(moe.train, new_model(), request(folder, broken)))
    local again, other = new_model(), request(folder)
    other.precision = "f32"
    local ok, message = pcall(moe.train, again, other)
    assert.is_false(ok)
    assert.matches("precision", tostring(message.message or message), 1, true)
    moe.train(again, request(folder))
    models.same(straight, again)
  end)

  it("is what a branch does when its parent computes in it", function()
    local out = models.run_folder()
    precision("bf16", moe.branch, models.tiny(), { code = code },
      { out = out, steps = 2, batch = 2, quiet = true })
    assert.equal("bf16", run.read(out .. "/code/config.json").precision)
    assert.equal("f32", moe.precision())
  end)
end)
