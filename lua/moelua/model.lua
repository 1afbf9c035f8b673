-- model.lua: the Llama-family decoder, with dense and mixture layers in any pattern.
--
--   h = x + attention(norm(x));  y = h + ffn(norm(h));  logits = norm(y_last) head^T
--
-- The configuration is plain data: it is what config.json is made from (hf_config.lua).

local core = require("moelua.core")
local balance = require("moelua.balance")
local expect = require("moelua.expect")
local freeze = require("moelua.freeze")
local ffn = require("moelua.ffn")
local generate = require("moelua.generate")
local check_how = require("moelua.how").check
local limits = require("moelua.limits")
local nn = require("moelua.nn")
local options = require("moelua.options")
local rope_scaling = require("moelua.rope_scaling")
local stepwise = require("moelua.stepwise")
local weight = require("moelua.parameter")

local model = {}
local raise = core.raise

local need = { "integer", required = true }
local declared = {
  dim = need, layers = need, heads = need, vocab = need, context = need,
  hidden = "integer",                   -- of dense layers; or say it in ffn
  ffn = "table",                        -- one table for all layers, or a list of one per layer
  kv_heads = "integer", head_dim = "integer",
  rope_theta = { "number", 10000 }, norm_eps = { "number", 1e-5 },
  rope_scaling = "table",               -- see rope_scaling.lua
  attention_bias = { { "none", "qkv", "all" }, "none" },
  mlp_bias = { "boolean", false },      -- of dense layers
  qk_norm = { { "none", "head", "whole" }, "none" },
  clip_qkv = "number",
  tied = { "boolean", true },           -- the head is the embedding
  std = { "number", 0.02 }, seed = { "integer", 1 },
  recompute = "boolean",                -- of each block only its input is kept for backward
  freeze = "table",                     -- what is not trained, see freeze.lua
  hf = "table",                         -- what config.json says beyond all that, see hf_config.lua
}

-- A model of more parameters than this is none. See limits.lua.
local MOST_PARAMETERS = 2.0^50

local function not_negative(config, names)
  for _, name in ipairs(names) do
    local value = config[name]
    if not (value >= 0 and value < math.huge) then
      raise("moe.model.new: %s must be finite and not negative, not %s", name, value)
    end
  end
end

local function check_complete(where, config)
  expect(type(config) == "table" and type(config.ffn) == "table" and config.head_dim, where,
    "config", "one that model.new has checked", config)
end

--- How many parameters a model has, and how many of them one token uses, as floats: the product of
--- wrong sizes may be beyond integers. Norms are not counted.
---@param config table
---@return number total
---@return number active
function model.parameters(config)
  check_complete("model.parameters", config)
  local dim = config.dim + 0.0
  local total = (config.tied and 1 or 2) * config.vocab * dim
  local active = total
  for _, layer in ipairs(config.ffn) do
    local attention = 2 * dim * config.head_dim * (config.heads + config.kv_heads)
    local size = ffn.size(layer, dim)
    total, active = total + attention + size.parameters, active + attention + size.active
  end
  return total, active
end

local function check_attention(config)
  local clip = config.clip_qkv
  if clip and not (clip > 0 and clip < math.huge) then
    raise("moe.model.new: clip_qkv must be positive and finite, not %s", clip)
  end
  config.rope_scaling = rope_scaling.check("moe.model.new", config.rope_scaling, config.context)
end

local function check_bias(config)
  for i, layer in ipairs(config.mlp_bias and config.ffn or {}) do
    if layer.kind ~= "dense" then
      raise("moe.model.new: mlp_bias is for dense layers, but layer %d is of kind \"%s\"", i,
        layer.kind)
    end
  end
end

