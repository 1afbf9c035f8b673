-- generate.lua: text from models, one token at a time, with a cache of keys and values.
--
-- Several prompts share the steps: a weight is read once for all of them. Each prompt goes in by
-- itself and each row of a step is computed by itself, so that a prompt gets the same tokens in a
-- list as alone.
--
-- A text ends with the token that the model ends texts with: that of its tokenizer, and those that
-- its config.json and generation_config.json call eos.

local core = require("moelua.core")
local Cache = require("moelua.kv_cache")
local expect = require("moelua.expect")
local options = require("moelua.options")
local stepwise = require("moelua.stepwise")
local Stream = require("moelua.text_stream")
local json, raise = core.json, core.raise

local generate = {}

local declared = {
  max_tokens = { "integer", 64 },
  temperature = { "number", 0.8 },      -- 0 = always the most likely token
  top_k = { "integer", 0 },             -- 0 = all
  top_p = { "number", 1.0 },
  seed = { "integer", 1 },
  stop = "string",                      -- ends with the token that completes this text
  eos = { "boolean", true },            -- ends with a token that ends texts
  stop_ids = "table",                   -- more such tokens
  on_text = "function",                 -- gets text as it comes, and the number of the prompt
  domain = "string",                    -- of the text, for experts by domain
  -- Element type of the cache. By default that of the weights: keys and values of a model in bf16
  -- are no more precise than that, and a cache in f32 takes twice the memory and reading.
  cache = { { "f32", "bf16", "f16" } },
}

-- Sequences in a step. More rows than this would go the way of prompts, which rounds differently.
local MOST = 16
-- Tokens that a cache has room for at first; it doubles when that is not enough.
local FIRST_ROOM = 256

-- `i`: the place in a list of prompts, or nil.
local function check_ids(ids, i)
  local name = i and ("ids[%d]"):format(i) or "ids"
  expect(type(ids) == "table", "generate", name, "a list of token ids", ids)
  if #ids == 0 then raise("generate: %s is empty", i and "prompt " .. i or "the prompt") end
  if type(ids[1]) == "string" then
    raise("generate: %s[1] must be a token id, not %s\nhint: model:generate(texts)", name,
      core.describe(ids[1]))
  end
end

