-- groups.lua: sequences for models that mix them: a group is so many rows in a row of a batch whose
-- tokens have to do with each other (traits.lua). Its members must be of unrelated text, or one
-- would hold what another is to predict: no two of them touch the same document.
--
-- In training and in evaluation alike a group mixes all corpora evenly: row g of all belongs to
-- corpus g mod count, in the order of their names.

local core = require("moelua.core")
local raise = core.raise

local groups = {}

-- ---- sizes ------------------------------------------------------------------------------------

-- What a model mixes; other things than models, which only have a loss, mix nothing.
local function needed_by(model, train)
  return model.traits and model:traits(train).group or nil
end

local function check_needed(where, needed, group, batch)
  if needed == "batch" and group ~= batch then
    raise("%s: the model mixes whole batches of %d sequences: group cannot be %d", where, batch,
      group)
  elseif math.type(needed) == "integer" and group % needed ~= 0 then
    raise("%s: the model mixes %d sequences: a group of %d has no whole number of those", where,
      needed, group)
  end
end

--- How many sequences make a group: `given`, or what the model mixes; nil when it mixes none.
---@param where string the function that was called
---@param model moelua.Model
---@param given integer?
---@param batch integer sequences of a forward pass
---@param train boolean
---@return integer?
function groups.size(where, model, given, batch, train)
  local needed = needed_by(model, train)
  local group = given or needed == "batch" and batch or needed
  if not group then return nil end
  if group < 1 then raise("%s: group must be at least 1, not %d", where, group) end
  check_needed(where, needed, group, batch)
  return group
end

--- Does a forward pass of this model mix all of its sequences?
function groups.is_whole(model) return needed_by(model, false) == "batch" end

-- ---- windows ----------------------------------------------------------------------------------

-- The whole windows of a corpus, by the document they begin in.
local function queues_of(corpus, how)
  local spans = corpus:window_documents(how.split, how.context, how.windows):totable()
  local whole = math.min(#spans, (corpus:tokens(how.split) - 1) // how.context)
  local queues, queue = {}, nil
  for window = 1, whole do
    local first, last = table.unpack(spans[window])
    if not queue or queue.document ~= first then
      queue = { document = first }
      queues[#queues + 1] = queue
    end
    queue[#queue + 1] = { window = window, first = first, last = last }
  end
  return queues, #spans
end

local function longer(a, b)
  if #a ~= #b then return #a > #b end
  return a.document < b.document
end

-- Does a window share no document with the members?
local function fits(span, members)
  for _, other in ipairs(members) do
    if span.first <= other.last and other.first <= span.last then return false end
  end
  return true
end

-- Moves the first window of a queue that fits to the members.
local function take_from(queue, members)
  for i, span in ipairs(queue) do
    if fits(span, members) then
      members[#members + 1] = table.remove(queue, i)
      return
    end
  end
end

-- The next n windows that share no document, fewer when there are not so many: one of each of the
-- documents that have most left, the earlier ones of equals. So long documents, which must not meet
-- themselves, are used up as evenly as can be.
local function take(queues, n)
  local members = {}
  table.sort(queues, longer)
  for _, queue in ipairs(queues) do
    if #members == n then break end
    take_from(queue, members)
  end
  return members
end

-- How many members of group k each of `count` corpora has.
local function shares_of(k, size, count)
  local shares = {}
  for c = 1, count do shares[c] = 0 end
  for g = k * size, (k + 1) * size - 1 do shares[g % count + 1] = shares[g % count + 1] + 1 end
  return shares
end

local function refuse(where, how, name, found, needed)
  raise("%s: the %s split of corpus '%s' has %d windows of %d tokens that share no document: a " ..
    "group of %d takes %d of them\nhint: give the corpus more documents, or use smaller groups",
    where, how.split, name, found, how.context, how.group, needed)
end

-- Group k, a list of { name, windows }, or nil and the corpus that has too few left: its name, how
-- many it has, and how many it takes.
local function next_group(queues, names, k, size)
  local group, shares = {}, shares_of(k, size, #names)
  for c, name in ipairs(names) do
    local members = take(queues[name], shares[c])
    if #members < shares[c] then return nil, name, #members, shares[c] end
    if #members > 0 then group[#group + 1] = { name = name, windows = members } end
  end
  return group
end

--- The evaluation windows of some corpora in complete groups, always the same ones. how: split,
--- context, windows (see Corpus:windows), group (the size). Returns the groups, each a list of
--- { name = corpus, windows = numbers }, and how many windows of each corpus are left out: the
--- last ones, when some corpus has no more that share no document, and the partly filled one.
---@param where string the function that was called
---@param texts table<string, moelua.Corpus>
---@param names string[] sorted
---@param how table
---@return table[] groups
---@return table<string, integer> left_out
function groups.plan(where, texts, names, how)
  local queues, left, list = {}, {}, {}
  for _, name in ipairs(names) do queues[name], left[name] = queues_of(texts[name], how) end
  while true do
    local group, name, found, needed = next_group(queues, names, #list, how.group)
    if not group and #list == 0 then refuse(where, how, name, found, needed) end
    if not group then return list, left end
    for _, part in ipairs(group) do
      left[part.name] = left[part.name] - #part.windows
      for i, span in ipairs(part.windows) do part.windows[i] = span.window end
    end
    list[#list + 1] = group
  end
end

return groups
