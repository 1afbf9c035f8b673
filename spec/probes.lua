-- probes.lua: every kind of layer, and what must hold for each. A probe throws with what it saw.
--
-- A layer's traits say on what an output depends; the probes find the same by experiment, in both
-- directions: a dependence that is not declared is an error, and so is a declared one that does not
-- show. What else sets a case apart stands in the table:
--
--   ties = k        with equal logits a token's slots in evaluation are the experts 0 .. k-1
--   numbered        "always" or "train": experts are told apart by their number, which hashes and
--                   draws of noise go by, so that with experts exchanged it is another function
--   drops           "always" or "train": an expert takes no more than its capacity
--   bigrams         the choice of experts looks at the id before, too
--   unchecked       no logits that could be refused: NaN comes out as NaN

local assert = require("luassert")
local core = require("moelua.core")
local ffn = require("moelua.ffn")
local helper = require("spec.helper")
local moe = require("moelua")
local nn = require("moelua.nn")

local probes = {}

local B, S, DIM, EXPERTS = 4, 6, 8, 4
probes.sequences = B

-- ---- the table ----------------------------------------------------------------------------------

local function routed(name, router, more)
  local case = { name = name, ffn = { kind = "moe", hidden = 12, experts = EXPERTS,
    router = router } }
  for key, value in pairs(more or {}) do
    if key == "ffn" then
      for option, given in pairs(value) do case.ffn[option] = given end
    else
      case[key] = value
    end
  end
  return case
end

local tight = 0.5       -- a capacity that certainly drops something

