-- export.lua: a mixture for programs of others: as a Mixtral directory, which transformers, vLLM
-- and llama.cpp's converter compute exactly as we do, or as a GGUF file.
--
--   assert(moe.export(model, "out"))                                 -- or the path of a model
--   assert(moe.export("runs/mix/model", "out.gguf", { dtype = "q8_0" }))
--
-- Mixtral has in every layer as many experts of one width, and makes the gates of the k chosen sum
-- to one. What is not like that, but comes to the same, is made so: narrower experts get hidden
-- units of zeros, a factor of all gates goes into W2, soft routing is the choice of all experts,
-- and with dense_as_experts a dense layer is as many copies of itself. What is left is refused.

local core = require("moelua.core")
local Blueprint = require("moelua.blueprint")
local donors = require("moelua.donor")
local expect = require("moelua.expect")
local ffn_parts = require("moelua.ffn_parts")
local hf_config = require("moelua.hf_config")
local model = require("moelua.model")
local model_folder = require("moelua.model_folder")
local options = require("moelua.options")
local parts = require("moelua.parts")
local join_rows = require("moelua.rows").join

-- ---- what Mixtral cannot say ------------------------------------------------------------------

-- The number of the first layer for which holds(layer), and the layer.
local function first(config, holds)
  for i, layer in ipairs(config.ffn) do
    if holds(layer) then return i, layer end
  end
end

local function is_mixture(layer) return layer.kind == "moe" end

-- How many experts a token chooses, when the gates of these sum to one; or nil, what they do
-- instead, and what to do about it.
local function chosen(layer)
  local routing, kind = layer.router, layer.router.kind
  local all = routing.gate == "all" or kind == "switch" or
    kind == "noisy_topk" and routing.variant == "v-moe"
  local k = kind == "switch" and 1 or routing.k
  if kind == "soft" or all and k == layer.experts then return layer.experts end
  if all then
    return nil, "the gates are probabilities among all experts, which do not sum to one",
      "train it on with gate = \"selected\", which sums to one, after model:with_ffn"
  end
  if kind == "topk" and (routing.gate == "sigmoid" or routing.skip) then
    return nil, routing.skip and "it skips its best experts" or "the gates are sigmoids",
      "train it on with gate = \"selected\", after model:with_ffn"
  end
  if kind == "topk" or kind == "noisy_topk" then return k end
  return nil, ("it routes by \"%s\""):format(kind),
    "train it on with router = { k = ..., gate = \"selected\" }, after model:with_ffn"
end

-- Each returns what stands in the way, and the nearest thing that is possible; nil when nothing
-- does. They come in order: a later one may rely on what the earlier ones found.
local checks = {
  function(config)
    local i = first(config, function(layer) return layer.kind == "mot" end)
    return i and ("layer %d is a mixture of tokens"):format(i),
      "moe.transition makes it a mixture of experts, to be trained a little more"
  end,
  function(config)
    return not first(config, is_mixture) and "no layer is a mixture of experts",
      "model:save writes a dense model as it is; moe.upcycle and moe.mix make mixtures"
  end,
  function(config, opts)
    local i = first(config, function(layer) return layer.kind == "dense" end)
    return i and not opts.dense_as_experts and ("layer %d is dense"):format(i),
      "dense_as_experts = true writes it as identical experts, which is exact"
  end,
  function(config)
    local i, layer = first(config, function(l) return l.activation ~= "swiglu" end)
    return i and ("layer %d has the activation \"%s\", not swiglu"):format(i, layer.activation),
      "model:save keeps the model for moelua"
  end,
  function(config)
    local i = first(config, function(layer) return layer.shared ~= nil end)
    return i and ("layer %d has shared experts"):format(i), "model:save writes them"
  end,
  function(config)
    for i, layer in ipairs(config.ffn) do
      local k, obstacle, remedy = chosen(layer.router and layer or { router = { kind = "soft" } })
      if obstacle and not k then return ("layer %d: %s"):format(i, obstacle), remedy end
      if layer.router and layer.router.capacity and layer.router.capacity.evaluation then
        return ("layer %d drops tokens beyond a capacity"):format(i),
          "capacity without evaluation, in model:with_ffn"
      end
    end
  end,
  function(config)
    local i, one = first(config, is_mixture)
    local j, other = first(config, function(layer)
      return is_mixture(layer) and (layer.experts ~= one.experts or chosen(layer) ~= chosen(one))
    end)
    return j and ("layers %d and %d choose %d of %d and %d of %d experts"):format(i, j,
      chosen(one), one.experts, chosen(other), other.experts),
      "have the same in every layer: a router without bias cannot leave an expert out"
  end,
  function(config)
    for _, name in ipairs({ "mlp_bias", "clip_qkv" }) do
      if config[name] then return ("the model has %s"):format(name), "model:save keeps it" end
    end
    for _, name in ipairs({ "attention_bias", "qk_norm" }) do
      if config[name] ~= "none" then
        return ("the model has %s = \"%s\""):format(name, config[name]),
          "model:save writes it in a family that has it"
      end
    end
  end,
}

