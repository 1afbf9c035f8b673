-- options.lua: strict option tables for functions, and the way to the options of a recipe.
--
--   local opt = options.check("moe.train", given, {
--     steps = { "integer", 400 },                         -- type, default
--     schedule = { { "cosine", "linear" }, "cosine" },    -- one of these strings
--     data = { "table", required = true },
--     tokenizer = "string|table",                         -- optional, no default
--   })
--
--   local opt, given = options {                          -- in a recipe: moe.options { ... }
--     name = "btx", about = "Branch-Train-MiX",
--     options = { { "steps", 400, "steps of the seed model" }, ... },
--     presets = { smoke = { steps = 20 } },
--   }

local core = require("moelua.core")
local expect = require("moelua.expect")
local raise = core.raise

local options = {}

--- The candidate that `name` was probably meant to be: at most two typing errors away, and closer
--- than a different word of that length would be. nil when there is none.
---@param name string
---@param candidates string[]
---@return string?
function options.nearest(name, candidates) return core.nearest(name, candidates) end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = tostring(key) end
  table.sort(keys)
  return keys
end

--- The second line of a message about a name that is not known: "\nhint: ...".
---@param name any what was written
---@param candidates string[] what exists
---@param prefix string? put before each candidate, as "--"
---@return string
function options.hint(name, candidates, prefix)
  expect(type(candidates) == "table", "options.hint", "candidates", "a list of names", candidates)
  for _, known in ipairs(candidates) do
    expect(type(known) == "string", "options.hint", "candidates", "a list of names", known)
  end
  if #candidates == 0 then return "" end
  prefix = prefix or ""
  local near = type(name) == "string" and options.nearest(name, candidates)
  if near then return ("\nhint: did you mean '%s%s'?"):format(prefix, near) end
  return "\nhint: known are " .. prefix .. table.concat(candidates, ", " .. prefix)
end

-- Whether the value has the type; returns it as that type wants it (10.0 becomes the integer 10).
local function fits(value, kind)
  if kind == "integer" then
    local whole = math.type(value) and math.tointeger(value)
    return whole ~= nil and whole ~= false, whole
  end
  return kind == "any" or type(value) == kind, value
end

-- The value as one of the kinds "a|b", or a message.
local function convert(value, kinds)
  for kind in kinds:gmatch("[^|]+") do
    local ok, converted = fits(value, kind)
    if ok then return converted end
  end
  return nil, ("%s expected, got %s"):format((kinds:gsub("|", " or ")), core.describe(value))
end

-- The value, when it is one of the strings.
local function choose(where, name, value, choices)
  for _, choice in ipairs(choices) do
    if value == choice then return value end
  end
  raise("%s: option '%s' is %s: unknown%s", where, name,
    type(value) == "string" and ("'%s'"):format(value) or core.describe(value),
    options.hint(value, choices))
end

local function check_one(where, name, value, rule)
  if type(rule) == "string" then rule = { rule } end
  if type(rule) ~= "table" or rule[1] == nil then
    raise("options.check: the rule of '%s' must be a type or { type, default }", name)
  end
  local kind = rule[1]
  if value == nil then
    if rule.required then
      raise("%s: option '%s' is missing%s", where, name, kind == "any" and "" or
        (": %s expected"):format(type(kind) == "table" and "one of " .. table.concat(kind, ", ")
          or kind:gsub("|", " or ")))
    end
    return rule[2]
  end
  if type(kind) == "table" then return choose(where, name, value, kind) end
  local converted, message = convert(value, kind)
  if message then raise("%s: option '%s' has the wrong type: %s", where, name, message) end
  return converted
end

--- Checks a table of options against its declaration. Raises on an unknown name, a wrong type or
--- a missing required option.
---@param where string the function that was called, for messages
---@param given table? as the caller wrote it; not changed
---@param declared table name -> { type, default, required = true } or just the type; a type is
---  "number", "integer", "string", "boolean", "table", "function", "userdata" or "any", several
---  joined with "|", or a list of accepted strings
---@return table options with the defaults filled in
function options.check(where, given, declared)
  expect(type(declared) == "table", "options.check", "declared", "a table", declared)
  if given ~= nil and type(given) ~= "table" then
    raise("%s: options are not a table: table expected, got %s", where, core.describe(given))
  end
  given = given or {}
  -- In order of names, so that of several mistakes the same one is told every time.
  for _, key in ipairs(sorted_keys(given)) do
    if declared[key] == nil then
      raise("%s: unknown option '%s'%s", where, key, options.hint(key, sorted_keys(declared)))
    end
  end
  local result = {}
  for _, name in ipairs(sorted_keys(declared)) do
    result[name] = check_one(where, name, given[name], declared[name])
  end
  return result
end

--- A new table with the fields of both; those of `more` win.
---@param base table
---@param more table
---@return table
function options.merge(base, more)
  expect(type(base) == "table", "options.merge", "base", "a table", base)
  expect(type(more) == "table", "options.merge", "more", "a table", more)
  local result = {}
  for k, v in pairs(base) do result[k] = v end
  for k, v in pairs(more) do result[k] = v end
  return result
end

--- Reads the command line of a recipe, see arguments.lua: the module itself is callable.
return setmetatable(options, {
  __call = function(_, declaration)
    return require("moelua.arguments").read(declaration)
  end,
})
