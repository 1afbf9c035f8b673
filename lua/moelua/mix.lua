-- mix.lua: many models into one. Branch-Train-MiX (Sukhbaatar et al. 2024) and plain averages.

local core = require("moelua.core")
local options = require("moelua.options")
local family = require("moelua.family")
local model = require("moelua.model")
local router = require("moelua.router")
local run = require("moelua.run")
local raise = core.raise

local mix = {}

local function resolve(models)
  local list = {}
  for i, m in ipairs(models) do list[i] = type(m) == "string" and run.check(family.load(m)) or m end
  if #list == 0 then raise("mix: no models given") end
  return list
end

local function by_name(m)
  local map = {}
  for _, entry in ipairs(m:parameters()) do map[entry[1]] = entry[2] end
  return map
end

-- All models must have been the same model once: equal names and shapes.
local function check_alike(what, models)
  local first = models[1]:parameters()
  for i = 2, #models do
    local other = models[i]:parameters()
    for j, entry in ipairs(first) do
      local theirs = other[j]
      local a = table.concat(entry[2]:shape(), " x ")
      local b = theirs and table.concat(theirs[2]:shape(), " x ")
      if not theirs or theirs[1] ~= entry[1] or a ~= b then
        raise("%s: model %d does not fit model 1: %s [%s] against %s [%s]\n" ..
          "hint: all models must be trained from the same seed", what, i, entry[1], a,
          theirs and theirs[1] or "nothing", b or "")
      end
    end
  end
end

-- The mean of tensors, summed in f32 in the order given.
local function mean(tensors)
  local sum = tensors[1]:detach()
  for i = 2, #tensors do sum = sum + tensors[i]:detach() end
  return sum / #tensors
end

local function column(maps, name)
  local list = {}
  for i, map in ipairs(maps) do list[i] = map[name] end
  return list
end

local function copy_into(target, source)
  core.no_grad(function() target:copy_(source) end)
end

local function copy_config(config)
  local out = {}
  for k, v in pairs(config) do out[k] = v end
  return out
end

--- The uniform average of models with a common seed, in f32.
function mix.average(models)
  models = resolve(models)
  check_alike("average", models)
  local out = model.Model(copy_config(models[1].config))
  local maps = {}
  for i, m in ipairs(models) do maps[i] = by_name(m) end
  for _, entry in ipairs(out:parameters()) do
    local scope = core.scope()
    copy_into(entry[2], mean(column(maps, entry[1])))
    scope:close()
  end
  out.tokenizer = models[1].tokenizer
  return out
end

-- The configuration of the mixture: each dense layer becomes one of as many experts as models.
local function mixture_config(config, count, router_options, seed)
  local out = copy_config(config)
  out.seed, out.ffn = seed, {}
  for i, ffn in ipairs(config.ffn) do
    if ffn.kind ~= "dense" then
      raise("mix: layer %d is a mixture already\nhint: Branch-Train-MiX starts from dense models", i)
    end
    out.ffn[i] = { kind = "moe", hidden = ffn.hidden, experts = count, router = router_options }
  end
  return out
end

--- Branch-Train-MiX: every feed-forward layer of every model becomes an expert, everything else is
-- the plain mean over all models, in f32. Routers are the only new parameters: N(0, 0.02^2).
-- The seed model is passed like the others: it becomes the generalist expert and counts in the mean.
-- opts: router (see router.lua; default top-2 over the selected, BTX's balance loss 0.01), seed.
function mix.mix(models, opts)
  opts = options.check("mix", opts, { router = "table", seed = { "integer", 1 } })
  models = resolve(models)
  check_alike("mix", models)
  local routing = router.options(opts.router or { k = math.min(2, #models),
    balance = { form = "btx", coef = 0.01 } })
  local out = model.Model(mixture_config(models[1].config, #models, routing, opts.seed))
  local maps = {}
  for i, m in ipairs(models) do maps[i] = by_name(m) end
  for _, entry in ipairs(out:parameters()) do
    local scope = core.scope()
    local name, tensor = entry[1], entry[2]
    local dense = name:gsub("%.ffn%.experts%.", ".ffn.")
    if dense ~= name then
      for e, map in ipairs(maps) do copy_into(tensor:detach():select(1, e), map[dense]) end
    elseif not name:match("%.ffn%.router$") then
      copy_into(tensor, mean(column(maps, name)))
    end
    scope:close()
  end
  out.tokenizer = models[1].tokenizer
  return out
end

return mix
