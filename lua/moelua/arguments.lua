-- arguments.lua: the command line of a recipe, from one declaration.
--
--   local opt, given = moe.options {
--     name = "btx", about = "Branch-Train-MiX: ...",
--     options = {
--       { "steps", 400, "steps of the seed model" },                 -- name, default, help
--       { "schedule", "cosine", "...", choices = { "cosine", "linear" } },
--       { "checkpoint", nil, "start from this one", value = "DIR" },  -- no default: text or nil
--       { "limit", nil, "...", type = "integer" },                   -- no default, but a type
--       { "domain", {}, "name=path", repeatable = true },            -- a list of texts
--       { "k", 2, "experts a token goes to", min = 1 },              -- a number from 1 on
--     },
--     arguments = "MODEL ...",                                       -- allows words: opt.arguments
--     presets = { smoke = { steps = 20 } },
--     compares = true,                                               -- arms over several seeds
--     trains = false,                                                -- a tool, not a recipe
--   }
--
-- All have --json, --quiet and --help as well, recipes also --seed, --out, --preset, --fresh,
-- --precision, --save-every and --dry-run, comparisons also --domain, --max-bytes, --seeds, --lr,
-- --eval-windows and --split. What stands on the command line wins over the preset, the preset over
-- the defaults.

local manual = require("moelua.manual")
local options = require("moelua.options")
local run = require("moelua.run")
local core = require("moelua.core")
local raise = core.raise

local arguments = {}

local LINE = 100        -- characters in a line of the help

-- Kernels that multiply in bf16 twice as fast as in f32, or faster: there it is the default. The
-- run folder remembers what was chosen.
local native = { amx = "bf16", avx512bf16 = "bf16" }
local default_precision = not core.double and native[core.kernels] or "f32"

local wanted = { integer = "a whole number", number = "a number", boolean = "true or false" }
local placeholder = { integer = "N", number = "X", string = "TEXT", list = "TEXT" }

local function field_name(name)
  return (name:gsub("-", "_"))
end

local function flag_name(name)
  return "--" .. name:gsub("_", "-")
end

-- "integer", "number", "boolean", "string" or "list".
local function kind_of(option)
  local default = option[2]
  if option.repeatable then return "list" end
  if option.type then return option.type end
  if default == nil then return "string" end
  if type(default) == "number" then
    return math.type(default) == "integer" and "integer" or "number"
  end
  return type(default) == "table" and "list" or type(default)
end

local function new_option(declared)
  local kind = kind_of(declared)
  return {
    name = field_name(declared[1]),
    flag = flag_name(declared[1]),
    default = declared[2],
    help = declared[3] or "",
    kind = kind,
    choices = declared.choices,
    min = declared.min,
    value = declared.value or placeholder[kind],
  }
end

-- What every recipe has.
local function recipe_options(declaration)
  return { { "seed", 1, "random seed" },
    { "out", "runs/" .. declaration.name, "run folder", value = "DIR" },
    { "preset", nil, "settings to start from", value = "NAME" },
    { "fresh", false, "start over instead of continuing" },
    { "precision", default_precision, "of the matrix products in training",
      choices = { "f32", "bf16" } },
    { "save_every", 100, "steps between saved states", min = 1 },
    { "dry_run", false, "print the plan (data, compute, memory, disk, time), write nothing" } }
end

-- What every recipe has that compares arms over several seeds, see comparison.lua.
local comparison_options = {
  { "domain", {}, "name=path of a file or folder; replaces the three standard domains",
    repeatable = true },
  { "max_bytes", 32000000, "text used of each domain", min = 1 },
  { "seeds", 3, "models of each arm: the seeds from --seed on", min = 1 },
  { "lr", nil, "learning rate of all arms, in place of the best of a grid", type = "number",
    min = 0 },
  { "eval_windows", 256, "windows of each domain in the final table", min = 1 },
  { "split", "test", "what the final table reads", choices = { "test", "validation" } },
}

