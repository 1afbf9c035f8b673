-- The layer of mixtures of tokens and its options; what is computed is in the spec of the op.
local models = require("spec.models")
local helper = require("spec.helper")
local moe = require("moelua")
local mot = require("moelua.mixture_of_tokens")
local nn = moe.nn
local close, misuse = helper.close, models.misuse

local function options(more)
  local given = { hidden = 6, experts = 4, group = 3 }
  for k, v in pairs(more or {}) do given[k] = v end
  return given
end
local function layer(more)
  local given = options(more)
  given.dim, given.std, given.seed = 5, 0.7, 1
  return nn.MoT(given)
end

describe("nn.MoT", function()
  local x = moe.randn(6, 4, 5, { seed = 2 })

  it("mixes with its controller and experts", function()
    for _, activation in ipairs({ "relu", "swiglu" }) do
      local l = layer({ activation = activation, temperature = 0.5 })
      local y, info = l(x)
      close(y, moe.mixture_of_tokens(x, l.controller, l.experts.w1, l.experts.w3, l.experts.w2, 0.5,
        3, activation), 0)
      assert.is_nil(info.loss)
      assert.is_nil(info.load)
    end
  end)

  it("has parameters by the names of checkpoints", function()
    local function names(more)
      local list = {}
      for i, entry in ipairs(layer(more):parameters("ffn.")) do
        list[i] = entry[1] .. " " .. table.concat(entry[2]:shape(), " x ")
      end
      return list
    end
    local bank = { "ffn.experts.w1 4 x 6 x 5", "ffn.experts.w2 4 x 5 x 6" }
    assert.same({ "ffn.controller 4 x 5", table.unpack(bank) }, names())
    assert.same({ "ffn.controller 4 x 5", "ffn.temperature 1", table.unpack(bank) },
      names({ temperature = "learned" }))
    assert.same(bank, names({ uniform = true }))
    assert.same({ "ffn.controller 4 x 5", bank[1], "ffn.experts.w3 4 x 6 x 5", bank[2] },
      names({ activation = "swiglu" }))
  end)

  it("tells the entropy of its weights", function()
    local _, info = layer({ uniform = true })(x)
    assert.near(math.log(3), info.entropy, 1e-6)
    _, info = layer({ temperature = 1e6 })(x)
    assert.near(math.log(3), info.entropy, 1e-4)
    _, info = layer({ temperature = 1e-6 })(x)
    assert.near(0, info.entropy, 1e-3)
    local l, total = layer(), 0
    _, info = l(x)
    local logits = x:linear(l.controller):totable()
    for b = 1, 4, 3 do
      for s = 1, 4 do
        for e = 1, 4 do
          local sum = 0
          for i = 0, 2 do sum = sum + math.exp(logits[b + i][s][e]) end
          for i = 0, 2 do
            local w = math.exp(logits[b + i][s][e]) / sum
            total = total - w * math.log(w)
          end
        end
      end
    end
    assert.near(total / (2 * 4 * 4), info.entropy, 1e-5)
    assert.is_nil(select(2, l(x, { stats = false })).entropy)
  end)

  it("learns its temperature when told to", function()
    local l = layer({ temperature = { learned = true, start = 0.8 } })
    local y = l(x);
    (y * y):sum():backward()
    close(l.temperature, { 0.8 }, 1e-7)
    assert.is_true(math.abs(l.temperature:grad():item()) > 1e-3)
    assert.is_nil(layer({ temperature = { learned = false, start = 0.8 } }).temperature)
  end)

  it("follows the schedule of its temperature by the step", function()
    local l = layer({ temperature = { from = 2, to = 0.5, steps = 4 } })
    local function at(step) return l:temperature_at({ step = step }) end
    assert.same({ 2, 1.5, 1, 0.5, 0.5 }, { at(1), at(2), at(3), at(4), at(99) })
    assert.equal(0.5, l:temperature_at())
    close(l(x, { step = 2 }), layer({ temperature = 1.5 })(x), 1e-6)
    assert.equal(0.5, layer({ temperature = { from = 2, to = 0.5, steps = 1 } }):temperature_at(
      { step = 1 }))
  end)

  it("tells that it couples sequences, unless groups are of one", function()
    assert.same({ causal = true, coupled = "batch", group = 3 }, layer():traits())
    assert.same({ causal = true, coupled = "no" }, layer({ group = 1 }):traits())
  end)

  it("refuses what is no batch of whole groups", function()
    local hint = "\nhint: for generation and single sequences moe.transition makes a mixture of " ..
      "experts of it"
    misuse(function() layer()(moe.ones(6, 5)) end,
      "nn.MoT: x must be [B x S x 5], not [6 x 5]" .. hint)
    misuse(function() layer()(moe.ones(4, 2, 5)) end, "nn.MoT: 4 sequences are no whole number " ..
      "of groups of 3: x is [4 x 2 x 5]" .. hint)
    misuse(function() layer()(moe.ones(3, 2, 6)) end,
      "nn.MoT: the last dimension of x must be dim = 5: x is [3 x 2 x 6]")
  end)
end)

