-- merge/inputs.lua: a model that goes into a merge, seen by its headers alone: which tensors it
-- has, in which of its layers. Nothing of an architecture has to be known for that: layers are
-- what the names of tensors number.

local pretrained = require("moelua.pretrained")

local inputs = {}

local Model = {}
Model.__index = Model

-- Where configurations say how many layers there are.
local LAYER_KEYS = { "num_hidden_layers", "n_layer", "n_layers", "num_layers" }

-- Tables of one row for each token: what goes in, and what comes out. A model whose head is tied
-- has no tensor of the second kind, and uses the first.
local EMBEDDINGS = { "embed_tokens.weight", "wte.weight", "embed_in.weight",
  "word_embeddings.weight", "tok_embeddings.weight" }
local HEADS = { "lm_head.weight", "embed_out.weight" }

-- What some files have and nothing needs: tables that are computed from the configuration.
local COMPUTED = { "rotary_emb%.inv_freq$", "%.masked_bias$", "position_ids$" }

local function ends_with_any(name, list)
  for _, ending in ipairs(list) do
    if name:sub(-#ending) == ending then return true end
  end
  return false
end

--- Is it a table of the tokens that go in?
function inputs.is_embedding(name) return ends_with_any(name, EMBEDDINGS) end

--- Is it a table of the tokens that come out?
function inputs.is_head(name) return ends_with_any(name, HEADS) end

--- Is it a tensor that may be missing?
function inputs.is_computed(name)
  for _, pattern in ipairs(COMPUTED) do
    if name:find(pattern) then return true end
  end
  return false
end

-- ---- layers -----------------------------------------------------------------------------------

-- "model.layers", 12, "mlp.up_proj.weight"; nil when the name has no number of a layer.
local function parts_of(name)
  local prefix, layer, rest = name:match("^(.-)%.(%d+)%.(.+)$")
  return prefix, math.tointeger(tonumber(layer)), rest
end

--- The key and the value of the number of layers in a config.json; nil when it says none.
function inputs.layer_key(hf)
  for _, key in ipairs(LAYER_KEYS) do
    if math.type(hf[key]) == "integer" then return key, hf[key] end
  end
end

-- What tensors are numbered under which prefix: { [prefix] = { count, layers } }.
local function numbered(names)
  local found = {}
  for _, name in ipairs(names) do
    local prefix, layer = parts_of(name)
    if layer then
      local group = found[prefix] or { count = 0, layers = 0 }
      found[prefix] = group
      group.count, group.layers = group.count + 1, math.max(group.layers, layer + 1)
    end
  end
  return found
end

-- The prefix of the layers: of as many as the configuration says, of most tensors among those. A
-- model may number other things too, as the layers of an encoder of images.
local function prefix_of(names, expected)
  local best, best_score
  local groups = numbered(names)
  local prefixes = {}
  for prefix in pairs(groups) do prefixes[#prefixes + 1] = prefix end
  table.sort(prefixes)
  for _, prefix in ipairs(prefixes) do
    local group = groups[prefix]
    local score = group.count + (group.layers == expected and 1e9 or 0)
    if not best or score > best_score then best, best_score = prefix, score end
  end
  return best, best and groups[best].layers or 0
end

-- Sorts the names into layers and what lies outside of them.
local function sort_names(self, names)
  self.inside, self.outside = {}, {}
  for layer = 0, self.layers - 1 do self.inside[layer] = {} end
  for _, name in ipairs(names) do
    local prefix, layer, rest = parts_of(name)
    if layer and prefix == self.prefix then self.inside[layer][rest] = name
    else self.outside[#self.outside + 1] = name end
  end
end

-- ---- models -----------------------------------------------------------------------------------

--- The header of a tensor: { dtype, shape, bytes }; nil when the model has none of that name.
function Model:info(name)
  if not self.has[name] then return nil end
  local info = self.known[name] or self.file:info(name)
  self.known[name] = info
  return info
end

--- The name under which the model has a tensor: its own, or for the head of a model where it is
--- tied, that of the embedding; nil when it has neither.
function Model:find(name)
  if self.has[name] then return name end
  return inputs.is_head(name) and self.embedding or nil
end

--- The name of a tensor of a layer, counted from 0, as the others name it.
function Model:in_layer(layer, rest)
  local names = self.inside[layer]
  return names and names[rest]
end

local function first_where(names, test)
  for _, name in ipairs(names) do
    if test(name) then return name end
  end
end

-- Rows of the embedding; nil when there is none that we know.
local function rows_of(self)
  local info = self.embedding and self:info(self.embedding)
  return info and info.shape[1]
end

local function count_all(self, names)
  self.parameters, self.bytes, self.dtypes = 0, 0, {}
  for _, name in ipairs(names) do
    local info, count = self:info(name), 1
    for _, size in ipairs(info.shape) do count = count * size end
    self.parameters, self.bytes = self.parameters + count, self.bytes + info.bytes
    self.dtypes[info.dtype] = (self.dtypes[info.dtype] or 0) + 1
  end
end

--- A model from what pretrained.open gives.
---@param path string
---@param opened table
---@return table? model { path, opened, file, hf, prefix, layers, inside, outside, embedding, head,
---  vocab, parameters, bytes }
---@return string? message
---@return string? code
function inputs.of(path, opened)
  local self = setmetatable({ path = path, opened = opened, file = opened.file, hf = opened.hf,
    known = {}, has = {} }, Model)
  local names = self.file:names()
  for _, name in ipairs(names) do self.has[name] = true end
  local _, expected = inputs.layer_key(self.hf)
  self.prefix, self.layers = prefix_of(names, expected)
  -- A name that numbers what nobody has is damage, or malice.
  if self.layers > #names then
    return nil, ("%s: layer %d is named, and there are %d tensors"):format(path, self.layers - 1,
      #names), "format"
  end
  sort_names(self, names)
  self.embedding = first_where(self.outside, inputs.is_embedding)
  self.head = first_where(self.outside, inputs.is_head)
  count_all(self, names)
  self.vocab = rows_of(self)
  return self
end

--- Opens a model: a folder or a file of GGUF. Only headers are read.
function inputs.open(path)
  local opened, message, code = pretrained.open(path, { any = true })
  if not opened then return nil, message, code end
  return inputs.of(path, opened)
end

return inputs
