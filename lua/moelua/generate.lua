-- generate.lua: text from a model, one token at a time, with a key-value cache.

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")
local raise = core.raise

local generate = {}

local declared = {
  max_tokens = { "integer", 64 },
  temperature = { "number", 0.8 },      -- 0 = always the most likely token
  top_k = { "integer", 0 },             -- 0 = all
  top_p = { "number", 1.0 },
  seed = { "integer", 1 },
  stop = "string",                      -- ends with the token that completes this text
}

--- An empty cache for sequences of up to `room` tokens: per layer k, v [B x room x KV x D].
function generate.new_cache(config, batch, room)
  local cache = {}
  for i = 1, config.layers do
    cache[i] = { used = 0,
      k = core.zeros(batch, room, config.kv_heads, config.head_dim),
      v = core.zeros(batch, room, config.kv_heads, config.head_dim) }
  end
  return cache
end

-- A prompt that fits goes in whole, and the context bounds what comes out. A longer one loses its
-- beginning, so that the tokens asked for find room, in at most half of the context.
local function prepare(model, ids, opts)
  expect(type(ids) == "table", "generate", "ids", "a list of token ids", ids)
  if #ids == 0 then raise("generate: the prompt is empty") end
  local context = model.config.context
  local wanted = opts.max_tokens
  if wanted < 1 then raise("generate: max_tokens must be at least 1, not %d", wanted) end
  local kept = #ids
  if kept >= context then kept = math.max(1, context - math.min(wanted, context // 2)) end
  return table.move(ids, #ids - kept + 1, #ids, 1, {}), math.min(wanted, context - kept)
end

local function check(given)
  local opts = options.check("generate", given, declared)
  if opts.temperature < 0 then
    raise("generate: temperature must not be negative: %g", opts.temperature)
  end
  if not (opts.top_p > 0 and opts.top_p <= 1) then
    raise("generate: top_p must be above 0 and at most 1, not %g", opts.top_p)
  end
  return opts
end

local function tokenizer_of(model)
  return model.tokenizer or
    raise("generate: the model has no tokenizer\nhint: model.tokenizer = moe.tokenizer.bytes()")
end

-- Whether the newest of the ids has completed `stop`. As every token is a byte at least, the last
-- #stop of them hold whatever it could complete.
local function completes(model, ids, stop)
  local tail = table.move(ids, math.max(1, #ids - #stop + 1), #ids, 1, {})
  return tokenizer_of(model):decode(tail):find(stop, 1, true) ~= nil
end

-- Runs the model over the ids that the cache lacks, and draws what follows them.
local function next_id(model, feed, cache, opts, index)
  local _ <close> = core.scope()
  local logits = model:logits(feed, cache)
  return (core.sample(logits:select(1, -1), { temperature = opts.temperature,
    top_k = opts.top_k, top_p = opts.top_p, seed = opts.seed, index = index }))
end

--- Token ids after the given ones; those that `stop` is made of come last. Options: max_tokens,
--- temperature (0: always the most likely token), top_k, top_p (Holtzman et al. 2020), seed, stop.
--- Generation ends at the context length. A prompt that leaves no room loses its beginning.
---@param ids integer[]
---@param given table?
---@return integer[]
function generate.ids(model, ids, given)
  local opts = check(given)
  local prompt, count = prepare(model, ids, opts)
  local cache = generate.new_cache(model.config, 1, #prompt + count)
  local out, feed = {}, prompt
  core.no_grad(function()
    for i = 1, count do
      out[i] = next_id(model, feed, cache, opts, i)
      if opts.stop and completes(model, out, opts.stop) then return end
      feed = { out[i] }
    end
  end)
  return out
end

--- Text after the prompt, up to the text `stop` if that is given. Options as for generate_ids.
---@param prompt string
---@param given table?
---@return string
function generate.text(model, prompt, given)
  if type(prompt) ~= "string" then
    raise("generate: prompt must be a string, not %s\nhint: model:generate_ids(ids)",
      core.describe(prompt))
  end
  local tokenizer = tokenizer_of(model)
  local text = tokenizer:decode(generate.ids(model, tokenizer:encode(prompt), given))
  local stop = given and given.stop
  local at = stop and text:find(stop, 1, true)
  return at and text:sub(1, at - 1) or text
end

return generate
