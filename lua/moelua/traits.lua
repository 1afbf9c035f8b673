-- traits.lua: what the output of a layer at one position of one sequence depends on.
--
--   causal    whether later positions have no influence on it
--   coupled   "no": nothing but its own position (what attention adds is known); "sequence": also
--             other positions of its sequence; "batch": also the other sequences of the batch
--   group     how many sequences in a row are mixed with each other, or "batch" for all of them;
--             those must be of unrelated text. nil when none are
--
-- A model that is causal and not coupled generates text one token at a time as it was evaluated.

local traits = {}

local rank = { no = 1, sequence = 2, batch = 3 }

--- Those of a layer that computes each token by itself.
function traits.none() return { causal = true, coupled = "no" } end

-- Whole groups of both.
local function join_groups(a, b)
  if not (a and b) then return a or b end
  if a == "batch" or b == "batch" then return "batch" end
  local x, y = a, b
  while y ~= 0 do x, y = y, x % y end
  return a // x * b
end

--- Those of layers in a row: what one of them depends on, the last output depends on.
---@param list table[]
---@return { causal: boolean, coupled: string, group: integer|string|nil }
function traits.join(list)
  local all = traits.none()
  for _, one in ipairs(list) do
    all.causal = all.causal and one.causal
    if rank[one.coupled] > rank[all.coupled] then all.coupled = one.coupled end
    all.group = join_groups(all.group, one.group)
  end
  return all
end

return traits