-- The recipe's own options, then the common ones that it did not declare.
local function all_options(declaration)
  local list, by_name = {}, {}
  local function add(declared)
    local option = new_option(declared)
    if by_name[option.name] then return end
    list[#list + 1], by_name[option.name] = option, option
  end
  for _, declared in ipairs(declaration.options or {}) do add(declared) end
  for _, declared in ipairs(declaration.compares and comparison_options or {}) do add(declared) end
  local recipe = declaration.trains ~= false
  for _, declared in ipairs(recipe and recipe_options(declaration) or {}) do add(declared) end
  add { "json", false, recipe and "results, or the plan, as one JSON object" or "results as JSON" }
  add { "quiet", false, "no progress, only results" }
  return list, by_name
end

local function sorted_names(presets)
  local names = {}
  for name in pairs(presets or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function refuse(declaration, fmt, ...) run.refuse("%s: " .. fmt, declaration.name, ...) end

-- Values --------------------------------------------------------------------------------------

-- A word of the command line as the option's type; nil when it cannot be read so.
local function from_text(kind, text)
  if kind == "integer" then return math.tointeger(tonumber(text)) end
  if kind == "number" then
    local number = tonumber(text)
    return number and number + 0.0
  end
  if kind == "boolean" then return ({ ["true"] = true, ["false"] = false })[text] end
  return text
end

local function check_choice(declaration, option, text)
  if not option.choices then return end
  for _, choice in ipairs(option.choices) do
    if choice == text then return end
  end
  refuse(declaration, "%s is '%s': unknown%s", option.flag, text,
    options.hint(text, option.choices))
end

local function store(state, option, text)
  local value = from_text(option.kind, text)
  if value == nil then
    refuse(state.declaration, "%s is '%s': %s expected", option.flag, text, wanted[option.kind])
  end
  check_choice(state.declaration, option, text)
  if option.min and value < option.min then
    refuse(state.declaration, "%s is %s: at least %s expected", option.flag, text, option.min)
  end
  if option.kind == "list" then
    local list = state.given[option.name] and state.values[option.name] or {}
    list[#list + 1] = value
    value = list
  end
  state.values[option.name] = value
  state.given[option.name] = true
end

-- Parsing -------------------------------------------------------------------------------------

-- What a name that is no option was meant to be: one close to it, or those that it is a part of.
local function meant(state, name)
  local flags, parts = { "help" }, {}
  for _, known in ipairs(state.list) do
    local flag = known.flag:sub(3)
    flags[#flags + 1] = flag
    if #name > 2 and flag:find(name, 1, true) then parts[#parts + 1] = "--" .. flag end
  end
  local near = options.nearest(name, flags)
  if near then return ("did you mean '--%s'?"):format(near) end
  if #parts > 0 then return "there are " .. table.concat(parts, ", ") end
  return "--help lists the options"
end

local function find_option(state, name)
  local option = state.by_name[field_name(name)]
  if option then return option end
  local negated = name:match("^no%-(.+)$")
  option = negated and state.by_name[field_name(negated)]
  if option and option.kind == "boolean" then return option, "false" end
  refuse(state.declaration, "unknown option '--%s'\nhint: %s", name, meant(state, name))
end

-- Reads the option at words[i]; returns the index of its last word.
local function read_option(state, words, i)
  local name, value = words[i]:match("^%-%-([^=]+)=?(.*)$")
  if not name then refuse(state.declaration, "unknown option '%s'", words[i]) end
  local attached = words[i]:find("=", 1, true) ~= nil
  local option, implied = find_option(state, name)
  if attached and not implied then
    store(state, option, value)
  elseif attached then
    refuse(state.declaration, "'--%s' takes no value", name)
  elseif option.kind == "boolean" then
    store(state, option, implied or "true")
  else
    i = i + 1
    if not words[i] then refuse(state.declaration, "%s needs a value", option.flag) end
    store(state, option, words[i])
  end
  return i
end

local function take_word(state, word)
  if not state.declaration.arguments then
    refuse(state.declaration, "unexpected argument '%s'", word)
  end
  table.insert(state.values.arguments, word)
end

local function parse(state, words)
  local i, only_words = 1, false
  while words[i] do
    local word = words[i]
    if only_words or word:sub(1, 1) ~= "-" or word == "-" then
      take_word(state, word)
    elseif word == "--" then
      only_words = true
    elseif word == "-h" or word == "--help" then
      state.help = true
    else
      i = read_option(state, words, i)
    end
    i = i + 1
  end
end

-- Presets -------------------------------------------------------------------------------------

-- A preset that sets what does not exist is a mistake in the recipe, whoever runs it.
local function check_presets(declaration, by_name)
  for _, preset in ipairs(sorted_names(declaration.presets)) do
    for _, name in ipairs(sorted_names(declaration.presets[preset])) do
      if not by_name[name] then
        raise("moe.options: preset '%s' sets an unknown option: '%s'", preset, name)
      end
    end
  end
end

local function preset_values(state)
  local name, presets = state.values.preset, state.declaration.presets or {}
  if name == nil then return {} end
  if not presets[name] then
    local names = sorted_names(presets)
    refuse(state.declaration, "unknown preset '%s'%s", name,
      #names > 0 and options.hint(name, names) or ": this recipe has none")
  end
  return presets[name]
end

local function copy(value)
  if type(value) ~= "table" then return value end
  return table.move(value, 1, #value, 1, {})
end

-- Fills in what the command line left open.
local function complete(state)
  local preset = preset_values(state)
  for _, option in ipairs(state.list) do
    local name = option.name
    if not state.given[name] then
      local value = preset[name]
      if value == nil then value = option.default end
      if value == nil and option.kind == "list" then value = {} end
      state.values[name] = copy(value)
    end
  end
end

-- Help ----------------------------------------------------------------------------------------

local function show_value(value)
  if type(value) ~= "table" then return tostring(value) end
  return table.concat(value, " ")
end

local function show_default(option)
  local default = option.default
  if option.kind == "list" then
    return default and #default > 0 and (" (default: %s; repeatable)"):format(show_value(default))
      or " (repeatable)"
  end
  if default == nil or default == false or default == "" then return "" end
  if default == true then return (" (default: on; --no-%s)"):format(option.flag:sub(3)) end
  return (" (default: %s)"):format(show_value(default))
end

local function option_lines(list)
  local rows, widest = { { "-h, --help", "show this text and exit" } }, 0
  for _, option in ipairs(list) do
    local left = option.value and option.flag .. " " .. option.value or option.flag
    local help = option.help
    if option.choices then help = help .. ": " .. table.concat(option.choices, ", ") end
    table.insert(rows, #rows, { left, help .. show_default(option) })
  end
  for _, row in ipairs(rows) do widest = math.max(widest, #row[1]) end
  local indent = "\n" .. (" "):rep(widest + 4)
  for i, row in ipairs(rows) do
    local lines = manual.wrapped(row[2], LINE - widest - 4)
    rows[i] = ("  %-" .. widest .. "s  %s"):format(row[1], table.concat(lines, indent))
      :gsub("%s+$", "")
  end
  return table.concat(rows, "\n")
end

local function preset_line(state, name)
  local settings = {}
  for _, option in ipairs(state.list) do
    local value = state.declaration.presets[name][option.name]
    if value ~= nil then
      settings[#settings + 1] = option.flag:sub(3) .. " " .. show_value(value)
    end
  end
  return ("  %s: %s"):format(name, table.concat(settings, ", "))
end

local function default_usage(declaration, words)
  local script = words[0] or declaration.name
  local rest = declaration.arguments and " " .. declaration.arguments or ""
  return ("moelua %s [options]%s"):format(script, rest)
end

local function help_text(state, words)
  local declaration = state.declaration
  local parts = {
    declaration.about and declaration.name .. ": " .. declaration.about or declaration.name,
    "usage: " .. (declaration.usage or default_usage(declaration, words)),
    "options:\n" .. option_lines(state.list),
  }
  local presets = {}
  for i, name in ipairs(sorted_names(declaration.presets)) do
    presets[i] = preset_line(state, name)
  end
  if #presets > 0 then
    parts[#parts + 1] = "presets (explicit options win):\n" .. table.concat(presets, "\n")
  end
  return table.concat(parts, "\n\n") .. "\n"
end

--- Reads the command line of a recipe. Ends the recipe for --help (exit 0) and for wrong usage
--- (exit 2) by raising { exit, message }.
---@param declaration table see the top of this file; `arg` (default: the global) and `write`
---  (default: io.write) may be set as well
---@return table values, table given the options, and the set of names that were written out
function arguments.read(declaration)
  if type(declaration) ~= "table" or type(declaration.name) ~= "string" then
    raise("moe.options: a declaration needs a name: { name = \"...\", ... } expected")
  end
  local words = declaration.arg or _G.arg or {}
  local list, by_name = all_options(declaration)
  check_presets(declaration, by_name)
  local state = { declaration = declaration, list = list, by_name = by_name, given = {} }
  state.values = { arguments = declaration.arguments and {} or nil }
  parse(state, words)
  if state.help then
    local write = declaration.write or io.write
    write(help_text(state, words))
    error({ exit = 0 }, 0)
  end
  complete(state)
  return state.values, state.given
end

return arguments