-- A bias that is not zero takes part in the choice.
local function biased(donor)
  for i, layer in ipairs(donor.config.ffn) do
    local name = ("layers.%d.ffn.router.bias"):format(i - 1)
    if layer.router and layer.router.bias and donor.has(name) then
      local bias = donor.tensor(name)
      if (bias * bias):sum():item() > 0 then
        return ("layer %d: a bias takes part in the choice of experts"):format(i),
          "train it on without bias, with a balance loss"
      end
    end
  end
end

-- What stands in the way of Mixtral, and the remedy; nil when nothing does.
local function obstacle_of(donor, opts)
  for _, check in ipairs(checks) do
    local obstacle, remedy = check(donor.config, opts)
    if obstacle then return obstacle, remedy end
  end
  return biased(donor)
end

-- ---- the same as Mixtral ----------------------------------------------------------------------

-- One mixture for all layers: the widest, and what only training needs of the first.
local function mixtral_config(config)
  local _, one = first(config, is_mixture)
  local routing, widest, list = one.router, 0, {}
  for _, layer in ipairs(config.ffn) do widest = math.max(widest, layer.hidden) end
  local kept = routing.kind == "topk" and { balance = routing.balance, z_loss = routing.z_loss,
    jitter = routing.jitter } or {}
  for i = 1, config.layers do
    list[i] = { kind = "moe", hidden = widest, experts = one.experts,
      router = options.merge(kept, { k = chosen(one) }) }
  end
  return model.check_config(options.merge(config, { ffn = list, hf = options.merge(config.hf or {},
    { model_type = "mixtral" }) }))
end

local function zeros(rows, columns)
  return parts.new({ rows, columns }, function() return core.zeros(rows, columns) end, "zeros")
end

-- Layer `number` as the mixture that `made` says.
local function add_layer(plan, donor, number, made)
  local layer, router = donor.config.ffn[number], ("layers.%d.ffn.router"):format(number - 1)
  for e = 1, made.experts do
    local f = ffn_parts.of(donor, number, is_mixture(layer) and e or nil)
    f = ffn_parts.scale(f, layer.router and layer.router.scale or 1)
    plan:add_ffn(number, ffn_parts.pad(f, made.hidden), e)
  end
  plan:add(router, is_mixture(layer) and parts.copy(donor, router) or
    zeros(made.experts, donor.config.dim))
end

local function as_mixtral(donor)
  local plan, done = Blueprint(mixtral_config(donor.config), donor), {}
  for _, name in ipairs(donor.names) do
    local number = tonumber(name:match("^layers%.(%d+)%.ffn%."))
    if not number then
      plan:add(name, parts.copy(donor, name))
    elseif not done[number] then
      done[number] = true
      add_layer(plan, donor, number + 1, plan.config.ffn[number + 1])
    end
  end
  return plan
end

-- The model as it is.
local function as_it_is(donor)
  local plan = Blueprint(donor.config, donor)
  for _, name in ipairs(donor.names) do
    plan:add_each(name, function(_, e) return parts.copy(donor, name, e) end)
  end
  return plan
