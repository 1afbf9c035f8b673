-- optimizer.lua: AdamW (Loshchilov and Hutter 2019) over the parameters of a layer or model.
--
--   local optimizer = moe.optimizer(model, { lr = 1e-3 })
--   loss:backward();  optimizer:step()        -- clips, updates, forgets the gradients
--
-- Buffers of the layer (the bias of a router, say) have no gradient: the layer changes them itself
-- after each update, and they are part of the state.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local nn = require("moelua.nn")
local options = require("moelua.options")

local Optimizer = class("Optimizer")

--- What can be said about the updates; moe.train takes the same options.
Optimizer.options = {
  lr = { "number", 1e-3 },
  beta1 = { "number", 0.9 }, beta2 = { "number", 0.95 }, eps = { "number", 1e-8 },
  weight_decay = { "number", 0.1 },     -- on matrices; norms and biases have none
  clip = { "number", 1.0 },             -- largest global gradient norm; 0 = none
}

-- The parameters that have a gradient: those that are frozen have none.
local function trained(layer)
  local list, tensors = {}, {}
  for _, entry in ipairs(layer:parameters()) do
    if entry[2]:tracks_grad() then
      list[#list + 1], tensors[#tensors + 1] = entry, entry[2]
    end
  end
  return list, tensors
end

--- layer: a layer or model. given: lr, beta1, beta2, eps, weight_decay, clip.
function Optimizer:init(layer, given)
  expect(nn.is_layer(layer), "moe.optimizer", "layer", "a layer or model", layer)
  self.opts = options.check("moe.optimizer", given, Optimizer.options)
  nn.check_f32("moe.optimizer", layer)
  self.layer, self.buffers = layer, layer:buffers()
  self.params, self.tensors = trained(layer)
  if #self.tensors == 0 and #layer:parameters() > 0 then
    core.raise("moe.optimizer: all parameters are frozen: there is nothing to train")
  end
  self.m, self.v, self.decay, self.steps = {}, {}, {}, 0
  for i, p in ipairs(self.tensors) do
    self.m[i], self.v[i] = core.zeros(p:shape()), core.zeros(p:shape())
    self.decay[i] = p:dim() > 1 and self.opts.weight_decay or 0
  end
end

--- The global norm of the gradients.
function Optimizer:norm() return core.grad_norm(self.tensors) end

local function update(self, args)
  self.steps = args.step
  core.adamw_step(self.tensors, self.m, self.v, args)
  self:zero_grad()
  self.layer:after_step()
end

--- One update from the gradients that backward() left, which are then forgotten; the layer is told
--- of it. Parameters without a gradient stay as they are. Returns the norm before clipping. An
--- interrupt comes before all of that or after it.
function Optimizer:step(lr, norm)
  local opts = self.opts
  expect(lr == nil or type(lr) == "number", "step", "lr", "a number", lr)
  expect(norm == nil or type(norm) == "number", "step", "norm", "a number", norm)
  norm = norm or self:norm()
  core.uninterrupted(update, self, { step = self.steps + 1, lr = lr or opts.lr,
    beta1 = opts.beta1, beta2 = opts.beta2, eps = opts.eps, weight_decay = self.decay,
    clip = opts.clip > 0 and norm > opts.clip and opts.clip / norm or 1 })
  return norm
end

--- Forgets the gradients.
function Optimizer:zero_grad()
  for _, p in ipairs(self.tensors) do p:zero_grad() end
end

--- Parameters, moments and buffers by name: what a training state holds.
function Optimizer:state()
  local state = {}
  for i, entry in ipairs(self.params) do
    state["w." .. entry[1]] = entry[2]
    state["m." .. entry[1]], state["v." .. entry[1]] = self.m[i], self.v[i]
  end
  for _, entry in ipairs(self.buffers) do state["b." .. entry[1]] = entry[2] end
  return state
end

--- Takes over what state() was after so many steps; `read(name)` gives its tensors.
function Optimizer:restore(read, steps)
  expect(type(read) == "function", "restore", "read", "a function", read)
  expect(math.type(steps) == "integer", "restore", "steps", "an integer", steps)
  self.steps = steps
  core.no_grad(function()
    for name, tensor in pairs(self:state()) do tensor:copy_(read(name)) end
  end)
end

return Optimizer
