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
local expect = require("moelua.expect")
local options = require("moelua.options")
local sources = require("moelua.sources")
local token_file = require("moelua.token_file")
local tokenizer = require("moelua.tokenizer")
local raise, system = core.raise, core.system

local data = { package_files = sources.package_files }

local SPLITS = { "test", "validation", "train" }

---@class moelua.Corpus
---@field name string
---@field tokenizer moelua.Tokenizer?
---@field path string? the token file, when it has been kept
---@field hash string of tokens, documents and splits: the same for the same text
local Corpus = { __name = "moelua.Corpus" }
Corpus.__index = Corpus

-- The userdata behind a corpus; methods are called with a colon, and on nothing else.
local function handle_of(self, method)
  if type(self) ~= "table" or not self.handle then
    raise("%s: a corpus is expected, not %s\nhint: call it as corpus:%s(...)", method,
      core.describe(self), method)
  end
  return self.handle
end

-- ---- reading a corpus -------------------------------------------------------------------------

--- How many tokens a split has; without a split, the whole corpus.
---@param split? "train"|"validation"|"test"
---@return integer
function Corpus:tokens(split) return (handle_of(self, "tokens"):tokens(split)) end

--- How many documents a split has; without a split, the whole corpus.
---@param split? "train"|"validation"|"test"
---@return integer
function Corpus:documents(split) return (handle_of(self, "documents"):documents(split)) end

--- The size of the vocabulary.
---@return integer
function Corpus:vocab() return (handle_of(self, "vocab"):vocab()) end

--- What the token file says of itself: sources, options, tokenizer.
---@return table<string, string>
function Corpus:metadata() return (handle_of(self, "metadata"):metadata()) end

local batch_options = {
  batch = { "integer", required = true }, context = { "integer", required = true },
  split = { SPLITS, "train" }, seed = { "integer", 1 }, stream = { "string", "data" },
  draw = { "integer", 0 }, apart = { "integer", 1 },
}

--- A training batch: `batch` windows of `context` tokens and the tokens that follow each, drawn
--- without overlap, every window once per epoch. The same seed, stream and draw give the same
--- batch. With `apart` no two of so many successive rows touch the same document; windows that are
--- too near are left out of their epoch. Throws when the split is too short.
---@param given { batch: integer, context: integer, split?: string, seed?: integer,
---  stream?: string, draw?: integer, apart?: integer }
---@return moelua.Tensor x i32 [batch x context]
---@return moelua.Tensor y i32 [batch x context]
---@return integer next_draw the `draw` of the next batch
function Corpus:batch(given)
  given = options.check("batch", given, batch_options)
  local x, y, next_draw = handle_of(self, "batch"):batch(given)
  return x, y, next_draw
end

--- How many windows an epoch of training draws from; 0 when the split is too short.
---@return integer
function Corpus:epoch(split, context) return (handle_of(self, "epoch"):epoch(split, context)) end

--- How many windows an evaluation reads: all, the last of them partly filled; or at most `limit`,
--- whole ones, evenly spaced.
---@param split "train"|"validation"|"test"
---@param context integer
---@param limit integer?
---@return integer
function Corpus:windows(split, context, limit)
  return (handle_of(self, "windows"):windows(split, context, limit))
end

--- Windows first .. first+n-1 of those.
---@return moelua.Tensor x i32 [n x context], 0 behind the end of the split
---@return moelua.Tensor y i32 [n x context], -1 behind the end of the split
function Corpus:window_batch(split, context, limit, first, n)
  local x, y = handle_of(self, "window_batch"):window_batch(split, context, limit, first, n)
  return x, y
end

--- The first and the last document that each of those windows touches, its targets included.
---@return moelua.Tensor documents i32 [windows x 2], counted from 0
function Corpus:window_documents(split, context, limit)
  return (handle_of(self, "window_documents"):window_documents(split, context, limit))
end

--- Whether each split can fill a window; if not: nil, message, "format".
---@param context integer
---@param splits string[]? all three when left out
---@return true? ok
---@return string? message
---@return string? code
function Corpus:check(context, splits)
  if math.type(context) ~= "integer" then
    raise("check: context must be an integer, not %s", core.describe(context))
  end
  expect(splits == nil or type(splits) == "table", "check", "splits", "a list of splits", splits)
  local handle = handle_of(self, "check")
  for _, split in ipairs(splits or SPLITS) do
    local tokens = handle:tokens(split)
    if tokens < context + 1 then
      local text = "corpus \"%s\": split \"%s\" has %d tokens: a context of %d needs %d\n" ..
        "hint: give the corpus more text, or use a shorter context"
      return nil, text:format(self.name, split, tokens, context, context + 1), "format"
    end
  end
  return true
end

--- Writes the token file to `path`, where moe.data.open finds it, also in another process.
---@param path string
---@return true? ok
---@return string? message
---@return string? code
function Corpus:save(path)
  self.file:seek("set", 0)
  local content, reason = self.file:read("a")
  if not content then return nil, "save: " .. tostring(reason), "io" end
  return system.write(path, content)
