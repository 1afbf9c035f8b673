-- model_folder.lua: a model that is only described (blueprint.lua) as a Hugging Face directory,
-- written tensor by tensor (assembly.lua): what is a copy or a mean goes from file to file, all
-- else is computed when its turn comes, so that no more than a few tensors are in memory.

local core = require("moelua.core")
local assembly = require("moelua.assembly")
local folders = require("moelua.folder")
local hf_config = require("moelua.hf_config")
local parts = require("moelua.parts")
local pretrained = require("moelua.pretrained")
local record = require("moelua.assembly_record")
local json, system = core.json, core.system

local model_folder = {}

--- Options of functions that can write what they make to a folder.
model_folder.options = {
  out = "string",                       -- the folder; without it the model is made in memory
  dtype = { { "f32", "f16", "bf16" } }, -- of the file; default: that of the first model
  memory = "integer|number|string",     -- most to work with beside the maps of files, as "512M"
  max_shard_size = "integer",           -- bytes of data in a file
}

local torch_types = { F32 = "float32", F16 = "float16", BF16 = "bfloat16" }

-- The sources of all parts; nil when one of them is more than what lies in a file.
local function sources_of(list)
  local sources = {}
  for i, x in ipairs(list) do
    sources[i] = parts.source(x)
    if not sources[i] then return nil end
  end
  return sources
end

local function equal_weights(count)
  local list = {}
  for i = 1, count do list[i] = 1 / count end
  return { weight = list }
end

-- The files that a part is computed from, so that a plan is known to be the same again.
local function inputs_of(x)
  local list = {}
  parts.each_copy(x, function(copy) list[#list + 1] = parts.source(copy) end)
  return list
end

local function computed(x)
  local about = { parts.describe(x) }
  parts.each_copy(x, function(copy)
    if not parts.source(copy) then
      about[#about + 1] = copy.donor.tensor(copy.name, copy.expert):contiguous():hash()
    end
  end)
  return { make = x.value, sources = inputs_of(x), key = table.concat(about, "\n") }
end

-- How a part comes into the file.
local function entry_of(x)
  local own = sources_of({ x })
  if own then return { method = "copy", sources = own } end
  local several = x.kind == "mean" and sources_of(x.from)
  if several then
    return { method = "linear", sources = several, params = equal_weights(#several) }
  end
  return computed(x)
end

-- All entries of the checkpoint in the names of the family.
local function entries_of(plan, family, dtype)
  local list = {}
  for i, slot in ipairs(plan.slots) do
    local entry = entry_of(slot.part)
    entry.name = pretrained.file_name(family, slot.name, slot.expert and slot.expert - 1 or nil)
    entry.shape = slot.part.shape
    entry.dtype = slot.name:find("%.router%.table$") and "I32" or dtype
    list[i] = entry
  end
  return list
end

-- What stands beside the weights; config.json comes last and says that all is there.
local function write_rest(plan, out, hf)
  local tokenizer, ok, message, code = plan:tokenizer(), true, nil, nil
  if tokenizer then ok, message, code = tokenizer:save(out) end
  if ok and plan.donor.generation_config then
    ok, message, code = system.write(out .. "/generation_config.json", plan.donor.generation_config)
  end
  if not ok then return nil, message, code end
  return system.write(out .. "/config.json", json.encode(hf, { indent = 2 }) .. "\n")
end

-- A checkpoint that is being read cannot be the one that is written.
local function check_apart(entries, out)
  for path in pairs(record.inputs(entries)) do
    if path:find("%.safetensors$") and folders.same(path:match("^(.*)/") or ".", out) then
      return nil, ("%s: out is the folder of a model that is read"):format(out), "format"
    end
  end
  return true
end

--- Writes the model. opts: out, dtype, memory, max_shard_size; family and its fields, if not those
--- that fit best.
---@param plan table a blueprint
---@param opts table
---@return table? summary of assembly.write, with `model_type` and `parameters`
---@return string? message
---@return string? code
function model_folder.write(plan, opts)
  local hf, family = opts.hf, opts.family
  if not hf then hf, family = hf_config.to_json(plan.config) end
  local dtype = opts.dtype and opts.dtype:upper() or plan.donor.dtype
  hf.torch_dtype = torch_types[dtype]
  local entries, parameters = entries_of(plan, family, dtype), 0
  for _, entry in ipairs(entries) do
    local count = 1
    for _, size in ipairs(entry.shape) do count = count * size end
    parameters = parameters + count
  end
  local apart, message, code = check_apart(entries, opts.out)
  if not apart then return nil, message, code end
  system.remove_tree(opts.out .. "/config.json")
  local summary
  summary, message, code = assembly.write(opts.out, entries, { memory = opts.memory,
    max_shard_size = opts.max_shard_size, figures = false })
  if not summary then return nil, message, code end
  local ok
  ok, message, code = write_rest(plan, opts.out, hf)
  if not ok then return nil, message, code end
  summary.model_type, summary.parameters = hf.model_type, parameters
  return summary
end

return model_folder
