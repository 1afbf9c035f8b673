-- upcycle.lua: a dense model becomes a mixture of experts, to be trained on (Komatsuzaki et al.
-- 2022, "Sparse Upcycling"). The experts of a layer begin as copies of its feed-forward layer, and
-- with gates that sum to one the model is the function that it was, whatever the routers say.
--
-- Fine-grained (He et al. 2024): each copy is cut into G segments, which are experts of their own.
-- The rows of a router are the same for all segments of a copy, a "virtual group", so that k = G
-- takes exactly one whole copy. Gates that sum to one give each segment 1/G, which W2 times G
-- undoes.
--
-- How copies begin to differ, beside by their routing:
--   noise     N(0, std^2) added to a share of the hidden units of each
--   replace   a share of all weights replaced by N(0, std^2) (OLMoE, Muennighoff et al. 2024)
--   drop      a share of the hidden units drawn anew (Drop-Upcycling, Nakamura et al. 2025)
--   permute   hidden units in an order of their own; without segments that alone changes nothing

local core = require("moelua.core")
local Blueprint = require("moelua.blueprint")
local donors = require("moelua.donor")
local ffn_parts = require("moelua.ffn_parts")
local freeze = require("moelua.freeze")
local layer_choice = require("moelua.layer_choice")
local model = require("moelua.model")
local model_folder = require("moelua.model_folder")
local options = require("moelua.options")
local parts = require("moelua.parts")
local router_init = require("moelua.router_init")
local raise = core.raise

local ROUTER_STD = 0.02

local declared = {
  experts = { "integer", required = true },     -- copies of each layer
  router = "table",                             -- see router.lua; default top-2
  layers = "string|table",                      -- see layer_choice.lua; default all
  segments = { "integer", 1 },                  -- G: cut each copy into so many experts
  scale = "number",                             -- of the output of the experts; default: segments
  vary = "table",                               -- { form, share, std }
  permute = { "boolean", false },
  shared = "table",                             -- { share, gate }: an expert that all tokens use
  init = "table",                               -- of the routers, see router_init.lua
  freeze = "table",                             -- what is not trained afterwards, see freeze.lua
  seed = { "integer", 1 },                      -- of routers and of all that differs
}
local declared_vary = { form = { { "noise", "replace", "drop" }, required = true },
  share = { "number", 0.5 }, std = { "number", 0.02 } }
local declared_shared = { share = { "number", 0.5 } }

-- ---- options ----------------------------------------------------------------------------------

local function check_share(where, value)
  if value >= 0 and value <= 1 then return end
  raise("%s: share must be 0 to 1, not %s", where, value)
end

local function check(given)
  local opts = options.check("upcycle", given, options.merge(declared, model_folder.options))
  for _, name in ipairs({ "experts", "segments" }) do
    if opts[name] < 1 then raise("upcycle: %s must be at least 1, not %d", name, opts[name]) end
  end
  opts.scale = opts.scale or opts.segments
  if opts.scale ~= opts.scale or math.abs(opts.scale) == math.huge then
    raise("upcycle: scale must be finite, not %s", opts.scale)
  end
  opts.router = opts.router or { k = math.min(2, opts.experts * opts.segments) }
  if opts.vary then
    opts.vary = options.check("upcycle.vary", opts.vary, declared_vary)
    check_share("upcycle.vary", opts.vary.share)
    if not (opts.vary.std >= 0 and opts.vary.std < math.huge) then
      raise("upcycle.vary: std must be finite and not negative, not %s", opts.vary.std)
    end
  end
  if opts.shared then
    opts.shared = options.check("upcycle.shared", opts.shared, declared_shared)
    check_share("upcycle.shared", opts.shared.share)
  end
  freeze.check("upcycle", opts.freeze)
  return opts
end

local function check_layers(config, chosen, segments)
  ffn_parts.check("upcycle", config)
  for i, layer in ipairs(config.ffn) do
    if chosen[i] and layer.kind ~= "dense" then
      raise("upcycle: layer %d is %s already", i,
        layer.kind == "moe" and "a mixture" or "a mixture of tokens")
    end
    if chosen[i] and layer.hidden % segments ~= 0 then
      raise("upcycle: layer %d, of hidden = %d, cannot be cut into %d segments", i, layer.hidden,
        segments)
    end
  end
end

-- ---- experts ----------------------------------------------------------------------------------

local vary = {
  noise = function(f, how, ...) return ffn_parts.add_noise(f, how.share, how.std, ...) end,
  replace = function(f, how, ...) return ffn_parts.replace(f, how.share, how.std, ...) end,
  drop = function(f, how, ...) return ffn_parts.redraw(f, how.share, ...) end,
}

