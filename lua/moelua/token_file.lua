-- token_file.lua: documents become a token file, a safetensors file with
--
--   ids      U16 or U32, [tokens]       the documents, one after another
--   docs     I64, [documents + 1]       where each begins, and where the last ends
--   split    U8, [documents]            0 test, 1 validation, 2 train
--   lengths  I32, [vocab]               bytes of text that each id stands for, unless it is one
--
-- and in the metadata the tokenizer, the size of its vocabulary, the sources, the options, and the
-- hash of the first three tensors, by which a text is known wherever it came from.

local core = require("moelua.core")
local sources = require("moelua.sources")

local token_file = {
  -- Changes when the same sources begin to give other documents.
  FORMAT = "moelua-tokens 2",
}

-- Reads files by number and remembers the last: one large file is then read once.
local function reader(files)
  local last, text
  return function(i)
    if i ~= last then
      local message, code
      last, text = nil, nil
      text, message, code = sources.read(files[i])
      if not text then return nil, message, code end
      last = i
    end
    return text
  end
end

-- The documents of all files in order, each { file, first, last, hash, split }, without exact
-- duplicates; and how many of those there were.
local function find_documents(files, read)
  local documents, seen, duplicates = {}, {}, 0
  for i in ipairs(files) do
    local text, message, code = read(i)
    if not text then return nil, message, code end
    for _, document in ipairs(core.text.documents(text)) do
      local key = ("%x:%d"):format(document.hash, document.last - document.first)
      if seen[key] then
        duplicates = duplicates + 1
      else
        seen[key], document.file = true, i
        documents[#documents + 1] = document
      end
    end
  end
  return documents, duplicates
end

local function size_of(document) return document.last - document.first + 1 end

local function by_split(documents)
  local lists = {}
  for _, document in ipairs(documents) do
    local list = lists[document.split] or { bytes = 0 }
    lists[document.split] = list
    list.bytes = list.bytes + size_of(document)
    list[#list + 1] = document
  end
  return lists
end

-- Marks documents of one split, evenly spaced, that together have at most `share` of its bytes;
-- the middle one when none is that small. Each document adds its share to an account and is kept
-- when the account can pay for it.
local function keep_share(list, share)
  local account, kept = 0, 0
  for _, document in ipairs(list) do
    local size = size_of(document)
    account = account + size * share
    document.kept = account >= size
    if document.kept then account, kept = account - size, kept + 1 end
  end
  if kept == 0 then list[(#list + 1) // 2].kept = true end
end

-- Whole documents up to the cap, with the proportions of the splits. Each split keeps at least one
-- document, so that a very small cap can be exceeded.
local function select(documents, max_bytes)
  local total = 0
  for _, document in ipairs(documents) do total = total + size_of(document) end
  if not max_bytes or total <= max_bytes then return documents end
  for _, list in pairs(by_split(documents)) do keep_share(list, max_bytes / total) end
  local kept = {}
  for _, document in ipairs(documents) do
    if document.kept then kept[#kept + 1] = document end
  end
  return kept
end

local split_code = { test = 0, validation = 1, train = 2 }
local split_name = { [0] = "test", "validation", "train" }

--- Calls visit(document, text) for each document of some files, in their order: without exact
--- duplicates, and as many as max_bytes allows. A document has `first` and `last`, its bytes in the
--- text, and `split`. Ends with what visit returns unless that is true.
---@param files string[]
---@param max_bytes integer? cap, see moe.data.corpus
---@param visit fun(document: table, text: string): true?, string?, string?
---@return integer? documents how many there were
---@return integer|string duplicates how many were left out; or a message
---@return string? code
function token_file.each(files, max_bytes, visit)
  local read = reader(files)
  local documents, duplicates, code = find_documents(files, read)
  if not documents then return nil, duplicates, code end
  if #documents == 0 then
    return nil, ("corpus: there is no text: %d files hold none, the first is %s"):format(#files,
      files[1]), "format"
  end
  documents = select(documents, max_bytes)
  for _, document in ipairs(documents) do
    local text, message
    text, message, code = read(document.file)
    if not text then return nil, message, code end
    if document.last > #text then
      return nil, ("corpus: changed while it was read: %s"):format(files[document.file]), "io"
    end
    local ok
    ok, message, code = visit(document, text)
    if not ok then return nil, message, code end
  end
  return #documents, duplicates
end

-- Ids as the file has them.
local function packed(tok, list)
  local format, parts = tok.vocab <= 65536 and "<I2" or "<I4", {}
  for i, id in ipairs(list) do parts[i] = format:pack(id) end
  return table.concat(parts)
end

-- The tensors of the token file of some files, and how many duplicates were left out.
local function make(files, how)
  local tok = how.tokenizer
  local ids, docs, split, at = {}, { ("<i8"):pack(0) }, {}, 0
  local before, after = packed(tok, how.before), packed(tok, how.after)
  local documents, duplicates, code = token_file.each(files, how.max_bytes, function(document, text)
    local own, count = tok:pack(text, document.first, document.last)
    at = at + #how.before + count + #how.after
    table.move({ before, own, after }, 1, 3, #ids + 1, ids)
    docs[#docs + 1] = ("<i8"):pack(at)
    split[#split + 1] = string.char(split_code[document.split])
    return true
  end)
  if not documents then return nil, duplicates, code end
  local lengths = tok.name ~= "bytes" and { dtype = "I32", shape = { tok.vocab },
    data = core.bytes(tok:byte_lengths()) } or nil
  return {
    ids = { dtype = tok.vocab <= 65536 and "U16" or "U32", shape = { at },
      data = table.concat(ids) },
    docs = { dtype = "I64", shape = { documents + 1 }, data = table.concat(docs) },
    split = { dtype = "U8", shape = { documents }, data = table.concat(split) },
    lengths = lengths,
  }, duplicates
end

--- What a token file calls a tokenizer: "bytes", or its hash.
---@param tok moelua.Tokenizer
---@return string
function token_file.identity(tok)
  return tok.name ~= "bytes" and type(tok.hash) == "function" and tok:hash() or tok.name
end

--- The hash of a text from those of its three tensors.
function token_file.hash(ids, docs, split) return core.system.hash(ids .. docs .. split) end

local function digest(tensor) return core.system.hash(tensor.data) end

--- Whether a file, which may be damaged, was written as a token file: its metadata comes first.
---@param path string
---@return boolean
function token_file.is_one(path)
  local file <close> = io.open(path, "rb")
  local head = file and file:read(4096) or ""
  return head:find('"format":"moelua%-tokens %d+"') ~= nil
end

--- Makes the token file of some files.
---@param path string where to write it
---@param files string[] in the order of the documents
---@param how { tokenizer: moelua.Tokenizer, before: integer[], after: integer[],
---  max_bytes: integer? } before and after: the ids around each document; max_bytes: cap, see
---  moe.data.corpus
---@param metadata table<string, string>
---@return true? ok
---@return string? message
---@return string? code
function token_file.write(path, files, how, metadata)
  local tensors, duplicates, code = make(files, how)
  if not tensors then return nil, duplicates, code end
  metadata.duplicates = tostring(duplicates)
  metadata.hash = token_file.hash(digest(tensors.ids), digest(tensors.docs), digest(tensors.split))
  return core.checkpoint.save(path, tensors, metadata)
end

--- What would be in that token file: how many tokens each split has, and the bytes of the file but
--- for its header. Writes nothing.
---@return { tokens: table<string, integer>, bytes: integer }? facts
---@return string? message
---@return string? code
function token_file.survey(files, how)
  local tensors, message, code = make(files, how)
  if not tensors then return nil, message, code end
  local tokens, bytes, at = { test = 0, validation = 0, train = 0 }, 0, 0
  for _, tensor in pairs(tensors) do bytes = bytes + #tensor.data end
  for i = 1, tensors.split.shape[1] do
    local behind = ("<i8"):unpack(tensors.docs.data, 8 * i + 1)
    local name = split_name[tensors.split.data:byte(i)]
    tokens[name], at = tokens[name] + behind - at, behind
  end
  return { tokens = tokens, bytes = bytes }
end

return token_file
