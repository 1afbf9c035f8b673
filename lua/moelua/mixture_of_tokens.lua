-- mixture_of_tokens.lua: the layer of Antoniak et al. 2023 (arXiv 2310.15961). Groups of tokens at
-- the same position of different sequences are mixed into one token for each expert, and what it
-- makes of it is handed back with the same weights: every expert learns from every token, nothing
-- is discrete, nothing has to be balanced.
--
-- Members of a group must be of unrelated text, see `group` in traits.lua. An output depends on the
-- others in its group: for generation, transition.lua makes a mixture of experts of it.

local core = require("moelua.core")
local expect = require("moelua.expect")
local feed_forward = require("moelua.feed_forward")
local check_how = require("moelua.how").check
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local limits = require("moelua.limits")
local options = require("moelua.options")
local weight = require("moelua.parameter")
local raise = core.raise

local mot = {}
local need = layer_options.need

--- Options of a mixture of tokens in a model's configuration.
mot.declared = {
  hidden = need,                              -- of an expert; with flop_matched of the dense layer
  experts = need,
  group = need,                               -- tokens that are mixed; a batch holds whole groups
  activation = { feed_forward.declared.activation[1], "relu" },
  -- The softmax over a group is taken of logits / temperature: a number, "learned", which begins
  -- with 1, { learned = true, start = 2 }, or { from = 2, to = 0.5, steps = 1000 }.
  temperature = { "number|string|table", 1 },
  emit = { { "same" }, "same" },              -- the weights of the way back
  uniform = "boolean",                        -- all weights 1 / group: the control
  flop_matched = "boolean",                   -- experts as wide as compute like `hidden` allows
}

-- ---- configuration ----------------------------------------------------------------------------

--- The width of experts which together take the FLOPs of a dense layer of width `hidden` and the
--- same activation, mixing not counted: experts * width = group * hidden.
---@param hidden integer
---@param experts integer
---@param group integer
---@return integer
function mot.flop_matched(hidden, experts, group)
  for name, value in pairs({ hidden = hidden, experts = experts, group = group }) do
    expect(math.type(value) == "integer", "mot.flop_matched", name, "an integer", value)
  end
  local columns = group * hidden
  if columns % experts == 0 then return columns // experts end
  raise("nn.MoT: flop_matched: %d x %d hidden columns cannot be shared out evenly among %d " ..
    "experts\nhint: %d experts of %d, one for each of the group", group, hidden, experts, group,
    hidden)
end

local declared_learned = { learned = { "boolean", required = true }, start = { "number", 1 } }
local declared_schedule = { from = { "number", required = true },
  to = { "number", required = true }, steps = need }

local function check_positive(where, name, value)
  if not (value > 0 and value < math.huge) then
    raise("%s: %s must be above 0, not %s", where, name, value)
  end
end

-- A number, { learned = true, start } or { from, to, steps }.
local function temperature_options(where, given)
  if given == "learned" then given = { learned = true } end
  if type(given) == "number" then
    check_positive(where, "temperature", given)
    return given
  elseif type(given) == "string" then
    raise("%s: temperature is '%s': unknown\nhint: a number, \"learned\", " ..
      "{ learned = true, start = 1 } or { from = 2, to = 0.5, steps = 1000 }", where, given)
  end
  where = where .. ": temperature"
  if given.learned == nil then
    local opts = options.check(where, given, declared_schedule)
    check_positive(where, "from", opts.from)
    check_positive(where, "to", opts.to)
    limits.check(where, opts, { "steps" })
    return opts
  end
  local opts = options.check(where, given, declared_learned)
  check_positive(where, "start", opts.start)
  return opts.learned and opts or opts.start
end

local function complete(where, opts)
  limits.check(where, opts, { "hidden", "experts", "group" })
  if opts.flop_matched then
    opts.hidden = mot.flop_matched(opts.hidden, opts.experts, opts.group)
  end
  opts.flop_matched, opts.uniform = nil, opts.uniform or nil
  opts.temperature = temperature_options(where, opts.temperature)
  if opts.uniform and opts.temperature ~= 1 then
    raise("%s: a uniform mixture has no temperature", where)
  end
  return opts
end

--- The options of a mixture of tokens, complete: plain data. What is complete stays as it is.
function mot.options(where, given)
  return complete(where, options.check(where, given, mot.declared))
end

local function is_learned(opts)
  return type(opts.temperature) == "table" and opts.temperature.learned
end

