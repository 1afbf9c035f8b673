-- mix.lua: many models into one. Branch-Train-MiX (Sukhbaatar et al. 2024) and plain averages.
--
-- A mix is described once, as a blueprint of what every tensor is made of; see blueprint.lua.

local core = require("moelua.core")
local Blueprint = require("moelua.blueprint")
local donors = require("moelua.donor")
local ffn_parts = require("moelua.ffn_parts")
local freeze = require("moelua.freeze")
local layer_choice = require("moelua.layer_choice")
local mix_vocabulary = require("moelua.mix_vocabulary")
local model = require("moelua.model")
local model_folder = require("moelua.model_folder")
local options = require("moelua.options")
local parts = require("moelua.parts")
local router_init = require("moelua.router_init")
local raise = core.raise

local mix = {}

local ROUTER_STD = 0.02

-- ---- do they fit together? --------------------------------------------------------------------

local SAME_SEED = "\nhint: all models must be trained from the same seed"

local function shape_of(donor, name)
  return donor.has(name) and ("[%s]"):format(table.concat(donor.shape(name), " x ")) or "missing"
end

-- The first thing in which donors 1 and i differ is told.
local function differ(what, list, i, name, a, b)
  raise("%s: models 1 and %d do not fit together: %s is %s in %s and %s in %s" .. SAME_SEED, what,
    i, name, a, list[1].title, b, list[i].title)
end

-- What shapes do not always show.
local ALIKE = { "layers", "heads", "kv_heads", "head_dim", "rope_theta", "rope_scaling", "norm_eps",
  "attention_bias", "mlp_bias", "qk_norm", "clip_qkv" }

-- Something that can be compared and shown.
local function plain(value)
  if type(value) == "table" then return core.json.encode(value) end
  return value == nil and "none" or value
end

local function check_options(what, list, i)
  local a, b = list[1].config, list[i].config
  for _, key in ipairs(ALIKE) do
    local x, y = plain(a[key]), plain(b[key])
    if x ~= y then differ(what, list, i, key, x, y) end
  end
  for j, layer in ipairs(a.ffn) do
    local other = b.ffn[j].activation
    if layer.activation ~= other then
      differ(what, list, i, ("the activation of layer %d"):format(j), layer.activation, other)
    end
  end
end

