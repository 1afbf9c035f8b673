-- how.lua: what layers and models are told in a forward pass, their second argument: nil, or a
-- plain table with any of
--
--   stats    false leaves the figures of mixtures out, and losses = false their losses
--   train    true in training: noise, jitter, sampling, the capacity of training
--   step     of the optimizer, from 1, and micro, the micro-batch in it, from 0: schedules, noise
--   seed     of that noise
--   draws    in place of these three a list of { seed, micro } for each sequence, which so draws as
--            it would alone; generation sets it
--   ids      i32 [B x S], the tokens; a model sets it
--   before   i32 [B x 1], the token before each sequence of ids, or -1; made with a cache
--   labels   i32 [B], the domain of each sequence, counted from 0
--   mask     f32 [B x S], 1 where a token counts and 0 where it is padding; Model:loss makes it
--   again    true in a pass that nobody counts: of a block that recomputes the second one, and one
--            that only measures the shares of a step
--   shares   { u, p } of a whole step, see balance.lua; for a model a list of them by layer

local core = require("moelua.core")
local expect = require("moelua.expect")
local options = require("moelua.options")

local names = { "stats", "losses", "train", "step", "micro", "seed", "draws", "ids", "before",
  "labels", "mask", "again", "shares" }

local known = {}
for _, name in ipairs(names) do known[name] = true end

local how = {}

--- Raises unless `given` is nil or such a table: what is misspelt would say nothing to anybody.
---@param where string the function that was called
---@param given table?
function how.check(where, given)
  if given == nil then return end
  expect(type(given) == "table", where, "how", "a table", given)
  for name in pairs(given) do
    if not known[name] then
      core.raise("%s: how has no '%s'%s", where, name, options.hint(name, names))
    end
  end
end

return how
