-- The recipes beside btx.lua: each explains itself, stays within its budget by default, and runs in
-- its smallest preset.
local helper = require("spec.helper")
local core = require("moelua.core")
local host = require("moelua.host")
local json, system = core.json, core.system

local folder = helper.tmpdir()

local function get(name) return (assert(system.read(folder .. "/" .. name))) end

-- Runs a recipe; returns exit code, stdout, stderr.
local function recipe(name, words)
  local _, _, code = os.execute(("cd '%s' && timeout -k 5 %d '%s' recipes/%s.lua %s </dev/null "
    .. ">out 2>err"):format(folder, 120 * helper.patience, host.program, name, words))
  return code, get("out"), get("err")
end

local MOST = 8e13               -- training FLOPs of the defaults: a quarter of an hour

-- The arms of each recipe, in their order, those listed apart, those coupled to their batch, and
-- how many of the first are of one seed alone.
local recipes = {
  moe = { arms = { "mixture", "dense" } },
  routers = { arms = { "top-2", "top-2, no balance", "noisy top-2", "gshard", "sigmoid",
      "loss-free bias", "switch", "sample top-1", "hash", "BASE", "expert choice", "soft" },
    apart = { "expert choice, sequence" }, coupled = { "expert choice" } },
  mot = { arms = { "dense", "MoT", "MoT, later half", "uniform mixing", "switch", "expert choice",
      "MoT, then switch", "MoT, groups of one" },
    coupled = { "MoT", "MoT, later half", "uniform mixing", "expert choice" } },
  deepseek = { arms = { "m = 1", "m = 1, 1 shared", "m = 1, 1 shared, taken away", "m = 2",
    "m = 2, 1 shared", "m = 2, 1 shared, taken away", "m = 4", "m = 4, 1 shared",
    "m = 4, 1 shared, taken away" } },
  upcycle = { arms = { "dense", "just upcycled", "just upcycled, gates not normalised" },
    single = 3 },
}

for _, percent in ipairs { 10, 30, 100 } do
  for _, name in ipairs { "dense", "upcycled", "upcycled, gates not normalised", "drop-upcycled",
      "upcycled with noise", "mixture from scratch" } do
    table.insert(recipes.upcycle.arms, ("%s +%d %%"):format(name, percent))
  end
end

local function names(list)
  local found = {}
  for i, arm in ipairs(list or {}) do found[i] = arm.name end
  return found
end

for name, expected in pairs(recipes) do
  describe("recipes/" .. name .. ".lua", function()
    it("explains itself", function()
      local code, out, err = recipe(name, "--help")
      assert.same({ 0, "" }, { code, err })
      assert.matches("^" .. name .. ": .-\n\nusage: moelua recipes/" .. name .. ".lua ", out)
      for _, part in ipairs { "--seeds N", "--lr X", "--dry-run", "tiny: ", "smoke: ", "full: " } do
        assert.is_truthy(out:find(part, 1, true), part)
      end
    end)

    it("plans no more than a quarter of an hour by default", function()
      local code, out, err = recipe(name, "--max-bytes 200000 --dry-run --json")
      assert.same({ 0, "" }, { code, err })
      local plan = assert(json.decode(out))
      assert.is_true(plan.flops <= MOST and plan.flops > MOST / 4, ("%.3g"):format(plan.flops))
    end)

    it("runs, and what it finds is whole", function()
      local code, out, err = recipe(name, "--preset tiny --json --quiet")
      assert.same({ 0, "" }, { code, err })
      local found = assert(json.decode(out))
      assert.same(expected.arms, names(found.arms))
      assert.same(expected.apart or {}, names(found.apart))
      local coupled = {}
      for i, arm in ipairs(found.arms) do
        local single = i <= (expected.single or 0)
        assert.equal(single and 0 or 2, #(arm.seeds or {}))
        assert.is_true(arm.mean > 1 and arm.mean < 9, arm.name)
        assert.is_true(single or arm.interval >= 0)
        if arm.coupled then coupled[#coupled + 1] = arm.name end
      end
      assert.same(expected.coupled or {}, coupled)
      assert.is_true(#found.claims > 0)
      assert.matches("<h1>", get("runs/" .. name .. "/report.html"))
      assert.is_true(system.exists(folder .. "/runs/" .. name .. "/model/config.json"))
    end)
  end)
end

-- A model with a vocabulary of its own, as if it came from elsewhere.
local function stranger()
  local text, path = {}, folder .. "/stranger.txt"
  for i = 1, 500 do text[i] = ("word %d of some text"):format(i % 50) end
  assert(system.write(path, table.concat(text, "\n")))
  local moe = require("moelua")
  local m = moe.model.new({ dim = 16, layers = 2, heads = 2, hidden = 16, vocab = 320,
    context = 64, std = 0.06 })
  m.tokenizer = assert(moe.tokenizer.train({ path = path, vocab = 300 }))
  assert(m:save(folder .. "/stranger"))
end

describe("a recipe with --from", function()
  stranger()
  for name, arms in pairs({ btx = { "seed", "expert code", "expert math", "expert prose",
      "weight average", "btx, just mixed", "btx", "dense, same compute" },
      upcycle = recipes.upcycle.arms }) do
    it("begins with that model and its tokenizer: " .. name, function()
      local code, out, err = recipe(name, "--preset tiny --json --quiet --from stranger " ..
        "--max-bytes 100000 --context 16 --out runs/from-" .. name)
      assert.same({ 0, "" }, { code, err })
      local found = assert(json.decode(out))
      assert.same(arms, names(found.arms))
      assert.equal(0, found.arms[1].flops)
      local config = assert(json.decode(get("runs/from-" .. name .. "/model/config.json")))
      assert.same({ 320, 64 }, { config.vocab_size, config.max_position_embeddings })
      assert.equal(get("stranger/tokenizer.json"),
        get("runs/from-" .. name .. "/model/tokenizer.json"))
    end)
  end
end)
