-- tokenizers.lua: how fast texts are encoded, beside Hugging Face's tokenizers on the same core.
--
--   moelua scripts/bench/tokenizers.lua [--python PYTHON] [FILE...]
--
-- Without files: English and code that come with the system and with this repository, and words of
-- many scripts. PYTHON has the package `tokenizers`. One thread each; a new tokenizer for each run,
-- so that the caches of words are empty; the best of three runs; texts of at most 2 MB, as a whole.
-- Prints a row for each vocabulary and text: megabytes per second of processor time of both, and
-- the ratio.
local core = require("moelua.core")
local moe = require("moelua")
local system = core.system

local RUNS, MOST = 3, 2 << 20
local root = arg[0]:match("^(.*)/scripts/bench/[^/]*$") or "."
local VOCABULARIES = { "gpt-2", "starcoder", "llama-spm" }

-- ---- texts ------------------------------------------------------------------------------------

local function shell(command)
  local pipe = assert(io.popen(command))
  local out = pipe:read("a")
  pipe:close()
  return out
end

-- What of these files is UTF-8.
local function gather(pattern)
  return (shell("cat " .. pattern .. " 2> /dev/null | iconv -c -f UTF-8 -t UTF-8"))
end

-- Words of many scripts, with what stands between words; the same ones each time.
local RANGES = { { 0x61, 0x7A }, { 0xE0, 0xFE }, { 0x3B1, 0x3C9 }, { 0x430, 0x44F },
  { 0x5D0, 0x5EA }, { 0x627, 0x64A }, { 0x905, 0x939 }, { 0x3042, 0x3093 }, { 0x4E00, 0x9FFF },
  { 0xAC00, 0xD7A3 }, { 0x1F600, 0x1F64F }, { 0x30, 0x39 } }
local BETWEEN = { " ", " ", " ", " ", ", ", ". ", "\n", " — ", "! " }

local function many_scripts(bytes)
  local words, size, state = {}, 0, 1
  local function draw(n)
    state = (state * 1103515245 + 12345) & 0x7FFFFFFF
    return (state >> 8) % n
  end
  while size < bytes do
    local range, letters = RANGES[1 + draw(#RANGES)], {}
    for i = 1, 1 + draw(7) do
      letters[i] = utf8.char(range[1] + draw(range[2] - range[1] + 1))
    end
    local word = table.concat(letters) .. BETWEEN[1 + draw(#BETWEEN)]
    words[#words + 1], size = word, size + #word
  end
  return table.concat(words)
end

local function texts_of(files)
  local texts = {}
  for i, path in ipairs(files) do
    texts[i] = { name = path:match("[^/]*$"), text = assert(system.read(path)) }
  end
  if #texts > 0 then return texts end
  return {
    { name = "English", text = gather("/usr/share/common-licenses/* /usr/share/perl/*/pod/*.pod "
      .. "/usr/share/doc/*/README /usr/share/doc/*/copyright " .. root .. "/*.md") },
    { name = "code", text = gather(root .. "/core/*/*.[ch] " .. root .. "/lua/*/*.[ch] " .. root
      .. "/lua/moelua/*.lua " .. root .. "/spec/*.lua") },
    { name = "scripts", text = many_scripts(1 << 20) },
  }
end

-- Whole characters alone.
local function cut(text)
  if #text <= MOST then return text end
  return text:sub(1, utf8.offset(text, 0, MOST) - 1)
end

-- ---- figures ----------------------------------------------------------------------------------

local function ours(path, text)
  local best, count = math.huge, nil
  for _ = 1, RUNS do
    local tok = assert(moe.tokenizer.open(path))
    local start = os.clock()
    local _, n = tok:pack(text)
    best, count = math.min(best, os.clock() - start), n
  end
  return best, count
end

local function theirs(python, folder, paths)
  if not python then return {} end
  local rows = {}
  for line in shell(("%s %s/scripts/bench/hf_tokenizers.py %s %s"):format(python, root, folder,
      table.concat(paths, " "))):gmatch("[^\n]+") do
    local seconds, count = line:match("(%S+) (%S+)")
    rows[#rows + 1] = { seconds = tonumber(seconds), count = tonumber(count) }
  end
  return rows
end

local python, files = nil, {}
local i = 1
while arg[i] do
  if arg[i] == "--python" then python, i = arg[i + 1], i + 1 else files[#files + 1] = arg[i] end
  i = i + 1
end

local folder = os.tmpname()
os.remove(folder)
assert(system.make_folder(folder))
local texts, paths = texts_of(files), {}
for n, entry in ipairs(texts) do
  entry.text = cut(entry.text)
  paths[n] = ("%s/%d.txt"):format(folder, n)
  assert(system.write(paths[n], entry.text))
end

io.stdout:setvbuf("line")
print("vocabulary  text        MB   ours MB/s  tokenizers MB/s  ratio  same number of ids")
for _, name in ipairs(VOCABULARIES) do
  local saved = folder .. "/" .. name
  local path = ("%s/spec/golden/tokenizers/ggml-vocab-%s.gguf"):format(root, name)
  assert(assert(moe.tokenizer.open(path)):save(saved))
  local beside = theirs(python, saved, paths)
  for n, entry in ipairs(texts) do
    local seconds, count = ours(saved, entry.text)
    local size, other = #entry.text / 1e6, beside[n]
    print(("%-11s %-8s %5.2f  %10.1f  %15s  %5s  %s"):format(name, entry.name, size,
      size / seconds, other and ("%.1f"):format(size / other.seconds) or "-",
      other and ("%.1f"):format(other.seconds / seconds) or "-",
      other and tostring(other.count == count) or "-"))
  end
end
os.execute("rm -rf " .. folder)
