-- merge/config.lua: a configuration of a merge, as mergekit's YAML or as a Lua table of the same
-- form, becomes a stage: one merge with its slices.
--
-- A stage: { name, method, base, slices, parameters, dtype, out_dtype, tokenizer, chat_template,
-- source (the table that was read) }, a slice: { sources, base, parameters }, a source: { model,
-- range, parameters }. Lookups go through parameters from the source outwards. `range` counts
-- layers from 0 and leaves out its end; nil is all of them.

local chat_template = require("moelua.merge.chat_template")
local core = require("moelua.core")
local methods = require("moelua.merge.methods")
local options = require("moelua.options")
local values = require("moelua.merge.values")
local json = core.json

local config = {}

-- ---- checks -----------------------------------------------------------------------------------

local function is_null(value) return value == nil or value == json.null end

local function is_mapping(value) return type(value) == "table" and value[1] == nil end

local function is_list(value)
  return type(value) == "table" and (value[1] ~= nil or next(value) == nil)
end

local function sorted_keys(given)
  local keys = {}
  for key in pairs(given) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  return keys
end

-- Tells of keys that nobody knows. `where` is a path as "slices[1].sources[2]", "" at the top.
local function check_keys(found, given, where, known)
  for _, key in ipairs(sorted_keys(given)) do
    local is_known = false
    for _, name in ipairs(known) do is_known = is_known or name == key end
    if not is_known then
      found:at(given, key, "%sunknown key '%s'%s", where == "" and "" or where .. ": ", key,
        options.hint(key, known))
    end
  end
end

-- The value under the key, of one of the kinds; nil and a problem when it has another type.
local function take(found, given, where, key, kind)
  local value = given[key]
  if is_null(value) then return nil end
  local fits = kind == "mapping" and is_mapping(value) or kind == "list" and is_list(value) or
    type(value) == kind
  if fits then return value end
  found:at(given, key, "%s%s: a %s is expected, not %s", where == "" and "" or where .. ".", key,
    kind, core.describe(value))
end

-- ---- models -----------------------------------------------------------------------------------

-- One folder has one name.
local function path_of(text) return (text:gsub("(.)/+$", "%1")) end

-- The model of a reference: a path. What stands for a download or an adapter is told apart, because
-- no file of that name will ever be found.
local function check_model(found, given, where, key)
  local text = take(found, given, where, key, "string")
  if not text then return nil end
  local base, adapter = text:match("^(.-)%+(.+)$")
  if base and not core.system.exists(text) and core.system.exists(base) then
    found:at(given, key, "model `%s`: adapters are not applied here: `%s`\nhint: merge the " ..
      "adapter into its model first", base, adapter)
    return nil
  end
  if text == "" then
    found:at(given, key, "%s.%s: the path of a model is empty", where, key)
    return nil
  end
  return path_of(text)
end

local function check_range(found, given, where)
  local range = take(found, given, where, "layer_range", "list")
  if not range then return nil end
  local first, last = math.tointeger(range[1]), math.tointeger(range[2])
  if first and last and #range == 2 and first >= 0 and first < last then return { first, last } end
  found:at(given, "layer_range", "%s.layer_range: [first, end] is expected, two whole numbers " ..
    "with 0 <= first < end", where)
end

-- ---- parameters -------------------------------------------------------------------------------

local function check_values(found, given, where, name, rule)
  local setting, told = given[name], false
  values.each(setting, function(value)
    local complaint = methods.complaint(rule, value)
    if complaint and not told then
      found:at(given, name, "%s.%s is %s: %s", where, name, core.describe(value), complaint)
      told = true
    end
  end)
end

