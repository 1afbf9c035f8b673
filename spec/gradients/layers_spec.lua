-- Every kind of layer against central differences: by its input and by all its parameters, through
-- gates and losses, in training and in evaluation. Which experts are selected is no function with a
-- derivative: where a step changes that, nothing is compared.
local core = require("moelua.core")
local kinds = require("spec.layer_kinds")
local moe = require("moelua")

local STEP, TOLERANCE = 1e-6, 1e-6
local EACH = 12         -- elements of a tensor that are tried

-- A weighting of the outputs and the losses, and the experts that were selected.
local function objective(layer, given)
  local y, info = layer(given.x, given.how)
  local shape = y:shape()
  shape[#shape + 1] = { seed = 9, stream = "weights" }
  local total = (y * moe.randn(table.unpack(shape))):sum()
  if info and info.loss then total = total + info.loss end
  return total, info and info.experts and info.experts:bytes()
end

-- The value with element i moved, and whether the same experts were selected.
local function moved(leaf, i, delta, layer, given, selected)
  local element = leaf:detach():reshape(-1):narrow(1, i, 1)
  local before = element:item()
  element:fill_(before + delta)
  local value, experts = core.no_grad(function() return objective(layer, given) end)
  element:fill_(before)
  return value:item(), experts == selected
end

local function check_leaf(name, leaf, layer, given, selected)
  local grad = leaf:grad()
  if not grad then return 0, 0 end
  grad = grad:reshape(-1):totable()
  local tried, compared = 0, 0
  for i = 1, #grad, math.max(1, #grad // EACH) do
    local up, same = moved(leaf, i, STEP, layer, given, selected)
    local down, too = moved(leaf, i, -STEP, layer, given, selected)
    tried = tried + 1
    if same and too then
      compared = compared + 1
      local numeric = (up - down) / (2 * STEP)
      assert.is_true(math.abs(numeric - grad[i]) < TOLERANCE * math.max(1, math.abs(numeric)),
        ("%s, element %d: %.9g, numerically %.9g"):format(name, i, grad[i], numeric))
    end
  end
  return tried, compared
end

local function check(case, train)
  local layer, given = kinds.layer(case), kinds.input("x", kinds.sequences, train)
  given.x:requires_grad()
  local total, selected = objective(layer, given)
  total:backward()
  local tried, compared = check_leaf("x", given.x, layer, given, selected)
  for _, entry in ipairs(layer:parameters()) do
    local t, c = check_leaf(entry[1], entry[2], layer, given, selected)
    tried, compared = tried + t, compared + c
  end
  assert.is_true(tried > 0 and compared > 0.9 * tried, compared .. " of " .. tried)
end

describe("gradients of layers", function()
  it("run in the double build", function() assert.is_true(moe.double) end)
  for _, case in ipairs(kinds.cases) do
    it("in training: " .. case.name, function() check(case, true) end)
    it("in evaluation: " .. case.name, function() check(case, false) end)
  end
end)
