-- data.lua: corpora. Files become documents, documents become a token file, and a token file is
-- read as training batches and evaluation windows.
--
--   local corpus = assert(moe.data.corpus { path = "src", match = "%.[ch]$", tokenizer = "bytes" })
--   corpus:tokens("train")                                  -- how many
--   local x, y, next_draw = corpus:batch { batch = 32, context = 128, draw = 0 }
--
-- A file is cut at blank lines into documents of about 64 KB. Licence comments at the beginning of
-- a document and documents that occurred before are left out. The hash of a document decides its
-- split: one in twenty is test, one in twenty validation, the rest is train.

local core = require("moelua.core")
local Corpus = require("moelua.corpus")
local expect = require("moelua.expect")
local options = require("moelua.options")
local sources = require("moelua.sources")
local token_file = require("moelua.token_file")
local tokenizer = require("moelua.tokenizer")
local raise, system = core.raise, core.system

local data = { package_files = sources.package_files }

-- ---- opening ----------------------------------------------------------------------------------

-- The tokenizer of a token file: the given one, if that is the one; nil when it is not known.
local function tokenizer_of(path, metadata, given)
  if not given then return metadata.tokenizer == "bytes" and tokenizer.bytes() or nil end
  local is = token_file.identity(given)
  if metadata.tokenizer == is then return given end
  return nil, ("corpus: %s has the tokens of another tokenizer: %s instead of %s"):format(path,
    metadata.tokenizer, is), "format"
end

--- Opens a token file. One that holds other text than was written into it is damaged: nil, message,
--- "format".
---@param path string
---@param name string? instead of the name in the file
---@param tok moelua.Tokenizer? the one it was made with, for what shows its text; that of bytes is
---  known
---@return moelua.Corpus? corpus
---@return string? message
---@return string? code
function data.open(path, name, tok)
  expect(type(path) == "string", "data.open", "path", "a string", path)
  local handle, message, code = core.text.corpus_open(path)
  if not handle then return nil, "corpus: " .. message, code end
  local file, reason = io.open(path, "rb")
  if not file then return nil, "corpus: " .. reason, "io" end
  local metadata, hash = handle:metadata(), token_file.hash(handle:digests())
  if metadata.hash and metadata.hash ~= hash then
    return nil, ("corpus: %s is damaged: its text is not what was written (hash %s, now %s)\n" ..
      "hint: save the corpus again"):format(path, metadata.hash, hash), "format"
  end
  tok, message, code = tokenizer_of(path, metadata, tok)
  if message then return nil, message, code end
  return setmetatable({ handle = handle, file = file, path = path, hash = hash, tokenizer = tok,
    name = name or metadata.name or path }, Corpus)
end

-- ---- looking at a corpus ----------------------------------------------------------------------

local function check_corpus(where, corpus)
  if getmetatable(corpus) ~= Corpus then
    raise("%s: a corpus is expected, not %s", where, core.describe(corpus))
  end
  if not corpus.tokenizer then raise("%s: the tokenizer of %s is not known", where, corpus.name) end
end

--- The first `n` tokens of a split as text.
---@param corpus moelua.Corpus
---@param split "train"|"validation"|"test"
---@param n integer
---@return string
function data.text(corpus, split, n)
  check_corpus("data.text", corpus)
  return (corpus.tokenizer:decode(corpus.handle:ids(split, 1, n)))
end

local LONGER = 20       -- bytes of a line that says where a text comes from

-- Documents of a split as text, which `visit` gets one by one.
local function each_text(corpus, split, visit)
  for i = 1, corpus:documents(split) do
    local ids = corpus.handle:ids(split, corpus.handle:document(split, i))
    visit(corpus.tokenizer:decode(ids, { raw = true, skip_special = true }))
  end
end

-- The lines of a corpus whose tokens may hold several lines, or parts of one.
local function lines_of_text(corpus)
  local known <close> = core.text.lines(LONGER)
  local lines, shared = 0, 0
  each_text(corpus, "train", function(text) known:add(text) end)
  each_text(corpus, "test", function(text)
    local n, common = known:tally(text)
    lines, shared = lines + n, shared + common
  end)
  return lines, shared
