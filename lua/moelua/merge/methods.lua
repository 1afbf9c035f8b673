-- merge/methods.lua: the methods of merging and their parameters, by the names that mergekit gave
-- them. This is the only place that knows which method has which parameter, what it is when nobody
-- says, and which models a method needs. The arithmetic is in core/checkpoint/merge*.c.
--
-- A method has
--   base     "needed"   a base model, from which the others differ
--            "allowed"  works on differences when there is one
--            "input"    a base model is a model like the others
--   models   { least, most } of the models, without the base where that stands apart
--   each     parameters that every model has its own value of (the base needs none)
--   whole    parameters that a tensor has one value of

local methods = {}

local function number(default, least, most)
  return { type = "number", default = default, least = least, most = most }
end
local function required(rule)
  rule.required = true
  return rule
end
local function flag(default) return { type = "boolean", default = default } end

local MANY = math.huge
local GRAM = 256        -- of which all dot products are taken

local function density() return number(1.0, 0, 1) end

-- Weighted sums of differences from a base, thinned out or elected by sign: one code path with
-- different switches (Ilharco et al. 2022, arXiv 2212.04089; Yadav et al. 2023, 2306.01708; Yu et
-- al. 2023, 2311.03099; Davari and Belilovsky 2023, 2312.06795; Deep et al. 2024, 2406.11617).
local function differences(normalize, rescale, more)
  local each = { weight = required(number()) }
  for name, rule in pairs(more or {}) do each[name] = rule end
  return { base = "needed", models = { 1, MANY }, each = each,
    whole = { lambda = number(1.0), normalize = flag(normalize), rescale = flag(rescale) } }
end

local function thinned() return { density = density() } end
local function gamma() return { density = density(), gamma = number(0.01, 0, 1) } end
local function epsilon() return { density = density(), epsilon = number(0.15, 0, 1) } end

methods.table = {
  linear = { base = "input", models = { 1, MANY }, each = { weight = required(number()) },
    whole = { normalize = flag(true) } },
  slerp = { base = "needed", models = { 1, 1 }, each = {}, whole = { t = required(number()) } },
  nuslerp = { base = "allowed", models = { 2, 2 }, each = { weight = required(number()) },
    whole = { nuslerp_flatten = flag(true), nuslerp_row_wise = flag(false) } },
  multislerp = { base = "allowed", models = { 2, GRAM }, each = { weight = required(number()) },
    whole = { normalize_weights = flag(true), eps = number(1e-8, 0) } },
  karcher = { base = "input", models = { 1, GRAM }, each = {},
    whole = { max_iter = number(10, 1), tol = number(1e-5, 0) } },
  task_arithmetic = differences(false, false),
  ties = differences(true, false, thinned()),
  dare_linear = differences(false, true, thinned()),
  dare_ties = differences(false, true, thinned()),
  della = differences(true, true, epsilon()),
  della_linear = differences(false, true, epsilon()),
  breadcrumbs = differences(false, false, gamma()),
  breadcrumbs_ties = differences(false, false, gamma()),
  sce = { base = "needed", models = { 1, MANY }, each = {},
    whole = { select_topk = number(1.0, 0, 1) } },
  model_stock = { base = "needed", models = { 2, GRAM }, each = {},
    whole = { filter_wise = flag(false) } },
  nearswap = { base = "needed", models = { 1, 1 }, each = {},
    whole = { t = required(number(nil, 0)) } },
  arcee_fusion = { base = "needed", models = { 1, 1 }, each = {}, whole = {} },
  passthrough = { base = "input", models = { 1, 1 }, each = { scale = number() }, whole = {} },
  ram = { base = "needed", models = { 1, MANY }, each = {}, whole = { epsilon = number(1e-5, 0) } },
  ramplus_tl = { base = "needed", models = { 1, MANY }, each = {},
    whole = { epsilon = number(1e-5, 0), r = number(0.1), alpha = number(0.2, 0) } },
}

-- A mask in eight bits has never changed a result: it is read, and there is nothing to do.
methods.ignored = { int8_mask = true }

--- The names of all methods, sorted.
function methods.names()
  local list = {}
  for name in pairs(methods.table) do list[#list + 1] = name end
  table.sort(list)
  return list
end

--- The names of the parameters of a method, or of all methods, sorted.
---@param method table? one of the table
function methods.parameters(method)
  local seen, list = {}, {}
  for _, each in pairs(method and { method } or methods.table) do
    for _, group in ipairs { each.each, each.whole } do
      for name in pairs(group) do
        if not seen[name] then list[#list + 1] = name end
        seen[name] = true
      end
    end
  end
  table.sort(list)
  return list
end

--- The rule of a parameter; nil when the method has none of that name.
function methods.rule(method, name) return method.each[name] or method.whole[name] end

--- What is wrong with a value of the parameter; nil when nothing is.
---@param rule table
---@param value any
---@return string?
function methods.complaint(rule, value)
  if type(value) ~= rule.type then return ("a %s is expected"):format(rule.type) end
  if rule.type ~= "number" then return nil end
  if value ~= value or value == math.huge or value == -math.huge then return "it is not finite" end
  local text = rule.least and value < rule.least and "at least %g is expected" or
    rule.most and value > rule.most and "at most %g is expected"
  return text and text:format(text:find("least") and rule.least or rule.most) or nil
end

-- What must hold between several parameters of one model.
local together = {}

-- Elements are kept with probabilities from density - epsilon to density + epsilon.
local function within_one(p)
  if p.density - p.epsilon > 0 and p.density + p.epsilon < 1 then return nil end
  return ("density %g with epsilon %g keeps elements with probabilities from %g to %g: " ..
    "all must lie between 0 and 1"):format(p.density, p.epsilon, p.density - p.epsilon,
    p.density + p.epsilon)
end
together.della, together.della_linear = within_one, within_one

local function some_left(p)
  if p.density > 0 then return nil end
  return "density is 0, which keeps nothing"
end
together.ties = some_left

--- What is wrong with the parameters of one model together; nil when nothing is.
---@param method string
---@param values table parameter -> value
---@return string?
function methods.together(method, values)
  return together[method] and together[method](values)
end

return methods
