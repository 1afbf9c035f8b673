-- pretrained.lua: a model that lies in files, of which nothing but headers has been read.
--
--   local P = assert(pretrained.open("path/to/hf-directory"))       -- or a .gguf file
--   P.config, P.family          our configuration of the model (model.check_config); its family
--   P.hf                        config.json as a table
--   P.file                      a checkpoint whose tensors have the names that the family writes:
--                               stacks of experts taken apart, newer names as the older ones
--   P:name("layers.0.ffn.w1")   the name in P.file of a parameter of ours
--   P:tokenizer()               the tokenizer beside it; nil, message, code when there is none
--   P:close()

local core = require("moelua.core")
local checkpoint = require("moelua.checkpoint")
local class = require("moelua.class")
local expect = require("moelua.expect")
local folder = require("moelua.folder")
local hf_config = require("moelua.hf_config")
local options = require("moelua.options")
local tensor_view = require("moelua.tensor_view")
local tokenizer = require("moelua.tokenizer")
local json, system = core.json, core.system

local pretrained = {}

-- ---- names ------------------------------------------------------------------------------------

local MOST_EXPERTS = 4096       -- limits.lua; of more, a stack is left as it is

--- The name in a family's files of a parameter or buffer of ours; in a stack of experts, that of
--- expert `e` (from 0). nil for a name that the family does not have.
---@param family table
---@param name string
---@param e integer?
---@return string?
function pretrained.file_name(family, name, e)
  local layer, rest = name:match("^layers%.(%d+)%.(.*)$")
  local stored = family.names[rest or name]
  if not (stored and layer) then return stored end
  return ("model.layers.%s."):format(layer) .. (e and stored:format(e) or stored)
end

-- Takes a stack [E x n R x C] apart: `ours` names the n matrices that lie in each expert.
local function unstack(entries, family, layer, stored, shape, ours)
  local E, rows, columns = shape[1], shape[2] // #ours, shape[3]
  for e = 0, E - 1 do
    for i, name in ipairs(ours) do
      entries[pretrained.file_name(family, ("layers.%s.%s"):format(layer, name), e)] = {
        name = stored, first = (e * #ours + i - 1) * rows * columns, shape = { rows, columns } }
    end
  end
end

-- The tensor's entries in a view under the names of the family.
local function rename(entries, family, stored, info)
  local layer, rest = stored:match("^model%.layers%.(%d+)%.(.*)$")
  local ours = family.fused and family.fused[rest]
  local alias = family.aliases and family.aliases[rest]
  local shape = info.shape
  if ours and #shape == 3 and shape[1] <= MOST_EXPERTS and shape[2] % #ours == 0 then
    unstack(entries, family, layer, stored, shape, ours)
  elseif alias then
    entries[pretrained.file_name(family, ("layers.%s.%s"):format(layer, alias))] = { name = stored }
  else
    entries[stored] = { name = stored }
  end
end

-- The file under the names that the family writes; without a family, under its own.
local function named_view(file, family)
  local entries = {}
  for _, name in ipairs(file:names()) do
    if family then
      rename(entries, family, name, file:info(name))
    else
      entries[name] = { name = name }
    end
  end
  return tensor_view(file, entries)
end

-- ---- opening ----------------------------------------------------------------------------------

local Pretrained = class("Pretrained")

function Pretrained:init(fields)
  for name, value in pairs(fields) do self[name] = value end
end

--- The name in `file` of a parameter of ours, see pretrained.file_name.
---@param name string
---@param e integer?
---@return string?
function Pretrained:name(name, e)
  return self.family and pretrained.file_name(self.family, name, e)
end

--- The tokenizer of the model; nil, message, code when there is none that we read. That of a .gguf
--- is in the file itself.
function Pretrained:tokenizer()
  local path = self.path
  if folder.is_one(path) then path = path .. "/tokenizer.json" end
  if not system.exists(path) then
    return nil, ("%s: there is no tokenizer.json"):format(self.path), "missing"
  end
  return tokenizer.open(path)
end

function Pretrained:close() self.file:close() end
Pretrained.__close = Pretrained.close

local function read_json(path)
  local text, message, code = system.read(path)
  if not text then return nil, message, code end
  local value
  value, message, code = json.decode(text)
  if value == nil then return nil, ("%s: %s"):format(path, message), code end
  return value
end

-- config.json of a folder.
local function read_config(path)
  local hf, message, code = read_json(path .. "/config.json")
  if code == "missing" then
    return nil, ("load: %s is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected"):format(path), code
  end
  return hf, message, code
end

-- Our configuration and its family, as far as they are known.
local function understand(hf, path, any)
  local config, family, code = hf_config.from_json(hf)
  if config then return config, family end
  if any and code == "unsupported" and type(hf) == "table" then return nil, nil end
  return nil, ("%s: %s"):format(path, family), code
end

local function open_folder(path, opts)
  local hf, message, code = read_config(path)
  if hf == nil then return nil, message, code end
  local config, family
  config, family, code = understand(hf, path, opts.any)
  if code then return nil, family, code end
  local file
  file, message, code = checkpoint.open(path)
  if not file then return nil, message, code end
  return Pretrained({ path = path, hf = hf, config = config, family = family,
    file = named_view(file, family) })
end

-- A single file is GGUF, which says all that a folder does.
local function open_file(path, opts)
  local lacks = path:find("%.safetensors$") and "has tensors, but no config.json" or
    path:find("%.json$") and "has no tensors"
  if lacks then
    return nil, ("load: %s %s\nhint: give the folder that it is in"):format(path, lacks), "format"
  end
  local hf, file, code = require("moelua.gguf_view").open(path)
  if not hf then return nil, file, code end
  local config, family
  config, family, code = understand(hf, path, opts.any)
  if not code then
    return Pretrained({ path = path, hf = hf, config = config, family = family, file = file })
  end
  file:close()
  return nil, family, code
end

--- Opens a model for reading: headers only.
---@param path string a Hugging Face directory, or a .gguf file
---@param opts { any?: boolean }? any: a model_type that is not known is fine: then there are no
---  config and no family, and the tensors have their own names
---@return moelua.Pretrained?
---@return string? message
---@return string? code
function pretrained.open(path, opts)
  expect(type(path) == "string" and path ~= "", "pretrained.open", "path", "the path of a model",
    path)
  opts = options.check("pretrained.open", opts, { any = { "boolean", false } })
  local is_file = system.exists(path) and not folder.is_one(path)
  return (is_file and open_file or open_folder)(path, opts)
end

return pretrained
