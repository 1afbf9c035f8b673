-- The optimizer's state: parameters, moments, and the buffers that layers change themselves.
local models = require("spec.models")
local moe = require("moelua")
local nn = require("moelua.nn")

-- y = w x; counts its updates, and halves a number with each.
local Counting = nn.layer_class("Counting")
Counting.own, Counting.kept = { "w" }, { "updates", "half" }

function Counting:init()
  self.w = moe.ones(1, 3):requires_grad()
  self.updates, self.half = moe.tensor({ 0 }, "i32"), moe.ones(2)
end

function Counting:forward(x) return x:linear(self.w) end

function Counting:after_step()
  moe.no_grad(function()
    self.updates:copy_(moe.tensor({ self.updates:item() + 1 }, "i32"))
    self.half:copy_(self.half * 0.5)
  end)
end

local Pair = nn.layer_class("Pair")
Pair.parts = { "first", "second" }
function Pair:init() self.first, self.second = Counting(), Counting() end

local function train(layer, optimizer, steps)
  for _ = 1, steps do
    (layer.first(moe.ones(2, 3)) + layer.second(moe.ones(2, 3)) * 2):sum():backward()
    optimizer:step()
  end
end

describe("the optimizer", function()
  it("tells every layer of each update", function()
    local layer = Pair()
    local optimizer = moe.optimizer(layer)
    train(layer, optimizer, 3)
    assert.equal(3, layer.first.updates:item())
    assert.same({ 0.125, 0.125 }, layer.second.half:totable())
    assert.is_nil(layer.first.half:grad())
  end)

  it("has parameters, moments and buffers as its state", function()
    local names = {}
    for name in pairs(moe.optimizer(Pair()):state()) do names[#names + 1] = name end
    table.sort(names)
    assert.same({ "b.first.half", "b.first.updates", "b.second.half", "b.second.updates",
      "m.first.w", "m.second.w", "v.first.w", "v.second.w", "w.first.w", "w.second.w" }, names)
  end)

  it("goes on from its state bit by bit", function()
    local straight, again = Pair(), Pair()
    local optimizer = moe.optimizer(straight)
    train(straight, optimizer, 2)
    local state = {}
    for name, tensor in pairs(optimizer:state()) do state[name] = tensor:clone() end
    train(straight, optimizer, 3)
    local other = moe.optimizer(again)
    other:restore(function(name) return state[name] end, 2)
    train(again, other, 3)
    models.same(straight, again)
    assert.equal(5, again.second.updates:item())
    assert.same(straight.first.half:bytes(), again.first.half:bytes())
  end)
end)
