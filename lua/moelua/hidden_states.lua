-- hidden_states.lua: what the feed-forward layers of a model see: the output of the norm before
-- them, for every token of some sequences. It goes through the model layer by layer, so that no
-- more than one layer and the states of the tokens are in memory, also of a model on the disk, or
-- of one that is only described (parts.lua).

local core = require("moelua.core")
local model = require("moelua.model")
local nn = require("moelua.nn")
local options = require("moelua.options")
local parts = require("moelua.parts")
local join_rows = require("moelua.rows").join

local ROWS = 8                  -- sequences of a forward pass

-- Sequences first .. last as ids [B x T], zeros behind the shorter ones, and where the tokens are:
-- `kept`, rows of [B T x dim]. Nothing earlier sees what is behind, for attention is causal.
local function batch_of(sequences, first, last)
  local longest, rows, kept = 0, {}, {}
  for i = first, last do longest = math.max(longest, #sequences[i]) end
  for i = first, last do
    local row = {}
    for t = 1, longest do
      row[t] = sequences[i][t] or 0
      if sequences[i][t] then kept[#kept + 1] = (i - first) * longest + t - 1 end
    end
    rows[#rows + 1] = row
  end
  return { ids = core.tensor(rows, "i32"), kept = core.tensor(kept, "i32") }
end

-- Layer `number`.
local function block_of(config, number, part_of)
  local block = model.Block(options.merge(config, { std = 0, dtype = "f32" }), number - 1)
  for _, entry in ipairs(nn.saved(block)) do
    local name = entry[1]:gsub("norm%.weight$", "norm")
    local _ <close> = core.scope()
    entry[2]:copy_(part_of(("layers.%d.%s"):format(number - 1, name)).value())
  end
  return block
end

-- What the feed-forward layer sees of the tokens that count, and the output of the block.
local function step(block, batch, x)
  local h = x + block.attention(block.attention_norm(x))
  local seen = block.ffn_norm(h)
  local y = h + block.ffn(seen, { stats = false, losses = false, ids = batch.ids })
  return seen:reshape(-1, seen:size(3)):embedding(batch.kept), y
end

-- Takes the batches through a layer; returns what its feed-forward layer saw.
local function one_layer(config, number, part_of, batches)
  local scope <close> = core.scope()
  local block, states = block_of(config, number, part_of), {}
  for i, batch in ipairs(batches) do
    local inner <close> = core.scope()
    local x = batch.x
    states[i], batch.x = inner:keep(step(block, batch, x))
    x:free()
  end
  for _, batch in ipairs(batches) do scope:keep(batch.x) end
  return scope:keep(join_rows(states))
end

local function all_layers(config, part_of, sequences, visit)
  local _ <close> = core.scope()
  local batches, embedding = {}, part_of("embedding")
  for first = 1, #sequences, ROWS do
    local batch = batch_of(sequences, first, math.min(first + ROWS - 1, #sequences))
    batch.x = parts.rows_of(embedding, batch.ids)
    batches[#batches + 1] = batch
  end
  for number = 1, config.layers do
    local inner <close> = core.scope()
    local states = one_layer(config, number, part_of, batches)
    for _, batch in ipairs(batches) do inner:keep(batch.x) end
    visit(number, states)
  end
end

--- Calls visit(number, states) for each layer number, from 1, with states f32 [tokens x dim] of all
--- tokens in the order of the sequences. Nothing has gradients.
---@param config table of the model
---@param part_of fun(name: string): table the part that its parameter of that name is
---@param sequences integer[][] token ids
---@param visit fun(number: integer, states: moelua.Tensor)
return function(config, part_of, sequences, visit)
  core.no_grad(all_layers, config, part_of, sequences, visit)
end