-- A prompt that fits goes in whole, and the context bounds what comes out. A longer one loses its
-- beginning, but for the token that begins all texts, so that the tokens asked for find room, in at
-- most half of the context.
local function fitting(model, ids, wanted)
  local context, kept = model.config.context, #ids
  if kept < context then return table.move(ids, 1, kept, 1, {}) end
  kept = math.max(1, context - math.min(wanted, context // 2))
  local prompt = table.move(ids, #ids - kept + 1, #ids, 1, {})
  local bos = model.tokenizer and model.tokenizer.bos
  if bos and ids[1] == bos and kept > 1 then prompt[1] = bos end
  return prompt
end

-- Number i of a list draws as it would alone with seed + i - 1.
local function new_sequence(model, ids, opts, i)
  local prompt = fitting(model, ids, opts.max_tokens)
  return { prompt = prompt, out = {}, seed = opts.seed + i - 1,
    count = math.min(opts.max_tokens, model.config.context - #prompt),
    stream = opts.streams and Stream(model.tokenizer, prompt, { stop = opts.stop,
      emit = opts.on_text and function(text) opts.on_text(text, i) end }) }
end

-- The number of a domain, from 0, in the layers that route by domain; nil when there are none.
local function label_of(model, name)
  for _, layer in ipairs(model.config.ffn) do
    local domains = layer.router and layer.router.domains
    for i, known in ipairs(domains or {}) do
      if known == name then return i - 1 end
    end
    if domains then
      raise("generate: domain %s: the experts of the model are by domain%s",
        name and ("'%s'"):format(name) or "is missing", options.hint(name, domains))
    end
  end
  if name then raise("generate: domain '%s': the model has no experts by domain", name) end
end

local function tokenizer_of(model)
  if model.tokenizer then return model.tokenizer end
  if model.no_tokenizer then
    raise("generate: the tokenizer of the model cannot be read: %s", model.no_tokenizer)
  end
  raise("generate: the model has no tokenizer\nhint: model.tokenizer = moe.tokenizer.bytes()")
end

-- An id, a list of them, or nothing, as configurations have it.
local function add_ids(ends, value)
  for _, id in ipairs(type(value) == "table" and value or { value }) do
    if math.type(id) == "integer" then ends[id] = true end
  end
end

-- The ids that end a text, as keys.
local function ends_of(model, opts)
  local ends, tok = {}, model.tokenizer
  for i, id in ipairs(opts.stop_ids or {}) do
    expect(math.type(id) == "integer", "generate", ("stop_ids[%d]"):format(i), "a token id", id)
    ends[id] = true
  end
  if not opts.eos then return ends end
  if tok then add_ids(ends, { tok.eos, tok.eot }) end
  add_ids(ends, model.config.hf and model.config.hf.eos_token_id)
  local generation = model.generation_config and json.decode(model.generation_config)
  add_ids(ends, type(generation) == "table" and generation.eos_token_id or nil)
  return ends
end

local function check(model, given)
  expect(type(model) == "table" and type(model.config) == "table", "generate", "model", "a model",
    model)
  local opts = options.check("generate", given, declared)
  if opts.max_tokens < 1 then
    raise("generate: max_tokens must be at least 1, not %d", opts.max_tokens)
  end
  if opts.temperature < 0 or opts.temperature ~= opts.temperature then
    raise("generate: temperature must not be negative: %g", opts.temperature)
  end
  if not (opts.top_p > 0 and opts.top_p <= 1) then
    raise("generate: top_p must be above 0 and at most 1, not %g", opts.top_p)
  end
  opts.cache = opts.cache or model.embedding:dtype()
  stepwise.check("generate", model)
  opts.label = label_of(model, opts.domain)
  opts.ends = ends_of(model, opts)
  if opts.stop == "" then raise("generate: stop is empty") end
  opts.streams = opts.stop ~= nil or opts.on_text ~= nil
  if opts.streams then tokenizer_of(model) end
  return opts
end

-- Draws the next token of a sequence from its row of logits; true when it was the last one.
local function draw(sequence, row, opts)
  local out = sequence.out
  out[#out + 1] = core.sample(row, { temperature = opts.temperature, top_k = opts.top_k,
    top_p = opts.top_p, seed = sequence.seed, index = #out + 1 })
  sequence.ended = opts.ends[out[#out]] == true
  if sequence.ended then return true end
  local stopped = sequence.stream and sequence.stream:update(out)
  return stopped or #out >= sequence.count
end

-- What layers are told in a step: a router that draws gets other numbers in every one.
local function how_of(sequences, opts)
  local draws = {}
  for b, sequence in ipairs(sequences) do
    draws[b] = { seed = sequence.seed, micro = #sequence.out }
  end
  return { stats = false, losses = false, draws = draws,
    labels = opts.label and core.full(opts.label, #sequences):to("i32") }
end

-- The logits [B x vocab] of sequences after their ids [B x T], which the cache lacks.
local function next_logits(model, sequences, ids, cache, opts)
  local hidden = model:forward(core.tensor(ids, "i32"), how_of(sequences, opts), cache)
  return hidden:select(2, -1):linear(model.head or model.embedding)
end

local function read_prompt(model, sequence, cache, place, opts)
  local _ <close> = core.scope()
  local logits = next_logits(model, { sequence }, { sequence.prompt }, cache:only(place), opts)
  return draw(sequence, logits:select(1, 1), opts)
end

-- One token for every active sequence; those that end make room for the last one.
local function step(model, active, cache, opts)
  local _ <close> = core.scope()
  local feed = {}
  for b, sequence in ipairs(active) do feed[b] = { sequence.out[#sequence.out] } end
  local logits = next_logits(model, active, feed, cache, opts)
  for b = #active, 1, -1 do
    if draw(active[b], logits:select(1, b), opts) then
      cache:remove(b, #active)
      active[b] = active[#active]
      active[#active] = nil
    end
  end
end

local function tokens_of(sequence) return #sequence.prompt + #sequence.out end

-- Fills the `out` of all sequences.
local function run(model, list, opts)
  local most, longest = 0, 0
  for _, s in ipairs(list) do
    most, longest = math.max(most, #s.prompt + s.count), math.max(longest, #s.prompt)
  end
  local cache = Cache(model.config, { batch = math.min(#list, MOST), dtype = opts.cache,
    room = math.min(most, math.max(FIRST_ROOM, longest + 1)) })
  local active, read = {}, 0
  repeat
    while read < #list and #active < cache.batch do
      read = read + 1
      local sequence, place = list[read], #active + 1
      if sequence.count > 0 and not read_prompt(model, sequence, cache, place, opts) then
        active[place] = sequence
      else
        cache:remove(place, place)
      end
    end
    for _, sequence in ipairs(active) do cache:reserve(tokens_of(sequence), most) end
    if #active > 0 then step(model, active, cache, opts) end
  until read == #list and #active == 0
end

-- The finished sequences of a list of prompts in ids.
local function sequences(model, prompts, opts)
  local list = {}
  for i, prompt in ipairs(prompts) do list[i] = new_sequence(model, prompt, opts, i) end
  core.no_grad(run, model, list, opts)
  return list
end

-- The text of a sequence, without the token that ended it.
local function text_of(sequence)
  local out = sequence.out
  if not sequence.ended then return sequence.stream:finish(out) end
  return sequence.stream:finish(table.move(out, 1, #out - 1, 1, {}))
end

--- Token ids after the given ones; those that `stop` is made of, and the one that ends the text,
--- come last. A list of lists gives a list of results. Options: max_tokens, temperature (0: always
--- the most likely token), top_k, top_p (Holtzman et al. 2020), seed, stop (a text), eos (false:
--- tokens that end texts do not), stop_ids (more that do), on_text (called with each piece of
--- text as soon as its characters are whole, and the number of the prompt), domain (its name, where
--- experts are by domain), cache ("f32", "bf16" or "f16": its element type, by default that of the
--- weights).
--- Generation ends at the context length. A prompt that leaves no room loses its beginning.
--- Number i of a list draws as it would alone with seed + i - 1.
---@param ids integer[]|integer[][]
---@param given table?
---@return integer[]|integer[][]
function generate.ids(model, ids, given)
  local opts = check(model, given)
  local many = type(ids) == "table" and type(ids[1]) == "table"
  local prompts, out = many and ids or { ids }, {}
  for i, prompt in ipairs(prompts) do check_ids(prompt, many and i) end
  for i, sequence in ipairs(sequences(model, prompts, opts)) do
    if sequence.stream then text_of(sequence) end
    out[i] = sequence.out
  end
  return many and out or out[1]
end

local function check_prompt(prompt)
  if type(prompt) ~= "string" then
    raise("generate: prompt must be a string, not %s\nhint: model:generate_ids(ids)",
      core.describe(prompt))
  end
end

-- The ids of a prompt, begun as the tokenizer begins texts. It is not ended: it goes on.
local function ids_of(tokenizer, text)
  local ids, around = tokenizer:encode(text), tokenizer:encode("")
  if tokenizer.eos and around[#around] == tokenizer.eos and ids[#ids] == tokenizer.eos then
    ids[#ids] = nil
  end
  return ids
end

--- Text after the prompt, up to the text `stop` if that is given; a list of prompts gives a list of
--- texts. Options as for generate_ids. Special tokens are no text. What is no UTF-8 becomes U+FFFD,
--- but for models of bytes.
---@param prompt string|string[]
---@param given table?
---@return string|string[]
function generate.text(model, prompt, given)
  local opts = check(model, given)
  local many = type(prompt) == "table" and (#prompt == 0 or type(prompt[1]) == "string")
  local texts, prompts, out = many and prompt or { prompt }, {}, {}
  for _, text in ipairs(texts) do check_prompt(text) end
  local tokenizer = tokenizer_of(model)
  opts.streams = true
  for i, text in ipairs(texts) do
    prompts[i] = ids_of(tokenizer, text)
    check_ids(prompts[i], many and i)
  end
  for i, sequence in ipairs(#texts > 0 and sequences(model, prompts, opts) or {}) do
    out[i] = text_of(sequence)
  end
  return many and out or out[1]
end

return generate
