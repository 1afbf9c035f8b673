-- probes.lua: what must hold for every kind of layer (layer_kinds.lua). A probe throws with what it
-- saw.
--
-- A layer's traits say on what an output depends; the probes find the same by experiment, in both
-- directions: a dependence that is not declared is an error, and so is a declared one that does not
-- show.

local assert = require("luassert")
local core = require("moelua.core")
local helper = require("spec.helper")
local kinds = require("spec.layer_kinds")
local moe = require("moelua")
local nn = require("moelua.nn")

local probes = {}

local B, S, DIM = kinds.sequences, kinds.length, kinds.dim
local input, numbers = kinds.input, kinds.numbers

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
  local layer = kinds.layer(case)
  local traits, given = layer:traits(train), input("x", B, train)
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
  local layer, found = kinds.layer(case), false
  local half = input("x", B // 2, train)
  local whole = concat(half, input("others", B // 2, train))
  local alone = output(layer, whole)
  for n = 1, 6 do
    local junk = input("junk " .. n, B // 2, train)
    found = differs(alone, output(layer, concat(half, junk)), B // 2) or found
    found = differs(alone, output(layer, concat(whole, concat(junk, half))), B) or found
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
  local layer, order = kinds.layer(case), {}
  local given = input("x", B, train)
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
  local given = input("x", B, train)
  local layer = identity(kinds.layer(case, { activation = "relu", shared = 0,
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

--- The weights of an expert add up to 1 over a group: where all its members are the same token, and
--- with experts that change nothing, each gets back its share of what all experts make of it.
function probes.mixing(case, train)
  local layer = identity(kinds.layer(case, { activation = "relu", hidden = 2 * DIM }))
  local x = numbers("token", 1, S, DIM) + core.zeros(B, 1, 1)
  local y = layer(x, { train = train, step = 3 })
  helper.close(y, x * (case.ffn.experts / case.ffn.group), 1e-5)
end

-- ---- T6: ties and NaN ---------------------------------------------------------------------------

--- Of equal logits the lowest experts win.
function probes.ties(case)
  local layer, want = kinds.layer(case), {}
  core.no_grad(function()
    for _, entry in ipairs(nn.saved(layer.router)) do entry[2]:fill_(0) end
  end)
  for t = 1, B * S do
    want[t] = {}
    for j = 1, case.ties do want[t][j] = j - 1 end
  end
  local given = input("x", B, false)
  local _, experts = layer.router:route(given.x, given.how)
  assert.same(want, experts:totable())
end

--- NaN never passes in silence: logits are refused, and where there are none NaN comes out.
function probes.nan(case, train)
  local layer, given = kinds.layer(case), input("x", B, train)
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
  local model = kinds.fill(moe.model.new({ dim = DIM, layers = 2, heads = 2, hidden = 12,
    vocab = 256, context = S, ffn = case.ffn }))
  local given = input("x", B, false)
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