-- A parameter that this method does not have: a slip, or a habit from another method.
local function check_foreign(stage, found, given, where, name)
  if methods.ignored[name] then return end
  local all = methods.parameters()
  for _, known in ipairs(all) do
    if known == name then
      stage.warnings[#stage.warnings + 1] = ("%s%s: %s has no parameter '%s', it changes nothing")
        :format(found:place(given, name), where, stage.method, name)
      return
    end
  end
  local own = methods.parameters(methods.table[stage.method])
  found:at(given, name, "%s: unknown parameter '%s'%s", where, name, options.hint(name,
    #own > 0 and own or all))
end

-- A parameter that a model has been given, and that only the merge as a whole can have.
local function warn_of_whole(stage, found, given, where, name)
  stage.warnings[#stage.warnings + 1] = ("%s%s: '%s' is one of the whole merge, here it changes " ..
    "nothing"):format(found:place(given, name), where, name)
end

-- What is wrong with one parameter, as far as that can be told without a tensor.
local function check_parameter(stage, found, given, where, name, of_model)
  local complaint = values.complaint(given[name])
  if complaint then
    found:at(given, name, "%s.%s: %s", where, name, complaint)
    return
  end
  local method = methods.table[stage.method]
  if not method then return end
  local rule = methods.rule(method, name)
  if not rule then return check_foreign(stage, found, given, where, name) end
  if of_model and not method.each[name] then
    warn_of_whole(stage, found, given, where, name)
  end
  check_values(found, given, where, name, rule)
end

-- The parameters under the key. `of_model`: they are one model's.
local function check_parameters(stage, found, given, where, of_model)
  local parameters = take(found, given, where, "parameters", "mapping")
  if not parameters then return nil end
  where = (where == "" and "" or where .. ".") .. "parameters"
  local result = {}
  for _, name in ipairs(sorted_keys(parameters)) do
    if not is_null(parameters[name]) then
      check_parameter(stage, found, parameters, where, name, of_model)
      result[name] = parameters[name]
    end
  end
  return result
end

-- ---- slices -----------------------------------------------------------------------------------

local function check_source(stage, found, given, where, more)
  if type(given) == "string" then given = { model = given } end
  if not is_mapping(given) then
    found:add(nil, ("%s: a mapping with `model` is expected, not %s"):format(where,
      core.describe(given)))
    return nil
  end
  check_keys(found, given, where, more and { "model", "parameters", more } or
    { "model", "parameters" })
  local source = { model = check_model(found, given, where, "model"),
    parameters = check_parameters(stage, found, given, where, true),
    range = more and check_range(found, given, where) or nil }
  if is_null(given.model) then
    found:at(given, nil, "%s: `model` is missing", where)
  end
  return source.model and source
end

local function check_sources(stage, found, given, where, key, more)
  local list, result = take(found, given, where, key, "list"), {}
  local path = (where == "" and "" or where .. ".") .. key
  if not list then return result end
  if #list == 0 then found:at(given, key, "%s: there is no model", path) end
  for i, each in ipairs(list) do
    result[#result + 1] = check_source(stage, found, each, ("%s[%d]"):format(path, i), more)
  end
  return result
end

-- `models`: one slice of all layers. The base model is an input too, the last one unless it is
-- listed.
local function slice_of_models(stage, found, given, where)
  local sources = check_sources(stage, found, given, where, "models")
  local listed = false
  for _, source in ipairs(sources) do listed = listed or source.model == stage.base end
  if stage.base and not listed then sources[#sources + 1] = { model = stage.base, added = true } end
  return { { sources = sources } }
end

local function check_slice(stage, found, given, where)
  if not is_mapping(given) then
    found:add(nil, ("%s: a mapping with `sources` is expected, not %s"):format(where,
      core.describe(given)))
    return nil
  end
  check_keys(found, given, where, { "sources", "base_model", "parameters", "residual_weight" })
  if is_null(given.sources) then found:at(given, nil, "%s: `sources` is missing", where) end
  return { sources = check_sources(stage, found, given, where, "sources", "layer_range"),
    base = check_model(found, given, where, "base_model"),
    parameters = check_parameters(stage, found, given, where) }
end

local function check_slices(stage, found, given, where)
  local list, result = take(found, given, where, "slices", "list"), {}
  where = (where == "" and "" or where .. ".") .. "slices"
  if list and #list == 0 then found:add(nil, where .. ": there is no slice") end
  for i, each in ipairs(list or {}) do
    result[#result + 1] = check_slice(stage, found, each, ("%s[%d]"):format(where, i))
  end
  return result
end

-- Language models have one module, whatever its name; its parameters stand between those of a slice
-- and those of everything.
local function take_module(stage, found, given)
  local modules = take(found, given, "", "modules", "mapping")
  if not modules then return {}, "" end
  local names = sorted_keys(modules)
  if #names ~= 1 then
    found:at(given, "modules", "modules: exactly one is expected, there are %d", #names)
    return {}, ""
  end
  local where = "modules." .. names[1]
  local module = take(found, modules, "modules", names[1], "mapping") or {}
  check_keys(found, module, where, { "models", "slices", "parameters" })
  stage.module_parameters = check_parameters(stage, found, module, where)
  return module, where
end

local function check_inputs(stage, found, given)
  local ways = {}
  for _, key in ipairs { "models", "slices", "modules" } do
    if not is_null(given[key]) then ways[#ways + 1] = key end
  end
  if #ways ~= 1 then
    found:at(given, ways[2], "exactly one of models, slices and modules is " ..
      "expected%s", #ways == 0 and "" or ", there are " .. table.concat(ways, " and "))
    return {}
  end
  local from, where = given, ""
  if ways[1] == "modules" then from, where = take_module(stage, found, given) end
  if not is_null(from.models) then return slice_of_models(stage, found, from, where) end
  return check_slices(stage, found, from, where)
end

-- ---- the rest of a stage ----------------------------------------------------------------------

local dtypes = { float16 = "F16", f16 = "F16", fp16 = "F16", bfloat16 = "BF16", bf16 = "BF16",
  float32 = "F32", f32 = "F32", fp32 = "F32" }
local dtype_names = { "bfloat16", "float16", "float32" }

local function check_dtype(found, given, key)
  local name = take(found, given, "", key, "string")
  if not name then return nil end
  local dtype = dtypes[name:lower():gsub("^torch%.", "")]
  if not dtype then
    found:at(given, key, "%s is '%s': no type that is written%s", key, name,
      options.hint(name, dtype_names))
  end
  return dtype
end

local function check_method(found, given)
  local method = given.merge_method
  if method == nil then method = given.method end
  if type(method) == "function" then return method end
  if type(method) == "string" then
    local name = methods.table[method] and method or method:gsub("-", "_")
    if methods.table[method] then return method end
    found:at(given, "merge_method", "merge_method is '%s': unknown%s", method,
      options.hint(name, methods.names()))
  elseif is_null(method) then
    found:at(given, nil, "merge_method is missing\nhint: it is one of %s",
      table.concat(methods.names(), ", "))
  else
    found:at(given, "merge_method", "merge_method: a string is expected, not %s",
      core.describe(method))
  end
end

local function check_tokens(found, given, where)
  local tokens, result = take(found, given, where, "tokens", "mapping"), {}
  for _, token in ipairs(sorted_keys(tokens or {})) do
    local path = ("%s.tokens.%s"):format(where, token)
    local each = take(found, tokens, where .. ".tokens", token, "mapping")
    if each then
      check_keys(found, each, path, { "source", "force" })
      result[token] = { force = take(found, each, path, "force", "boolean") or false,
        source = check_model(found, each, path, "source") }
    end
  end
  return next(result) and result or nil
end

-- Where the vocabulary of the result comes from: { source = "union" | "base" | path, tokens,
-- pad_to_multiple_of }; nil when all have the same.
local function check_tokenizer(found, given)
  local short = take(found, given, "", "tokenizer_source", "string")
  local long = take(found, given, "", "tokenizer", "mapping")
  if short and long then
    found:at(given, "tokenizer", "tokenizer and tokenizer_source are both given")
  end
  if not long then return short and { source = path_of(short) } end
  check_keys(found, long, "tokenizer", { "source", "tokens", "pad_to_multiple_of" })
  local multiple = take(found, long, "tokenizer", "pad_to_multiple_of", "number")
  if multiple and (math.type(multiple) ~= "integer" or multiple < 1 or multiple > 65536) then
    found:at(long, "pad_to_multiple_of", "tokenizer.pad_to_multiple_of is %s: a whole number " ..
      "from 1 to 65536 is expected", multiple)
    multiple = nil
  end
  local source = take(found, long, "tokenizer", "source", "string") or "union"
  return { source = path_of(source),
    tokens = check_tokens(found, long, "tokenizer"), pad_to_multiple_of = multiple }
end

local function check_template(found, given)
  local text = take(found, given, "", "chat_template", "string")
  if not text or chat_template.is_one(text) then return text end
  found:at(given, "chat_template", "chat_template is '%s': neither a template nor known%s", text,
    options.hint(text, chat_template.names))
end

local KEYS = { "base_model", "chat_template", "dtype", "merge_method", "models", "modules", "name",
  "out_dtype", "parameters", "slices", "tokenizer", "tokenizer_source" }

-- Lua tables may say `method`, and what is no configuration but belongs to the call.
local function known_keys(from_lua, also)
  local list = { table.unpack(KEYS) }
  if from_lua then list[#list + 1] = "method" end
  for _, key in ipairs(also or {}) do list[#list + 1] = key end
  return list
end

local function check_stage(found, given, from_lua, also)
  local stage = { source = given, warnings = {} }
  check_keys(found, given, "", known_keys(from_lua, also))
  stage.method = check_method(found, given)
  stage.name = take(found, given, "", "name", "string")
  stage.base = check_model(found, given, "", "base_model")
  stage.slices = check_inputs(stage, found, given)
  stage.parameters = check_parameters(stage, found, given, "")
  stage.dtype = check_dtype(found, given, "dtype")
  stage.out_dtype = check_dtype(found, given, "out_dtype")
  stage.tokenizer = check_tokenizer(found, given)
  stage.chat_template = check_template(found, given)
  return stage
end

--- One configuration as a stage; what is wrong with it is added to `found`.
---@param given table
---@param found table of problems.lua
---@param from_lua boolean it was not read from a file
---@param also string[]? further keys, which are not looked at here
---@return table
function config.stage(given, found, from_lua, also)
  return check_stage(found, given, from_lua, also)
end

--- Calls f with every reference to a model of a stage.
function config.each_model(stage, f)
  if stage.base then f(stage.base) end
  for _, slice in ipairs(stage.slices) do
    if slice.base then f(slice.base) end
    for _, source in ipairs(slice.sources) do f(source.model) end
  end
end

return config
