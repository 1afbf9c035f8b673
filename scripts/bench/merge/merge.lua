-- merge.lua: how fast checkpoints are merged on this machine.
--
--   scripts/dev bench merge [--size 1G] [--folder /dev/shm] [--python PATH]
--
-- Two models and a base in bf16 lie in memory as files. A linear merge of two into a fresh file
-- stands beside a plain copy of one of them, which writes as many bytes and reads half as many;
-- TIES beside mergekit's own function, where a Python with mergekit is given; then every method
-- for itself. The rounds of both sides take turns, and the best of each counts: whatever else the
-- machine does only ever adds time. Beside the time stands what the processors spent on it, all
-- threads together, which a busy machine changes little. The files are removed at the end.

local moe = require("moelua")
local core = require("moelua.core")
local assembly = require("moelua.assembly")
local host = require("moelua.host")

local system = core.system

local opt = moe.options {
  name = "bench merge", trains = false,
  about = "Measures merging against copying, and against mergekit.",
  usage = "scripts/dev bench merge [options]",
  options = {
    { "size", "1G", "bytes of a model" },
    { "folder", "/dev/shm", "where the files are made, which should be memory" },
    { "python", nil, "a Python that has mergekit", value = "PATH" },
    { "rounds", 5, "how often each side runs", min = 1 },
  },
}

