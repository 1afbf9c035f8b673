-- models.lua: what the specs of models, training and mixing share: small models, small corpora,
-- and comparisons bit for bit.
local helper = require("spec.helper")
local assert = require("luassert")
local core = require("moelua.core")
local data = require("moelua.data")
local model = require("moelua.model")

local models = {}

--- A model small enough for hundreds of steps a second; `more` replaces options.
function models.tiny(more)
  local options = { dim = 16, layers = 2, heads = 2, hidden = 24, vocab = 256, context = 16,
    std = 0.1 }
  for k, v in pairs(more or {}) do options[k] = v end
  return model.new(options)
end

--- Options of a mixture layer, for `ffn` of models.tiny.
function models.mixture(more)
  local ffn = { kind = "moe", hidden = 24, experts = 4, router = { k = 2,
    balance = { form = "btx", coef = 0.01 } } }
  for k, v in pairs(more or {}) do ffn[k] = v end
  return ffn
end

local words = {
  prose = { "the ", "cat ", "sat ", "on ", "a ", "mat. ", "and ", "then\n" },
  code = { "int ", "x", " = ", "0;\n", "if (", ") ", "return ", "{}" },
}

-- `bytes` bytes of words of one kind, in an order that `seed` decides.
local function text(kind, bytes, seed)
  local list, parts, size = words[kind], {}, 0
  while size < bytes do
    parts[#parts + 1] = list[core.uniform(seed, kind, #parts, #list) + 1]
    size = size + #parts[#parts]
  end
  return table.concat(parts):sub(1, bytes)
end

--- A corpus of bytes of the sizes given, by default with one document per split, or with
--- `documents` nearly equal ones; it lies in a file.
function models.corpus(kind, sizes, documents)
  sizes, documents = sizes or { train = 6000, validation = 700, test = 500 }, documents or 1
  local ids, docs, split, at = {}, { ("<i8"):pack(0) }, {}, 0
  for code, name in pairs({ [0] = "test", "validation", "train" }) do
    local n = sizes[name] or 0
    ids[#ids + 1] = text(kind or "prose", n, code + 1):gsub(".", "%0\0")
    for d = 1, documents do
      docs[#docs + 1], split[#split + 1] = ("<i8"):pack(at + n * d // documents), string.char(code)
    end
    at = at + n
  end
  local path = helper.tmpdir() .. "/tokens.safetensors"
  assert(core.checkpoint.save(path, {
    ids = { dtype = "U16", shape = { at }, data = table.concat(ids) },
    docs = { dtype = "I64", shape = { #docs }, data = table.concat(docs) },
    split = { dtype = "U8", shape = { #split }, data = table.concat(split) },
  }, { tokenizer = "bytes", vocab = "256", name = kind or "prose" }))
  return assert(data.open(path))
end

--- A corpus that calls before(n) ahead of batch number n.
function models.watched(corpus, before)
  local n = 0
  return setmetatable({ batch = function(self, given)
    n = n + 1
    before(n)
    return corpus.batch(self, given)
  end }, { __index = corpus })
end

--- The parameters as a list of names and a map of name -> bytes.
function models.bits(m)
  local names, map = {}, {}
  for i, entry in ipairs(m:parameters()) do
    names[i], map[entry[1]] = entry[1], entry[2]:bytes()
  end
  return map, names
end

--- name -> shape as text, and the names in order.
function models.shapes(layer)
  local names, map = {}, {}
  for i, entry in ipairs(layer:parameters()) do
    names[i], map[entry[1]] = entry[1], table.concat(entry[2]:shape(), "x")
  end
  return names, map
end

--- The parameter of that name.
function models.parameter(layer, name)
  for _, entry in ipairs(layer:parameters()) do
    if entry[1] == name then return entry[2] end
  end
  error("no parameter " .. name, 2)
end

--- Replaces the numbers of a parameter.
function models.set(tensor, source)
  core.no_grad(function() tensor:copy_(source) end)
end

--- Throws unless two models have the same parameters, bit for bit.
function models.same(a, b)
  local left, names = models.bits(a)
  local right, others = models.bits(b)
  assert.same(names, others)
  for _, name in ipairs(names) do
    if left[name] ~= right[name] then error(name .. " differs", 2) end
  end
end

--- Throws unless f raises exactly this message, with a line of a spec in front.
function models.misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal("string", type(got), "the error is no text: " .. tostring(got.message))
  assert.equal(message, (got:gsub("^[^\n]-_spec%.lua:%d+: ", "")))
  assert.matches("^[^\n]-_spec%.lua:%d+: ", got)
end

--- The { message, code } that f raises.
function models.failure(f)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal("table", type(got), tostring(got))
  return got
end

--- The largest difference of two tensors' elements.
function models.distance(a, b)
  local most = (a - b):detach()
  most = most * most
  return math.sqrt(most:reshape(-1):max():item())
end

--- A run folder that does not exist yet.
function models.run_folder() return helper.tmpdir() .. "/run" end

--- Options of a short training; `more` replaces some.
function models.training(corpus, more)
  local options = { data = corpus, steps = 12, batch = 4, lr = 1e-2, quiet = true }
  for k, v in pairs(more or {}) do options[k] = v end
  return options
end

--- The files of a folder and the hash of each.
function models.hashes(folder)
  local list = {}
  for name in require("lfs").dir(folder) do
    if name:sub(1, 1) ~= "." then
      list[name] = core.system.hash(core.system.read(folder .. "/" .. name))
    end
  end
  return list
end

return models