--- The options of a model, checked and with everything filled in: plain data, which a model keeps
--- as its config.
---@param given table see model.new
---@return table config
local function check_config(given)
  local config = options.check("moe.model.new", given, declared)
  limits.check("moe.model.new", config, { "dim", "layers", "heads", "vocab", "context", "kv_heads",
    "head_dim", "hidden" })
  config.kv_heads = config.kv_heads or config.heads
  if config.heads % config.kv_heads ~= 0 then
    raise("moe.model.new: %d heads cannot share %d kv_heads", config.heads, config.kv_heads)
  end
  if not config.head_dim and config.dim % config.heads ~= 0 then
    raise("moe.model.new: dim %d is not divisible by %d heads\nhint: or give head_dim",
      config.dim, config.heads)
  end
  config.head_dim = config.head_dim or config.dim // config.heads
  if config.head_dim % 2 ~= 0 then
    raise("moe.model.new: head_dim must be even for rotary positions, not %d", config.head_dim)
  end
  not_negative(config, { "norm_eps", "rope_theta", "std" })
  if config.rope_theta == 0 then raise("moe.model.new: rope_theta must not be 0") end
  check_attention(config)
  freeze.check("moe.model.new", config.freeze)
  config.ffn = ffn.per_layer("moe.model.new", config)
  config.hidden = nil
  check_bias(config)
  local parameters = model.parameters(config)
  if parameters > MOST_PARAMETERS then
    raise("moe.model.new: a model of %.1e parameters: the most are %.1e", parameters,
      MOST_PARAMETERS)
  end
  return config
end

--- One block: attention and feed-forward, each with its norm and residual. config: that of a model;
--- number: of the layer, from 0.
local Block = nn.layer_class("Block")
model.Block = Block
Block.parts = { "attention_norm", "attention", "ffn_norm", "ffn" }

function Block:init(config, number)
  check_complete("model.Block", config)
  expect(math.type(number) == "integer" and config.ffn[number + 1], "model.Block", "number",
    "that of a layer, from 0", number)
  local name = ("layers.%d."):format(number)
  -- Each block adds to the residual twice: its share of the variance (Radford et al. 2019).
  local residual_std = config.std / math.sqrt(2 * config.layers)
  local init = { dim = config.dim, seed = config.seed, std = config.std,
    residual_std = residual_std, dtype = config.dtype }
  self.attention_norm = nn.RmsNorm(config.dim, config.norm_eps)
  self.attention = nn.Attention(options.merge(init, { heads = config.heads,
    kv_heads = config.kv_heads, head_dim = config.head_dim, rope_theta = config.rope_theta,
    rope_scaling = config.rope_scaling, bias = config.attention_bias, qk_norm = config.qk_norm,
    clip_qkv = config.clip_qkv, norm_eps = config.norm_eps, name = name .. "attention." }))
  self.ffn_norm = nn.RmsNorm(config.dim, config.norm_eps)
  self.ffn = ffn.layer(config.ffn[number + 1], options.merge(init, { name = name .. "ffn.",
    bias = config.mlp_bias or nil }))
end

function Block:forward(x, how, step, layer)
  local h = x + self.attention(self.attention_norm(x), step, layer)
  local y, info = self.ffn(self.ffn_norm(h), how)
  return h + y, info
end

--- A decoder made from a configuration, see model.new and moe.load.
local Model = nn.layer_class("Model")
model.Model = Model

-- With a `dtype` the model is blank: zeros of that type where random numbers would be overwritten
-- anyway.
function Model:init(config, dtype)
  check_complete("model.Model", config)
  self.config = config
  local init = options.merge(config, { std = dtype and 0 or config.std, dtype = dtype or "f32" })
  local named = { std = init.std, seed = init.seed, dtype = init.dtype }
  self.embedding = weight(named, "embedding", config.vocab, config.dim)
  self.layers = {}
  for i = 1, config.layers do self.layers[i] = Block(init, i - 1) end
  self.norm = nn.RmsNorm(config.dim, config.norm_eps)
  self.head = not config.tied and weight(named, "head", config.vocab, config.dim) or nil
  if init.dtype ~= "f32" then self:to(init.dtype) end
  freeze.apply(self)
end

--- The blocks, with the beginnings of their names.
function Model:children()
  local list = {}
  for i, layer in ipairs(self.layers) do list[i] = { ("layers.%d."):format(i - 1), layer } end
  return list
end

