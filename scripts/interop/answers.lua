-- answers.lua: what scripts/interop asks moelua: a request is a line of JSON, so is its answer.
--
--   { "do": "logits", "model": path, "ids": [...], "out": file }      see `answers` below
--
-- Tensors go through a file; whatever fails is answered with { "error": text }.

local core = require("moelua.core")
local moe = require("moelua")
local json = core.json

local output = io.stdout
_G.print = function(...) io.stderr:write(table.concat({ ... }, "\t"), "\n") end

local answers = {}

local models = {}               -- the newest one is kept: requests about it come in rows

local function model_of(request)
  local key = request.model .. (request.dtype or "")
  if models.key ~= key then
    models = { key = key, value = assert(moe.load(request.model, { dtype = request.dtype })) }
  end
  return models.value
end

local tokenizers = {}

local function tokenizer_of(request)
  local path = request.tokenizer
  tokenizers[path] = tokenizers[path] or assert(moe.tokenizer.open(path))
  return tokenizers[path]
end

local function from_hex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function to_hex(text)
  return (text:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local function save(request, tensors)
  assert(moe.checkpoint.save(request.out, tensors))
  return {}
end

--- logits [T x vocab] of token ids.
function answers.logits(request)
  return save(request, { logits = moe.no_grad(function()
    return model_of(request):logits(request.ids)
  end) })
end

--- The `count` most likely tokens after `ids`, or after each list of a list.
function answers.continued(request)
  return model_of(request):generate_ids(request.ids,
    { max_tokens = request.count, temperature = 0, eos = false })
end

--- Writes a model that was read as we write it.
function answers.save(request)
  assert(model_of(request):save(request.out, { max_shard_size = request.max_shard_size }))
  return {}
end

--- Ids of texts, which lie as lines of hexadecimal digits in a file.
function answers.encode(request)
  local tokenizer, all = tokenizer_of(request), {}
  for line in io.lines(request.texts) do
    local ids = tokenizer:encode(from_hex(line), { special = request.special, add = request.add })
    all[#all + 1] = json.array(ids)
  end
  return all
end

--- Texts of lists of ids, in hexadecimal digits.
function answers.decode(request)
  local tokenizer, all = tokenizer_of(request), {}
  for i, ids in ipairs(request.lists) do
    all[i] = to_hex(tokenizer:decode(ids,
      { skip_special = request.skip_special, raw = request.raw }))
  end
  return all
end

--- A tokenizer's files, written by us.
function answers.save_tokenizer(request)
  assert(tokenizer_of(request):save(request.out))
  return {}
end

--- A tokenizer of `vocab` tokens from a file, or from texts in lines of hexadecimal digits.
function answers.train_tokenizer(request)
  local texts = request.texts and {}
  for line in request.texts and io.lines(request.texts) or function() end do
    texts[#texts + 1] = from_hex(line)
  end
  local tokenizer = assert(moe.tokenizer.train({ path = request.text, texts = texts,
    vocab = request.vocab, split = request.split, min_count = request.min_count }))
  assert(tokenizer:save(request.out))
  return {}
end

--- A merge as a YAML file of mergekit describes it.
function answers.merge(request)
  assert(moe.merge(request.config, { out = request.out, quiet = true }))
  return {}
end

--- The tensors of a file as we read them, written by us.
function answers.convert(request)
  local file, tensors = assert(moe.checkpoint.open(request.file)), {}
  for _, name in ipairs(file:names()) do tensors[name] = assert(file:tensor(name)) end
  assert(moe.checkpoint.save(request.out, tensors, nil, { dtype = request.dtype }))
  return {}
end

function answers.metadata(request)
  return assert(moe.checkpoint.open(request.file)):metadata()
end

--- A model for another program.
function answers.export(request)
  assert(moe.export(request.model, request.out,
    { format = request.format, dtype = request.kind }))
  return {}
end

while true do
  local line = io.read("l")
  if not line then break end
  local request = assert(json.decode(line))
  local ok, said = pcall(answers[request["do"]], request)
  output:write(json.encode(ok and said or { error = said }), "\n")
  output:flush()
  collectgarbage()
end
