-- parts.lua: tensors that are made of others, described before they are computed. A part knows its
-- shape and what it is made of; value() computes it. So one description serves a model in memory
-- and a checkpoint that is written tensor by tensor (blueprint.lua): there, what is just a copy or
-- a mean never passes through here.
--
--   parts.slice(parts.copy(donor, "layers.0.ffn.w1"), 1, 1, 24):value()      -- [24 x dim]
--
-- Random numbers come from streams that are named after what is made, so that they are the same in
-- both, and in any order. Arithmetic is f32.

local core = require("moelua.core")

local parts = {}

-- kind: what is done with `from`, a list of parts; ...: with which parameters.
local function part(kind, from, shape, value, ...)
  return { kind = kind, from = from, shape = shape, value = value, about = { ... } }
end

local function with(shape, dim, size)
  local out = table.move(shape, 1, #shape, 1, {})
  out[dim] = size
  return out
end

local function gather(x, ids) return x:embedding(core.tensor(ids, "i32")) end

-- What f makes of the rows of x, or of its columns.
local function along(x, dim, f)
  if dim == 1 then return f(x) end
  return f(x:transpose():contiguous()):transpose():contiguous()
end

--- A tensor of a donor (donor.lua) as it is; of a stack, number `expert` (from 1).
function parts.copy(donor, name, expert)
  local made = part("copy", {}, donor.shape(name, expert), function()
    return donor.tensor(name, expert)
  end, name, expert)
  made.donor, made.name, made.expert = donor, name, expert
  return made
end

--- A tensor that is new: made by `value` when it is wanted; `about`: what it depends on.
function parts.new(shape, value, about) return part("new", {}, shape, value, about) end

-- The sum of parts first .. last in f32, by halves: then a power of two of equal tensors sums
-- without rounding, and their mean is the tensor itself.
local function sum(list, first, last)
  if first == last then return list[first].value() end
  local middle = (first + last) // 2
  return sum(list, first, middle) + sum(list, middle + 1, last)
end

--- The arithmetic mean of parts of one shape.
function parts.mean(list)
  if #list == 1 then return list[1] end
  return part("mean", list, list[1].shape, function() return sum(list, 1, #list) / #list end)
end

--- `count` rows (dim 1) or columns (dim 2) from number `first` on.
function parts.slice(x, dim, first, count)
  return part("slice", { x }, with(x.shape, dim, count), function()
    return x.value():narrow(dim, first, count):contiguous()
  end, dim, first, count)
end

--- Parts one after the other.
function parts.join(list, dim)
  local size = 0
  for _, x in ipairs(list) do size = size + x.shape[dim] end
  return part("join", list, with(list[1].shape, dim, size), function()
    local values = {}
    for i, x in ipairs(list) do values[i] = x.value() end
    return core.concat(values, dim)
  end, dim)
end

--- Zeros after it, up to `size` rows or columns.
function parts.pad(x, dim, size)
  if x.shape[dim] == size then return x end
  return part("pad", { x }, with(x.shape, dim, size), function()
    return core.concat({ x.value(), core.zeros(with(x.shape, dim, size - x.shape[dim])) }, dim)
  end, dim, size)
end

function parts.scale(x, factor)
  if factor == 1 then return x end
  return part("scale", { x }, x.shape, function() return x.value() * factor end, factor)
end

--- Rows or columns in another order: that of ids.list(), counted from 0; ids.about names it.
function parts.reorder(x, dim, ids)
  return part("reorder", { x }, x.shape, function()
    return along(x.value(), dim, function(rows) return gather(rows, ids.list()) end)
  end, dim, ids.about)
end

-- The rows or columns `ids` of x, as change(those) makes them.
local function changed(x, dim, ids, change)
  return along(x, dim, function(rows)
    local out = rows:clone()
    return out:put_rows_(core.tensor(ids, "i32"), change(gather(rows, ids)))
  end)
end

--- The rows or columns ids.list() drawn anew, from a normal distribution with mean and standard
--- deviation of the numbers that they replace.
function parts.redraw(x, dim, ids, seed, stream)
  return part("redraw", { x }, x.shape, function()
    return changed(x.value(), dim, ids.list(), function(old)
      local mean = old:mean():item()
      local std = math.sqrt(((old - mean) * (old - mean)):mean():item())
      return core.randn(old:size(1), old:size(2), { mean = mean, std = std, seed = seed,
        stream = stream })
    end)
  end, dim, ids.about, seed, stream)
end

--- N(0, std^2) added to the rows or columns ids.list().
function parts.add_noise(x, dim, ids, std, seed, stream)
  return part("noise", { x }, x.shape, function()
    return changed(x.value(), dim, ids.list(), function(old)
      return old + core.randn(old:size(1), old:size(2), { std = std, seed = seed, stream = stream })
    end)
  end, dim, ids.about, std, seed, stream)
end

--- Each number, with this probability, replaced by one from N(0, std^2).
function parts.replace(x, share, std, seed, stream)
  return part("replace", { x }, x.shape, function()
    local old = x.value()
    local drawn = core.randn(x.shape, { std = std, seed = seed, stream = stream })
    local u = core.rand(x.shape, { seed = seed, stream = stream .. ".which" })
    -- 1 where u is below the share, 0 elsewhere.
    local which = ((share - u):relu() * 1e30):tanh()
    return old * (1 - which) + drawn * which
  end, share, std, seed, stream)
end

--- Rows of a part by their numbers, i32, counted from 0; of the table of a vocabulary only these
--- are read.
function parts.rows_of(x, ids)
  if x.kind == "copy" then return x.donor.rows(x.name, ids) end
  if x.kind ~= "mean" then return x.value():embedding(ids) end
  local total
  for _, one in ipairs(x.from) do
    local rows = parts.rows_of(one, ids)
    total = total and total + rows or rows
  end
  return total / #x.from
end

--- Rows of several tables, `list`, in an order of their own: source() is where they lie, see
--- core.checkpoint.read.
function parts.gathered(list, shape, source, about)
  local made = part("gathered", list, shape, function()
    return core.checkpoint.read(source(), "f32")
  end, about)
  made.source = source
  return made
end

--- Where the numbers of a part lie in files; nil for what has to be computed, or is in memory.
function parts.source(x)
  if x.kind == "copy" then return x.donor.source(x.name, x.expert) end
  local stored = x.kind == "gathered"
  parts.each_copy(x, function(copy)
    stored = stored and copy.donor.source(copy.name, copy.expert) ~= nil
  end)
  return stored and x.source() or nil
end

--- What a part is made of, as text: the same for the same numbers from the same donors.
function parts.describe(x)
  local words = {}
  for i, value in ipairs(x.about) do words[i] = tostring(value) end
  for _, one in ipairs(x.from) do words[#words + 1] = parts.describe(one) end
  return ("%s(%s)"):format(x.kind, table.concat(words, " "))
end

--- Calls visit(part) for every copy that a part is made of.
function parts.each_copy(x, visit)
  if x.kind == "copy" then visit(x) end
  for _, one in ipairs(x.from) do parts.each_copy(one, visit) end
end

return parts
