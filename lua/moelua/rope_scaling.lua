-- rope_scaling.lua: other frequencies of rotary positions, for a context that is longer than the
-- one a model was first trained on. Pair i of a head of D numbers turns by f_i = theta^(-2i / D)
-- per position (core/ops/rope.c); with a factor s and the first context L it becomes, by
-- `rope_type`,
--
--   linear    f_i / s                                                       Chen et al. 2023
--   dynamic   that of theta (s n / L - (s - 1))^(D / (D - 2)), for sequences of n > L tokens
--   llama3    f_i / s for wavelengths above L / low_freq_factor, f_i for those below
--             L / high_freq_factor, and in between a mean of both           Dubey et al. 2024
--   yarn      f_i / s for pairs that turn less than beta_slow times in L, f_i for those that turn
--             more than beta_fast times, a mean in between; q and k become attention_factor times
--             as long, by default 0.1 ln s + 1                              Peng et al. 2023
--
-- The options have the names of config.json; L is original_max_position_embeddings.

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")
local raise = core.raise

local rope_scaling = {}

local number = { "number", required = true }
local integer = { "integer", required = true }
local types = { "linear", "dynamic", "llama3", "yarn" }

--- The options of each type.
rope_scaling.declared = {
  linear = { factor = number },
  dynamic = { factor = number, original_max_position_embeddings = integer },
  llama3 = { factor = number, low_freq_factor = number, high_freq_factor = number,
    original_max_position_embeddings = integer },
  yarn = { factor = number, original_max_position_embeddings = integer,
    beta_fast = { "number", 32 }, beta_slow = { "number", 1 }, attention_factor = "number",
    mscale = "number", mscale_all_dim = "number", truncate = { "boolean", true } },
}

--- The names of all types, as a sentence has them.
rope_scaling.known = "linear, dynamic, llama3 and yarn"

-- ---- options ----------------------------------------------------------------------------------

local function check_values(where, opts)
  for _, name in ipairs({ "factor", "low_freq_factor", "high_freq_factor", "beta_fast",
    "beta_slow", "original_max_position_embeddings", "attention_factor" }) do
    local value = opts[name]
    if value and not (value > 0 and value < 2.0^31) then
      raise("%s: rope_scaling: %s must be positive and below 2^31, not %s", where, name, value)
    end
  end
  for _, name in ipairs({ "mscale", "mscale_all_dim" }) do
    local value = opts[name]
    if value and not (value >= 0 and value < 2.0^31) then
      raise("%s: rope_scaling: %s must be from 0 to 2^31, not %s", where, name, value)
    end
  end
  if opts.low_freq_factor and opts.low_freq_factor >= opts.high_freq_factor then
    raise("%s: rope_scaling: low_freq_factor must be below high_freq_factor: %s and %s", where,
      opts.low_freq_factor, opts.high_freq_factor)
  end
end

--- The options of a scaling, checked and complete; nil without one. Options that are complete stay
--- as they are.
---@param where string the function that was called, for messages
---@param given table? rope_type and the options of that type
---@param context integer? what the model was first trained on, where the options do not say it
---@return table? opts
function rope_scaling.check(where, given, context)
  if given == nil then return nil end
  expect(type(given) == "table", where, "rope_scaling", "a table of options", given)
  local kind = options.check(where .. ": rope_scaling", { rope_type = given.rope_type },
    { rope_type = { types, required = true } }).rope_type
  local own = options.merge(given, {})
  own.rope_type = nil
  if rope_scaling.declared[kind].original_max_position_embeddings then
    own.original_max_position_embeddings = own.original_max_position_embeddings or context
  end
  local opts = options.check(where .. ": rope_scaling", own, rope_scaling.declared[kind])
  check_values(where, opts)
  opts.rope_type = kind
  return opts
end

-- ---- frequencies ------------------------------------------------------------------------------

local function plain(theta, D)
  local list = {}
  for i = 0, D // 2 - 1 do list[i + 1] = theta ^ (-2 * i / D) end
  return list
end

local function clamp(x) return math.max(0.0, math.min(1.0, x)) end

local compute = {}

function compute.linear(opts, theta, D)
  local list = plain(theta, D)
  for i, f in ipairs(list) do list[i] = f / opts.factor end
  return list
end

function compute.dynamic(opts, theta, D, length)
  local stretch = opts.factor * length / opts.original_max_position_embeddings - (opts.factor - 1)
  return plain(D > 2 and theta * stretch ^ (D / (D - 2)) or theta, D)
end

function compute.llama3(opts, theta, D)
  local list, low, high = plain(theta, D), opts.low_freq_factor, opts.high_freq_factor
  for i, f in ipairs(list) do
    local turns = opts.original_max_position_embeddings * f / (2 * math.pi)
    local share = clamp((turns - low) / (high - low))
    list[i] = (1 - share) * f / opts.factor + share * f
  end
  return list
end

-- The pairs between which YaRN goes over from one frequency to the other.
local function yarn_range(opts, theta, D)
  local function pair(turns)
    return D * math.log(opts.original_max_position_embeddings / (turns * 2 * math.pi)) /
      (2 * math.log(theta))
  end
  local low, high = pair(opts.beta_fast), pair(opts.beta_slow)
  if opts.truncate then low, high = math.floor(low), math.ceil(high) end
  low, high = math.max(low, 0), math.min(high, D - 1)
  return low, low == high and high + 0.001 or high
end

function compute.yarn(opts, theta, D)
  local list, low, high = plain(theta, D), yarn_range(opts, theta, D)
  for i, f in ipairs(list) do
    local share = clamp((i - 1 - low) / (high - low))
    list[i] = share * f / opts.factor + (1 - share) * f
  end
  return list
end

-- What YaRN makes longer so that attention stays as sharp.
local function yarn_factor(opts)
  local function of(scale)
    return opts.factor <= 1 and 1.0 or 0.1 * scale * math.log(opts.factor) + 1
  end
  if opts.attention_factor then return opts.attention_factor end
  local one, all = opts.mscale or 0, opts.mscale_all_dim or 0
  return one ~= 0 and all ~= 0 and of(one) / of(all) or of(1)
end

--- The frequencies of the D/2 pairs of a head, and by what factor queries and keys are longer; nil
--- where they are the plain ones.
---@param opts table? as rope_scaling.check returns them
---@param theta number
---@param D integer the size of a head
---@param length integer? of the sequence, which "dynamic" depends on
---@return number[]? frequencies
---@return number factor
function rope_scaling.frequencies(opts, theta, D, length)
  expect(type(theta) == "number", "rope_scaling.frequencies", "theta", "a number", theta)
  expect(math.type(D) == "integer", "rope_scaling.frequencies", "D", "an integer", D)
  if not opts then return nil, 1.0 end
  if opts.rope_type == "dynamic" and (length or 0) <= opts.original_max_position_embeddings then
    return nil, 1.0
  end
  return compute[opts.rope_type](opts, theta, D, length),
    opts.rope_type == "yarn" and yarn_factor(opts) or 1.0
end

return rope_scaling
