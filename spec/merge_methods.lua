-- merge_methods.lua: an entry for each method of merging, which the specs share.
local core = require("moelua.core")

local methods = {}

methods.params = {
  linear = { weight = { 0.7, -0.2, 0.4 } }, karcher = {}, multislerp = { weight = { 1, 2, 3 } },
  nuslerp = { weight = { 1, 2 } }, slerp = { t = 0.3 }, passthrough = { scale = 0.5 }, copy = {},
  model_stock = { filter_wise = true }, nearswap = { t = 0.1 }, arcee_fusion = {},
  task_arithmetic = { weight = 0.4, lambda = 0.7 }, ties = { weight = 0.4, density = 0.3 },
  dare_linear = { weight = 0.4, density = 0.3 }, dare_ties = { weight = 0.4, density = 0.6 },
  della = { weight = 0.4, density = 0.4, epsilon = 0.1 },
  della_linear = { weight = 0.4, density = 0.4, epsilon = 0.1 },
  breadcrumbs = { weight = 0.4, density = 0.4, gamma = 0.05 },
  breadcrumbs_ties = { weight = 0.4, density = 0.4, gamma = 0.05 },
  sce = { select_topk = 0.3 }, ram = { epsilon = 0.1 }, ramplus_tl = { epsilon = 0.1 },
}

-- Models in bf16, so that many differences are equal and it matters which of them is first.
local models = {}
local function model(i, rows, columns)
  local key = ("%d %d %d"):format(i, rows, columns)
  if not models[key] then
    models[key] = core.randn(rows, columns, { seed = i, stream = key }):to("bf16")
  end
  return { tensor = models[key] }
end

--- An entry of a method over so many rows and columns.
function methods.entry(method, rows, columns)
  local about, list = core.checkpoint.methods()[method], {}
  for i = 1, math.min(about.most == 0 and 3 or about.most, 3) do
    list[i] = model(i, rows, columns)
  end
  return { name = "w", dtype = "BF16", shape = { rows, columns }, method = method, sources = list,
    base = about.base == "required" and model(4, rows, columns) or nil,
    params = methods.params[method] }
end

return methods
