-- worker.lua: what `moelua --worker FOLDER` runs.

local branch = require("moelua.branch")

return {
  run = function(folder) branch.work(folder, true) end,
}
