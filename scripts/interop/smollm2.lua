-- smollm2.lua: a model that people use, made into mixtures of experts, trained on and exported:
--
--   moelua scripts/interop/smollm2.lua SmolLM2-135M-Instruct.Q4_1.gguf OUT
--
-- leaves OUT/mixtral (a Hugging Face directory, f32) and OUT/mixture.gguf (f32) of the same trained
-- mixture. One line for each check with its figure, the last of all in one; fails at the first that
-- does not hold.

local moe = require("moelua")
local system = require("moelua.core").system

local source, out = arg[1], arg[2]
if not out then
  io.stderr:write("usage: moelua smollm2.lua MODEL OUT\n")
  os.exit(2)
end

local EXPERTS, STEPS = 4, 20
local MOST_SECONDS = 60         -- to build a mixture
local MOST_APART = 1e-4         -- of logits of about 20, in f32, behind 30 layers

local PROMPTS = { "The capital of France is", "def fibonacci(n):\n    ",
  "Water boils at a temperature of", "A mixture of experts is a neural network in which" }

local figures = {}

-- One line; ends the script when it does not hold.
local function check(holds, fmt, ...)
  local line = fmt:format(...)
  print(("%s  %s"):format(holds and "ok    " or "FAILED", line))
  if not holds then os.exit(1) end
  figures[#figures + 1] = line
end

local dense = assert(moe.load(source))
local tokenizer = dense.tokenizer

-- The logits of all prompts.
local function logits_of(m)
  local list = {}
  for i, text in ipairs(PROMPTS) do
    list[i] = moe.no_grad(m.logits, m, tokenizer:encode(text))
  end
  return list
end

local function farthest(a, b)
  local most = 0
  for i, x in ipairs(a) do
    local d = x - b[i]
    most = math.max(most, math.sqrt((d * d):max():item()))
  end
  return most
end

-- What f makes, and how long that took.
local function timed(f, ...)
  local began = system.clock()
  local made = assert(f(...))
  return made, system.clock() - began
end

-- ---- building ---------------------------------------------------------------------------------

local want = logits_of(dense)
local models = {}
for i = 1, EXPERTS do models[i] = source end
local routing = { k = 2, balance = { form = "switch", coef = 0.01 } }
local building = {
  mixed = function(folder)
    return moe.mix(models, { router = routing, out = folder, dtype = "f32" })
  end,
  upcycled = function(folder)
    return moe.upcycle(source, { experts = EXPERTS, router = routing, out = folder, dtype = "f32" })
  end,
}

for _, name in ipairs { "mixed", "upcycled" } do
  local folder = out .. "/" .. name
  local summary, seconds = timed(building[name], folder)
  check(seconds <= MOST_SECONDS, "%s: %.0f M parameters in %.1f s", name, summary.parameters / 1e6,
    seconds)
  local apart = farthest(want, logits_of(assert(moe.load(folder))))
  check(apart <= MOST_APART, "%s: identical experts, logits within %.1e", name, apart)
end

-- ---- training ---------------------------------------------------------------------------------

local here = arg[0]:match("^(.*)/scripts/interop/[^/]*$") or "."
local corpus = assert(moe.data.corpus { path = here .. "/lua/moelua", match = "%.lua$",
  tokenizer = tokenizer, name = "lua" })
local m = assert(moe.load(out .. "/upcycled"))
local function loss()
  return moe.evaluate(m, { lua = corpus }, { context = 64, windows = 16, batch = 8 }).mean
end
local before = loss()
local _, seconds = timed(moe.train, m, { data = corpus, steps = STEPS, batch = 2, context = 64,
  lr = 3e-5, precision = "bf16", quiet = true })
local after = loss()
check(after < before, "%d steps in %.0f s: %.3f bits per byte, before %.3f", STEPS, seconds, after,
  before)

-- ---- exporting --------------------------------------------------------------------------------

local trained = logits_of(m)
for _, name in ipairs { "mixtral", "mixture.gguf" } do
  local path = out .. "/" .. name
  local _, spent = timed(moe.export, m, path)
  local apart = farthest(trained, logits_of(assert(moe.load(path))))
  check(apart <= MOST_APART, "%s: written in %.1f s, logits within %.1e", name, spent, apart)
end
print(table.concat(figures, "; "))
