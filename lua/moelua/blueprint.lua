-- blueprint.lua: a model that is to be made of others: its configuration, and for every tensor what
-- it is made of (parts.lua). It can be built in memory, or written to a folder tensor by tensor, so
-- that no more than a few tensors are ever in memory; both have the same numbers, means up
-- to rounding.
--
--   local plan = Blueprint("mix", config, donor)
--   plan:add("layers.0.ffn.experts.w1", part, 3)          -- of expert 3
--   plan:routers { std = 0.02, seed = 1 }
--   local m = plan:build()

local core = require("moelua.core")
local class = require("moelua.class")
local model = require("moelua.model")
local nn = require("moelua.nn")
local parts = require("moelua.parts")
local router = require("moelua.router")
local raise = core.raise

local Blueprint = class("Blueprint")

--- config: complete. donor: whose tokenizer it gets, unless another is given.
function Blueprint:init(config, donor, tokenizer)
  self.config, self.donor, self.slots = config, donor, {}
  self.given_tokenizer = tokenizer
  self.mixtures = {}            -- by the number of the layer: does it get experts here?
end

--- The tokenizer of the model; nil when there is none.
function Blueprint:tokenizer() return self.given_tokenizer or self.donor.tokenizer() end

--- Says what a tensor, or number `expert` (from 1) of a stack of them, is made of.
function Blueprint:add(name, made, expert)
  self.slots[#self.slots + 1] = { name = name, expert = expert, part = made }
end

--- Says it of a tensor, or of every expert of a stack: make(name, expert) gives the part.
function Blueprint:add_each(name, make)
  local number = name:match("^layers%.(%d+)%.ffn%.experts%.w%d$")
  if not number then return self:add(name, make(name)) end
  for e = 1, self.config.ffn[number + 1].experts do self:add(name, make(name, e), e) end
end

--- Says it for the matrices of layer `number` (from 1), or of its expert of that number, or of its
--- part of that name ("shared").
function Blueprint:add_ffn(number, f, which)
  local is_expert = math.type(which) == "integer"
  self.mixtures[number] = self.mixtures[number] or is_expert
  local inside = is_expert and "experts." or which and which .. "." or ""
  for _, name in ipairs({ "w1", "w3", "w2" }) do
    if f[name] then
      self:add(("layers.%d.ffn.%s%s"):format(number - 1, inside, name), f[name],
        is_expert and which or nil)
    end
  end
end

-- The router of a layer as a new model with this seed would have it.
local function new_router(self, number, init)
  local layer = self.config.ffn[number]
  return router.Router(layer.router, { dim = self.config.dim, experts = layer.experts, init = {
    std = init.std, seed = init.seed, name = ("layers.%d.ffn.router."):format(number - 1) } })
end

-- Each row `count` times; of a drawn weight the first of every `count` rows is taken.
local function repeat_rows(tensor, count, step)
  local ids = {}
  for i = 1, tensor:size(1) // step * count do ids[i] = (i - 1) // count * step end
  return tensor:gather_rows(core.tensor(ids, "i32"))
end

-- The weight of a router: that which was drawn, or of the given rows.
local function weight_of(drawn, init, number)
  local count = init.repeats or 1
  local rows = init.rows and init.rows[number]
  if rows then return repeat_rows(core.tensor(rows), count, 1) end
  return repeat_rows(drawn, count, count)
end

local function add_router(self, number, init)
  local made = new_router(self, number, init)
  if init.rows and not made.weight then
    raise("init: a router of kind \"%s\" has no weight to begin with", made.opts.kind)
  end
  local prefix = ("layers.%d.ffn.router."):format(number - 1)
  for _, list in ipairs({ made:parameters(prefix), made:buffers(prefix) }) do
    for _, entry in ipairs(list) do
      local name, tensor, _, field = table.unpack(entry)
      tensor = tensor:detach()
      if field == "weight" then tensor = weight_of(tensor, init, number) end
      self:add(name, parts.new(tensor:shape(), function() return tensor end, tensor:hash()))
    end
  end
end

--- New routers for the mixtures whose experts are described here. init: std and seed of weights
--- that are drawn, or rows[number], the rows of each layer; `repeats`: how often each is there.
function Blueprint:routers(init)
  for number = 1, self.config.layers do
    if self.mixtures[number] then add_router(self, number, init) end
  end
end

-- Writes the numbers of a slot into its place.
local function fill(tensor, slot)
  local _ <close> = core.scope()
  local place = slot.expert and tensor:detach():select(1, slot.expert) or tensor
  place:copy_(slot.part.value())
end

--- The model, in memory.
---@return moelua.Model
function Blueprint:build()
  local out, tensors = model.Model(self.config, "f32"), {}
  for _, entry in ipairs(nn.saved(out)) do tensors[entry[1]] = entry[2] end
  core.no_grad(function()
    for _, slot in ipairs(self.slots) do fill(tensors[slot.name], slot) end
  end)
  out.tokenizer, out.generation_config = self:tokenizer(), self.donor.generation_config
  return out
end

--- The model in memory and the report; or with opts.out the summary of what was written there, with
--- the report in it, or nil, message, code; see model_folder.lua.
function Blueprint:make(opts, report)
  if not opts.out then return self:build(), report end
  local summary, message, code = require("moelua.model_folder").write(self, opts)
  if summary then summary.report = report end
  return summary, message, code
end

return Blueprint
