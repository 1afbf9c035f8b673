-- folder.lua: what is in a folder. LuaFileSystem is asked for when it is needed: an interpreter
-- that has no access to files has everything else of ours.

local system = require("moelua.core").system

local folder = {}

--- Is the path a folder?
function folder.is_one(path)
  return system.exists(path) and require("lfs").attributes(path, "mode") == "directory"
end

--- The names in a folder, sorted, without . and the one above.
function folder.names(path)
  local list = {}
  for name in require("lfs").dir(path) do
    if name ~= "." and name ~= ".." then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

return folder