probes.cases = {
  routed("topk selected", { k = 2 }, { ties = 2 }),
  routed("topk all", { k = 2, gate = "all" }, { ties = 2 }),
  routed("topk sigmoid", { k = 2, gate = "sigmoid", scale = 2.5 }, { ties = 2 }),
  routed("topk of one, all", { k = 1, gate = "all" }, { ties = 1 }),
  routed("topk of one, sigmoid", { k = 1, gate = "sigmoid" }, { ties = 1 }),
  routed("topk of all", { k = EXPERTS }, { ties = EXPERTS }),
  routed("topk with a bias", { k = 2, gate = "sigmoid", bias = { rate = 1e-3 } }, { ties = 2 }),
  routed("topk with all losses and jitter", { k = 2, jitter = 0.1, z_loss = 1e-3,
    balance = { form = "btx" } }, { ties = 2 }),
  routed("topk with a capacity by position", { k = 2, capacity = { factor = tight } },
    { ties = 2, drops = "train" }),
  routed("topk with a capacity of first choices", { k = 2,
    capacity = { factor = tight, policy = "choice" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity of large gates", { k = 2,
    capacity = { factor = tight, policy = "probability" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity within the sequence", { k = 2,
    capacity = { factor = tight, scope = "sequence" } }, { ties = 2, drops = "train" }),
  routed("topk with a capacity in evaluation", { k = 2,
    capacity = { factor = tight, evaluation = tight, renormalise = true } },
    { drops = "always" }),
  routed("switch", { kind = "switch", capacity = { factor = tight, formula = "megatron" } },
    { ties = 1, drops = "train" }),
  routed("noisy topk", { kind = "noisy_topk" }, { ties = 2, numbered = "train" }),
  routed("noisy topk as in V-MoE", { kind = "noisy_topk", variant = "v-moe" },
    { ties = 2, numbered = "train" }),
  routed("gshard random", { kind = "gshard", capacity = false }, { ties = 2 }),
  routed("gshard sampling", { kind = "gshard", second = "sampling", capacity = false },
    { ties = 2, numbered = "train" }),
  routed("gshard all", { kind = "gshard", second = "all",
    capacity = { factor = 1, formula = "gshard", policy = "choice" } },
    { ties = 2, drops = "train" }),
  routed("sample, drawn in evaluation", { kind = "sample", first = "sample" },
    { numbered = "always" }),
  routed("sample, the largest in evaluation", { kind = "sample", first = "sample",
    inference = "argmax" }, { ties = 1, numbered = "train" }),
  routed("soft", { kind = "soft" }, { ties = EXPERTS }),
  routed("expert choice over the sequence", { kind = "expert_choice" }),
  routed("expert choice over the batch", { kind = "expert_choice", over = "batch" }),
  routed("base", { kind = "base" }, { ties = 1 }),
  routed("hash", { kind = "hash" }, { numbered = "always", unchecked = true }),
  routed("hash of two", { kind = "hash", k = 2 },
    { numbered = "always", unchecked = true }),
  routed("hash of bigrams", { kind = "hash", by = "bigram" },
    { numbered = "always", bigrams = true, unchecked = true }),
  routed("balanced hash", { kind = "hash", by = "balanced", vocab = 256 },
    { unchecked = true }),
  routed("domain", { kind = "domain", domains = { "a", "b", "c", "d" } },
    { numbered = "always", unchecked = true }),
  routed("shared experts", { k = 2, gate = "all" }, { ties = 2, ffn = { shared = 2 } }),
  routed("a gated shared expert", { k = 2 }, { ties = 2,
    ffn = { shared = { experts = 1, gate = true } } }),
  routed("fine-grained", { k = 2, gate = "all" }, { ties = 3,
    ffn = { experts = 2, segments = 2, shared = 1 } }),
  routed("relu experts", { k = 2 }, { ties = 2, ffn = { activation = "relu" } }),
  routed("gelu experts", { k = 2 }, { ties = 2, ffn = { activation = "gelu" } }),
  routed("silu experts", { k = 2 }, { ties = 2, ffn = { activation = "silu" } }),
  { name = "dense", ffn = { kind = "dense", hidden = 12 }, unchecked = true },
  { name = "dense relu", ffn = { kind = "dense", hidden = 12, activation = "relu" },
    unchecked = true },
}

-- ---- layers and what they are given -------------------------------------------------------------

local function numbers(name, ...)
  local shape = { ... }
  shape[#shape + 1] = { seed = 5, stream = name }
  return moe.randn(table.unpack(shape))
end

-- Numbers of its own for every tensor, also where a layer begins with zeros.
local function fill(layer)
  core.no_grad(function()
    for _, entry in ipairs(nn.saved(layer)) do
      local name, tensor = entry[1], entry[2]
      if tensor:dtype() == "f32" then
        tensor:copy_(numbers(name, table.unpack(tensor:shape())) * 0.6)
      end
    end
  end)
  return layer
end

--- The layer of a case; `more` replaces options of its ffn.
function probes.layer(case, more)
  local given = {}
  for _, list in ipairs({ case.ffn, more or {} }) do
    for key, value in pairs(list) do given[key] = value end
  end
  return fill(ffn.layer(ffn.options("probe", given), { dim = DIM, seed = 1, std = 0.1 }))
end

local function ids_of(name, rows)
  return (moe.rand(rows, S, { seed = 5, stream = name }) * 50):to("i32")
end

--- An input of `rows` sequences: x, and what comes along with it.
function probes.input(name, rows, train)
  local labels = {}
  for b = 1, rows do labels[b] = b % EXPERTS end
  return { x = numbers(name, rows, S, DIM), how = { train = train, step = 3, micro = 0, seed = 7,
    ids = ids_of(name .. " ids", rows), labels = moe.tensor(labels, "i32") } }
end

local function concat(a, b)
  return { x = core.concat({ a.x, b.x }, 1), how = { train = a.how.train, step = 3, micro = 0,
    seed = 7, ids = core.concat({ a.how.ids, b.how.ids }, 1),
    labels = core.concat({ a.how.labels, b.how.labels }, 1) } }
end

local function output(layer, given)
  return core.no_grad(function() return (layer(given.x, given.how)) end)
end

-- changed[b][i]: whether the output of a token is another one. Outputs that do not depend on what
-- was changed may have moved in the batch of their expert, and be rounded otherwise.
local function changes(before, after)
  local off = before - after
  local list = (off * off):sum(-1):totable()
  for _, row in ipairs(list) do
    for i, distance in ipairs(row) do row[i] = distance > 1e-9 end
  end
  return list
end

local function in_mode(when, train) return when == "always" or when == "train" and train end

-- Both are found to be true, or neither is.
local function check_trait(holds, found, text)
  if holds == found then return end
  error(holds and "declared, but does not show: " .. text
    or "shows, but is not declared: " .. text, 3)
end

-- ---- T2: what an output depends on --------------------------------------------------------------

-- What changing a token, by change(given, b, i, n), does to others, wherever it stands.
local function influence(layer, given, times, change)
  local before, found = output(layer, given), { past = false, future = false, others = false }
  for b = 1, B do
    for i = 1, S do
      for n = 1, times do
        local changed = changes(before, output(layer, change(given, b, i, n)))
        for other = 1, B do
          for at = 1, S do
            local where = other ~= b and "others" or at < i and "past" or at > i and "future"
            if where and changed[other][at] then found[where] = at - i end
          end
        end
      end
    end
  end
  return found
end

local function other_state(given, b, i, n)
  local x = given.x:clone()
  x:narrow(1, b, 1):narrow(2, i, 1):copy_(numbers("changed " .. n, 1, 1, DIM) * 3)
  return { x = x, how = given.how }
end

local function other_id(given, b, i, n)
  local ids, how = given.how.ids:clone(), {}
  for key, value in pairs(given.how) do how[key] = value end
  ids:narrow(1, b, 1):narrow(2, i, 1):fill_(100 + n)
  how.ids = ids
  return { x = given.x, how = how }
end

--- Changes one token after the other: the outputs that change are those that the traits tell of.
function probes.causality(case, train)
  local layer = probes.layer(case)
  local traits, given = layer:traits(train), probes.input("x", B, train)
  local found = influence(layer, given, 2, other_state)
  check_trait(not traits.causal, found.past ~= false, "outputs depend on later tokens")
  check_trait(traits.coupled == "batch", found.others ~= false, "outputs depend on other sequences")
  if traits.coupled ~= "batch" then
    check_trait(traits.coupled == "sequence", (found.past or found.future) ~= false,
      "outputs depend on other positions")
  end
  local by_id = influence(layer, given, 3, other_id)
  assert.is_false(by_id.past, "the experts of a token depend on later ids")
  assert.is_false(by_id.others, "the experts of a token depend on ids of other sequences")
  check_trait(case.bigrams == true, by_id.future ~= false, "experts depend on the id before")
  if by_id.future then assert.equal(1, by_id.future) end
end

-- ---- T3: batches --------------------------------------------------------------------------------

-- Whether any of the first `rows` sequences comes out otherwise.
local function differs(a, b, rows)
  for _, row in ipairs(changes(a:narrow(1, 1, rows), b:narrow(1, 1, rows))) do
    for _, changed in ipairs(row) do
      if changed then return true end
    end
  end
  return false
end

--- A sequence gets the same output whatever company it has, and however much: unless it is coupled
--- to the batch.
function probes.batches(case, train)
  local layer, found = probes.layer(case), false
  local half = probes.input("x", B // 2, train)
  local whole = concat(half, probes.input("others", B // 2, train))
  local alone = output(layer, whole)
  for n = 1, 6 do
    local junk = probes.input("junk " .. n, B // 2, train)
    found = differs(alone, output(layer, concat(half, junk)), B // 2) or found
    found = differs(alone, output(layer, concat(whole, junk)), B) or found
  end
  check_trait(layer:traits(train).coupled == "batch", found,
    "outputs depend on the rest of the batch")
end

-- ---- T4: the order of the experts ---------------------------------------------------------------

-- Part `order[i]` becomes the i-th.
local function reordered(tensor, order)
  local shape = tensor:shape()
  return tensor:detach():reshape(shape[1], -1):gather_rows(moe.tensor(order, "i32"))
    :reshape(table.unpack(shape))
end

-- A table of experts names them by their new numbers.
local function renamed(table_, order)
  local number, rows = {}, table_:totable()
  for i, e in ipairs(order) do number[e] = i - 1 end
  for _, row in ipairs(rows) do
    for j, e in ipairs(row) do row[j] = number[e] end
  end
  return moe.tensor(rows, "i32")
end

-- How a tensor of that name follows the experts; nil when it does not.
local function follower(name)
  if name:match("router%.table$") then return renamed end
  if name:match("^router") or name:match("^experts%.") or name:match("^controller") then
    return reordered
  end
end

--- Another order of the experts and of what selects them is the same function.
function probes.permutation(case, train)
  local layer, order = probes.layer(case), {}
  local given = probes.input("x", B, train)
  local before = output(layer, given)
  local count = layer.experts and layer.experts.w1:size(1) or 1
  for e = 1, count do order[e] = e % count end        -- 1 2 .. 0
  core.no_grad(function()
    for _, entry in ipairs(nn.saved(layer)) do
      local follow = follower(entry[1])
      if follow then entry[2]:copy_(follow(entry[2], order)) end
    end
  end)
  check_trait(in_mode(case.numbered, train), differs(before, output(layer, given), B),
    "experts are told by number")
end

-- ---- T5: bookkeeping ----------------------------------------------------------------------------

-- Experts that change nothing: relu(x) - relu(-x) = x.
local function identity(layer)
  local bank, one = layer.experts, moe.arange(DIM):to("i32"):one_hot(DIM)
  local up = core.concat({ one, -one }, 1):reshape(1, 2 * DIM, DIM)
  local all = up + core.zeros(bank.w1:size(1), 1, 1)
  core.no_grad(function()
    bank.w1:copy_(all)
    bank.w2:copy_(all:transpose(2, 3))
  end)
  return layer
end

-- The sum of the gates of each token's used slots, and how many slots each expert has.
local function sums(gates, experts, count)
  local sum, counts = {}, {}
  for e = 1, count do counts[e] = 0 end
  gates = gates:totable()
  for t, row in ipairs(experts:totable()) do
    sum[t] = { 0 }
    for j, e in ipairs(row) do
      if e >= 0 then
        sum[t][1], counts[e + 1] = sum[t][1] + gates[t][j], counts[e + 1] + 1
      end
    end
  end
  return moe.tensor(sum), counts
end

--- Counts are those of the slots, what is dropped is missing from them; and with experts that
--- change nothing a token comes back times the sum of its gates.
function probes.bookkeeping(case, train)
  local given = probes.input("x", B, train)
  local layer = identity(probes.layer(case, { activation = "relu", shared = 0,
    hidden = 2 * DIM * (case.ffn.segments or 1) }))
  local y, info = layer(given.x, given.how)
  local gates, experts = layer.router:route(given.x, given.how)
  local count = layer.router.count
  local sum, counts = sums(gates, experts, count)
  helper.close(y:reshape(-1, DIM), given.x:reshape(-1, DIM) * sum, 1e-5)
  assert.same(counts, info.counts)
  assert.equal(experts:bytes(), info.experts:bytes())
  local used, loads = 0, 0
  for e = 1, count do
    used, loads = used + counts[e], loads + info.load[e]
  end
  helper.close(loads, 1, 1e-6)
  check_trait(in_mode(case.drops, train), info.dropped > 0, "slots are dropped")
  -- Before anything was dropped there were slots(opts) for each token.
  local slots = moe.router.slots(layer.router.opts, count) * B * S
  if layer.router.opts.kind == "gshard" and layer.router.opts.second == "random" and train then
    assert.is_true(used <= slots and used >= slots / 2)
  else
    helper.close(used, slots * (1 - info.dropped), 1e-4)
  end
end

-- ---- T6: ties and NaN ---------------------------------------------------------------------------

--- Of equal logits the lowest experts win.
function probes.ties(case)
  local layer, want = probes.layer(case), {}
  core.no_grad(function()
    for _, entry in ipairs(nn.saved(layer.router)) do entry[2]:fill_(0) end
  end)
  for t = 1, B * S do
    want[t] = {}
    for j = 1, case.ties do want[t][j] = j - 1 end
  end
  local given = probes.input("x", B, false)
  local _, experts = layer.router:route(given.x, given.how)
  assert.same(want, experts:totable())
end

--- NaN never passes in silence: logits are refused, and where there are none NaN comes out.
function probes.nan(case, train)
  local layer, given = probes.layer(case), probes.input("x", B, train)
  given.x:narrow(1, 2, 1):narrow(2, 3, 1):fill_(0 / 0)
  local ok, got = pcall(output, layer, given)
  if case.unchecked then
    if not ok then error(got, 0) end
    local value = got:select(1, 2):select(1, 3):totable()
    for _, element in ipairs(value) do assert.is_true(element ~= element) end
  else
    assert.is_false(ok, "NaN was accepted")
    assert.matches("NaN", tostring(got))
  end
end

-- ---- T7: saved and loaded -----------------------------------------------------------------------

--- A model with such layers is the same one, bit for bit, after it was saved and loaded.
function probes.saving(case)
  local model = fill(moe.model.new({ dim = DIM, layers = 2, heads = 2, hidden = 12, vocab = 256,
    context = S, ffn = case.ffn }))
  local given = probes.input("x", B, false)
  local function forward(m) return (m:forward(given.how.ids, given.how)) end
  local folder = helper.tmpdir() .. "/model"
  assert(model:save(folder))
  local loaded = assert(moe.load(folder))
  local saved, twin = nn.saved(model), nn.saved(loaded)
  assert.equal(#saved, #twin)
  for i, entry in ipairs(saved) do
    assert.equal(entry[1], twin[i][1])
    assert.equal(entry[2]:bytes(), twin[i][2]:bytes(), entry[1] .. " differs")
  end
  assert.equal(forward(model):bytes(), forward(loaded):bytes())
end

return probes
