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
local options = require("moelua.options")
local rope_scaling = require("moelua.rope_scaling")
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

-- Which projections have a bias.
local biased = { none = {}, qkv = { "q", "k", "v" }, all = { "q", "k", "v", "o" } }

--- Causal grouped-query attention with rotary positions: x [B x T x dim] -> [B x T x dim].
--- Options: dim, heads, kv_heads, head_dim; rope_theta, rope_scaling (see rope_scaling.lua); bias:
--- of "none", "qkv" or "all" projections; qk_norm: queries and keys are normed before they turn,
--- each "head" (Qwen3) or the "whole" vector (OLMoE), with norm_eps; clip_qkv: then no element of
--- q, k and v is further from 0; seed, std.
--- `step` (see kv_cache.lua) and the number of the layer in there make T the newest positions.
local Attention = layer_class("Attention")
nn.Attention = Attention
Attention.own = { "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias" }
Attention.parts = { "q_norm", "k_norm" }

local declared_attention = { dim = need, heads = need, kv_heads = "integer", head_dim = "integer",
  rope_theta = { "number", 10000 }, rope_scaling = "table",
  bias = { { "none", "qkv", "all" }, "none" }, qk_norm = { { "none", "head", "whole" }, "none" },
  clip_qkv = "number", norm_eps = { "number", 1e-5 } }

local function make_norms(self, opts, wide, narrow)
  if opts.qk_norm == "none" then return end
  local by_head = opts.qk_norm == "head"
  self.q_norm = RmsNorm(by_head and self.head_dim or wide, opts.norm_eps)
  self.k_norm = RmsNorm(by_head and self.head_dim or narrow, opts.norm_eps)
end

-- The frequencies as a tensor, for sequences of so many tokens; nil for those of theta.
local function frequencies_of(self, length)
  local list, factor = rope_scaling.frequencies(self.rope_scaling, self.rope_theta, self.head_dim,
    length)
  return list and core.tensor(list), factor
end

function Attention:init(opts)
  opts = layer_options.check("nn.Attention", opts, options.merge(declared_attention, {}))
  self.heads, self.kv_heads = opts.heads, opts.kv_heads or opts.heads
  self.head_dim = opts.head_dim or opts.dim // opts.heads
  self.rope_theta, self.clip_qkv, self.qk_norm = opts.rope_theta, opts.clip_qkv, opts.qk_norm
  self.rope_scaling = rope_scaling.check("nn.Attention", opts.rope_scaling)
  self.frequencies, self.rope_factor = frequencies_of(self)
  local wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
  self.q = weight(opts, "q", wide, opts.dim)
  self.k = weight(opts, "k", narrow, opts.dim)
  self.v = weight(opts, "v", narrow, opts.dim)
  self.o = weight(opts.residual, "o", opts.dim, wide)
  for _, name in ipairs(biased[opts.bias]) do
    self[name .. "_bias"] = core.zeros(self[name]:size(1)):requires_grad()
  end
  make_norms(self, opts, wide, narrow)
end

-- Scaling that depends on the length has no place in a cache, where keys are turned already.
local function rotation(self, T, step)
  local scaling = self.rope_scaling
  if not (scaling and scaling.rope_type == "dynamic") then
    return self.frequencies, self.rope_factor
  end
  local most, length = scaling.original_max_position_embeddings, step and step.longest or T
  if step and length > most then
    core.raise("rope_scaling: a cache holds no more than %d tokens with dynamic scaling, not " ..
      "%d\nhint: without a cache, model:logits(ids)", most, length)
  end
  return frequencies_of(self, length)
end

-- One of q, k, v: [B x T x heads x head_dim].
local function project(self, x, name, heads)
  local y, norm = x:linear(self[name], self[name .. "_bias"]), self[name .. "_norm"]
  if norm and self.qk_norm == "whole" then y = norm(y) end
  y = y:reshape(core.size(x, 1), core.size(x, 2), heads, self.head_dim)
  if norm and self.qk_norm == "head" then y = norm(y) end
  return self.clip_qkv and y:clamp(-self.clip_qkv, self.clip_qkv) or y
end

function Attention:forward(x, step, layer)
  local B, T = core.size(x, 1), core.size(x, 2)
  local theta, starts, lengths = self.rope_theta, step and step.starts, nil
  local frequencies, factor = rotation(self, T, step)
  local q = project(self, x, "q", self.heads):rope(theta, 0, starts, frequencies, factor)
  local k = project(self, x, "k", self.kv_heads):rope(theta, 0, starts, frequencies, factor)
  local v = project(self, x, "v", self.kv_heads)
  if step then k, v, lengths = step:remember(layer, k, v) end
  return q:attention(k, v, lengths):reshape(B, T, self.heads * self.head_dim)
    :linear(self.o, self.o_bias)
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
