-- routing.lua: how evenly the mixture layers use their experts, and how well the choice of an
-- expert tells the domains apart.
--
-- A count here is a used slot: a token that an expert has computed. Dropped slots, and those that a
-- router leaves empty, are none. Sums hold plain numbers: { counts, entropy, dropped, weight } for
-- each mixture layer, false for a layer that has no figures.

local options = require("moelua.options")

local routing = {}

--- An expert is dead when it has less than this share of what even routing would give it.
routing.DEAD = 0.01

-- ---- counts -----------------------------------------------------------------------------------

local function total(counts)
  local sum = 0
  for _, n in ipairs(counts) do sum = sum + n end
  return sum
end

--- The share of each expert; all 0 when no slot was used.
---@param counts number[]
---@return number[]
function routing.shares(counts)
  local shares, sum = {}, total(counts)
  for e, n in ipairs(counts) do shares[e] = sum > 0 and n / sum or 0.0 end
  return shares
end

--- How uneven a load is. max_over_mean: the largest over the mean, 1 when even and N when a single
--- expert of N does all. cv: the coefficient of variation, standard deviation (of the population)
--- over mean, 0 when even. dead: the share of experts that are dead, see routing.DEAD.
---@param counts number[] by expert
---@return { load: number[], max_over_mean: number, cv: number, dead: number }
function routing.evenness(counts)
  local load, count = routing.shares(counts), #counts
  local most, squares, dead = 0.0, 0.0, 0
  for _, share in ipairs(load) do
    local relative = share * count
    most, squares = math.max(most, relative), squares + (relative - 1) ^ 2
    if relative < routing.DEAD then dead = dead + 1 end
  end
  return { load = load, max_over_mean = most, cv = math.sqrt(squares / count), dead = dead / count }
end

-- p log2(p / q), which is 0 for p = 0.
local function divergence(p, q) return p > 0 and p * math.log(p / q, 2) or 0.0 end

--- The mutual information of expert and domain, in bits, of counts[domain][expert]:
---   I = sum over d, e of p(d, e) log2(p(d, e) / (p(d) p(e)))
--- How much the expert of a slot tells of the domain of its token: 0 when every domain is routed
--- alike, at most the logarithm of the number of domains or experts.
---@param counts number[][]
---@return number
function routing.mutual_information(counts)
  local sum, of_domain, of_expert = 0, {}, {}
  for d, row in ipairs(counts) do
    of_domain[d] = total(row)
    sum = sum + of_domain[d]
    for e, n in ipairs(row) do of_expert[e] = (of_expert[e] or 0) + n end
  end
  local bits = 0.0
  for d, row in ipairs(counts) do
    for e, n in ipairs(row) do
      bits = bits + divergence(n / sum, of_domain[d] / sum * (of_expert[e] / sum))
    end
  end
  return math.max(bits, 0.0)          -- rounding may leave it just below
end

-- ---- sums over batches ------------------------------------------------------------------------

local function add_counts(into, counts)
  for e, n in ipairs(counts) do into[e] = (into[e] or 0) + n end
end

local function add_layer(into, counts, info, weight)
  into = into or { counts = {}, entropy = 0.0, dropped = 0.0, weight = 0 }
  add_counts(into.counts, counts)
  into.entropy = info.entropy and into.entropy and into.entropy + info.entropy * weight
  into.dropped = into.dropped + (info.dropped or 0) * weight
  into.weight = into.weight + weight
  return into
end

--- Adds the figures of a forward pass over so many tokens to `sum`, a table that is empty at first.
--- counts(info) gives the used slots by expert; info.counts when left out.
---@param sum table
---@param infos table of the layers by number, see Model:forward
---@param layers integer
---@param tokens integer
---@param counts? fun(info: table): number[]
function routing.add(sum, infos, layers, tokens, counts)
  for i = 1, layers do
    local info = infos[i]
    if info and info.load then
      sum[i] = add_layer(sum[i], counts and counts(info) or info.counts, info, tokens)
    else
      sum[i] = false
    end
  end
end

-- The mean of a figure per token; nil where a layer does not tell it.
local function per_token(layer, name) return layer[name] and layer[name] / layer.weight end

--- The figures of one layer of a sum: those of routing.evenness; entropy, the mean entropy of a
--- token's expert probabilities in nats (nil where a layer does not tell it); dropped, the share of
--- slots that were over capacity.
---@param layer table
---@return table
function routing.figures(layer)
  local figures = routing.evenness(layer.counts)
  figures.entropy, figures.dropped = per_token(layer, "entropy"), per_token(layer, "dropped")
  return figures
end

-- Four decimal places are enough for a log, in which there are many.
local function short(shares)
  local list = {}
  for e, share in ipairs(shares) do list[e] = tonumber(("%.4f"):format(share)) end
  return list
end

--- Figures by layer, false where there are none, as a log has them: of the mixture layers, with
--- their numbers; nil when there are no such layers.
---@param list (table|false)[]
---@return table[]?
function routing.logged(list)
  local out
  for i, figures in ipairs(list) do
    if figures then
      out = out or {}
      out[#out + 1] = options.merge(figures, { layer = i, load = short(figures.load) })
    end
  end
  return out
end

-- ---- domains ----------------------------------------------------------------------------------

-- Used slots by expert per token of the text.
local function rates(layer)
  local list = {}
  for e, n in ipairs(layer.counts) do list[e] = n / layer.weight end
  return list
end

-- Layer i of each domain, as if all had equally many tokens.
local function pooled(sums, i)
  local rows, layer = {}, nil
  for d, sum in ipairs(sums) do
    local own = sum[i]
    rows[d] = rates(own)
    layer = add_layer(layer, rows[d], { entropy = per_token(own, "entropy"),
      dropped = per_token(own, "dropped") }, 1)
  end
  local figures = routing.figures(layer)
  figures.mutual_information = routing.mutual_information(rows)
  return figures
end

--- The figures of each layer over several domains, as if each had equally many tokens, and in
--- mutual_information how well the expert tells the domain, in bits; false for other layers.
---@param sums table[] one of each domain
---@return (table|false)[]
function routing.statistics(sums)
  local list = {}
  for i, layer in ipairs(sums[1]) do list[i] = layer and pooled(sums, i) end
  return list
end

return routing