describe("the options of a mixture of tokens", function()
  local function complete(more) return mot.options("f", options(more)) end

  it("are complete, and stay as they are", function()
    local plain = { hidden = 6, experts = 4, group = 3, activation = "relu", temperature = 1,
      emit = "same" }
    assert.same(plain, complete())
    for _, more in ipairs({ {}, { temperature = "learned" }, { uniform = true },
      { temperature = { from = 2, to = 1, steps = 9 } }, { flop_matched = true, experts = 9 } }) do
      local once = complete(more)
      assert.same(once, mot.options("f", once))
    end
    assert.same({ learned = true, start = 1 }, complete({ temperature = "learned" }).temperature)
    assert.equal(2, complete({ temperature = { learned = false, start = 2 } }).temperature)
  end)

  it("match the FLOPs of a dense layer exactly", function()
    for _, case in ipairs({ { 512, 32, 32, 512 }, { 1024, 512, 32, 64 }, { 6, 9, 3, 2 } }) do
      local dense, experts, group, width = table.unpack(case)
      assert.equal(width, mot.flop_matched(dense, experts, group))
      local opts = mot.options("f", { hidden = dense, experts = experts, group = group,
        flop_matched = true })
      assert.equal(width, opts.hidden)
      local mixing = 3 * experts * 10
      assert.equal(2 * 10 * dense, mot.size(opts, 10).macs - mixing)
    end
    misuse(function() mot.flop_matched(5, 4, 3) end, "nn.MoT: flop_matched: 3 x 5 hidden " ..
      "columns cannot be shared out evenly among 4 experts\n" ..
      "hint: 3 experts of 5, one for each of the group")
  end)

  it("say how large a layer is, and what a token takes (7)", function()
    local function size(more) return mot.size(complete(more), 10) end
    local controller, bank = 4 * 10, 4 * 2 * 10 * 6
    assert.same({ parameters = controller + bank, active = controller + bank / 3,
      macs = bank / 3 + 3 * 4 * 10 }, size())
    assert.same({ parameters = bank, active = bank / 3, macs = bank / 3 + 2 * 4 * 10 },
      size({ uniform = true }))
    assert.equal(size().parameters + 1, size({ temperature = "learned" }).parameters)
    assert.equal(controller + bank * 3 / 2, size({ activation = "swiglu" }).parameters)
    -- Mixing costs, of the FFN: d 512, E 32; d 512, E 256; d 256, E 512 (published sizes).
    for _, case in ipairs({ { 512, 32, 2048, 2.3 }, { 512, 256, 2048, 18.8 },
      { 256, 512, 1024, 75 } }) do
      local d, E, dense, percent = table.unpack(case)
      local opts = mot.options("f", { hidden = dense, experts = E, group = 32,
        flop_matched = true })
      local ffn = 2 * d * dense
      assert.near(percent, 100 * (mot.size(opts, d).macs - ffn) / ffn, 0.05)
    end
    local l = layer({ activation = "swiglu", temperature = "learned" })
    local count = 0
    for _, tensor in ipairs(nn.tensors(l)) do count = count + tensor:count() end
    assert.equal(count, mot.size(complete({ activation = "swiglu", temperature = "learned" }),
      5).parameters)
  end)

  it("are checked", function()
    misuse(function() complete({ temperature = 0 }) end, "f: temperature must be above 0, not 0")
    misuse(function() complete({ temperature = "warm" }) end,
      "f: temperature is 'warm': unknown\nhint: a number, \"learned\", " ..
      "{ learned = true, start = 1 } or { from = 2, to = 0.5, steps = 1000 }")
    misuse(function() complete({ temperature = { from = 1, to = -1, steps = 3 } }) end,
      "f: temperature: to must be above 0, not -1")
    misuse(function() complete({ temperature = { from = 1, to = 2, steps = 0 } }) end,
      "f: temperature: steps must be at least 1, not 0")
    misuse(function() complete({ uniform = true, temperature = "learned" }) end,
      "f: a uniform mixture has no temperature")
    misuse(function() complete({ group = 0 }) end, "f: group must be at least 1, not 0")
    misuse(function() complete({ emit = "own" }) end,
      "f: option 'emit' is 'own': unknown\nhint: known are same")
  end)
end)

