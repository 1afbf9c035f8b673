-- merge.lua: merges models into one, as mergekit does: from its YAML, or from the command line.
--
--   moelua recipes/merge.lua config.yml OUT --memory 512M
--   moelua recipes/merge.lua --method ties --base DIR --model DIR=0.5 --model DIR=0.3 \
--     --density 0.5 OUT
--   moelua recipes/merge.lua config.yml --plan        headers only: what would be done
--   moelua recipes/merge.lua --verify OUT             is it still what was written?
--
-- The result is a Hugging Face directory with a card, a manifest of hashes and a report. A run that
-- was cut short goes on where it stopped.

local moe = require("moelua")
local json = require("moelua.core").json
local methods = require("moelua.merge.methods")
local run = require("moelua.run")
local text_table = require("moelua.text_table")

local opt, given = moe.options {
  name = "merge", trains = false, arguments = "[CONFIG.yml] OUT",
  about = "Merge models into one, in bounded memory, from a configuration of mergekit or from " ..
    "options.",
  options = {
    { "method", nil, "without a configuration: how to merge", choices = methods.names() },
    { "base", nil, "the base model", value = "DIR" },
    { "model", {}, "a model, and its weight if the method wants one", repeatable = true,
      value = "DIR=W" },
    { "density", nil, "share of the elements that is kept", type = "number" },
    { "t", nil, "place between two models, 0 the base", type = "number" },
    { "param", {}, "any other parameter, as lambda=0.9", repeatable = true, value = "NAME=VALUE" },
    { "dtype", nil, "of the result", choices = { "bfloat16", "float16", "float32" } },
    { "tokenizer", nil, "whose tokens the result has: union, base or a model", value = "SOURCE" },
    { "memory", "512M", "most bytes to work with", value = "SIZE" },
    { "seed", 1, "of methods that drop elements at random" },
    { "max_shard_size", nil, "bytes of tensors in a file", type = "integer", min = 1 },
    { "plan", false, "read headers only, print what would be done, write nothing" },
    { "verify", false, "check a merged model against its manifest" },
    { "fresh", false, "write over what OUT holds" },
    { "allow_crimes", false, "merge models of different architectures" },
    { "hash_inputs", false, "note the hashes of the input files, too" },
  },
}

-- "text=1.5" in two; the value, a number or a word, is nil where there is none.
local function split(text)
  local name, value = text:match("^(.-)=([^=]*)$")
  if value == "true" or value == "false" then return name, value == "true" end
  return name or text, tonumber(value) or value
end

local function configuration()
  local config = { method = opt.method, base_model = opt.base, dtype = opt.dtype,
    tokenizer_source = opt.tokenizer, models = {},
    parameters = { density = opt.density, t = opt.t } }
  for i, text in ipairs(opt.model) do
    local path, weight = split(text)
    config.models[i] = { model = path, parameters = weight and { weight = weight } }
  end
  for _, text in ipairs(opt.param) do
    local name, value = split(text)
    if value == nil then run.refuse("merge: --param is '%s': NAME=VALUE expected", text) end
    config.parameters[name] = value
  end
  return config
end

if opt.verify then
  if not opt.arguments[1] then run.refuse("merge: --verify needs the folder of a merge") end
  run.check(moe.verify(opt.arguments[1]))
  print("every file is what was written")
  return
end

local from_options = opt.method ~= nil
local source = from_options and configuration() or table.remove(opt.arguments, 1)
if not source then run.refuse("merge: a configuration or --method is expected") end
if not from_options and (given.base or given.model or given.density or given.t or given.param) then
  run.refuse("merge: %s and options of a merge are both given", source)
end
local out = table.remove(opt.arguments, 1)
if #opt.arguments > 0 then run.refuse("merge: unexpected argument '%s'", opt.arguments[1]) end
if not out and not opt.plan then run.refuse("merge: OUT, the folder of the result, is expected") end

local result = run.check(moe.merge(source, { out = out, memory = opt.memory, seed = opt.seed,
  max_shard_size = opt.max_shard_size, plan = opt.plan, fresh = opt.fresh, quiet = opt.quiet,
  allow_crimes = opt.allow_crimes, hash_inputs = opt.hash_inputs }))

if opt.plan then
  print(opt.json and json.encode(result.facts) or result.text)
elseif opt.json then
  result.table, result.lines = nil, nil
  print(json.encode(result))
else
  if result.table then print(text_table.format(result.table.columns, result.table.rows)) end
  print(("%d tensors, %s parameters in %s"):format(result.tensors,
    text_table.si(result.parameters), out))
end