end

--- Which share of the lines of the test split, longer than 20 bytes, the train split holds too.
---@param corpus moelua.Corpus
---@return number share 0 to 1; 0 when there are no such lines
---@return integer shared
---@return integer lines
function data.shared_lines(corpus)
  check_corpus("shared_lines", corpus)
  local lines, shared
  if corpus.tokenizer.name == "bytes" then lines, shared = corpus.handle:shared_lines(10, LONGER)
  else lines, shared = lines_of_text(corpus) end
  return lines > 0 and shared / lines or 0.0, shared, lines
end

-- ---- the cache --------------------------------------------------------------------------------

-- The corpus in the cache when it was made of the same sources in the same way; nil when it was
-- not, is damaged, or does not exist; false, message, code when something else stands there.
local function reuse(path, metadata, tok)
  if not system.exists(path) then return nil end
  local corpus, message, code = data.open(path, metadata.name)
  if not corpus and token_file.is_one(path) then return nil end
  if not corpus then
    return false, message .. "\nhint: it would be overwritten: remove it, or choose another cache",
      code
  end
  local have = corpus:metadata()
  for _, key in ipairs({ "format", "sources", "options", "tokenizer" }) do
    if have[key] ~= metadata[key] then
      corpus:release()
      return nil
    end
  end
  corpus.tokenizer = tok
  return corpus
end

local function open_cached(path, metadata, make, tok)
  local corpus, message, code = reuse(path, metadata, tok)
  if corpus then return corpus end
  if corpus == false then return nil, message, code end
  local folder = path:match("^(.+)/[^/]*$")
  local ok
  if folder then
    ok, message, code = system.make_folder(folder)
    if not ok then return nil, message, code end
  end
  ok, message, code = make(path)
  if not ok then return nil, message, code end
  return data.open(path, metadata.name, tok)
end

-- The file goes as soon as it is open, so that nothing is left behind however the process ends.
local function open_temporary(metadata, make, tok)
  local path = os.tmpname()
  local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
  local ok, message, code = make(path)
  local corpus
  if ok then corpus, message, code = data.open(path, metadata.name, tok) end
  if not corpus then return nil, message, code end
  corpus.path = nil
  return corpus
end

-- ---- corpus -----------------------------------------------------------------------------------

local SEPARATORS = { "none", "eos", "bos", "both" }

local corpus_options = {
  path = { "string|table", required = true }, match = "string",
  tokenizer = { "string|table", "bytes" }, separator = { SEPARATORS }, cache = "string",
  max_bytes = "integer", name = "string",
}

local function base_name(path)
  return path:match("([^/]+)/*$") or path
end

local function adds_bos(tok) return tok.bos ~= nil and tok:encode("")[1] == tok.bos end

-- The ids before and after each document, and what that is called.
local function separator_of(tok, given)
  local bos, eos = given == "bos" or given == "both", given == "eos" or given == "both"
  if not given then bos, eos = adds_bos(tok), tok.eos ~= nil end
  for role, wanted in pairs({ bos = bos, eos = eos }) do
    if wanted and not tok[role] then
      raise("moe.data.corpus: separator is '%s': the tokenizer '%s' has no %s token", given,
        tok.name, role)
    end
  end
  local name = bos and eos and "both" or bos and "bos" or eos and "eos" or "none"
  return { bos and tok.bos or nil }, { eos and tok.eos or nil }, name
end

