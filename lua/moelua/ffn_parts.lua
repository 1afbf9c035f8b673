-- ffn_parts.lua: feed-forward layers as parts (parts.lua): cut, joined, padded, scaled, varied.
--
-- A layer is W2 (silu(W1 x) * W3 x), or W2 a(W1 x) without W3: a hidden unit is a row of W1 and W3
-- and a column of W2, and these always go together. Whatever order the units have, the function is
-- the same; a unit of zeros adds nothing; the layer is the sum of the layers that it is cut into.
-- Only W2 is scaled: the function is linear in it, whatever the activation.

local core = require("moelua.core")
local parts = require("moelua.parts")

local ffn_parts = {}

-- Along which dimension of each matrix the hidden units lie.
local UNITS = { w1 = 1, w3 = 1, w2 = 2 }

-- A layer whose matrices are make(matrix, its dimension of units, its name).
local function each(f, make)
  local out = {}
  for name, dim in pairs(UNITS) do
    if f[name] then out[name] = make(f[name], dim, name) end
  end
  return out
end

--- Refuses a model whose layers have more than matrices.
function ffn_parts.check(where, config)
  if not config.mlp_bias then return end
  core.raise("%s: feed-forward layers with biases cannot become experts", where)
end

--- Layer `number` (from 1) of a donor, or its expert of that number.
function ffn_parts.of(donor, number, expert)
  local out = {}
  for name in pairs(UNITS) do
    local full = ("layers.%d.ffn.%s%s"):format(number - 1, expert and "experts." or "", name)
    if donor.has(full) then out[name] = parts.copy(donor, full, expert) end
  end
  return out
end

--- How many hidden units.
function ffn_parts.width(f) return f.w1.shape[1] end

--- Number n of `count` equal pieces; they sum to the layer.
function ffn_parts.chunk(f, n, count)
  local size = ffn_parts.width(f) // count
  return each(f, function(x, dim) return parts.slice(x, dim, (n - 1) * size + 1, size) end)
end

--- The sum of layers as one.
function ffn_parts.join(list)
  return each(list[1], function(_, dim, name)
    local column = {}
    for i, f in ipairs(list) do column[i] = f[name] end
    return parts.join(column, dim)
  end)
end

--- The same function with `size` hidden units, by units of zeros.
function ffn_parts.pad(f, size)
  return each(f, function(x, dim) return parts.pad(x, dim, size) end)
end

--- The function times a number.
function ffn_parts.scale(f, factor)
  return { w1 = f.w1, w3 = f.w3, w2 = parts.scale(f.w2, factor) }
end

--- The arithmetic mean of every weight.
function ffn_parts.mean(list)
  return each(list[1], function(_, _, name)
    local column = {}
    for i, f in ipairs(list) do column[i] = f[name] end
    return parts.mean(column)
  end)
end

-- All numbers below `count` in a random order.
local function draw_order(count, seed, stream)
  local keys, order = core.rand(count, { seed = seed, stream = stream }):totable(), {}
  for i = 1, count do order[i] = i - 1 end
  table.sort(order, function(a, b)
    local x, y = keys[a + 1], keys[b + 1]
    return x < y or x == y and a < b
  end)
  return order
end

-- The matrices of an expert ask for the same order, one after the other.
local latest = {}

local function shuffled(count, seed, stream)
  local about = ("%d %d %s"):format(count, seed, stream)
  return { about = about, list = function()
    if latest.about ~= about then
      latest = { about = about, order = draw_order(count, seed, stream) }
    end
    return latest.order
  end }
end

--- The same function with its units in a random order.
function ffn_parts.permute(f, seed, stream)
  local order = shuffled(ffn_parts.width(f), seed, stream .. ".order")
  return each(f, function(x, dim) return parts.reorder(x, dim, order) end)
end

--- A share of the hidden units, the same in all matrices.
local function some_units(f, share, seed, stream)
  local width = ffn_parts.width(f)
  local count = math.floor(share * width + 0.5)
  local order = shuffled(width, seed, stream .. ".units")
  return count, { about = ("%d of %s"):format(count, order.about), list = function()
    return table.move(order.list(), 1, count, 1, {})
  end }
end

--- Drop-Upcycling (Nakamura et al. 2025): a share of the hidden units drawn anew, each matrix from
--- the mean and deviation of what is replaced in it.
function ffn_parts.redraw(f, share, seed, stream)
  local count, units = some_units(f, share, seed, stream)
  if count == 0 then return f end
  return each(f, function(x, dim, name)
    return parts.redraw(x, dim, units, seed, stream .. "." .. name)
  end)
end

--- N(0, std^2) added to a share of the hidden units.
function ffn_parts.add_noise(f, share, std, seed, stream)
  local count, units = some_units(f, share, seed, stream)
  if count == 0 then return f end
  return each(f, function(x, dim, name)
    return parts.add_noise(x, dim, units, std, seed, stream .. "." .. name)
  end)
end

--- A share of all weights replaced by N(0, std^2) (OLMoE, Muennighoff et al. 2024).
function ffn_parts.replace(f, share, std, seed, stream)
  return each(f, function(x, _, name)
    return parts.replace(x, share, std, seed, stream .. "." .. name)
  end)
end

return ffn_parts