describe("a model with mixtures of tokens", function()
  local function model(more)
    return models.tiny({ ffn = { { kind = "dense" }, options(more) and
      options({ kind = "mot", group = 4, temperature = more and more.temperature or 1 }) } })
  end
  local ids = (moe.rand(8, 12, { seed = 4 }) * 256):to("i32")

  it("can be saved and loaded", function()
    local m = model({ temperature = "learned" })
    local folder = helper.tmpdir() .. "/model"
    assert(m:save(folder))
    local other = assert(moe.load(folder))
    assert.equal(nn.fingerprint(m), nn.fingerprint(other))
    assert.same(m.config.ffn, other.config.ffn)
    close((other:loss(ids, ids)), m:loss(ids, ids):item(), 0)
  end)

  it("sees nothing that comes later, and no other group", function()
    local m = model()
    local function logits(changed)
      local rows = ids:totable()
      if changed then rows[2][7] = 3 end
      return m:forward(moe.tensor(rows, "i32"))
    end
    local a, b = logits(false), logits(true)
    for sequence = 1, 8 do
      local function part(t, from, n)
        return t:select(1, sequence):narrow(1, from, n):contiguous():bytes()
      end
      assert.equal(part(a, 1, 6), part(b, 1, 6))
      assert.equal(sequence > 4, part(a, 7, 6) == part(b, 7, 6))
    end
  end)

  it("has the same mean loss however examples are assigned to groups", function()
    local m, corpus = model(), models.corpus("prose", nil, 40)
    local x, y = corpus:batch({ split = "train", batch = 32, context = 12, seed = 1,
      stream = "groups", draw = 0 })
    local function reordered(t, order)
      return t:to("f32"):gather_rows(order):to("i32")
    end
    local function loss(order) return m:loss(reordered(x, order), reordered(y, order)):item() end
    local order, losses = {}, {}
    for i = 1, 32 do order[i] = i - 1 end
    for round = 1, 6 do
      for i = 32, 2, -1 do                        -- Fisher-Yates by fixed numbers
        local j = (i * 7919 * round + 104729) % i + 1
        order[i], order[j] = order[j], order[i]
      end
      losses[round] = loss(moe.tensor(order, "i32"))
    end
    for _, value in ipairs(losses) do assert.near(losses[1], value, 0.02) end
  end)
end)
