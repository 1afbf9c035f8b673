-- parameter.lua: how parameters begin: leaves with N(0, std^2) entries.

local core = require("moelua.core")

--- A leaf of the given shape. init: std (0 = zeros, without drawing), seed, name, dtype (zeros of
--- another type than f32 are no leaf: such weights are for inference). With a seed the
--- numbers come from the stream named after the parameter, so that they do not depend on the order
--- of creation; without, from moe.manual_seed.
return function(init, name, ...)
  local shape = { ... }
  if (init.dtype or "f32") ~= "f32" then return core.zeros(shape, { dtype = init.dtype }) end
  if init.std == 0 then return core.zeros(...):requires_grad() end
  shape[#shape + 1] = { std = init.std, seed = init.seed,
    stream = init.seed and "init." .. (init.name or "") .. name or nil }
  return core.randn(table.unpack(shape)):requires_grad()
end
