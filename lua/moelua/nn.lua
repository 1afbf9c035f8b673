-- nn.lua: layers. A layer is a table with parameters and a forward(self, x); calling it runs
-- forward. Parameters are leaf tensors; `layer:parameters(prefix)` lists them as {name, tensor} in
-- registration order, which is the order of checkpoints and optimizer state.

local core = require("moelua.core")
local class = require("moelua.class")
local expect = require("moelua.expect")
local options = require("moelua.options")
local weight = require("moelua.parameter")
local router = require("moelua.router")

local nn = {}
local need = { "integer", required = true }

-- Options of a layer: its own, and how its parameters are initialised (see parameter.lua).
local function check(where, given, declared)
  declared.seed, declared.std, declared.name = "integer", { "number", 0.02 }, { "string", "" }
  declared.dtype = "string"
  declared.residual_std = "number"      -- of matrices that write to the residual; default: std
  local opts = options.check(where, given, declared)
  opts.residual = { seed = opts.seed, name = opts.name, std = opts.residual_std or opts.std,
    dtype = opts.dtype }
  return opts
end

-- How the parameters of the part `name` begin; `more` are the options of that part.
local function inside(init, name, more)
  return options.merge({ seed = init.seed, std = init.std, residual_std = init.residual_std,
    name = init.name .. name .. ".", dtype = init.dtype }, more)
end

local function check_size(where, name, size)
  expect(math.type(size) == "integer" and size >= 0, where, name, "a size", size)
end

--- A class of layers: see the head of this file. It needs init and forward, and names its
--- parameters in `own` and its layers in `parts`.
---@param name string
---@return table class
local function layer_class(name)
  expect(type(name) == "string", "nn.layer_class", "name", "a string", name)
  local cls = class(name)
  cls.__call = function(self, ...) return self:forward(...) end

  --- {name, tensor, layer, field} of every parameter in registration order, `prefix` before each
  --- name; layer[field] is the tensor.
  function cls:parameters(prefix)
    prefix = prefix or ""
    local list = {}
    for _, field in ipairs(self.own or {}) do
      if self[field] then list[#list + 1] = { prefix .. field, self[field], self, field } end
    end
    for _, field in ipairs(self.parts or {}) do
      for _, entry in ipairs(self[field]:parameters(prefix .. field .. ".")) do
        list[#list + 1] = entry
      end
    end
    return list
  end
  return cls
end
nn.layer_class = layer_class

--- y = x W^T (+ bias): x [.. x input] -> [.. x output].
local Linear = layer_class("Linear")
nn.Linear = Linear
Linear.own = { "weight", "bias" }

function Linear:init(input, output, opts)
  check_size("nn.Linear", "input", input)
  check_size("nn.Linear", "output", output)
  opts = check("nn.Linear", opts, { bias = { "boolean", false } })
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
  opts = check("nn.Embedding", opts, {})
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
  opts = check("nn.Attention", opts, { dim = need, heads = need, kv_heads = "integer",
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

--- Dense SwiGLU feed-forward (Shazeer 2020): W2 (silu(W1 x) * W3 x); w1, w3 [hidden x dim],
--- w2 [dim x hidden].
local FeedForward = layer_class("FeedForward")
nn.FeedForward = FeedForward
FeedForward.own = { "w1", "w3", "w2" }

function FeedForward:init(opts)
  opts = check("nn.FeedForward", opts, { dim = need, hidden = need })
  self.w1 = weight(opts, "w1", opts.hidden, opts.dim)
  self.w3 = weight(opts, "w3", opts.hidden, opts.dim)
  self.w2 = weight(opts.residual, "w2", opts.dim, opts.hidden)
end

function FeedForward:forward(x)
  return x:linear(self.w1):swiglu(x:linear(self.w3)):linear(self.w2)
end

--- A bank of SwiGLU experts: w1, w3 [E x hidden x dim], w2 [E x dim x hidden].
local Experts = layer_class("Experts")
nn.Experts = Experts
Experts.own = { "w1", "w3", "w2" }

function Experts:init(opts)
  opts = check("nn.Experts", opts, { experts = need, dim = need, hidden = need })
  local E = opts.experts
  self.w1 = weight(opts, "w1", E, opts.hidden, opts.dim)
  self.w3 = weight(opts, "w3", E, opts.hidden, opts.dim)
  self.w2 = weight(opts.residual, "w2", E, opts.dim, opts.hidden)
end

-- x [T x dim], gates and experts [T x k] -> [T x dim]
function Experts:forward(x, gates, experts)
  return core.moe_ffn(x, gates, experts, self.w1, self.w3, self.w2)
end

--- A mixture layer: y, info = layer(x) with x [.. x dim]. Options: dim, hidden (of an expert),
--- experts, router = { kind, k, gate, balance, z_loss }, see router.lua; seed, std.
--- info: loss (a tensor to add to the training loss, or nil), load (share of routed slots per
--- expert), entropy (mean entropy of softmax(logits), nats), dropped (share of slots; dropless: 0).
--- `stats = false` leaves the figures out.
local MoE = layer_class("MoE")
nn.MoE = MoE
MoE.parts = { "router", "experts" }

function MoE:init(opts)
  opts = check("nn.MoE", opts, { dim = need, hidden = need, experts = need,
    shared = { "integer", 0 }, router = "table" })
  if opts.shared ~= 0 then
    core.raise("nn.MoE: shared = %s: this layer has routed experts only\n" ..
      "hint: leave shared out, or set it to 0", tostring(opts.shared))
  end
  self.router = router.Router(opts.router or {}, { dim = opts.dim, experts = opts.experts,
    init = inside(opts, "router", {}) })
  self.experts = Experts(inside(opts, "experts", { experts = opts.experts, dim = opts.dim,
    hidden = opts.hidden }))
end

function MoE:forward(x, how)
  local shape, dim = core.shape(x), self.router.dim
  if shape[#shape] ~= dim then
    core.raise("nn.MoE: the last dimension of x must be dim = %d: x is [%s]", dim,
      table.concat(shape, " x "))
  end
  local gates, experts, info = self.router:route(x, how)
  return self.experts(x:reshape(-1, dim), gates, experts):reshape(table.unpack(shape)), info
end

local function check_layer(where, layer)
  expect(type(layer) == "table" and type(layer.parameters) == "function", where, "layer",
    "a layer or model", layer)
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

--- 16 hex digits that change when a parameter does.
function nn.fingerprint(layer)
  check_layer("nn.fingerprint", layer)
  local parts = {}
  for i, entry in ipairs(layer:parameters()) do
    parts[i] = entry[1] .. " " .. entry[2]:hash()
  end
  return core.system.hash(table.concat(parts, "\n"))
end

return nn