--- What a layer holds, what a token uses of it, and its multiply-adds per token: a group of g runs
--- each expert once, and mixing is dot products with the controller, merging and emitting.
function mot.size(opts, dim)
  local expert = feed_forward.parameters(opts, dim)
  local controller = opts.uniform and 0.0 or 1.0 * opts.experts * dim
  local always = controller + (is_learned(opts) and 1 or 0)
  local used = opts.experts / opts.group * expert
  return { parameters = always + opts.experts * expert, active = always + used,
    macs = used + controller + 2.0 * opts.experts * dim }
end

-- ---- the layer --------------------------------------------------------------------------------

--- A mixture of tokens: y, info = layer(x, how) with x [B x S x dim]; the sequences 1 .. g,
--- g + 1 .. 2 g and so on are mixed, position by position. Options: dim, hidden (of an expert),
--- experts, group (g), activation ("relu"), temperature (1), uniform, flop_matched, see
--- mot.declared; seed, std. info.entropy: mean entropy of the weights of an expert, nats, at most
--- log(g); `how.stats = false` leaves it out. A temperature with a schedule follows how.step.
local MixtureOfTokens = layer_class("MixtureOfTokens", { "controller", "temperature" })
mot.MoT, mot.layer = MixtureOfTokens, MixtureOfTokens
MixtureOfTokens.own = { "controller", "temperature" }
MixtureOfTokens.parts = { "experts" }
MixtureOfTokens.stays_f32 = true

function MixtureOfTokens:init(given)
  local opts = layer_options.check("nn.MoT", given, options.merge(mot.declared, { dim = need }))
  complete("nn.MoT", opts)
  self.dim, self.group, self.activation = opts.dim, opts.group, opts.activation
  self.plan = opts.temperature
  local f32 = options.merge(opts, { dtype = "f32" })
  if not opts.uniform then self.controller = weight(f32, "controller", opts.experts, opts.dim) end
  if is_learned(opts) then
    self.temperature = core.full(opts.temperature.start, 1):requires_grad()
  end
  self.experts = feed_forward.Experts(layer_options.inside(opts, "experts", {
    experts = opts.experts, dim = opts.dim, hidden = opts.hidden, activation = opts.activation }))
end

--- The members of a group see each other, and nobody else does; see traits.lua.
function MixtureOfTokens:traits()
  if self.group == 1 then return { causal = true, coupled = "no" } end
  return { causal = true, coupled = "batch", group = self.group }
end

--- The temperature of a step: what was learned, what the schedule has then, or the number. Without
--- a step a schedule has come to its end.
---@param how table?
---@return moelua.Tensor|number
function MixtureOfTokens:temperature_at(how)
  local plan, step = self.plan, how and how.step
  if type(plan) ~= "table" or plan.learned then return self.temperature or plan end
  if not step then return plan.to end
  local way = plan.steps > 1 and (step - 1) / (plan.steps - 1) or 1
  return plan.from + (plan.to - plan.from) * math.min(math.max(way, 0), 1)
end

-- Mean over experts and groups of the entropy of their weights.
local function entropy(self, x, temperature)
  if not self.controller then return math.log(self.group) end
  local _ <close> = core.scope()
  local logits = core.linear(x, self.controller, nil, "f32") / temperature
  local z = logits:reshape(-1, self.group, x:size(2), self.controller:size(1))
  return -(z:softmax(2) * z:log_softmax(2)):sum(2):mean():item()
end

local HINT = "\nhint: for generation and single sequences moe.transition makes a mixture of " ..
  "experts of it"

local function check_input(self, x)
  local shape = core.shape(x)
  local text = table.concat(shape, " x ")
  if #shape ~= 3 then
    raise("nn.MoT: x must be [B x S x %d], not [%s]%s", self.dim, text, HINT)
  elseif shape[3] ~= self.dim then
    raise("nn.MoT: the last dimension of x must be dim = %d: x is [%s]", self.dim, text)
  elseif shape[1] % self.group ~= 0 then
    raise("nn.MoT: %d sequences are no whole number of groups of %d: x is [%s]%s", shape[1],
      self.group, text, HINT)
  end
end

function MixtureOfTokens:forward(x, how)
  check_how("forward", how)
  check_input(self, x)
  local temperature, bank = self:temperature_at(how), self.experts
  local y = core.mixture_of_tokens(x, self.controller, bank.w1, bank.w3, bank.w2, temperature,
    self.group, self.activation)
  local wanted = not (how and how.stats == false) and core.count(x) > 0
  return y, { entropy = wanted and core.no_grad(entropy, self, x, temperature) or nil }
end

return mot
