-- Every differentiable op against central differences, in the double build. The arguments come
-- from the op's own record; several sets are separated by " | ".

local moe = require("moelua")

local STEP, TOLERANCE = 1e-5, 1e-6

-- Turns one sample into a list of arguments, and the set of those that are no variables.
local function arguments(sample, seed)
  local draws, constant = 0, {}
  local function draw(make, ...)
    draws = draws + 1
    local shape = { ... }
    shape[#shape + 1] = { seed = seed, stream = "sample" .. draws }
    return make(table.unpack(shape))
  end
  local env = {
    randn = function(...) return draw(moe.randn, ...) end,
    rand = function(low, high, ...) return draw(moe.rand, ...) * (high - low) + low end,
    ids = function(list) return moe.tensor(list, "i32") end,
    mask = function(list)
      local mask = moe.tensor(list)
      constant[mask] = true
      return mask
    end,
  }
  return table.pack(assert(load("return " .. sample, "=sample", "t", env))()), constant
end

local function leaves(args, constant)
  local list = {}
  local function visit(value)
    if type(value) == "userdata" and value:dtype() == "f32" and not constant[value] then
      list[#list + 1] = value
    end
    if type(value) == "table" then
      for _, v in ipairs(value) do visit(v) end
    end
  end
  for i = 1, args.n do visit(args[i]) end
  return list
end

-- A fixed weighting of all f32 outputs: a plain sum would hide errors that cancel.
local function objective(name, args)
  local results, total = table.pack(moe[name](table.unpack(args, 1, args.n))), nil
  for i = 1, results.n do
    local y = results[i]
    if y:dtype() == "f32" then
      local shape = y:shape()
      shape[#shape + 1] = { seed = 7, stream = "weights" .. i }
      local term = (y * (#shape == 1 and moe.full(0.7) or moe.randn(table.unpack(shape)))):sum()
      total = total and total + term or term
    end
  end
  return total
end

-- The element of a flat leaf, set without the tape.
local function nudged(leaf, i, delta, f)
  local flat = leaf:detach():reshape(-1):narrow(1, i, 1)
  local before = flat:item()
  flat:fill_(before + delta)
  local value = moe.no_grad(f):item()
  flat:fill_(before)
  return value
end

local function check(name, sample)
  local args, constant = arguments(sample, 11)
  local list = leaves(args, constant)
  for _, leaf in ipairs(list) do leaf:requires_grad() end
  objective(name, args):backward()
  local function f() return objective(name, args) end
  local checked = 0
  for number, leaf in ipairs(list) do
    local grad = leaf:grad()
    assert.is_not_nil(grad, name .. ": no gradient for input " .. number)
    grad = grad:reshape(-1):totable()
    for i = 1, leaf:count(), math.max(1, leaf:count() // 40) do
      local numeric = (nudged(leaf, i, STEP, f) - nudged(leaf, i, -STEP, f)) / (2 * STEP)
      local error = math.abs(numeric - grad[i]) / math.max(1, math.abs(numeric))
      assert.is_true(error < TOLERANCE, ("%s(%s): input %d, element %d: %.9g, numerically %.9g")
        :format(name, sample, number, i, grad[i], numeric))
      checked = checked + 1
    end
  end
  assert.is_true(checked > 0, name .. ": nothing was checked")
end

describe("gradients", function()
  it("run in the double build", function() assert.is_true(moe.double) end)
  local names = {}
  for name in pairs(moe.ops) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local op = moe.ops[name]
    if op.differentiable then
      it("of " .. name, function()
        assert.is_string(op.sample, name .. " has no sample")
        for sample in (op.sample .. " | "):gmatch("(.-) | ") do check(name, sample) end
      end)
    end
  end
end)
