-- corpus.lua: what can be read of a token file: training batches and evaluation windows.

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")
local raise, system = core.raise, core.system

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

--- How many bytes of text these ids stand for. Special tokens stand for none, and so does padding.
---@param ids moelua.Tensor i32
---@return integer
function Corpus:bytes(ids)
  local handle = handle_of(self, "bytes")
  expect(getmetatable(ids) == "moelua.Tensor", "bytes", "ids", "an i32 tensor", ids)
  return (handle:bytes(ids:reshape(-1)))
end

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

return Corpus