end

-- ---- writing ----------------------------------------------------------------------------------

-- The numbers of a tensor, or of all experts of a stack.
local function value_of(slots)
  if not slots[1].expert then return slots[1].part.value() end
  local experts = {}
  for e, slot in ipairs(slots) do experts[e] = slot.part.value() end
  return join_rows(experts):reshape(#slots, table.unpack(slots[1].part.shape))
end

-- A blueprint as gguf_export.lua takes models: one tensor after the other is made.
local function described(plan)
  local list, slots = {}, {}
  for _, slot in ipairs(plan.slots) do
    local name, shape = slot.name, slot.part.shape
    if not slots[name] then
      slots[name], list[#list + 1] = {}, { name = name, shape = shape }
      if slot.expert then
        local layer = plan.config.ffn[tonumber(name:match("^layers%.(%d+)")) + 1]
        list[#list].shape = { layer.experts, table.unpack(shape) }
      end
    end
    table.insert(slots[name], slot)
  end
  return { config = plan.config, tokenizer = plan:tokenizer(), list = function() return list end,
    tensor = function(name) return value_of(slots[name]) end }
end

local function to_gguf(plan, out, dtype)
  return require("moelua.gguf_export").write(described(plan), out, { dtype = dtype })
end

local function write_mixtral(plan, out, opts)
  local hf, reason = hf_config.express(plan.config, "mixtral")
  if not hf then return nil, "export: " .. reason, "unsupported" end
  return model_folder.write(plan, { out = out, hf = hf, family = hf_config.family("mixtral"),
    dtype = opts.dtype, memory = opts.memory, max_shard_size = opts.max_shard_size })
end

-- Does a family of which llama.cpp has an architecture say what the model is?
local function known_to_gguf(config)
  local _, family = hf_config.to_json(config)
  return family.gguf ~= nil
end

local declared = {
  format = { { "mixtral", "gguf" } },
  dtype = { { "f32", "f16", "bf16", "q8_0" } },
  dense_as_experts = { "boolean", false },
  memory = "integer|number|string", max_shard_size = "integer",
}

local function check(given, out)
  local opts = options.check("export", given, declared)
  opts.format = opts.format or (out:find("%.gguf$") and "gguf" or "mixtral")
  if opts.dtype == "q8_0" and opts.format ~= "gguf" then
    core.raise("export: dtype \"q8_0\" is for GGUF\nhint: format = \"gguf\"")
  end
  return opts
end

--- Writes a mixture for programs of others. Options:
---   format            "mixtral": a Hugging Face directory with the names and fields of Mixtral,
---                     and the files of the tokenizer byte for byte; "gguf": a file for llama.cpp,
---                     also of dense models and of the other families that it has. By default what
---                     the ending of `out` says
---   dtype             "f32", "f16", "bf16"; for GGUF also "q8_0". Default: as it is stored, f32
---                     for a model in memory, and for GGUF
---   dense_as_experts  dense layers become identical experts, which is exact
---   memory, max_shard_size    see model_folder.lua
--- What the format cannot say is refused: nil, the reason with the nearest thing that is possible,
--- "unsupported".
---@param m moelua.Model|string a model, or the path of one
---@param out string a folder, or a file for GGUF
---@param given table?
---@return table|true|nil summary
---@return string? message
---@return string? code
return function(m, out, given)
  expect(type(out) == "string" and out ~= "", "export", "out", "the path of a folder or file", out)
  local opts, donor = check(given, out), donors.of("export", m)
  if opts.format == "gguf" and known_to_gguf(donor.config) then
    return to_gguf(as_it_is(donor), out, opts.dtype)
  end
  local obstacle, remedy = obstacle_of(donor, opts)
  if obstacle then
    return nil, ("export: %s\nhint: %s"):format(obstacle, remedy), "unsupported"
  end
  local plan = as_mixtral(donor)
  if opts.format == "gguf" then return to_gguf(plan, out, opts.dtype) end
  return write_mixtral(plan, out, opts)
end
