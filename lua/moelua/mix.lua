-- mix.lua: many models into one. Branch-Train-MiX (Sukhbaatar et al. 2024) and plain averages.

local core = require("moelua.core")
local options = require("moelua.options")
local family = require("moelua.family")
local model = require("moelua.model")
local nn = require("moelua.nn")
local router = require("moelua.router")
local run = require("moelua.run")
local raise = core.raise

local mix = {}

local ROUTER_STD = 0.02

local function resolve(what, models)
  if type(models) ~= "table" or getmetatable(models) == model.Model then
    raise("%s: a list of models is expected, not %s\nhint: %s({ a, b })", what,
      core.describe(models), what)
  end
  local list = {}
  for i, m in ipairs(models) do list[i] = type(m) == "string" and run.check(family.load(m)) or m end
  if #list == 0 then raise("%s: no models given", what) end
  for i, m in ipairs(list) do
    if getmetatable(m) ~= model.Model then
      raise("%s: number %d of the list must be a model, not %s", what, i, core.describe(m))
    end
    nn.check_f32(what, m)
  end
  return list
end

-- The tensors of each model by name.
local function maps_of(models)
  local maps = {}
  for i, m in ipairs(models) do
    maps[i] = {}
    for _, entry in ipairs(nn.saved(m)) do maps[i][entry[1]] = entry[2] end
  end
  return maps
end

local SAME_SEED = "\nhint: all models must be trained from the same seed"

local function shape_of(entry)
  return entry and ("[%s]"):format(table.concat(entry[2]:shape(), " x ")) or "missing"
end

-- "model 2 (runs/x/model)"
local function title(models, i)
  return ("model %d%s"):format(i, models[i].path and (" (%s)"):format(models[i].path) or "")
end

-- All models must have been the same model once: in their options, which shapes do not always
-- show, and in the names and shapes of their parameters.
local function check_alike(what, models)
  local function differ(i, name, a, b)
    raise("%s: models 1 and %d do not fit together: %s is %s in %s and %s in %s" .. SAME_SEED, what,
      i, name, a, title(models, 1), b, title(models, i))
  end
  local config, expected = models[1].config, models[1]:parameters()
  for i = 2, #models do
    for _, key in ipairs({ "layers", "heads", "kv_heads", "head_dim", "rope_theta", "norm_eps" }) do
      local value = models[i].config[key]
      if config[key] ~= value then differ(i, key, config[key], value) end
    end
    for j, layer in ipairs(config.ffn) do
      local a, b = layer.activation, models[i].config.ffn[j].activation
      if a ~= b then differ(i, ("the activation of layer %d"):format(j), a, b) end
    end
    local other = models[i]:parameters()
    for j = 1, math.max(#expected, #other) do
      local a, b = expected[j], other[j]
      if a and b and a[1] ~= b[1] then a, b = a, nil end
      if shape_of(a) ~= shape_of(b) then
        differ(i, (a or b)[1], shape_of(a), shape_of(b))
      end
    end
  end
end

-- The sum of tensors first .. last in f32, by halves: then a power of two of equal tensors sums
-- without rounding, and their mean is the tensor itself.
local function sum(tensors, first, last)
  if first == last then return tensors[first]:detach() end
  local middle = (first + last) // 2
  return sum(tensors, first, middle) + sum(tensors, middle + 1, last)
end

local function mean(tensors) return sum(tensors, 1, #tensors) / #tensors end

local function column(maps, name)
  local list = {}
  for i, map in ipairs(maps) do list[i] = map[name] end
  return list
end

-- A model with this configuration whose every tensor, buffers too, `write(name, tensor)` fills.
local function filled(config, tokenizer, write)
  local out = model.Model(config, "f32")
  local function one(name, tensor)
    local _ <close> = core.scope()
    core.no_grad(write, name, tensor)
  end
  for _, entry in ipairs(nn.saved(out)) do one(entry[1], entry[2]) end
  out.tokenizer = tokenizer
  return out
end

-- Integers are no weights: the table of a hash must be the same in all models.
local function average_of(name, tensors)
  if tensors[1]:dtype() == "f32" then return mean(tensors) end
  for i = 2, #tensors do
    if tensors[i]:hash() ~= tensors[1]:hash() then
      raise("average: models 1 and %d do not fit together: %s differs" .. SAME_SEED, i, name)
    end
  end
  return tensors[1]
end

--- The uniform average of the weights of models with a common seed, in f32.
---@param models (moelua.Model|string)[] models, or folders of models
---@return moelua.Model
function mix.average(models)
  models = resolve("average", models)
  check_alike("average", models)
  local maps = maps_of(models)
  return filled(options.merge(models[1].config, {}), models[1].tokenizer, function(name, tensor)
    tensor:copy_(average_of(name, column(maps, name)))
  end)
end

-- The configuration of the mixture: each dense layer becomes one of as many experts as models.
-- `std` is that of the routers, the only parameters which are drawn.
local function mixture_config(config, count, router_options, seed)
  local out = options.merge(config, { seed = seed, std = ROUTER_STD, ffn = {} })
  for i, ffn in ipairs(config.ffn) do
    if ffn.kind ~= "dense" then
      raise("mix: layer %d is a mixture already\n" ..
        "hint: Branch-Train-MiX starts from dense models", i)
    end
    out.ffn[i] = { kind = "moe", hidden = ffn.hidden, activation = ffn.activation,
      experts = count, router = router_options }
  end
  return model.check_config(out)
end

-- New routers, under the names that a new model would give them.
local function draw_routers(out, seed)
  for i, block in ipairs(out.layers) do
    local layer = out.config.ffn[i]
    block.ffn.router = router.Router(layer.router, { dim = out.config.dim, experts = layer.experts,
      init = { std = ROUTER_STD, seed = seed, name = ("layers.%d.ffn.router."):format(i - 1) } })
  end
  return out
end

--- Branch-Train-MiX (Sukhbaatar et al. 2024): every feed-forward layer of every model
--- becomes an expert, everything else is the plain mean over all models, in f32. Routers are the
--- only new parameters: N(0, 0.02^2). The seed model is passed like the others: it becomes the
--- generalist expert and counts in the mean. Raises when the models do not have the same shapes.
--- Options: router (see router.lua; default top-2 over the selected, the paper's balance loss with
--- 0.01), seed (of the routers).
---@param models (moelua.Model|string)[] models, or folders of models
---@param opts { router?: table, seed?: integer }?
---@return moelua.Model
function mix.mix(models, opts)
  models = resolve("mix", models)
  opts = options.check("mix", opts, { router = "table", seed = { "integer", 1 } })
  check_alike("mix", models)
  local routing = opts.router or { k = math.min(2, #models),
    balance = { form = "btx", coef = 0.01 } }
  local config = mixture_config(models[1].config, #models, routing, opts.seed)
  local maps = maps_of(models)
  local mixed = filled(config, models[1].tokenizer, function(name, tensor)
    local dense = name:gsub("%.ffn%.experts%.", ".ffn.")
    if dense ~= name then
      for e, map in ipairs(maps) do tensor:detach():select(1, e):copy_(map[dense]) end
    elseif not name:find(".ffn.router", 1, true) then
      tensor:copy_(mean(column(maps, name)))
    end
  end)
  return draw_routers(mixed, opts.seed)
end

return mix
