-- domains.lua: the corpora of a recipe: three domains far apart that Debian packages bring along,
-- or what --domain name=path names.

local core = require("moelua.core")
local data = require("moelua.data")
local run = require("moelua.run")
local raise, check = core.raise, run.check

local domains = {}

local function headers()
  local files = check(data.package_files("linux-libc-dev", "%.h$"))
  local more = check(data.package_files("libc6-dev", "%.h$"))
  return table.move(more, 1, #more, #files + 1, files)
end

local function one_file(package, pattern)
  return function()
    local files = check(data.package_files(package, pattern))
    if #files == 0 then
      check(nil, ("package %s has no file that matches %s"):format(package, pattern), "missing")
    end
    return files
  end
end

-- C source, formal mathematics, and dictionary prose.
local standard = {
  code = headers,
  math = one_file("metamath-databases", "/set%.mm$"),
  prose = one_file("dict-gcide", "%.dict%.dz$"),
}

local function parse(given)
  local sources = {}
  for _, text in ipairs(given) do
    local name, path = text:match("^([%w_-]+)=(.+)$")
    if not name then
      raise("--domain %s: name=path is expected, with letters, digits, - and _ in the name", text)
    end
    if sources[name] then raise("--domain %s: given twice", name) end
    sources[name] = function() return path end
  end
  return sources
end

--- { name = corpus }. `given` is the list of --domain options; folder keeps the token files; each
-- corpus is cut to max_bytes and must fill windows of `context` tokens in every split.
function domains.open(given, folder, max_bytes, context)
  local sources = #given > 0 and parse(given) or standard
  local corpora = {}
  check(core.system.make_folder(folder))
  for name, source in pairs(sources) do
    corpora[name] = check(data.corpus({ path = source(), name = name, max_bytes = max_bytes,
      cache = folder .. "/" .. name .. ".safetensors" }))
    check(corpora[name]:check(context))
  end
  return corpora
end

return domains
