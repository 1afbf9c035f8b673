-- helper.lua: what every spec may use. busted loads it first; specs `require("spec.helper")`.
local lfs = require("lfs")

if package.loaded["spec.helper"] then
  return package.loaded["spec.helper"]
end

-- Loaded here, before busted insulates the files from one another, so that all see one moelua.
require("moelua")

local helper = {}

-- The suite under a collector that never rests finds values that nothing holds.
-- Each allocation pays for 10 KB of collecting: a whole round every hundred of them or so.
if os.getenv("MOELUA_GCSTRESS") then collectgarbage("incremental", 1, 1000, 10) end

--- Specs that try thousands of cases try every helper.stride-th.
helper.stride = tonumber(os.getenv("MOELUA_STRIDE")) or 1

--- Factor for the time limits of specs: above 1 under sanitizers and other slow company.
helper.patience = tonumber(os.getenv("MOELUA_PATIENCE")) or 1

--- Numbers of a tensor, a nested table or a single number, as one flat list.
local function flatten(value, into)
  if type(value) == "userdata" then
    value = value:totable()
  end
  if type(value) == "table" then
    for _, element in ipairs(value) do
      flatten(element, into)
    end
  else
    into[#into + 1] = value
  end
  return into
end

local function near(a, b, tol)
  return a == b or (a ~= a and b ~= b) or math.abs(a - b) <= tol * math.max(1, math.abs(b))
end

--- Throws unless `got` equals `want` up to `tol` (default 1e-5), relative where values exceed 1.
--- Both may be tensors, nested tables or numbers; equal infinities and NaN match.
function helper.close(got, want, tol)
  tol = tol or 1e-5
  local g, w = flatten(got, {}), flatten(want, {})
  if #g ~= #w then
    error(("not close: %d elements, expected %d"):format(#g, #w), 2)
  end
  for i = 1, #w do
    if not near(g[i], w[i], tol) then
      local text = "not close at element %d: %.9g, expected %.9g (off by %.3g, tolerance %.3g)"
      error(text:format(i, g[i], w[i], math.abs(g[i] - w[i]), tol), 2)
    end
  end
end

local folders = {}

local function remove_tree(path)
  if lfs.symlinkattributes(path, "mode") == "directory" then
    for name in lfs.dir(path) do
      if name ~= "." and name ~= ".." then
        remove_tree(path .. "/" .. name)
      end
    end
    lfs.rmdir(path)
  else
    os.remove(path)
  end
end

--- Path of a new empty folder that disappears when the run ends.
function helper.tmpdir()
  local parent = os.getenv("TMPDIR") or "/tmp"
  for attempt = 1, 1000 do
    local path = ("%s/moelua-%d-%d"):format(parent, os.time(), #folders * 1000 + attempt)
    if lfs.mkdir(path) then
      folders[#folders + 1] = path
      return path
    end
  end
  error("tmpdir: cannot make a folder in " .. parent, 2)
end

--- The split that the hash of a text asks for, by the rule itself.
function helper.split_of(text)
  local rest = 0
  for digit in require("moelua.core").system.hash(text):gmatch("%x") do
    rest = (rest * 16 + tonumber(digit, 16)) % 20
  end
  return rest == 0 and "test" or rest == 1 and "validation" or "train"
end

local busted = require("busted")

busted.subscribe({ "test", "end" }, function()
  collectgarbage()
  collectgarbage()
  return nil, true
end)

busted.subscribe({ "suite", "end" }, function()
  for _, path in ipairs(folders) do
    remove_tree(path)
  end
  return nil, true
end)

package.loaded["spec.helper"] = helper
return helper
