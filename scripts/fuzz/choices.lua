-- choices.lua: what the fuzzers written in Lua choose, by the bytes of an input as source.h does it
-- in C: when these are used up, numbers go on that depend on all of them.
local choices = {}

local input, at, state

function choices.open(bytes)
  input, at, state = bytes, 1, 1469598103934665603
  for i = 1, #bytes do state = (state ~ bytes:byte(i)) * 1099511628211 end
end

-- An integer from 1 to n, which is at most 256.
function choices.pick(n)
  local byte = input:byte(at)
  at = at + 1
  if not byte then
    state = state * 6364136223846793005 + 1442695040888963407
    byte = state >> 56
  end
  return (byte * n >> 8) + 1
end

--- The bytes that nothing was chosen by.
function choices.rest() return input:sub(at) end

function choices.one_of(list) return list[choices.pick(#list)] end

return choices
