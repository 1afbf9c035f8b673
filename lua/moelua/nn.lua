-- nn.lua: layers, see layer_class.lua. `layer:parameters(prefix)` lists the parameters as
-- {name, tensor} in registration order, which is the order of checkpoints and optimizer state, and
-- `layer:buffers(prefix)` the tensors that are kept with them.
--
-- `how`, the second argument of forward of every layer and of a model, is explained in how.lua.

local core = require("moelua.core")
local expect = require("moelua.expect")
local feed_forward = require("moelua.feed_forward")
local layer_class = require("moelua.layer_class")
local layer_options = require("moelua.layer_options")
local mixture = require("moelua.mixture")
local mixture_of_tokens = require("moelua.mixture_of_tokens")
local weight = require("moelua.parameter")

local nn = { layer_class = layer_class, MoE = mixture.MoE, MoT = mixture_of_tokens.MoT,
  FeedForward = feed_forward.FeedForward, Experts = feed_forward.Experts }
local need = layer_options.need

local function check_size(where, name, size)
  expect(math.type(size) == "integer" and size >= 0, where, name, "a size", size)
end

--- y = x W^T (+ bias): x [.. x input] -> [.. x output].
local Linear = layer_class("Linear")
nn.Linear = Linear
Linear.own = { "weight", "bias" }

function Linear:init(input, output, opts)
  check_size("nn.Linear", "input", input)
  check_size("nn.Linear", "output", output)
  opts = layer_options.check("nn.Linear", opts, { bias = { "boolean", false } })
  self.weight = weight(opts, "weight", output, input)
  self.bias = opts.bias and core.zeros(output):requires_grad() or nil
end

function Linear:forward(x) return core.linear(x, self.weight, self.bias) end

--- Rows of a table: ids i32 of any shape -> ids' shape x dim.
local Embedding = layer_class("Embedding")
nn.Embedding = Embedding
Embedding.own = { "weight" }

function Embedding:init(count, dim, opts)
  check_size("nn.Embedding", "count", count)
  check_size("nn.Embedding", "dim", dim)
  opts = layer_options.check("nn.Embedding", opts, {})
  self.weight = weight(opts, "weight", count, dim)
end

function Embedding:forward(ids) return self.weight:embedding(ids) end

--- Root-mean-square norm along the last dimension.
local RmsNorm = layer_class("RmsNorm")
nn.RmsNorm = RmsNorm
RmsNorm.own = { "weight" }

function RmsNorm:init(dim, eps)
  check_size("nn.RmsNorm", "dim", dim)
  expect(eps == nil or type(eps) == "number", "nn.RmsNorm", "eps", "a number", eps)
  self.weight, self.eps = core.ones(dim):requires_grad(), eps or 1e-5
end

function RmsNorm:forward(x) return core.rms_norm(x, self.weight, self.eps) end

--- Causal grouped-query attention with rotary positions: x [B x T x dim] -> [B x T x dim].
--- `step` (see kv_cache.lua) and the number of the layer in there make T the newest positions.
local Attention = layer_class("Attention")
nn.Attention = Attention
Attention.own = { "q", "k", "v", "o" }

function Attention:init(opts)
  opts = layer_options.check("nn.Attention", opts, { dim = need, heads = need, kv_heads = "integer",
    head_dim = "integer", rope_theta = { "number", 10000 } })
  self.heads, self.kv_heads = opts.heads, opts.kv_heads or opts.heads
  self.head_dim = opts.head_dim or opts.dim // opts.heads
  self.rope_theta = opts.rope_theta
  local wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
  self.q = weight(opts, "q", wide, opts.dim)
  self.k = weight(opts, "k", narrow, opts.dim)
  self.v = weight(opts, "v", narrow, opts.dim)
  self.o = weight(opts.residual, "o", opts.dim, wide)
end

function Attention:forward(x, step, layer)
  local B, T = core.size(x, 1), core.size(x, 2)
  local theta, starts, lengths = self.rope_theta, step and step.starts, nil
  local q = x:linear(self.q):reshape(B, T, self.heads, self.head_dim):rope(theta, 0, starts)
  local k = x:linear(self.k):reshape(B, T, self.kv_heads, self.head_dim):rope(theta, 0, starts)
  local v = x:linear(self.v):reshape(B, T, self.kv_heads, self.head_dim)
  if step then k, v, lengths = step:remember(layer, k, v) end
  return q:attention(k, v, lengths):reshape(B, T, self.heads * self.head_dim):linear(self.o)
end

--- Whether this is a layer or model: it has parameters.
function nn.is_layer(value)
  local methods = type(value) == "table" and value or getmetatable(value)
  return type(methods) == "table" and type(methods.parameters) == "function"
end

local function check_layer(where, layer)
  expect(nn.is_layer(layer), where, "layer", "a layer or model", layer)
end

--- All parameters of a layer or model, tensors only.
function nn.tensors(layer)
  check_layer("nn.tensors", layer)
  local list = {}
  for i, entry in ipairs(layer:parameters()) do list[i] = entry[2] end
  return list
end

--- Refuses weights that are stored in 16 bits, which is for inference; `where` is the function.
function nn.check_f32(where, layer)
  check_layer(where, layer)
  for _, entry in ipairs(layer:parameters()) do
    if entry[2]:dtype() ~= "f32" then
      core.raise("%s: %s is %s, which is for inference\nhint: model:to(\"f32\")", where, entry[1],
        entry[2]:dtype())
    end
  end
end

--- Parameters and buffers in one list, as layer:parameters() has them: all that is saved.
function nn.saved(layer)
  check_layer("nn.saved", layer)
  local list, buffers = layer:parameters(), layer:buffers()
  return table.move(buffers, 1, #buffers, #list + 1, list)
end

--- 16 hex digits that change when a parameter or a buffer does.
function nn.fingerprint(layer)
  check_layer("nn.fingerprint", layer)
  local parts = {}
  for i, entry in ipairs(nn.saved(layer)) do
    parts[i] = entry[1] .. " " .. entry[2]:hash()
  end
  return core.system.hash(table.concat(parts, "\n"))
end

return nn
