-- layer_options.lua: the options of layers: their own, and how their parameters begin (see
-- parameter.lua).

local options = require("moelua.options")

local layer_options = {}

layer_options.need = { "integer", required = true }

--- Checks the options of a layer, `declared`, and those of its initialisation: seed, std, dtype,
--- name (before those of its parameters) and residual_std. Its field `residual` initialises
--- matrices that write to the residual.
function layer_options.check(where, given, declared)
  declared.seed, declared.std, declared.name = "integer", { "number", 0.02 }, { "string", "" }
  declared.dtype = "string"
  declared.residual_std = "number"      -- of matrices that write to the residual; default: std
  local opts = options.check(where, given, declared)
  opts.residual = { seed = opts.seed, name = opts.name, std = opts.residual_std or opts.std,
    dtype = opts.dtype }
  return opts
end

--- The options of the part `name` of a layer with these options; `more` are that part's own.
function layer_options.inside(init, name, more)
  return options.merge({ seed = init.seed, std = init.std, residual_std = init.residual_std,
    name = init.name .. name .. ".", dtype = init.dtype }, more)
end

return layer_options
