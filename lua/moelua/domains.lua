-- domains.lua: the corpora of a recipe: three domains far apart that Debian packages bring along,
-- or what --domain name=path names.

local core = require("moelua.core")
local data = require("moelua.data")
local expect = require("moelua.expect")
local run = require("moelua.run")
local check = run.check

local domains = {}

local function headers()
  local files = check(data.package_files("linux-libc-dev", "%.h$"))
  local more = check(data.package_files("libc6-dev", "%.h$"))
  return table.move(more, 1, #more, #files + 1, files)
end

local function one_file(package, pattern)
  return function() return check(data.package_files(package, pattern)) end
end

-- C source, formal mathematics, and dictionary prose.
local standard = {
  code = headers,
  math = one_file("metamath-databases", "/set%.mm$"),
  prose = one_file("dict-gcide", "%.dict%.dz$"),
}

-- A file or folder that is not there is told before anything is made. Not every shell puts the
-- home folder for a ~ behind the equals sign.
local function check_path(text, path)
  if core.system.exists(path) then return end
  local hint = path:sub(1, 1) == "~" and "\nhint: write $HOME instead of ~" or ""
  check(nil, ("--domain %s: no such file or folder%s"):format(text, hint), "missing")
end

local function parse(given)
  local sources = {}
  for _, text in ipairs(given) do
    expect(type(text) == "string", "domains.sources", "given", "a list of name=path", text)
    local name, path = text:match("^([%w_-]+)=(.+)$")
    if not name then
      run.refuse("--domain %s: name=path is expected, with letters, digits, - and _ in the name",
        text)
    end
    if sources[name] then run.refuse("--domain %s: '%s' is given twice", text, name) end
    check_path(text, path)
    sources[name] = function() return path end
  end
  return sources
end

--- Where each domain comes from: { name = function that returns the path of moe.data.corpus }.
-- `given` is the list of --domain options, the standard domains when it is empty.
function domains.sources(given)
  expect(type(given) == "table", "domains.sources", "given", "a list", given)
  return #given > 0 and parse(given) or standard
end

-- { name = corpus }, each made by `open` and long enough for windows of `context` tokens.
local function open_all(open, sources, folder, max_bytes, context, tokenizer)
  expect(type(sources) == "table", "domains.open", "sources", "a table", sources)
  local corpora, names = {}, {}
  for name, source in pairs(sources) do
    expect(type(source) == "function", "domains.open", "sources", "what domains.sources returned",
      source)
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    corpora[name] = check(open({ path = sources[name](), name = name, max_bytes = max_bytes,
      tokenizer = tokenizer, cache = folder and folder .. "/" .. name .. ".safetensors" }))
    check(corpora[name]:check(context))
  end
  return corpora
end

--- { name = corpus }. `sources` as domains.sources gives them; folder keeps the token files; each
-- corpus is cut to max_bytes and must fill windows of `context` tokens in every split. A tokenizer
-- may follow, that of bytes otherwise.
function domains.open(sources, folder, ...)
  expect(type(sources) == "table", "domains.open", "sources", "a table", sources)
  check(core.system.make_folder(folder))
  return open_all(data.corpus, sources, folder, ...)
end

--- The same with what moe.data.survey tells of each: nothing is written. Without a folder nothing
-- is there yet.
function domains.survey(...) return open_all(data.survey, ...) end

return domains
