-- rounds.lua: measuring things in turn, so that a slow moment of the machine touches all alike.

local clock = require("moelua.core").system.clock

local rounds = {}

local function sorted(list)
  local copy = table.move(list, 1, #list, 1, {})
  table.sort(copy)
  return copy
end

function rounds.median(list)
  local s = sorted(list)
  return (s[(#s + 1) // 2] + s[#s // 2 + 1]) / 2
end

--- How far the middle half of the numbers is apart, as a share of their median.
function rounds.spread(list)
  local s = sorted(list)
  local function quartile(share) return s[1 + math.floor(share * (#s - 1) + 0.5)] end
  return (quartile(0.75) - quartile(0.25)) / rounds.median(list)
end

-- One number from each; who fails takes no further part. Every other round goes backwards.
local function one_round(contestants, index, samples, failed)
  local first, last, step = 1, #contestants, 1
  if index % 2 == 0 then first, last, step = last, first, -1 end
  for i = first, last, step do
    local name, take = contestants[i].name, contestants[i].take
    if not failed[name] then
      local value, message = take()
      if value then table.insert(samples[name], value) else failed[name] = message end
    end
  end
end

--- Rounds over the contestants, { name =, take = function that returns a number, or nil and a
--- message }, until the time is over. limits: least, most (rounds), seconds.
---@return table samples a list of numbers by name
---@return table failed messages by name
function rounds.run(contestants, limits)
  local samples, failed, began = {}, {}, clock()
  for _, contestant in ipairs(contestants) do samples[contestant.name] = {} end
  for index = 1, limits.most do
    local started = clock()
    one_round(contestants, index, samples, failed)
    local now = clock()
    if index >= limits.least and now - began + (now - started) > limits.seconds then break end
  end
  return samples, failed
end

return rounds
