-- traits.lua: what the output of a layer at one position of one sequence depends on.
--
--   causal    whether later positions have no influence on it
--   coupled   "no": nothing but its own position (what attention adds is known); "sequence": also
--             other positions of its sequence; "batch": also the other sequences of the batch
--
-- A model generates text one token at a time, as it was evaluated, when it is causal and not
-- coupled.

local traits = {}

local rank = { no = 1, sequence = 2, batch = 3 }

--- Those of a layer that computes each token by itself.
function traits.none() return { causal = true, coupled = "no" } end

--- Those of layers in a row: what one of them depends on, the last output depends on.
---@param list table[]
---@return { causal: boolean, coupled: string }
function traits.join(list)
  local all = traits.none()
  for _, one in ipairs(list) do
    all.causal = all.causal and one.causal
    if rank[one.coupled] > rank[all.coupled] then all.coupled = one.coupled end
  end
  return all
end

return traits
