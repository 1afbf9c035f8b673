-- worker.lua: trains one branch: what `moelua --worker FOLDER` runs.

local data = require("moelua.data")
local family = require("moelua.family")
local run = require("moelua.run")
local train = require("moelua.train")
local check = run.check

local worker = {}

--- Does the job of a folder (see branch.lua), here in this process: its model and summary are in
--- the folder afterwards. A worker that has a parent is quiet: the log tells its parent enough.
function worker.run(folder, quiet)
  local job = check(run.read(folder .. "/job.json"),
    ("worker: %s holds no job.json"):format(folder), "missing")
  for _, name in ipairs(job.modules) do require(name) end
  local corpora = {}
  for name, path in pairs(job.data) do corpora[name] = check(data.open(path, name)) end
  local opts = { data = corpora, out = folder, name = job.name, quiet = quiet ~= false }
  for k, v in pairs(job.options) do opts[k] = v end
  return train(check(family.load(job.model)), opts)
end

return worker
