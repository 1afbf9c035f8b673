-- fixtures.lua: files that are wrong in one way each, below the folder of the rows.
local core = require("moelua.core")
local lfs = require("lfs")
local models = require("spec.models")
local moe = require("moelua")
local support = require("spec.messages.support")

local fixtures = {}
local write = support.write

local function path_of(name) return support.folder() .. "/" .. name end

local function header(text, data) return ("<I8"):pack(#text) .. text .. (data or "") end

--- Texts: a good one, an empty one, a damaged one, a folder without files.
function fixtures.texts()
  local lines = {}
  for i = 1, 300 do lines[i] = "line " .. i .. " of a text\n\n" end
  write("text.txt", table.concat(lines))
  write("folder/a.txt", "text\n")
  write("empty.txt", "")
  lfs.mkdir(path_of("hollow"))
  write("broken.gz", "\31\139\8\0\0\0\0\0\0\3" .. "not deflate")
end

--- Checkpoints: a good one with one tensor, and damaged copies.
function fixtures.checkpoints()
  assert(moe.checkpoint.save(path_of("weights.safetensors"), { embed_tokens = moe.ones(2, 2),
    ["lm_head.weight"] = moe.ones(2, 2) }))
  local good = assert(core.system.read(path_of("weights.safetensors")))
  write("cut.safetensors", good:sub(1, -3))
  write("long.safetensors", good .. "x")
  write("short.safetensors", good:sub(1, 5))
  write("header.safetensors", header("{\"a\":"))
  write("offsets.safetensors",
    header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "1234"))
  write("dtype.safetensors",
    header('{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}', "1234"))
  write("badindex/model.safetensors.index.json", "[]")
  write("missingshard/model.safetensors.index.json",
    '{"metadata":{},"weight_map":{"a":"one.safetensors"}}')
  write("unigram.json", '{"model":{"type":"Unigram","vocab":[]}}')
end

-- Saves a small model, whose config.json `change` may rewrite.
local function model(name, change)
  assert(models.tiny({ layers = 1 }):save(path_of(name)))
  if not change then return end
  local file = name .. "/config.json"
  write(file, (change(assert(core.system.read(path_of(file))))))
end

-- Saves a small model with other tensors.
local function weights(name, change)
  model(name)
  local file, tensors = assert(moe.checkpoint.open(path_of(name))), {}
  for _, each in ipairs(file:names()) do tensors[each] = file:tensor(each):clone() end
  file:close()
  change(tensors)
  assert(moe.checkpoint.save(path_of(name), tensors))
end

--- Model folders, each with one thing wrong.
function fixtures.models()
  model("badjson", function(text) return text:sub(1, 40) end)
  model("notobject", function() return "[1, 2]" end)
  model("bert", function(text) return text:gsub('"llama"', '"bert"') end)
  model("nokind", function(text) return text:gsub('"model_type"', '"modeltype"') end)
  model("nokey", function(text) return text:gsub('"hidden_size"', '"hidden"') end)
  model("wrongtype", function(text)
    return text:gsub('"num_hidden_layers": 1', '"num_hidden_layers": "one"')
  end)
  model("rope", function(text)
    return text:gsub('"rope_scaling": null', '"rope_scaling": {"type": "longrope"}')
  end)
  model("yarn", function(text)
    return text:gsub('"rope_scaling": null', '"rope_scaling": {"type": "yarn"}')
  end)
  model("noweights")
  os.remove(path_of("noweights/model.safetensors"))
  weights("lacking", function(t) t["model.norm.weight"] = nil end)
  weights("misshapen", function(t) t["model.norm.weight"] = moe.ones(15) end)
  weights("extra", function(t) t["model.extra"] = moe.ones(15) end)
  weights("integers", function(t) t["model.norm.weight"] = moe.zeros(16):to("i32") end)
  model("cut")
  local whole = assert(core.system.read(path_of("cut/model.safetensors")))
  write("cut/model.safetensors", whole:sub(1, -100))
end

return fixtures
