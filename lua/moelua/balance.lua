-- balance.lua: losses that keep the load of the experts even, and router logits small.
--
--   L = coef * N * sum_i u_i p_i        over N experts, with p_i the mean score of expert i
--
-- What u_i is, the form says (core/ops/routing_shares.c):
--
--   form       u_i                                  even load   source
--   btx        mean gate, with gradient             1           Sukhbaatar et al. 2024, section 3.3
--   switch     share of tokens with expert i        k           Fedus et al. 2022, eq. 4; Mixtral
--   gshard     share that has it first              1           Lepikhin et al. 2021; V-MoE
--   deepseek   that of switch, divided by k         1           Dai et al. 2024, eq. 12; Megatron
--   device     the same, by groups of experts       1           Dai et al. 2024, eq. 15
--
-- All tokens on one expert give N (N / k in the last two). The value of an even load is no lower
-- bound: shares of tokens are no probabilities.

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")

local balance = {}
local raise = core.raise

local declared = {
  form = { { "btx", "switch", "gshard", "deepseek", "device" }, "btx" },
  coef = { "number", 0.01 },
  -- u and p are means over: the batch; each sequence (then the mean of their losses is taken); all
  -- micro-batches of an optimizer step, so that the gradient is the same however it is divided.
  scope = { { "batch", "sequence", "step" }, "batch" },
  -- The loss of the model: the sum over its layers (Sukhbaatar et al. 2024), their mean
  -- (MegaBlocks), or the loss of the tokens of all layers put together (Mixtral in transformers).
  reduce = { { "sum", "mean", "pooled" }, "sum" },
  -- Of "device": so many groups of neighbouring experts, and the coefficient of the loss "deepseek"
  -- beside it, alpha_1 where coef is alpha_2.
  groups = "integer",
  expert_coef = "number",
}

local function check_groups(opts, experts)
  if opts.form ~= "device" then
    local name = opts.groups and "groups" or opts.expert_coef and "expert_coef"
    if name then
      raise("router.balance: %s is for form = \"device\", not \"%s\"", name, opts.form)
    end
  elseif not opts.groups or opts.groups < 1 or experts and experts % opts.groups ~= 0 then
    raise("router.balance: form \"device\" needs groups of equal size: %s experts in %s groups",
      experts or "any number of", opts.groups or "no")
  end
end

local function check_coefficient(opts, name)
  local value = opts[name]
  if value and not (value >= 0 and value < math.huge) then
    raise("router.balance: %s must be a number from 0: %s", name, value)
  end
end

--- The option `balance` of a router of `experts` experts (nil: not known yet), complete and
--- checked; nil when there is none. Options that are complete already stay as they are.
---@param given table|false|nil
---@param experts integer?
---@return table? opts
function balance.options(given, experts)
  if not given then return nil end
  local opts = options.check("router.balance", given, declared)
  check_coefficient(opts, "coef")
  check_coefficient(opts, "expert_coef")
  check_groups(opts, experts)
  return opts
end

--- Does a loss with these options need the shares of a whole optimizer step, see balance.average?
---@param opts table? as balance.options returns them
---@return boolean
function balance.needs_step(opts) return opts ~= nil and opts.scope == "step" end

local function add(a, b) return a and b and a + b or a or b end

-- How many tokens count, and how many segments have such tokens.
local function counted(T, segments, mask)
  if not mask or T == 0 then return T, segments end
  return mask:sum():item(), mask:reshape(segments, -1):max(2):sum():item()
end

-- The shares { u, p [segments x N] } of one layer, with what a loss has to know about them.
local function shares_of(opts, scores, gates, experts, how)
  local segments = opts.scope == "sequence" and how.segments or 1
  local form = opts.form == "device" and "deepseek" or opts.form
  local u, p = scores:routing_shares(gates, experts, form, segments, how.mask)
  local tokens, occupied = counted(scores:size(1), segments, how.mask)
  return { u = u, p = p, tokens = tokens, segments = occupied, options = opts,
    whole = opts.scope == "step" and how.shares or nil }
end

-- Sums of u_i p_i over experts and segments. With the shares U, P of a whole step in which this
-- batch has the fraction r of the tokens, U P is expanded around them: r (U p + u P - U P). Over
-- the step these add up to the value and to the gradient of U P.
local function products(own, whole)
  if not whole then return (own.u * own.p):sum() end
  return (whole.u * own.p + own.u * whole.p - whole.u * whole.p):sum()
    * (own.tokens / whole.tokens)
end

-- The shares of D groups of experts: with them f'_d = N / |group| sum u = D u_d and P'_d = p_d.
local function grouped(shares, D)
  local function by_group(x) return x:reshape(x:size(1), D, -1):sum(3) end
  return { u = by_group(shares.u), p = by_group(shares.p), tokens = shares.tokens }
end

-- N sum(u p), the mean over the segments; N counts experts or groups.
local function loss_over(own, whole, segments)
  return products(own, whole) * (own.p:size(2) / math.max(segments, 1))
end

-- The loss of one layer; nil when all coefficients are 0.
local function loss_of(shares)
  local opts, own, whole, loss = shares.options, shares, shares.whole, nil
  local by_expert, by_device = opts.coef, 0
  if opts.form == "device" then by_expert, by_device = opts.expert_coef or 0, opts.coef end
  if by_expert > 0 then loss = loss_over(own, whole, own.segments) * by_expert end
  if by_device > 0 then
    local groups = grouped(own, opts.groups)
    loss = add(loss, loss_over(groups, whole and grouped(whole, opts.groups), own.segments)
      * by_device)
  end
  return loss
