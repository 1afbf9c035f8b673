-- Layers of a user's own: parameters, buffers, what happens after an update, what an output depends
-- on, and what a model hands to them.
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")
local traits = require("moelua.traits")

-- A layer of one parameter and one buffer that remembers how it was called.
local Probe = nn.layer_class("Probe")
Probe.own, Probe.kept = { "weight" }, { "count" }

function Probe:init(given)
  self.weight = moe.ones(16):requires_grad()
  self.count = moe.zeros(2)
  self.given, self.steps, self.calls = given or traits.none(), 0, {}
end

function Probe:forward(x, how)
  self.calls[#self.calls + 1] = how or false
  return x * self.weight
end

function Probe:after_step() self.steps = self.steps + 1 end
function Probe:traits(train) return train and self.given or traits.none() end

local Pair = nn.layer_class("Pair")
Pair.own, Pair.parts = { "scale", "absent" }, { "first", "none", "second" }

function Pair:init()
  self.scale = moe.ones(1):requires_grad()
  self.first = Probe({ causal = false, coupled = "sequence" })
  self.second = Probe({ causal = true, coupled = "batch" })
end

local function names_of(list)
  local names = {}
  for i, entry in ipairs(list) do names[i] = entry[1] end
  return names
end

describe("a class of layers", function()
  it("lists parameters and buffers apart, its own before those of its parts", function()
    local pair = Pair()
    assert.same({ "scale", "first.weight", "second.weight" }, names_of(pair:parameters()))
    assert.same({ "x.first.count", "x.second.count" }, names_of(pair:buffers("x.")))
    assert.same({ "scale", "first.weight", "second.weight", "first.count", "second.count" },
      names_of(nn.saved(pair)))
    local entry = pair:buffers()[2]
    assert.equal(pair.second, entry[3])
    assert.equal(entry[2], entry[3][entry[4]])
  end)

  it("tells its parts about every update", function()
    local pair = Pair()
    pair:after_step()
    pair:after_step()
    assert.equal(2, pair.first.steps)
    assert.equal(2, pair.second.steps)
  end)

  it("depends on what its parts depend on", function()
    assert.same({ causal = true, coupled = "no" }, Pair():traits())
    assert.same({ causal = false, coupled = "batch" }, Pair():traits(true))
    assert.same({ causal = true, coupled = "no" }, nn.Linear(2, 2):traits(true))
    assert.same({ causal = true, coupled = "sequence" }, traits.join({ traits.none(),
      { causal = true, coupled = "sequence" } }))
  end)

  it("is grouped as all of its parts are", function()
    local function group(...)
      local list = {}
      for i, g in ipairs({ ... }) do
        list[i] = { causal = true, coupled = "batch", group = g or nil }
      end
      return traits.join(list).group
    end
    assert.equal(4, group(4))
    assert.equal(4, group(false, 4, false))
    assert.equal(12, group(4, 6))
    assert.equal("batch", group(4, "batch", 3))
    assert.is_nil(group(false))
  end)

  it("changes its fingerprint with a buffer", function()
    local pair = Pair()
    local before = nn.fingerprint(pair)
    pair.second.count:fill_(1)
    assert.not_equal(before, nn.fingerprint(pair))
  end)
end)

-- A model whose second layer is a probe.
local function probed(more)
  local m = models.tiny(more)
  local probe = Probe({ causal = true, coupled = "batch" })
  m.layers[2].ffn = probe
  return m, probe
end

describe("a model", function()
  local ids = moe.tensor({ { 1, 2, 3 }, { 4, 5, 6 } }, "i32")
  local targets = moe.tensor({ { 2, 0, 4 }, { 5, -1, -1 } }, "i32")

  it("hands how to every layer, with the ids", function()
    local m, probe = probed()
    local how = { train = true, step = 3, stats = false }
    m:forward(ids, how)
    assert.same({ train = true, step = 3, stats = false, ids = ids }, probe.calls[1])
    assert.same({ train = true, step = 3, stats = false }, how)         -- not changed
    m:logits({ 1, 2 })
    assert.same({ { 1, 2 } }, probe.calls[2].ids:totable())
    models.misuse(function() m:forward(ids, 3) end, "forward: how must be a table, not 3")
    models.misuse(function() m:loss(ids, ids, { Train = true }) end,
      "forward: how has no 'Train'\nhint: did you mean 'train'?")
    for _, layer in ipairs({ moe.nn.MoE({ dim = 4, hidden = 3, experts = 2 }),
      moe.nn.MoT({ dim = 4, hidden = 3, experts = 2, group = 1 }) }) do
      models.misuse(function() layer(moe.zeros(1, 2, 4), { lables = true }) end,
        "forward: how has no 'lables'\nhint: did you mean 'labels'?")
    end
  end)

  it("makes a mask of the targets that count", function()
    local m, probe = probed()
    m:loss(ids, ids)
    m:loss(ids, targets)
    m:loss(ids, targets, { mask = "given", train = true })
    assert.is_nil(probe.calls[1].mask)
    assert.same({ { 1, 1, 1 }, { 1, 0, 0 } }, probe.calls[2].mask:totable())
    assert.equal("given", probe.calls[3].mask)
    assert.is_true(probe.calls[3].train)
  end)

  it("says so when a block runs again", function()
    local m, probe = probed({ recompute = true })
    m:loss(ids, targets, { train = true }):backward()
    assert.equal(2, #probe.calls)
    assert.is_nil(probe.calls[1].again)
    assert.is_true(probe.calls[2].again)
    assert.is_false(probe.calls[2].stats)
    assert.is_true(probe.calls[2].train)
    assert.same(probe.calls[1].mask:totable(), probe.calls[2].mask:totable())
  end)

  it("gives each layer its own shares", function()
    for _, recompute in ipairs({ false, true }) do
      local m, probe = probed({ recompute = recompute })
      m:forward(ids, { shares = { false, { u = 1, p = 2 } } })
      m:forward(ids, { shares = { { u = 1, p = 2 } } })
      assert.same({ u = 1, p = 2 }, probe.calls[1].shares)
      assert.is_false(probe.calls[2].shares)
    end
  end)

  it("keeps the tensors of an info when its blocks run again", function()
    local m = models.tiny({ recompute = true })
    local Told = nn.layer_class("Told")
    function Told:init() self.weight = moe.ones(16):requires_grad() end
    function Told:forward(x)
      local y = x * self.weight
      return y, { rest = y:sum(), experts = moe.tensor({ 1, 2 }, "i32"), balance = { tokens = 6,
        segments = 1, options = require("moelua.balance").options({ coef = 0.5 }),
        u = y:mean():reshape(1, 1), p = y:max():reshape(1, 1) } }
    end
    m.layers[1].ffn = Told()
    local _, infos = m:forward(ids)
    assert.same({ 1, 2 }, infos[1].experts:totable())
    local shares = infos[1].balance
    local value = 0.5 * shares.u:item() * shares.p:item() + infos[1].rest:item()
    assert.is_true(math.abs(value - infos[1].loss:item()) < 1e-5)
    local loss, info = m:loss(ids, targets)
    assert.is_true(math.abs(value - info.aux:item()) < 1e-5)
    loss:backward()
    assert.is_not_nil(m.layers[1].ffn.weight:grad())
  end)

  it("adds the loss of a layer of one's own", function()
    local Lossy = nn.layer_class("Lossy")
    function Lossy.init() end
    function Lossy.forward(_, x) return x, { loss = x:mean() * 0 + 3 } end
    for _, recompute in ipairs({ false, true }) do
      local m = models.tiny({ recompute = recompute })
      m.layers[2].ffn = Lossy()
      local loss, info = m:loss(ids, targets)
      assert.equal(3, info.aux:item())
      assert.equal(3, info.layers[2].loss:item())
      assert.is_true(math.abs(loss:item() - info.nll:item() - 3) < 1e-5)
    end
  end)

  it("passes on updates, traits and buffers", function()
    local m, probe = probed()
    m:after_step()
    assert.equal(1, probe.steps)
    assert.same({ causal = true, coupled = "no" }, m:traits())
    assert.same({ causal = true, coupled = "batch" }, m:traits(true))
    assert.same({ "layers.1.ffn.count" }, names_of(m:buffers()))
  end)
end)
