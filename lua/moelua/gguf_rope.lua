-- gguf_rope.lua: scaled rotary positions in the keys of GGUF. Linear and YaRN scaling have keys;
-- that of Llama 3 is a tensor, rope_freqs.weight, by which the frequencies are divided. What it was
-- made of stands in a key of ours, and is found by trying otherwise.

local core = require("moelua.core")
local rope_scaling = require("moelua.rope_scaling")
local json = core.json

local rope = {}

local TENSOR, OURS = "rope_freqs.weight", "moelua.rope_scaling"

-- ---- Llama 3 ----------------------------------------------------------------------------------

--- By what the frequencies of the pairs are divided.
---@param scaling table as rope_scaling.check returns it
---@param theta number
---@param head_dim integer
---@return number[]
function rope.divisors(scaling, theta, head_dim)
  local list = rope_scaling.frequencies(scaling, theta, head_dim)
  for i = 1, #list do list[i] = theta ^ (-2 * (i - 1) / head_dim) / list[i] end
  return list
end

local function same(scaling, theta, head_dim, divisors)
  local ok, checked = core.attempt(rope_scaling.check, "rope", scaling)
  if not ok then return false end
  for i, x in ipairs(rope.divisors(checked, theta, head_dim)) do
    if math.abs(x - divisors[i]) > 1e-4 * x then return false end
  end
  return true
end

-- Candidates in the order of their likelihood: what the file says, Llama 3's own numbers, others.
local function candidates(self, factor)
  local list = {}
  local text = self.file:metadata(OURS)
  local said = type(text) == "string" and json.decode(text)
  if type(said) == "table" then list[1] = said end
  for _, exponent in ipairs({ 13, 12, 14, 11, 15, 10, 16, 9, 17, 8, 7, 6, 5, 4 }) do
    list[#list + 1] = { rope_type = "llama3", factor = factor, low_freq_factor = 1.0,
      high_freq_factor = 4.0, original_max_position_embeddings = 1 << exponent }
  end
  return list
end

local function read_llama3(self, theta)
  local tensor, message = self.file:tensor(TENSOR)
  if not tensor then core.raise("%s", message) end
  local divisors = tensor:totable()
  if type(divisors) ~= "table" or #divisors ~= self.head_dim // 2 then
    core.raise("tensor `%s` has not the %d numbers of a head", TENSOR, self.head_dim // 2)
  end
  local most, all_one = 1, true
  for _, x in ipairs(divisors) do
    most, all_one = math.max(most, x), all_one and x == 1
  end
  if all_one then return nil end
  for _, scaling in ipairs(candidates(self, most)) do
    if scaling.rope_type == "llama3" and same(scaling, theta, self.head_dim, divisors) then
      return scaling
    end
  end
  core.raise("the frequencies of `%s` are not those of a known scaling", TENSOR)
end

-- ---- keys -------------------------------------------------------------------------------------

local YARN = { yarn_beta_fast = "beta_fast", yarn_beta_slow = "beta_slow" }

local function read_keys(self, hf, value_of)
  local function key(name) return value_of(self, "rope.scaling." .. name) end
  local older = value_of(self, "rope.scale_linear")
  local kind, factor = key("type") or (older and "linear") or "none", key("factor") or older
  if kind == "none" or (kind == "linear" and (not factor or factor == 0 or factor == 1)) then
    return nil
  end
  if kind == "linear" then return { rope_type = "linear", factor = factor } end
  if kind ~= "yarn" then core.raise("rotary positions scaled by `%s` are not supported", kind) end
  local scaling = { rope_type = "yarn", factor = factor,
    original_max_position_embeddings = key("original_context_length")
      or hf.max_position_embeddings }
  for name, field in pairs(YARN) do scaling[field] = key(name) end
  for _, name in ipairs({ "attn_factor", "yarn_attn_factor", "yarn_ext_factor",
    "yarn_log_multiplier" }) do
    local value = key(name)
    if value ~= nil and value ~= 1 then
      core.raise("%s.rope.scaling.%s is %s, which is not supported", self.arch, name,
        tostring(value))
    end
  end
  return scaling
end

--- rope_scaling of config.json; nil when there is none.
---@param self table what gguf_view knows of the file
---@param hf table
---@param value_of fun(self: table, key: string): any
---@return table?
function rope.read(self, hf, value_of)
  if not self.present[TENSOR] then return read_keys(self, hf, value_of) end
  return read_llama3(self, hf.rope_theta or 10000.0)
end

-- ---- writing ----------------------------------------------------------------------------------

--- Adds the keys of a scaling to the metadata; returns the tensor's name and its numbers when it
--- needs one; nil and a reason when GGUF cannot say it.
---@param scaling table? of our configuration
---@param config table
---@param set fun(key: string, value: any) sets a key behind the architecture
---@param metadata table
---@return string? name
---@return number[]|string|nil numbers
function rope.write(scaling, config, set, metadata)
  if not scaling then return nil end
  local kind = scaling.rope_type
  if kind == "linear" then
    set("rope.scaling.type", "linear")
    set("rope.scaling.factor", scaling.factor + 0.0)
  elseif kind == "yarn" then
    if scaling.attention_factor or scaling.mscale or scaling.mscale_all_dim
      or not scaling.truncate then
      return nil, "GGUF has no attention_factor, mscale or untruncated range of YaRN"
    end
    set("rope.scaling.type", "yarn")
    set("rope.scaling.factor", scaling.factor + 0.0)
    set("rope.scaling.original_context_length", scaling.original_max_position_embeddings)
    set("rope.scaling.yarn_beta_fast", scaling.beta_fast + 0.0)
    set("rope.scaling.yarn_beta_slow", scaling.beta_slow + 0.0)
  elseif kind == "llama3" then
    metadata[OURS] = json.encode(scaling)
    return TENSOR, rope.divisors(scaling, config.rope_theta, config.head_dim)
  else
    return nil, ("rotary positions scaled by `%s` do not exist in GGUF"):format(kind)
  end
  return nil
end

return rope