-- Names of donors 1 and i in the order of the first, then those that only the other has.
local function all_names(a, b)
  local names = table.move(a.names, 1, #a.names, 1, {})
  for _, name in ipairs(b.names) do
    if not a.has(name) then names[#names + 1] = name end
  end
  return names
end

-- All donors must have been the same model once: in their options, and in the names and shapes of
-- their tensors, except those for which exempt(name).
local function check_alike(what, list, exempt)
  for i = 2, #list do
    check_options(what, list, i)
    for _, name in ipairs(all_names(list[1], list[i])) do
      local a, b = shape_of(list[1], name), shape_of(list[i], name)
      if a ~= b and not (exempt and exempt(name) and a ~= "missing" and b ~= "missing") then
        differ(what, list, i, name, a, b)
      end
    end
  end
end

-- ---- averages ---------------------------------------------------------------------------------

-- The tensor of this name in all donors.
local function column(list, name, expert)
  local out = {}
  for i, donor in ipairs(list) do out[i] = parts.copy(donor, name, expert) end
  return out
end

-- Integers are no weights: the table of a hash must be the same in all models.
local function average_of(list, name, expert)
  if not name:find("%.router%.table$") then return parts.mean(column(list, name, expert)) end
  local first = list[1].tensor(name)
  for i = 2, #list do
    if list[i].tensor(name):hash() ~= first:hash() then
      raise("average: models 1 and %d do not fit together: %s differs" .. SAME_SEED, i, name)
    end
  end
  return parts.copy(list[1], name)
end

--- The uniform average of the weights of models with a common seed, in f32.
---@param models (moelua.Model|string)[] models, or folders of models
---@return moelua.Model
function mix.average(models)
  local list = donors.list("average", models)
  check_alike("average", list)
  local plan = Blueprint(options.merge(list[1].config, {}), list[1])
  for _, name in ipairs(list[1].names) do
    plan:add_each(name, function(_, expert) return average_of(list, name, expert) end)
  end
  return plan:build()
end

-- ---- Branch-Train-MiX -------------------------------------------------------------------------

local declared = {
  router = "table", seed = { "integer", 1 },
  rest = { "string|integer", "mean" },  -- of what is no expert: all models', or that of one
  layers = "string|table",              -- which become mixtures, see layer_choice.lua; default all
  split = { "integer", 1 },             -- cut every layer into so many experts
  blend = { "boolean", false },         -- experts of pieces of all models
  scale = { "number", 1 },              -- of the output of all experts
  vocabulary = { "string|table", "union" },     -- of models with different ones
  init = "table",                       -- of the routers, see router_init.lua
  freeze = "table",                     -- what is not trained afterwards, see freeze.lua
}

local function check_choices(opts, list)
  if type(opts.rest) == "string" and opts.rest ~= "mean" or
    math.type(opts.rest) == "integer" and not list[opts.rest] then
    raise("mix: rest is \"mean\" or the number of one of the %d models, not %s", #list,
      core.describe(opts.rest))
  end
  if opts.split < 1 then raise("mix: split must be at least 1, not %d", opts.split) end
  if opts.blend and opts.split > 1 then
    raise("mix: layers are split or blended, not both")
  end
  if opts.blend and opts.init then
    raise("mix: blended experts are of all models alike: no text is theirs\nhint: leave init out")
  end
  if opts.scale ~= opts.scale or math.abs(opts.scale) == math.huge then
    raise("mix: scale must be finite, not %s", opts.scale)
  end
end

local function check_dense(list)
  for _, donor in ipairs(list) do
    ffn_parts.check("mix", donor.config)
    for i, layer in ipairs(donor.config.ffn) do
      if layer.kind ~= "dense" then
        raise("mix: layer %d is a mixture already\n" ..
          "hint: Branch-Train-MiX starts from dense models", i)
      end
    end
  end
end

-- Feed-forward layer `number` of all donors, as wide as the widest: a unit of zeros does nothing.
local function layers_of(list, number)
  local out, widest = {}, 0
  for i, donor in ipairs(list) do
    out[i] = ffn_parts.of(donor, number)
    widest = math.max(widest, ffn_parts.width(out[i]))
  end
  for i, f in ipairs(out) do out[i] = ffn_parts.pad(f, widest) end
  return out
end

local function check_pieces(f, count, number)
  local width = ffn_parts.width(f)
  if width % count ~= 0 then
    raise("mix: layer %d, of hidden = %d, cannot be cut into %d pieces", number, width, count)
  end
end

-- Every layer in `count` pieces, which are experts: those of the first model come first.
local function split(all, count, number)
  local out = {}
  check_pieces(all[1], count, number)
  for _, f in ipairs(all) do
    for n = 1, count do out[#out + 1] = ffn_parts.chunk(f, n, count) end
  end
  return out
end

-- As many experts as models, of which number n has piece n of every model.
local function blended(all, number)
  local out = {}
  check_pieces(all[1], #all, number)
  for n = 1, #all do
    local pieces = {}
    for i, f in ipairs(all) do pieces[i] = ffn_parts.chunk(f, n, #all) end
    out[n] = ffn_parts.join(pieces)
  end
  return out
end

-- The experts of layer `number`.
local function experts_of(list, opts, number)
  local all = layers_of(list, number)
  if opts.blend then all = blended(all, number) end
  if opts.split > 1 then all = split(all, opts.split, number) end
  for e, f in ipairs(all) do all[e] = ffn_parts.scale(f, opts.scale) end
  return all
end

-- What is no expert.
local function rest_of(list, opts, name)
  local table_of = opts.united and (name == "embedding" or name == "head") and opts.united.parts
  local all = table_of and table_of(name) or column(list, name)
  return opts.rest == "mean" and parts.mean(all) or all[opts.rest]
end

local function dense_layer(list, opts, number)
  if opts.rest == "mean" then return ffn_parts.mean(layers_of(list, number)) end
  return ffn_parts.of(list[opts.rest], number)
end

-- The dense model that the rest of the mixture is of, which the routers know the text by.
local function dense_model(list, opts, config)
  local hidden, widths = {}, {}
  local function layer_of(number)
    hidden[number] = hidden[number] or dense_layer(list, opts, number)
    return hidden[number]
  end
  for i, ffn in ipairs(config.ffn) do
    widths[i] = options.merge(ffn, { hidden = ffn_parts.width(layer_of(i)) })
  end
  return { config = options.merge(config, { ffn = widths }),
    tokenizer = function() return opts.united and opts.united.tokenizer or list[1].tokenizer() end,
    part_of = function(name)
      local number, matrix = name:match("^layers%.(%d+)%.ffn%.(w%d)$")
      return number and layer_of(number + 1)[matrix] or rest_of(list, opts, name)
    end }
end

-- The configuration of the mixture, whose layers[i] is the list of experts of layer i, or the one
-- dense layer. `std` is that of the routers, the only parameters which are drawn.
local function mixture_config(config, layers, routing, opts)
  local out = options.merge(config, { seed = opts.seed, std = ROUTER_STD, ffn = {},
    freeze = opts.freeze, vocab = opts.united and opts.united.size or config.vocab })
  for i, ffn in ipairs(config.ffn) do
    local experts = layers[i]
    out.ffn[i] = experts.w1 and options.merge(ffn, { hidden = ffn_parts.width(experts) }) or
      { kind = "moe", hidden = ffn_parts.width(experts[1]), activation = ffn.activation,
        experts = #experts, router = routing }
  end
  return model.check_config(out)
end

-- Tensors in the order of the first donor; those of a feed-forward layer where its first one is.
local function describe(plan, list, opts, layers)
  local done = {}
  for _, name in ipairs(list[1].names) do
    local number = tonumber(name:match("^layers%.(%d+)%.ffn%."))
    local made = number and layers[number + 1]
    if not number then
      plan:add(name, rest_of(list, opts, name))
    elseif not done[number] then
      done[number] = true
      if made.w1 then plan:add_ffn(number + 1, made) end
      for e, f in ipairs(made) do plan:add_ffn(number + 1, f, e) end
    end
  end
end

--- Branch-Train-MiX (Sukhbaatar et al. 2024): every feed-forward layer of every model
--- becomes an expert, everything else is the plain mean over all models, in f32. Routers are the
--- only new parameters: N(0, 0.02^2). The seed model is passed like the others: it becomes the
--- generalist expert and counts in the mean. Narrower layers get hidden units of zeros, which do
--- nothing; in all else the models must have the same shapes. Options:
---   router    see router.lua; default top-2 over the selected, the paper's balance loss with 0.01
---   rest      "mean", or the number of the model whose attention, norms and embeddings are taken
---   layers    which become mixtures, see layer_choice.lua; the others stay dense, as `rest` says
---   split     C: each layer is cut into C experts. Gates that sum to one make the output 1/C of
---             what it was; scale = C undoes that
---   blend     as many experts as models, each of an equal piece of every model
---   scale     of the output of all experts (in W2), default 1
---   vocabulary  of models with different tokenizers: "union", "base" or { model = i }, whose rows
---             come from whoever has the token, see vocabulary.lua
---   init      of the routers from hidden states, one row for each model, see router_init.lua:
---             { by = "means", text = { corpus, corpus, ... } }; the default is N(0, 0.02^2). The
---             states are those of the dense model that `rest` is of
---   freeze    what is not trained afterwards, see freeze.lua: { "experts" }
---   seed      of the routers
---   out, dtype, memory, max_shard_size: instead of a model in memory, a folder that it is written
---             to tensor by tensor, in bounded memory, see model_folder.lua
--- With `init` there is a report on each mixture layer, see router_init.lua.
---@param models (moelua.Model|string)[] models, folders of models, or .gguf files
---@param opts table?
---@return moelua.Model|table|nil model with `out` a summary with `report`; or nil, message, code
---@return table|string|nil report
function mix.mix(models, opts)
  local list = donors.list("mix", models)
  opts = options.check("mix", opts, options.merge(declared, model_folder.options))
  check_dense(list)
  opts.united = mix_vocabulary(list, opts.vocabulary)
  check_alike("mix", list, function(name)
    return name:find("%.ffn%.w%d$") or opts.united and (name == "embedding" or name == "head")
  end)
  check_choices(opts, list)
  freeze.check("mix", opts.freeze)
  local layers, chosen = {}, layer_choice("mix", opts.layers, list[1].config.layers)
  for i = 1, list[1].config.layers do
    layers[i] = chosen[i] and experts_of(list, opts, i) or dense_layer(list, opts, i)
  end
  local count = #list * opts.split
  local routing = opts.router or { k = math.min(2, count), balance = { form = "btx", coef = 0.01 } }
  local plan = Blueprint(mixture_config(list[1].config, layers, routing, opts), list[1],
    opts.united and opts.united.tokenizer)
  describe(plan, list, opts, layers)
  local rows, report
  if opts.init then
    rows, report = router_init.rows("mix", opts.init, dense_model(list, opts, list[1].config),
      #list, chosen, opts.seed)
  end
  plan:routers { std = ROUTER_STD, seed = opts.seed, repeats = rows and opts.split, rows = rows }
  return plan:make(opts, report)
end

return mix
