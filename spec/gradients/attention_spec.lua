-- Attention and dense layers with everything that families of models add to them, against central
-- differences: by their input and by all their parameters.
local core = require("moelua.core")
local moe = require("moelua")

local STEP, TOLERANCE = 1e-5, 1e-6
local EACH = 9          -- elements of a tensor that are tried

local function numbers(name, shape)
  local given = table.move(shape, 1, #shape, 1, {})
  given[#given + 1] = { seed = 5, stream = name }
  return moe.randn(table.unpack(given))
end

-- Every parameter gets numbers of its own, norms such that are far from 1.
local function filled(layer)
  core.no_grad(function()
    for _, entry in ipairs(layer:parameters()) do
      entry[2]:copy_(numbers(entry[1], entry[2]:shape()) * 0.7 + 0.2)
    end
  end)
  return layer
end

local function objective(layer, x)
  local y = layer(x)
  return (y * numbers("weights", y:shape())):sum()
end

local function moved(leaf, i, delta, layer, x)
  local element = leaf:detach():reshape(-1):narrow(1, i, 1)
  local before = element:item()
  element:fill_(before + delta)
  local value = core.no_grad(function() return objective(layer, x):item() end)
  element:fill_(before)
  return value
end

local function check_leaf(name, leaf, layer, x)
  local grad = leaf:grad():reshape(-1):totable()
  for i = 1, #grad, math.max(1, #grad // EACH) do
    local numeric = (moved(leaf, i, STEP, layer, x) - moved(leaf, i, -STEP, layer, x)) / (2 * STEP)
    assert.is_true(math.abs(numeric - grad[i]) < TOLERANCE * math.max(1, math.abs(numeric)),
      ("%s, element %d: %.9g, numerically %.9g"):format(name, i, grad[i], numeric))
  end
end

local function check(layer)
  local x = (numbers("x", { 2, 5, 8 })):requires_grad()
  objective(filled(layer), x):backward()
  check_leaf("x", x, layer, x)
  for _, entry in ipairs(layer:parameters()) do check_leaf(entry[1], entry[2], layer, x) end
end

local attention = {
  plain = {},
  ["biases of all projections"] = { bias = "all" },
  ["biases of q, k and v"] = { bias = "qkv" },
  ["norms of heads"] = { qk_norm = "head" },
  ["norms of whole vectors, clipped"] = { qk_norm = "whole", clip_qkv = 1.1, bias = "qkv" },
  ["yarn"] = { rope_scaling = { rope_type = "yarn", factor = 4,
    original_max_position_embeddings = 4 } },
  ["llama3"] = { rope_scaling = { rope_type = "llama3", factor = 4, low_freq_factor = 1,
    high_freq_factor = 4, original_max_position_embeddings = 16 } },
  ["dynamic"] = { rope_scaling = { rope_type = "dynamic", factor = 4,
    original_max_position_embeddings = 3 } },
}

describe("gradients of attention", function()
  it("run in the double build", function() assert.is_true(moe.double) end)
  for name, more in pairs(attention) do
    it(name, function()
      local opts = { dim = 8, heads = 4, kv_heads = 2, head_dim = 6, seed = 1, std = 0.1 }
      for k, v in pairs(more) do opts[k] = v end
      check(moe.nn.Attention(opts))
    end)
  end
end)

describe("gradients of dense layers with biases", function()
  for _, activation in ipairs({ "swiglu", "gelu" }) do
    it(activation, function()
      check(moe.nn.FeedForward({ dim = 8, hidden = 12, activation = activation, bias = true }))
    end)
  end
end)