end

--- The balance loss of one layer, and its shares { u, p, ... }: info.balance of the layer.
--- how: segments, the number of sequences that the tokens make (for scope "sequence"); mask f32 of
--- T elements, 0 leaves a token out; shares, what balance.average made of the whole step (for
--- scope "step"; without them this batch is the step).
---@param opts table? as balance.options returns them; nil: no loss
---@param scores moelua.Tensor [T x N] probabilities
---@param gates moelua.Tensor [T x k]
---@param experts moelua.Tensor i32 [T x k], before any are dropped
---@param how { segments: integer?, mask: moelua.Tensor?, shares: table? }?
---@return moelua.Tensor? loss
---@return table? shares
function balance.loss(opts, scores, gates, experts, how)
  if not opts then return nil, nil end
  expect(type(opts) == "table" and opts.scope ~= nil, "balance.loss", "opts",
    "what balance.options returns", opts)
  local shares = shares_of(opts, scores, gates, experts, how or {})
  return loss_of(shares), shares
end

-- sum_i weight_i list_i[field] / sum of weights
local function mean_of(list, field, weight)
  local sum, total = nil, 0
  for _, shares in ipairs(list) do
    local w = weight and shares[weight] or 1
    sum, total = add(sum, shares[field] * w), total + w
  end
  return sum * (1 / math.max(total, 1))
end

--- The shares of a whole optimizer step from those of its micro-batches in one layer: what scope
--- "step" hands to each of them as how.shares. The losses that follow are meant to be divided by
--- the number of micro-batches, as their cross-entropies are; then value and gradient are those of
--- the whole step at once, also when masks leave different numbers of tokens.
---@param list table[] info.balance of each micro-batch
---@return table shares
function balance.average(list)
  expect(type(list) == "table" and #list > 0, "balance.average", "list",
    "a list of shares, one for each micro-batch", list)
  local tokens = 0
  for _, shares in ipairs(list) do tokens = tokens + shares.tokens end
  return { u = mean_of(list, "u", "tokens"):detach(), p = mean_of(list, "p", "tokens"):detach(),
    tokens = tokens / #list }
end

-- ---- over layers ------------------------------------------------------------------------------

local function sum_of(list)
  local sum
  for _, shares in ipairs(list) do sum = add(sum, loss_of(shares)) end
  return sum
end

local function check_alike(first, other)
  for _, name in ipairs({ "form", "coef", "scope", "groups", "expert_coef" }) do
    if first.options[name] ~= other.options[name] then
      raise("router.balance: layers whose losses are pooled differ in %s: %s and %s", name,
        first.options[name], other.options[name])
    end
  end
  if first.p:size(2) ~= other.p:size(2) then
    raise("router.balance: layers whose losses are pooled have %d and %d experts",
      first.p:size(2), other.p:size(2))
  end
end

-- The tokens of all layers as those of one: each layer has equally many.
local function pool(list)
  local first, whole = list[1], {}
  for i, shares in ipairs(list) do
    check_alike(first, shares)
    whole[i] = shares.whole
  end
  return options.merge(first, { u = mean_of(list, "u"), p = mean_of(list, "p"),
    whole = #whole == #list and options.merge(whole[1],
      { u = mean_of(whole, "u"), p = mean_of(whole, "p") }) or nil })
end

local reduced = {
  sum = sum_of,
  mean = function(list)
    local sum = sum_of(list)
    return sum and sum * (1 / #list)
  end,
  pooled = function(list) return loss_of(pool(list)) end,
}

--- The losses of a layer without its balance loss, nil when there are none: `rest`, or `loss` of a
--- layer that does not tell them apart.
---@param info table
---@return moelua.Tensor?
function balance.rest(info)
  return info.rest or not info.balance and info.loss or nil
end

--- The auxiliary losses of a model: the balance losses of its layers put together as their option
--- reduce says, and the sum of everything else. nil when there are none.
---@param infos table info of each layer by its number, nil for those without: `balance` as
---  balance.loss returns them, `rest` all other losses of the layer; or `loss` alone
---@param layers integer how many layers there are
---@return moelua.Tensor? loss
function balance.total(infos, layers)
  local total, lists = nil, { sum = {}, mean = {}, pooled = {} }
  for i = 1, layers do
    local info = infos[i] or {}
    total = add(total, balance.rest(info))
    if info.balance then
      local list = lists[info.balance.options.reduce]
      list[#list + 1] = info.balance
    end
  end
  for _, reduce in ipairs({ "sum", "mean", "pooled" }) do
    if #lists[reduce] > 0 then total = add(total, reduced[reduce](lists[reduce])) end
  end
  return total
end

-- ---- the size of logits -----------------------------------------------------------------------

-- log sum exp of each row, which -inf may rule experts out of.
local function log_sum_exp(logits)
  local top = logits:detach():max(-1, true)
  return ((logits - top):exp():sum(-1, true):log() + top):reshape(-1)
end

--- Mean over tokens of (log sum exp)^2, the z-loss of ST-MoE (Zoph et al. 2022, eq. 5) without its
--- coefficient: (ln N)^2 where all logits are 0.
---@param logits moelua.Tensor [T x N]
---@param mask moelua.Tensor? f32 of T elements, 0 leaves a token out
---@return moelua.Tensor
function balance.z_loss(logits, mask)
  local z = log_sum_exp(logits)
  if not mask then return (z * z):mean() end
  return (z * z * mask:reshape(-1)):sum() * (1 / math.max(mask:sum():item(), 1))
end

return balance
