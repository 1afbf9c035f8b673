-- train_options.lua: the options of moe.train, which moe.branch checks too before it hands them on.

local options = require("moelua.options")
local Optimizer = require("moelua.optimizer")
local core = require("moelua.core")
local describe, raise = core.describe, core.raise
local router = require("moelua.router")
local schedule = require("moelua.schedule")

local train_options = {}

local declared = options.merge(Optimizer.options, {
  data = { "any", required = true },          -- a corpus, or { name = corpus, ... } mixed evenly
  steps = { "integer", required = true },
  batch = { "integer", 32 },                  -- sequences a step
  accumulate = { "integer", 1 },              -- equal micro-batches of a step
  group = "integer",                          -- sequences in a row that share no document
  context = "integer",                        -- tokens a sequence; default: the model's
  lr = { "number", 3e-3 },                    -- the peak
  schedule = { schedule.kinds, "cosine" },
  warmup = "integer",                         -- steps; default: a twentieth
  floor = { "number", 0.1 },                  -- share of lr that is left at the end
  decay = { "number", 0.2 },                  -- wsd: share of the steps that decay

  precision = { { "f32", "bf16" } },          -- of products; default: what moe.precision() is
  seed = { "integer", 1 },
  out = "string",                             -- run folder: log, states, model
  fresh = { "boolean", false },
  log_every = { "integer", 10 }, save_every = { "integer", 100 },
  eval_every = { "integer", 0 }, eval_windows = { "integer", 64 },
  name = { "string", "train" },
  quiet = { "boolean", false },
  save_model = { "boolean", true },
})

--- Options that change nothing about the result.
train_options.incidental = { out = true, fresh = true, quiet = true, name = true,
  save_every = true }

--- The options, complete and checked; `where` is the function that was called, for messages.
function train_options.check(where, given)
  local opts = options.check(where, given, declared)
  for _, name in ipairs({ "steps", "batch", "accumulate", "log_every", "save_every",
    "eval_windows" }) do
    if opts[name] < 1 then raise("%s: %s must be at least 1, not %d", where, name, opts[name]) end
  end
  if opts.batch % opts.accumulate ~= 0 then
    raise("%s: a batch of %d does not divide into %d micro-batches\n" ..
      "hint: accumulate must divide batch", where, opts.batch, opts.accumulate)
  end
  if opts.lr <= 0 or opts.lr ~= opts.lr then
    raise("%s: lr must be above 0, not %s", where, describe(opts.lr))
  end
  opts.precision = opts.precision or core.precision()
  opts.warmup = opts.warmup or opts.steps // 20
  return opts
end

--- Refuses a model that has a router which no gradient would reach.
---@param config table of the model
function train_options.check_routers(config)
  for _, ffn in ipairs(config.ffn) do
    if ffn.router then router.check_trainable(ffn.router) end
  end
end

return train_options
