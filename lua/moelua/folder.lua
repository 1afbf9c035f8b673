-- folder.lua: what is in a folder. LuaFileSystem is asked for when it is needed: an interpreter
-- that has no access to files has everything else of ours.

local system = require("moelua.core").system

local folder = {}

--- Is the path a folder?
function folder.is_one(path)
  return system.exists(path) and require("lfs").attributes(path, "mode") == "directory"
end

--- Are both paths those of one file or folder, however they are written?
function folder.same(a, b)
  if a == b then return true end
  local lfs = require("lfs")
  local x, y = lfs.attributes(a), lfs.attributes(b)
  return x ~= nil and y ~= nil and x.dev == y.dev and x.ino == y.ino
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
