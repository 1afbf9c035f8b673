-- merge/result.lua: the config.json of a merged model, and the files that it takes over from the
-- model whose architecture it has.

local chat_template = require("moelua.merge.chat_template")
local core = require("moelua.core")
local inputs = require("moelua.merge.inputs")

local json, system = core.json, core.system

local result = {}

local DTYPES = { F32 = "float32", F16 = "float16", BF16 = "bfloat16" }

-- The files of a tokenizer, and what generation begins with.
local TOKENIZER_FILES = { "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
  "chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json" }
local GENERATION = "generation_config.json"

local function copy(value)
  if type(value) ~= "table" then return value end
  local new = setmetatable({}, getmetatable(value))
  for k, v in pairs(value) do new[k] = copy(v) end
  return new
end

-- The type that most bytes of the result have.
local function main_dtype(list)
  local bytes, best = {}, nil
  for _, entry in ipairs(list) do
    if DTYPES[entry.dtype] then
      bytes[entry.dtype] = (bytes[entry.dtype] or 0) + entry.bytes
      if not best or bytes[entry.dtype] > bytes[best] then best = entry.dtype end
    end
  end
  return best and DTYPES[best]
end

-- ---- layers -----------------------------------------------------------------------------------

local function is_list_of(value, count)
  return type(value) == "table" and #value == count and count > 0 and next(value, count) == nil
end

-- Lists with an element for each layer: that of the layer which each came from. A family that
-- only another model of the stack has the list of cannot say what the others would.
local function gather_lists(hf, template, layers, found)
  for key, value in pairs(template.hf) do
    if is_list_of(value, template.layers) then
      local list = json.array({})
      for i, from in ipairs(layers) do
        local own = from.model.hf[key]
        if not is_list_of(own, from.model.layers) then
          found:add(nil, ("config.json: `%s` has no list `%s` of its layers, `%s` has"):format(
            from.model.path, key, template.path))
          return
        end
        list[i] = copy(own[from.layer + 1])
      end
      hf[key] = list
    end
  end
end

-- Layers of Qwen that are no mixtures, listed by number.
local function renumber(hf, template, layers)
  if type(template.hf.mlp_only_layers) ~= "table" then return end
  local list = json.array({})
  for i, from in ipairs(layers) do
    local own = from.model.hf.mlp_only_layers
    for _, layer in ipairs(type(own) == "table" and own or {}) do
      if layer == from.layer then list[#list + 1] = i - 1 end
    end
  end
  hf.mlp_only_layers = list
end

-- The layers before the mixtures are a number: whatever else is stacked cannot be said.
local function count_dense(hf, layers, found)
  if math.type(hf.first_k_dense_replace) ~= "integer" then return end
  local dense = 0
  for i, from in ipairs(layers) do
    local first = math.tointeger(from.model.hf.first_k_dense_replace) or 0
    if from.layer < first then
      if dense ~= i - 1 then
        found:add(nil, ("config.json: layer %d of the result is dense and follows mixtures, " ..
          "which first_k_dense_replace cannot say"):format(i - 1))
        return
      end
      dense = i
    end
  end
  hf.first_k_dense_replace = dense
end

local function is_stacked(template, layers)
  if #layers ~= template.layers then return true end
  for i, from in ipairs(layers) do
    if from.layer ~= i - 1 then return true end
  end
  return false
end

local function set_layers(hf, template, layers, found)
  local key = inputs.layer_key(template.hf)
  if not is_stacked(template, layers) then return end
  if not key then
    found:add(nil, ("config.json of `%s` does not say how many layers there are"):format(
      template.path))
    return
  end
  hf[key] = #layers
  gather_lists(hf, template, layers, found)
  renumber(hf, template, layers)
  count_dense(hf, layers, found)
end

-- ---- config.json ------------------------------------------------------------------------------

--- The config.json of the result.
---@param template table the model that it is taken from
---@param layers table[] { model, layer } of each layer
---@param list table[] the entries, with their bytes
---@param vocabulary table? { size } when vocabularies are united
---@param found table of problems.lua
function result.config(template, layers, list, vocabulary, found)
  local hf = copy(template.hf)
  set_layers(hf, template, layers, found)
  local dtype = main_dtype(list)
  if dtype then hf[hf.dtype and "dtype" or "torch_dtype"] = dtype end
  if vocabulary and hf.vocab_size then hf.vocab_size = vocabulary.size end
  local embedding, head = false, false
  for _, entry in ipairs(list) do
    embedding = embedding or inputs.is_embedding(entry.name)
    head = head or inputs.is_head(entry.name)
  end
  if head and hf.tie_word_embeddings then hf.tie_word_embeddings = false end
  if embedding and not head and template.head then hf.tie_word_embeddings = true end
  return hf
end

-- ---- files ------------------------------------------------------------------------------------

-- The bytes of a model's files: of its folder, or made from a single file.
local function files_of(model)
  local files, any = {}, false
  for _, name in ipairs(TOKENIZER_FILES) do
    files[name] = system.read(model.path .. "/" .. name)
    any = any or files[name] ~= nil
  end
  if any or system.exists(model.path .. "/config.json") then return files end
  local tokenizer = model.opened:tokenizer()
  return tokenizer and tokenizer:files() or files
end

--- The files of the result beside its tensors and config.json: name -> bytes. Those of the
--- tokenizer are the template's, byte for byte, unless vocabularies were united.
---@param plan table of plan.lua
function result.files(plan)
  local template, tokenizer = plan.template, plan.vocabulary and plan.vocabulary.tokenizer
  local files = tokenizer and tokenizer:files() or files_of(template)
  files[GENERATION] = system.read(template.path .. "/" .. GENERATION)
  chat_template.apply(files, plan.stage.chat_template, plan.models)
  return files
end

return result
