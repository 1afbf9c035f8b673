-- merge/stages.lua: the documents of a configuration as stages, in an order in which none needs a
-- later one. A stage with a name makes a model that others refer to by it; the one without a name,
-- or the last, makes the result.

local core = require("moelua.core")
local config = require("moelua.merge.config")

local stages = {}

local function by_name(found, all)
  local named, unnamed = {}, 0
  for _, stage in ipairs(all) do
    local name = stage.name
    if not name then unnamed = unnamed + 1
    elseif named[name] then found:at(stage.source, "name", "name: '%s' is there twice", name)
    elseif name:find("[/%z]") or name:find("^%.*$") then
      found:at(stage.source, "name", "name: '%s' cannot be the name of a folder", name)
    end
    if name then named[name] = stage end
  end
  if unnamed > 1 then
    found:add(nil, ("%d merges have no name: only the last one, which makes the result, needs none")
      :format(unnamed))
  end
  return named
end

-- The stages that `stage` needs, then itself.
local function add_in_order(found, stage, named, state, list)
  if state[stage] == "done" then return end
  if state[stage] == "open" then
    found:at(stage.source, "name", "name: '%s' needs its own result", tostring(stage.name))
    return
  end
  state[stage] = "open"
  config.each_model(stage, function(model)
    if named[model] then add_in_order(found, named[model], named, state, list) end
  end)
  state[stage] = "done"
  list[#list + 1] = stage
end

-- All stages that the result needs, which is the one without a name, or the last.
local function ordered(found, all)
  local named, result = by_name(found, all), all[#all]
  for _, stage in ipairs(all) do
    if not stage.name then result = stage end
  end
  local list, state = {}, {}
  add_in_order(found, result, named, state, list)
  for _, stage in ipairs(all) do
    if stage.name and not state[stage] then
      found:at(stage.source, "name", "name: nobody needs '%s'", stage.name)
    end
  end
  return list
end

--- The stages of a configuration; what is wrong with it is added to `found`.
---@param documents table a list of configurations
---@param found table of problems.lua
---@param from_lua boolean it was not read from a file
---@param also string[]? further keys, which are not looked at here
---@return table[]
function stages.read(documents, found, from_lua, also)
  local all = {}
  for i, document in ipairs(documents) do
    if type(document) == "table" and document[1] == nil then
      all[#all + 1] = config.stage(document, found, from_lua, also)
    elseif document ~= core.json.null then
      found:at(documents, i, "a mapping is expected, not %s", core.describe(document))
    end
  end
  if #all == 0 and #found.list == 0 then found:add(nil, "there is no configuration") end
  return #all > 0 and ordered(found, all) or all
end

return stages
