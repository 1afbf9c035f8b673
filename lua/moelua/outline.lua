-- outline.lua: the tensors of a model by its configuration alone, for what is too large to be made:
--
--   for _, entry in ipairs(outline(config)) do print(entry.name, #entry.shape, entry.dtype) end
--
-- Names and shapes are those of nn.saved(model), in that order; a stack of experts is one entry
-- [E x rows x columns]. Layers that only few models have (mixtures of tokens, routers with more
-- than a matrix and a bias) are not listed: such a model must be made.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")

-- Parameters and buffers as they come; buffers follow behind all parameters.
local List = class("Outline")

function List:init() self.parameters, self.buffers = {}, {} end

function List:add(name, ...)
  self.parameters[#self.parameters + 1] = { name = name, shape = { ... }, dtype = "f32" }
end

-- Matrices { name, rows, columns }, then the biases of those that have one.
function List:matrices(prefix, matrices, has_bias)
  for _, m in ipairs(matrices) do self:add(prefix .. m[1], m[2], m[3]) end
  for _, m in ipairs(matrices) do
    if has_bias(m[1]) then self:add(prefix .. m[1] .. "_bias", m[2]) end
  end
end

local function attention(list, prefix, config)
  local wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
  local dim, bias, norm = config.dim, config.attention_bias, config.qk_norm
  list:matrices(prefix, { { "q", wide, dim }, { "k", narrow, dim }, { "v", narrow, dim },
    { "o", dim, wide } }, function(name)
    return bias == "all" or bias == "qkv" and name ~= "o"
  end)
  if norm == "none" then return end
  list:add(prefix .. "q_norm", norm == "head" and config.head_dim or wide)
  list:add(prefix .. "k_norm", norm == "head" and config.head_dim or narrow)
end

-- The matrices of one FFN, in order.
local function matrices_of(hidden, dim, activation)
  local list = { { "w1", hidden, dim }, { "w3", hidden, dim }, { "w2", dim, hidden } }
  if activation ~= "swiglu" then table.remove(list, 2) end
  return list
end

local function dense(list, prefix, layer, dim, bias)
  list:matrices(prefix, matrices_of(layer.hidden, dim, layer.activation),
    function() return bias end)
end

local function routing(list, prefix, layer, dim)
  if layer.router.kind ~= "topk" then
    core.raise("outline: a router of kind \"%s\" is not listed\nhint: make the model",
      layer.router.kind)
  end
  list:add(prefix, layer.experts, dim)
  if layer.router.bias then
    list.buffers[#list.buffers + 1] = { name = prefix .. ".bias", shape = { layer.experts },
      dtype = "f32" }
  end
end

local function mixture(list, prefix, layer, dim)
  local shared = layer.shared
  if shared and shared.gate then list:add(prefix .. "shared_gate", 1, dim) end
  routing(list, prefix .. "router", layer, dim)
  for _, m in ipairs(matrices_of(layer.hidden, dim, layer.activation)) do
    list:add(prefix .. "experts." .. m[1], layer.experts, m[2], m[3])
  end
  if shared then
    dense(list, prefix .. "shared.", { hidden = shared.experts * shared.hidden,
      activation = layer.activation }, dim)
  end
end

local function feed_forward(list, prefix, layer, config)
  if layer.kind == "dense" then return dense(list, prefix, layer, config.dim, config.mlp_bias) end
  if layer.kind == "moe" then return mixture(list, prefix, layer, config.dim) end
  core.raise("outline: a layer of kind \"%s\" is not listed\nhint: make the model", layer.kind)
end

--- { name, shape, dtype } of every parameter and buffer of a model with this configuration.
---@param config table as model.check_config returns it
---@return { name: string, shape: integer[], dtype: string }[]
return function(config)
  expect(type(config) == "table" and type(config.ffn) == "table", "outline", "config",
    "one that model.check_config returned", config)
  local list = List()
  list:add("embedding", config.vocab, config.dim)
  for i, layer in ipairs(config.ffn) do
    local prefix = ("layers.%d."):format(i - 1)
    list:add(prefix .. "attention_norm", config.dim)
    attention(list, prefix .. "attention.", config)
    list:add(prefix .. "ffn_norm", config.dim)
    feed_forward(list, prefix .. "ffn.", layer, config)
  end
  list:add("norm", config.dim)
  if not config.tied then list:add("head", config.vocab, config.dim) end
  return table.move(list.buffers, 1, #list.buffers, #list.parameters + 1, list.parameters)
end