local TENSORS, COLUMNS = 64, 4096
local size = assembly.bytes(opt.size, "bench merge")
local rows = math.max(1, size // (2 * COLUMNS * TENSORS))
local elements = rows * COLUMNS * TENSORS
local folder = ("%s/moelua-bench-merge-%d"):format(opt.folder, system.pid())
local copy = (host.program:match("^(.*)/") or ".") .. "/bench/copy"

-- Files -----------------------------------------------------------------------------------

-- A model near the base: the same numbers under every name, which no method notices.
local function make_model(name, base, distance)
  local scope <close> = core.scope() -- luacheck: ignore 211
  local x = core.randn(rows, COLUMNS, { seed = #name, stream = name }) * distance
  if base then x = x + base:tensor("t01") end
  x = x:to("bf16")
  local tensors = {}
  for i = 1, TENSORS do tensors[("t%02d"):format(i)] = x end
  assert(moe.checkpoint.save(folder .. "/" .. name .. ".safetensors", tensors))
  return assert(core.checkpoint.open(folder .. "/" .. name .. ".safetensors"))
end

local function entries_of(method, sources, base, params, count)
  local list = {}
  for i = 1, count or TENSORS do
    local name = ("t%02d"):format(i)
    local of = {}
    for k, file in ipairs(sources) do of[k] = file:source(name) end
    list[i] = { name = name, dtype = "BF16", shape = { rows, COLUMNS }, method = method,
      sources = of, base = base and base:source(name), params = params }
  end
  return list
end

-- Rounds ----------------------------------------------------------------------------------

-- Memory of our own, in bytes: what is no mapped file.
local function resident()
  local kilobytes = system.read("/proc/self/status"):match("RssAnon:%s*(%d+)")
  return tonumber(kilobytes) * 1024
end

local most = 0

local function assemble(entries, figures)
  local out = folder .. "/out"
  system.remove_tree(out)
  local began, worked = system.clock(), os.clock()
  assert(assembly.write(out, entries, { memory = "512M", figures = figures or false,
    on_tensor = function() most = math.max(most, resident()) end }))
  local time = { system.clock() - began, os.clock() - worked }
  system.remove_tree(out)
  return time
end

local function copied(threads)
  local target = folder .. "/copied"
  os.remove(target)
  local pipe = assert(io.popen(("'%s' '%s/a.safetensors' '%s' %d"):format(copy, folder, target,
    threads)))
  local time = { pipe:read("n", "n") }
  assert(pipe:close())
  os.remove(target)
  return time
end

-- The least { seconds, seconds of the processors } of each side.
local function best_of(rounds, ...)
  local sides, best = { ... }, {}
  for i in ipairs(sides) do best[i] = { math.huge, math.huge } end
  for _ = 1, rounds do
    for i, side in ipairs(sides) do
      local time = side()
      for k = 1, 2 do best[i][k] = math.min(best[i][k], time[k]) end
    end
  end
  return table.unpack(best)
end

local function row(text, ...) print(text:format(...)) end

-- What is measured ------------------------------------------------------------------------

local function compare_linear(a, b)
  local entries = entries_of("linear", { a, b }, nil, { weight = { 0.6, 0.4 } })
  local ours, told, one, all = best_of(opt.rounds, function() return assemble(entries) end,
    function() return assemble(entries, true) end, function() return copied(1) end,
    function() return copied(core.threads) end)
  local plain = { math.min(one[1], all[1]), math.min(one[2], all[2]) }
  local function line(name, time, more)
    row("%-26s%6.2f s  %6.2f GB/s written  %6.2f s of processors%s", name, time[1],
      2 * elements / time[1] / 1e9, time[2], more or "")
  end
  line("copy of a model", plain)
  line("linear of two", ours, ("  %.0f %% of the copy (aim 75)"):format(100 * plain[1] / ours[1]))
  line("the same with figures", told)
end

local function mergekit(count)
  if not opt.python then return nil end
  local script = arg[0]:match("^(.*)/") .. "/ties.py"
  local pipe = assert(io.popen(("'%s' '%s' %d"):format(opt.python, script, count)))
  local result = tonumber(pipe:read("a"))
  pipe:close()
  return result
end

local function compare_ties(base, a, b)
  local entries = entries_of("ties", { a, b }, base, { weight = { 0.5, 0.5 }, density = 0.5 })
  local theirs = mergekit(4 * rows * COLUMNS)
  local time = best_of(opt.rounds, function() return assemble(entries) end)
  local ours = time[1] / elements * 1e9
  row("TIES of two and a base    %6.2f ns/element, with the file; %.2f of processors", ours,
    time[2] / elements * 1e9)
  if theirs then
    row("mergekit's function       %6.2f ns/element, without a file: %.0f x (aim 20)", theirs,
      theirs / ours)
  end
end

local PARAMS = {
  arcee_fusion = {}, breadcrumbs = { weight = 0.5, density = 0.5 },
  breadcrumbs_ties = { weight = 0.5, density = 0.5 }, copy = {}, dare_linear = { weight = 0.5,
    density = 0.5 }, dare_ties = { weight = 0.5, density = 0.5 }, della = { weight = 0.5,
    density = 0.5 }, della_linear = { weight = 0.5, density = 0.5 }, karcher = {},
  linear = { weight = 0.5 }, model_stock = {}, multislerp = { weight = 0.5 },
  nearswap = { t = 0.001 }, nuslerp = { weight = 0.5 }, passthrough = { scale = 0.9 }, ram = {},
  ramplus_tl = {}, sce = { select_topk = 0.5 }, slerp = { t = 0.5 },
  task_arithmetic = { weight = 0.5 }, ties = { weight = 0.5, density = 0.5 },
}

local function every_method(base, a, b)
  local names, about = {}, core.checkpoint.methods()
  for name in pairs(about) do names[#names + 1] = name end
  table.sort(names)
  row("\n%-18s %10s %12s %24s", "method", "ns/element", "GB/s moved", "ns of processors/element")
  for _, name in ipairs(names) do
    local sources = about[name].most == 1 and { a } or { a, b }
    local with = about[name].base == "required" and base or nil
    local entries = entries_of(name, sources, with, PARAMS[name], TENSORS // 4)
    local time = best_of(math.min(opt.rounds, 3), function() return assemble(entries) end)
    local count = rows * COLUMNS * TENSORS // 4
    local moved = 2 * count * (#sources + (with and 1 or 0) + 1)
    row("%-18s %10.2f %12.2f %24.2f", name, time[1] / count * 1e9, moved / time[1] / 1e9,
      time[2] / count * 1e9)
  end
end

local function run()
  local base = make_model("base", nil, 0.02)
  local a, b = make_model("a", base, 0.002), make_model("b", base, 0.002)
  collectgarbage()
  row("models of %.2f GB, %d threads, %s\n", 2 * elements / 1e9, core.threads, core.kernels)
  compare_linear(a, b)
  compare_ties(base, a, b)
  row("memory of our own         %6.0f MB at most beside the mappings (aim 512)", most / 1e6)
  every_method(base, a, b)
end

assert(system.make_folder(folder))
local ok, message = xpcall(run, debug.traceback)
system.remove_tree(folder)
if not ok then error(message, 0) end