local function describe(opt, files, how)
  local first = type(opt.path) == "table" and opt.path[1] or opt.path
  local separated = how.separator ~= "none" and " separator=" .. how.separator or ""
  return {
    format = token_file.FORMAT, name = opt.name or base_name(first),
    tokenizer = token_file.identity(how.tokenizer), vocab = tostring(how.tokenizer.vocab),
    files = tostring(#files), sources = sources.fingerprint(files),
    options = ("max_bytes=%s%s"):format(opt.max_bytes or "all", separated),
  }
end

-- The options, and how to make the token file; or nil, message, code.
local function check_options(given)
  local opt = options.check("moe.data.corpus", given, corpus_options)
  if opt.max_bytes and opt.max_bytes < 1 then
    raise("moe.data.corpus: max_bytes must be positive: %d", opt.max_bytes)
  end
  local tok, message, code = tokenizer.resolve("moe.data.corpus", opt.tokenizer)
  if not tok then return nil, message, code end
  local how = { tokenizer = tok, max_bytes = opt.max_bytes }
  how.before, how.after, how.separator = separator_of(tok, opt.separator)
  return opt, how
end

--- The corpus of some files. Options:
---   path       a file, a folder, or a list of them. Folders are searched through, without hidden
---              entries and without following links to folders. Files are taken in byte order of
---              their paths; .gz and .dz are uncompressed.
---   match      Lua pattern for the names of files in folders, as "%.[ch]$"
---   tokenizer  "bytes" (default), a tokenizer, or the path of one. That of a model is what text
---              for the model needs: model.tokenizer
---   separator  tokens around each document: "eos" behind it, "bos" before it, "both" or "none".
---              When left out: eos where the tokenizer has one, and bos where it begins texts with
---              that. They are predicted like others, and stand for no bytes.
---   cache      where to keep the token file. It is used again while the sources (paths, sizes,
---              times) and the options stay the same, and made again when they change or it is
---              damaged. Without it nothing is kept.
---   max_bytes  a cap: whole documents, evenly spaced, are left out; each split keeps its share,
---              and at least one document
---   name       for messages and tables; default: the name of the first path
--- Missing, unreadable or empty sources give nil, message, code.
---@param given table
---@return moelua.Corpus? corpus
---@return string? message
---@return string? code
function data.corpus(given)
  local opt, how, code = check_options(given)
  if not opt then return nil, how, code end
  local files, message
  files, message, code = sources.list(opt.path, opt.match)
  if not files then return nil, message, code end
  local metadata = describe(opt, files, how)
  local function make(path) return token_file.write(path, files, how, metadata) end
  if opt.cache then return open_cached(opt.cache, metadata, make, how.tokenizer) end
  return open_temporary(metadata, make, how.tokenizer)
end

-- ---- survey -----------------------------------------------------------------------------------

local Counted = {}
Counted.__index = Counted

function Counted:tokens(split) return self.counts[split] end

function Counted:windows(split, context, limit)
  local whole = (self.counts[split] - 1) // context
  if limit then return math.min(limit, whole) end
  return whole + ((self.counts[split] - 1) % context > 0 and 1 or 0)
end

--- What moe.data.corpus would return for the same options, as far as that can be counted without
--- writing a file: it has tokens(split), windows() and check() of a corpus, `files`, and in
--- `survey` { source_bytes, new_bytes }: of the sources, and of the token file that is not there
--- yet.
---@param given table
---@return table? corpus
---@return string? message
---@return string? code
function data.survey(given)
  local opt, how, code = check_options(given)
  if not opt then return nil, how, code end
  local files, message
  files, message, code = sources.list(opt.path, opt.match)
  if not files then return nil, message, code end
  local metadata, source_bytes = describe(opt, files, how), 0
  for _, path in ipairs(files) do source_bytes = source_bytes + (system.file_size(path) or 0) end
  local corpus, facts
  if opt.cache then corpus, message, code = reuse(opt.cache, metadata, how.tokenizer) end
  if corpus == false then return nil, message, code end
  if not corpus then
    facts, message, code = token_file.survey(files, how)
    if not facts then return nil, message, code end
    corpus = setmetatable({ handle = setmetatable({ counts = facts.tokens }, Counted),
      name = metadata.name, tokenizer = how.tokenizer }, Corpus)
  end
  corpus.files = files
  corpus.survey = { source_bytes = source_bytes, new_bytes = facts and facts.bytes or 0 }
  return corpus
end

return data