--- {name, tensor, layer, field} of every parameter, in the order of checkpoints; layer[field] is
--- the tensor.
function Model:parameters()
  local list = { { "embedding", self.embedding, self, "embedding" } }
  for _, child in ipairs(self:children()) do
    for _, entry in ipairs(child[2]:parameters(child[1])) do
      entry[1] = entry[1]:gsub("norm%.weight$", "norm")
      list[#list + 1] = entry
    end
  end
  list[#list + 1] = { "norm", self.norm.weight, self.norm, "weight" }
  if self.head then list[#list + 1] = { "head", self.head, self, "head" } end
  return list
end

-- A block that runs twice: the figures of the first time are the ones that count. The tensors of
-- its info that losses are made of are results, which makes them part of the graph and keeps them.
local function run_again(x, layer, how, turn)
  if turn.again then how = options.merge(how, { stats = false, again = true }) end
  turn.again = true
  local y, info = layer(x, how)
  local inside = info or {}
  local shares = inside.balance or {}
  return y, balance.rest(inside), shares.u, shares.p, inside.experts, info
end

local function recompute_block(layer, x, how)
  local y, rest, u, p, experts, info = core.recompute(run_again, x, layer, how, {})
  if info then
    info.rest, info.loss, info.experts = rest, rest, experts
    if info.balance then
      info.balance.u, info.balance.p = u, p
      info.loss = balance.total({ info }, 1)
    end
  end
  return y, info
end

-- `how` for layer number i: of the shares it gets its own.
local function how_of_layer(how, i)
  return how.shares and options.merge(how, { shares = how.shares[i] or false }) or how
end

local function run_block(self, i, x, how)
  local run = self.config.recompute and recompute_block or self.layers[i].forward
  return run(self.layers[i], x, how_of_layer(how, i))
end

local function forward_cached(self, ids, how, cache)
  local x, infos = self.embedding:embedding(ids), {}
  local step = cache:step(core.size(x, 1), core.size(x, 2))
  if step.fresh then stepwise.check("forward with a cache", self) end
  how.before = step.before
  for i, layer in ipairs(self.layers) do x, infos[i] = layer(x, how, step, i) end
  step:finish(ids)
  return self.norm(x), infos
end

--- ids i32 [B x T] -> hidden states after the last norm [B x T x dim], and the infos of the
--- mixture layers by layer number. `how` goes to every layer, see how.lua. With a cache
--- (kv_cache.lua) the ids follow what is in there, and nothing has gradients.
function Model:forward(ids, how, cache)
  check_how("forward", how)
  expect(cache == nil or type(cache) == "table" and cache.step, "forward", "cache",
    "a cache of keys and values", cache)
  how = options.merge(how or {}, { ids = ids })
  if cache then return core.no_grad(forward_cached, self, ids, how, cache) end
  local x, infos = self.embedding:embedding(ids), {}
  for i = 1, #self.layers do x, infos[i] = run_block(self, i, x, how) end
  return self.norm(x), infos
end

-- `how` with a mask where targets are -1, unless it has one or all of them count.
local function with_mask(how, targets)
  if how and how.mask then return how end
  local missing = (-core.to(targets, "f32")):relu()
  if missing:max():item() == 0 then return how end
  return options.merge(how or {}, { mask = 1 - missing })
end

--- Mean cross-entropy in nats plus the auxiliary losses of the layers, see balance.lua: ids and
--- targets i32 [B x T], target -1 does not count. `how` goes to every layer, see how.lua.
--- Returns the loss, and { nll = tensor, aux = tensor or nil, layers = infos }.
function Model:loss(ids, targets, how)
  local hidden, infos = self:forward(ids, with_mask(how, targets))
  local nll = hidden:reshape(-1, self.config.dim)
    :head_cross_entropy((self.head or self.embedding):to("f32"), core.reshape(targets, -1))
  local aux = balance.total(infos, self.config.layers)
  return aux and nll + aux or nll, { nll = nll, aux = aux, layers = infos }
end

--- Token ids (a list, or i32 [B x T]) -> logits f32 [T x vocab] ([B x T x vocab] for a batch). They
--- follow what is in the cache, if any; `how` goes to every layer, see how.lua.
function Model:logits(ids, how, cache)
  check_how("logits", how)
  local list = type(ids) == "table"
  if type(ids) == "string" then
    raise("logits: token ids are expected, not text\nhint: model.tokenizer:encode(text)")
  end
  if list then
    if #ids == 0 then raise("logits: no token ids") end
    ids = core.tensor({ ids }, "i32")
  end
  local hidden = self:forward(ids, options.merge({ stats = false, losses = false }, how or {}),
    cache)
  local logits = hidden:linear(self.head or self.embedding)
  return list and logits:select(1, 1) or logits
end

Model.generate, Model.generate_ids = generate.text, generate.ids

--- Writes the model as a Hugging Face directory: config.json, weights, the tokenizer's files. opts:
--- dtype ("f32", "bf16", "f16"), max_shard_size (bytes of data in a file).
---@param folder string
---@param opts table?
---@return true? ok
---@return string? message
---@return string? code
function Model:save(folder, opts) return require("moelua.family").save(self, folder, opts) end

--- Converts the weights in place and returns the model: to "bf16" or "f16" for inference (norms and
--- routers stay f32, and nothing has gradients), to "f32" for training.
---@param dtype string
---@return moelua.Model
function Model:to(dtype)
  expect(dtype == "f32" or dtype == "bf16" or dtype == "f16", "to", "dtype",
    "\"f32\", \"bf16\" or \"f16\"", dtype)
  for _, entry in ipairs(self:parameters()) do
    local tensor, layer, field = entry[2], entry[3], entry[4]
    if tensor:dtype() == "f32" then tensor:requires_grad(dtype == "f32") end
    if tensor:dim() > 1 and not layer.stays_f32 and tensor:dtype() ~= dtype then
      layer[field] = tensor:to(dtype)
      if dtype == "f32" then layer[field]:requires_grad() end
    end
  end
  freeze.apply(self)
  return self
end

--- A model with the same weights and buffers, in memory of its own.
---@return moelua.Model
function Model:copy() return require("moelua.twin").copy(self) end

--- A model of the same tensors, not copies of them, whose feed-forward layers have other options:
--- what does it lose without a part, or gain with another k? change(options, number) is called for
--- the complete options of each layer and changes them, or returns others:
---   model:with_ffn(function(ffn) ffn.shared, ffn.router.k = nil, ffn.router.k + 1 end)
---@param change fun(options: table, layer: integer): table?
---@return moelua.Model
function Model:with_ffn(change) return require("moelua.twin").with_ffn(self, change) end

--- Number of parameters, and of those that one token uses: the mean where that differs from token
--- to token.
---@return integer total
---@return number active
function Model:count()
  local all = 0
  for _, tensor in ipairs(nn.tensors(self)) do all = all + tensor:count() end
  local total, active = model.parameters(self.config)
  local used = all - (total - active)
  return all, math.tointeger(used) or used
end

--- A new model with random weights. Options: dim, layers, heads, vocab, context; hidden (width of
--- dense layers) or ffn, one table or a list of one per layer: { kind = "dense", hidden,
--- activation }, { kind = "moe", hidden, experts, shared, segments, activation, router }, see
--- nn.MoE, or { kind = "mot", hidden, experts, group, ... }, see nn.MoT; kv_heads, head_dim,
--- attention_bias ("none", "qkv", "all"), qk_norm ("none", "head", "whole"), clip_qkv, rope_theta,
--- rope_scaling, see nn.Attention; mlp_bias (of dense layers); norm_eps, tied (is the head the
--- embedding?), std (of the weights), seed; recompute (keep only the input of each block for
--- backward and compute the rest again: a third more work, much less memory, the same bits); freeze
--- (what training leaves as it is, see freeze.lua); hf (fields of config.json that are kept as they
--- were read, see hf_config.lua).
---@param given table
---@return moelua.Model
function model.new(given) return Model(check_config(given)) end

model.check_config = check_config

return model