end

--- Lets go of the token file at once.
function Corpus:release()
  handle_of(self, "release"):release()
  if io.type(self.file) == "file" then self.file:close() end
end

Corpus.__close = Corpus.release

function Corpus:__tostring()
  return ("Corpus %s: %d tokens in %d documents"):format(self.name, self:tokens(), self:documents())
end

--- Opens a token file. One that holds other text than was written into it is damaged: nil, message,
--- "format".
---@param path string
---@param name string? instead of the name in the file
---@return moelua.Corpus? corpus
---@return string? message
---@return string? code
function data.open(path, name)
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
  local bytes = metadata.tokenizer == "bytes" and tokenizer.bytes() or nil
  return setmetatable({ handle = handle, file = file, path = path, hash = hash, tokenizer = bytes,
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

--- Which share of the lines of the test split, longer than 20 bytes, the train split holds too.
---@param corpus moelua.Corpus of bytes
---@return number share 0 to 1; 0 when there are no such lines
---@return integer shared
---@return integer lines
function data.shared_lines(corpus)
  check_corpus("shared_lines", corpus)
  if corpus.tokenizer.name ~= "bytes" then
    raise("shared_lines: lines are told by their bytes: %s has other tokens", corpus.name)
  end
  local lines, shared = corpus.handle:shared_lines(10, 20)
  return lines > 0 and shared / lines or 0.0, shared, lines
end

-- ---- the cache --------------------------------------------------------------------------------

-- The corpus in the cache when it was made of the same sources in the same way; nil when it was
-- not, is damaged, or does not exist; false, message, code when something else stands there.
local function reuse(path, metadata)
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
  return corpus
end

local function open_cached(path, metadata, make)
  local corpus, message, code = reuse(path, metadata)
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
  return data.open(path, metadata.name)
end

-- The file goes as soon as it is open, so that nothing is left behind however the process ends.
local function open_temporary(metadata, make)
  local path = os.tmpname()
  local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
  local ok, message, code = make(path)
  local corpus
  if ok then corpus, message, code = data.open(path, metadata.name) end
  if not corpus then return nil, message, code end
  corpus.path = nil
  return corpus
end

-- ---- corpus -----------------------------------------------------------------------------------

local corpus_options = {
  path = { "string|table", required = true }, match = "string",
  tokenizer = { "string|table", "bytes" }, cache = "string", max_bytes = "integer", name = "string",
}

local function base_name(path)
  return path:match("([^/]+)/*$") or path
end

local function describe(opt, files, tok)
  local first = type(opt.path) == "table" and opt.path[1] or opt.path
  return {
    format = token_file.FORMAT, name = opt.name or base_name(first), tokenizer = tok.name,
    vocab = tostring(tok.vocab), files = tostring(#files), sources = sources.fingerprint(files),
    options = ("max_bytes=%s"):format(opt.max_bytes or "all"),
  }
end

local function check_options(given)
  local opt = options.check("moe.data.corpus", given, corpus_options)
  local tok = tokenizer.resolve("moe.data.corpus", opt.tokenizer)
  if opt.max_bytes and opt.max_bytes < 1 then
    raise("moe.data.corpus: max_bytes must be positive: %d", opt.max_bytes)
  end
  return opt, tok
end

--- The corpus of some files. Options:
---   path       a file, a folder, or a list of them. Folders are searched through, without hidden
---              entries and without following links to folders. Files are taken in byte order of
---              their paths; .gz and .dz are uncompressed.
---   match      Lua pattern for the names of files in folders, as "%.[ch]$"
---   tokenizer  "bytes" (default) or a tokenizer
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
  local opt, tok = check_options(given)
  local files, message, code = sources.list(opt.path, opt.match)
  if not files then return nil, message, code end
  local metadata = describe(opt, files, tok)
  local function make(path)
    return token_file.write(path, files, tok, opt.max_bytes, metadata)
  end
  if opt.cache then return open_cached(opt.cache, metadata, make) end
  return open_temporary(metadata, make)
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
  local opt, tok = check_options(given)
  local files, message, code = sources.list(opt.path, opt.match)
  if not files then return nil, message, code end
  local metadata, source_bytes = describe(opt, files, tok), 0
  for _, path in ipairs(files) do source_bytes = source_bytes + (system.file_size(path) or 0) end
  local corpus, facts
  if opt.cache then corpus, message, code = reuse(opt.cache, metadata) end
  if corpus == false then return nil, message, code end
  if not corpus then
    facts, message, code = token_file.survey(files, tok, opt.max_bytes)
    if not facts then return nil, message, code end
    corpus = setmetatable({ handle = setmetatable({ counts = facts.tokens }, Counted),
      name = metadata.name, tokenizer = tok }, Corpus)
  end
  corpus.files = files
  corpus.survey = { source_bytes = source_bytes, new_bytes = facts and facts.bytes or 0 }
  return corpus
end

return data
