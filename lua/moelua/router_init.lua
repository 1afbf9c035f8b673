-- router_init.lua: routers that begin with what their experts are for, from the hidden states of
-- some text: those behind the norm that the router sees, of all tokens.
--
--   means      text for each expert: the row of an expert is the mean state of its tokens, less, if
--              wanted, that of other text, or of all experts
--   clusters   spherical k-means: the rows are the centres; `balanced` makes every cluster equally
--              large (as BASE layers are: Lewis et al. 2021)
--
-- Rows are made equally long. What the logits are by then depends on the model; one factor for each
-- layer gives them the standard deviation `std` within a token: sqrt of the mean over tokens and
-- experts of (l_e - mean l)^2.

local core = require("moelua.core")
local calibration = require("moelua.calibration")
local hidden_states = require("moelua.hidden_states")
local join_rows = require("moelua.rows").join
local options = require("moelua.options")
local run = require("moelua.run")
local tokenizer = require("moelua.tokenizer")
local raise = core.raise

local router_init = {}

local declared = {
  by = { { "means", "clusters" }, required = true },
  text = { "any", required = true },    -- means: a list of one for each expert; see calibration.lua
  negative = "any",                     -- means: text that is for none of them
  centre = { "boolean", false },        -- means: less the mean over all experts
  balanced = { "boolean", false },      -- clusters: equally large
  iterations = { "integer", 20 },       -- clusters: at most
  std = { "number", 1 },                -- of the logits of a token
  windows = { "integer", 16 },          -- sequences of each text to learn from
  held_out = { "integer", 4 },          -- and to report on
  context = "integer",                  -- tokens of a sequence; default: the model's, at most 512
  tokenizer = "any",                    -- default: the model's
}

local TINY = 1e-30

-- ---- rows -------------------------------------------------------------------------------------

local function unit(x) return x / ((x * x):sum(-1, true) + TINY):sqrt() end

-- The mean state of each class; `classes` are { first, count } of its tokens.
local function means_of(states, classes)
  local list = {}
  for i, class in ipairs(classes) do
    list[i] = states:narrow(1, class.first, class.count):mean(1, true)
  end
  return join_rows(list)
end

local function rows_by_means(opts, states, text)
  local rows = means_of(states, text.classes)
  if text.negative then rows = rows - means_of(states, { text.negative }) end
  if opts.centre then rows = rows - rows:mean(1, true) end
  return unit(rows)
end

-- k-means++ (Arthur and Vassilvitskii 2007): each next centre is a token drawn by its squared
-- distance from the nearest centre, as the largest of log d^2 plus Gumbel noise.
local function first_centres(x, count, seed, stream)
  local T, centres = x:size(1), nil
  for n = 1, count do
    local noise = -(-(core.rand(T, { seed = seed, stream = ("%s.%d"):format(stream, n) }):log()))
      :log()
    local far = centres and (1 - x:linear(centres):max(-1)):relu() or core.ones(T)
    local which = ((far + TINY):log() + noise):argmax(-1)
    local new = x:embedding(which:reshape(1))
    centres = centres and core.concat({ centres, new }, 1) or new
  end
  return centres
end

-- The number of the cluster of each token, i32 [T x 1].
local function assign(opts, x, centres)
  local scores = x:linear(centres)
  return opts.balanced and scores:balanced_assignment() or scores:argmax(-1, true)
end

-- The centres of clusters, each a mean direction; one without tokens stays where it was.
local function centres_of(x, clusters, old)
  local count = old:size(1)
  local member = clusters:one_hot(count):reshape(-1, count)
  local none = (1 - clusters:bincount(count)):relu():reshape(count, 1)
  return unit(member:transpose():matmul(x)) * (1 - none) + old * none
end

local function rows_by_clusters(opts, states, count, stream)
  local x = unit(states)
  local centres, before = first_centres(x, count, opts.seed, stream), nil
  for _ = 1, opts.iterations do
    local clusters = assign(opts, x, centres)
    local hash = clusters:hash()
    if hash == before then break end
    before, centres = hash, centres_of(x, clusters, centres)
  end
  return centres
end

-- Times what gives the logits of these states the wanted deviation.
local function scaled(rows, states, std)
  local logits = states:linear(rows)
  local within = logits - logits:mean(-1, true)
  local now = math.sqrt((within * within):mean():item())
  return now > 0 and rows * (std / now) or rows
end

-- ---- the report -------------------------------------------------------------------------------

-- Of the tokens of a class, the share of each expert as the first choice.
local function shares_of(first_choice, class, count)
  local counted = first_choice:narrow(1, class.first, class.count):bincount(count)
  return (counted / class.count):totable()
end

-- The figures of a router on the held-out tokens of some classes.
local function figures(rows, states, classes)
  local logits, count = states:linear(rows), rows:size(1)
  local first_choice, confusion, right = logits:argmax(-1), {}, 0.0
  for i, class in ipairs(classes) do
    confusion[i] = shares_of(first_choice, class, count)
    right = right + (confusion[i][i] or 0) / #classes
  end
  return { load = (first_choice:bincount(count) / states:size(1)):totable(),
    entropy = -(logits:softmax(-1) * logits:log_softmax(-1)):sum(-1):mean():item(),
    confusion = confusion, accuracy = #classes == count and right or nil }
end

-- ---- all layers -------------------------------------------------------------------------------

local function check(where, given, experts)
  local opts = options.check(where .. ".init", given, declared)
  if not (opts.std > 0 and opts.std < math.huge) then
    raise("%s.init: std must be positive and finite, not %s", where, opts.std)
  end
  for _, name in ipairs({ "windows", "held_out", "iterations", "context" }) do
    if opts[name] and opts[name] < 1 then raise("%s.init: %s must be at least 1", where, name) end
  end
  if opts.by == "means" and (type(opts.text) ~= "table" or #opts.text ~= experts) then
    raise("%s.init: text must be a list of one text for each of the %d experts", where, experts)
  end
  if opts.tokenizer then
    opts.tokenizer = run.check(tokenizer.resolve(where .. ".init", opts.tokenizer))
  end
  return opts
end

--- The rows of the routers of a model, before they are repeated for the segments of experts.
---   where     the function that was called, for messages
---   given     the options above
---   model     { config, part_of, tokenizer }: of which the states are, see hidden_states.lua
---   experts   how many rows
---   layers    layers[number] is true for those that get a router
---   seed      of the first centres
--- Returns rows by layer number, f32 [experts x dim], and a report: for each such layer { load,
--- entropy, confusion, accuracy } on held-out text, where confusion[i][e] is the share of expert e
--- as the first choice in text i, and accuracy the mean of confusion[i][i].
function router_init.rows(where, given, model, experts, layers, seed)
  local opts = check(where, given, experts)
  opts.seed = seed
  opts.context = opts.context or math.min(model.config.context, 512)
  local text = calibration(where .. ".init", opts, opts.tokenizer or model.tokenizer())
  local rows, report = {}, {}
  hidden_states(model.config, model.part_of, text.sequences, function(number, states)
    if not layers[number] then return end
    local _ <close> = core.scope()
    local seen = states:narrow(1, 1, text.learnt)
    local made = opts.by == "means" and rows_by_means(opts, states, text) or
      rows_by_clusters(opts, seen, experts, ("router.init.layers.%d"):format(number - 1))
    made = scaled(made, seen, opts.std)
    rows[number] = made:totable()
    report[number] = figures(made, states:narrow(1, text.held.first, text.held.count), text.held)
  end)
  return rows, report
end

return router_init
