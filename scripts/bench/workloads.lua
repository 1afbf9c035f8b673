-- workloads.lua: what moelua does in each workload of the benchmark, and how much work it is.
--
-- Each kind takes a job, { kind = ..., precision = ..., and shapes }, and returns { run = function,
-- work = FLOPs or bytes of one run, prepare = function that is called before and not timed }.

local moe = require("moelua")
local core = require("moelua.core")
local host = require("moelua.host")

local kinds = {}

local function scoped(f)
  return function()
    local _ <close> = moe.scope()
    f()
  end
end

-- ---- feed-forward layers ------------------------------------------------------------------------

local function ffn_options(job)
  if not job.experts then return { kind = "dense", hidden = job.hidden } end
  return { kind = "moe", hidden = job.hidden, experts = job.experts,
    router = { kind = "topk", k = job.k } }
end

local function new_ffn(job)
  local ffn = ffn_options(job)
  if ffn.kind == "dense" then return moe.nn.FeedForward({ dim = job.dim, hidden = job.hidden }) end
  return moe.nn.MoE({ dim = job.dim, hidden = job.hidden, experts = ffn.experts,
    router = ffn.router })
end

local function ffn_flops(job) return job.tokens * moe.flops.ffn(ffn_options(job), job.dim) end

local function forget(tensors)
  for _, tensor in ipairs(tensors) do tensor:zero_grad() end
end

-- As a step of training does it: its weights stay packed from one optimizer step to the next, and
-- what backward needs is kept.
function kinds.ffn_forward(job)
  local layer, x = new_ffn(job), moe.randn(job.tokens, job.dim)
  return { work = ffn_flops(job) / 3, run = scoped(function() layer(x, { stats = false }) end) }
end

function kinds.ffn_training(job)
  local layer, x = new_ffn(job), moe.randn(job.tokens, job.dim):requires_grad()
  local tensors = moe.nn.tensors(layer)
  tensors[#tensors + 1] = x
  return { work = ffn_flops(job), run = scoped(function()
    layer(x, { stats = false }):sum():backward()
    forget(tensors)
  end) }
end

-- A batch of whole groups; the experts together are as wide as `group` dense layers.
function kinds.mixture_of_tokens(job)
  local options = { kind = "mot", hidden = job.hidden, experts = job.experts, group = job.group,
    activation = "relu" }
  local layer = moe.nn.MoT({ dim = job.dim, hidden = job.hidden, experts = job.experts,
    group = job.group })
  local x = moe.randn(job.batch, job.context, job.dim):requires_grad()
  local tensors = moe.nn.tensors(layer)
  tensors[#tensors + 1] = x
  local work = job.batch * job.context * moe.flops.ffn(options, job.dim)
  return { work = work, run = scoped(function()
    layer(x, { stats = false }):sum():backward()
    forget(tensors)
  end) }
end

-- Slots of a token: all experts alike, or half of all tokens to the first one.
local function balanced(t, experts) return (2 * t) % experts, (2 * t + 1) % experts end
local function crowded(t, experts)
  local others = experts - 1
  if t % 2 == 0 then return 0, 1 + t // 2 % others end
  return 1 + t % others, 1 + (t + 1) % others
end

-- Experts whose load is given: two experts a token, the router left out.
function kinds.routed(job)
  local ids, slots = {}, job.crowded and crowded or balanced
  for t = 1, job.tokens do ids[t] = { slots(t, job.experts) } end
  local experts, gates = moe.tensor(ids, "i32"), moe.full(0.5, job.tokens, 2):requires_grad()
  local x = moe.randn(job.tokens, job.dim):requires_grad()
  local bank = moe.nn.Experts({ experts = job.experts, dim = job.dim, hidden = job.hidden })
  local tensors = moe.nn.tensors(bank)
  table.move({ x, gates }, 1, 2, #tensors + 1, tensors)
  return { run = scoped(function()
    bank(x, gates, experts):sum():backward()
    forget(tensors)
  end) }
end

-- ---- models -------------------------------------------------------------------------------------

local function config_of(job)
  return { dim = job.dim, layers = job.layers, heads = job.heads, kv_heads = job.kv_heads,
    vocab = job.vocab, context = job.context, ffn = ffn_options(job) }
end

-- A training step on random tokens: forward, backward, AdamW.
function kinds.step(job)
  local model = moe.model.new(config_of(job))
  local optimizer = moe.optimizer(model, { lr = 1e-4 })
  local ids = (moe.rand(job.batch, job.context) * job.vocab):to("i32")
  local flops = job.batch * job.context * moe.flops.per_token(model.config, job.context)
  return { work = flops, run = scoped(function()
    model:loss(ids, ids, { stats = false }):backward()
    optimizer:step()
  end) }
end

-- Weights that take no time to make: each matrix of a shape is the same block of random numbers.
local function fill(model)
  local blocks = {}
  local function block(rows, columns)
    local key = rows .. "x" .. columns
    blocks[key] = blocks[key] or moe.rand(rows, columns) * 0.06 - 0.03
    return blocks[key]
  end
  moe.no_grad(function()
    for _, entry in ipairs(model:parameters()) do
      local p = entry[2]
      local shape = p:shape()
      if #shape == 2 then p:copy_(block(table.unpack(shape))) end
      for e = 1, #shape == 3 and shape[1] or 0 do
        p:select(1, e):copy_(block(shape[2], shape[3]))
      end
    end
  end)
end

-- One token after the other, each the most likely one. The work is what has to be read: the
-- weights that a token uses.
function kinds.decode(job)
  local model = moe.model.Model(moe.model.check_config(config_of(job)), "f32")
  fill(model)
  local bytes = 4
  if job.precision == "bf16" then model, bytes = model:to("bf16"), 2 end
  local _, active = model:count()
  return { work = active * bytes * job.tokens, run = function()
    model:generate_ids({ 1 }, { max_tokens = job.tokens, temperature = 0 })
  end }
end

-- ---- the rest -----------------------------------------------------------------------------------

function kinds.attention(job)
  local inputs = {}
  for i = 1, 3 do
    inputs[i] = moe.randn(job.batch, job.context, job.heads, job.head_dim):requires_grad()
  end
  local q, k, v = table.unpack(inputs)
  local flops = moe.flops.attention(job.heads * job.head_dim, job.context)
  return { work = job.batch * job.context * flops, run = scoped(function()
    q:attention(k, v):sum():backward()
    forget(inputs)
  end) }
end

-- Reads weights, gradients and both moments, writes all but the gradients, which are made anew
-- each time.
function kinds.adamw(job)
  local list = {}
  for i = 1, job.tensors do
    list[i] = { "w" .. i, (moe.rand(job.rows, job.columns) * 0.02):requires_grad() }
  end
  local optimizer = moe.optimizer({ parameters = function() return list end }, { lr = 1e-4 })
  return { work = 7 * 4 * job.tensors * job.rows * job.columns,
    prepare = scoped(function()
      for _, entry in ipairs(list) do entry[2]:sum():backward() end
    end),
    run = function() optimizer:step(nil, 1.0) end }
end

function kinds.start_up()
  return { run = function()
    assert(core.system.spawn({ host.program, "-e", "" })):wait()
  end }
end

--- Makes the workload of a job; raises when it cannot be had.
---@param job table
---@return table workload
return function(job)
  return (kinds[job.kind] or error(("no such workload: %s"):format(job.kind), 0))(job)
end