-- Copy number `copy` of layer `number`, as different as it is to be.
local function copy_of(f, opts, number, copy)
  local stream = ("upcycle.layers.%d.copies.%d"):format(number - 1, copy - 1)
  if opts.permute then f = ffn_parts.permute(f, opts.seed, stream) end
  return opts.vary and vary[opts.vary.form](f, opts.vary, opts.seed, stream) or f
end

-- The experts of layer `number`, whose feed-forward layer is f: the segments of a copy in a row.
local function experts_of(f, opts, number)
  local list, share = {}, opts.shared and opts.shared.share or 0
  for copy = 1, opts.experts do
    local whole = ffn_parts.scale(copy_of(f, opts, number, copy), opts.scale * (1 - share))
    for n = 1, opts.segments do
      list[#list + 1] = opts.segments > 1 and ffn_parts.chunk(whole, n, opts.segments) or whole
    end
  end
  return list
end

local function config_with(config, opts, chosen)
  local list = {}
  for i, layer in ipairs(config.ffn) do
    list[i] = not chosen[i] and layer or { kind = "moe", hidden = layer.hidden // opts.segments,
      activation = layer.activation, experts = opts.experts * opts.segments, router = opts.router,
      shared = opts.shared and { experts = 1, hidden = layer.hidden } or nil }
  end
  return model.check_config(options.merge(config, { ffn = list, seed = opts.seed, std = ROUTER_STD,
    freeze = opts.freeze or config.freeze }))
end

-- The mixture in place of layer `number`.
local function add_mixture(plan, donor, opts, number)
  local f = ffn_parts.of(donor, number)
  for e, expert in ipairs(experts_of(f, opts, number)) do plan:add_ffn(number, expert, e) end
  if opts.shared then plan:add_ffn(number, ffn_parts.scale(f, opts.shared.share), "shared") end
end

local function describe(plan, donor, opts, chosen)
  local done = {}
  for _, name in ipairs(donor.names) do
    local number = tonumber(name:match("^layers%.(%d+)%.ffn%."))
    if not (number and chosen[number + 1]) then
      plan:add_each(name, function(_, expert) return parts.copy(donor, name, expert) end)
    elseif not done[number] then
      done[number] = true
      add_mixture(plan, donor, opts, number + 1)
    end
  end
end

--- A mixture of experts from a dense model. Options:
---   experts   how many copies of each feed-forward layer
---   router    see router.lua; by default top-2 over the selected
---   layers    which become mixtures, see layer_choice.lua: "all", "alternate", "last half", a list
---   segments  G: each copy is cut into so many experts, with k = G or a multiple of it
---   scale     of the output of the experts (in W2). The default, G, keeps the function with gates
---             that sum to one; with gate = "all" that is experts * G^2 / k, exact for equal gates
---   vary      { form = "noise", "replace" or "drop", share = 0.5, std = 0.02 }: how copies differ
---   permute   each copy has its hidden units in an order of its own
---   shared    { share = 0.5 }: a copy that all tokens use gives this share of the output, the
---             others the rest
---   init      of the routers from hidden states of the model, one row for each copy, see
---             router_init.lua: { by = "clusters", text = corpus }; the default is N(0, 0.02^2)
---   freeze    what is not trained afterwards, see freeze.lua
---   seed      of the routers, and of all that differs between copies
---   out, dtype, memory, max_shard_size: instead of a model in memory, a folder that it is written
---             to tensor by tensor, in bounded memory, see model_folder.lua
--- With `init` there is a report on each mixture layer, see router_init.lua.
---@param m moelua.Model|string a model, or the path of a folder or .gguf file
---@param given table
---@return moelua.Model|table|nil model with `out` a summary with `report`; or nil, message, code
---@return table|string|nil report
return function(m, given)
  local opts = check(given)
  local donor = donors.of("upcycle", m)
  local chosen = layer_choice("upcycle", opts.layers, donor.config.layers)
  check_layers(donor.config, chosen, opts.segments)
  local plan = Blueprint(config_with(donor.config, opts, chosen), donor)
  describe(plan, donor, opts, chosen)
  local rows, report
  if opts.init then
    rows, report = router_init.rows("upcycle", opts.init, donors.model(donor), opts.experts, chosen,
      opts.seed)
  end
  plan:routers { std = ROUTER_STD, seed = opts.seed, repeats = opts.segments, rows = rows }
  return plan:make(opts, report)
end
