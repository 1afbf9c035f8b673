-- options_spec.lua: strict option tables, and the command line of a recipe.
local core = require("moelua.core")
local options = require("moelua.options")

-- Runs f, which must fail, and returns the error value.
local function failure(f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  return err
end

-- The message without "spec/options_spec.lua:12: ".
local function message(f, ...)
  local text = failure(f, ...)
  assert.matches("^[^:]*options_spec%.lua:%d+: ", text)
  return (text:gsub("^[^:]*:%d+: ", ""))
end

describe("options.nearest", function()
  it("finds a name within two typing errors", function()
    local names = { "steps", "batch", "schedule" }
    assert.equal("steps", options.nearest("stpes", names))
    assert.equal("steps", options.nearest("step", names))
    assert.equal("schedule", options.nearest("shedulle", names))
    assert.is_nil(options.nearest("spetz", names))
    assert.is_nil(options.nearest("", names))
  end)

  it("does not take one short word for another", function()
    assert.is_nil(options.nearest("lr", { "wd" }))
    assert.is_nil(options.nearest("k", { "h" }))
  end)

  it("prefers the closer and then the earlier name", function()
    assert.equal("heads", options.nearest("head", { "hears", "heads" }))
    assert.equal("abcde", options.nearest("abcd", { "abcde", "abcdf" }))
    assert.equal("layers.1.q", options.nearest("layer.1.q", { "layers.2.k", "layers.1.q" }))
  end)

  it("knows insertions, deletions, substitutions and swaps, two at most", function()
    local word = "abcdefgh"
    for _, typed in ipairs { "abcdefgh", "bcdefgh", "abcdefghx", "abXdefgh", "badcfegh", "bacdefhg",
      "abcdef", "xabcdefghx" } do
      local swaps = typed == "badcfegh"       -- three of them
      assert.equal(not swaps and word or nil, options.nearest(typed, { word }), typed)
    end
    assert.is_nil(options.nearest("abcdefgh", { "ijklmnop", "" }))
    assert.is_nil(options.nearest("a", {}))
  end)

  it("takes no time for words that are no names", function()
    local long = ("x"):rep(100000)
    assert.is_nil(options.nearest(long, { long:sub(2), "x" }))
  end)
end)

describe("options.check", function()
  local declared = {
    steps = { "integer", 400 },
    lr = { "number", 0.5 },
    schedule = { { "cosine", "linear" }, "cosine" },
    on_step = "function",
    source = "string|table",
  }

  it("fills in defaults and leaves the caller's table alone", function()
    local given = { lr = 1 }
    assert.same({ steps = 400, lr = 1, schedule = "cosine" },
      options.check("f", given, declared))
    assert.same({ lr = 1 }, given)
    assert.same({ steps = 400, lr = 0.5, schedule = "cosine" }, options.check("f", nil, declared))
  end)

  it("takes every declared type, and whole floats for integers", function()
    local f = function() end
    local got = options.check("f", { steps = 3.0, on_step = f, source = { 1 } }, declared)
    assert.equal("integer", math.type(got.steps))
    assert.equal(f, got.on_step)
    assert.same({ 1 }, got.source)
    assert.equal("text", options.check("f", { source = "text" }, declared).source)
  end)

  it("keeps false apart from nothing", function()
    assert.is_false(options.check("f", { on = false }, { on = { "boolean", true } }).on)
  end)

  it("refuses unknown names", function()
    assert.equal("moe.train: unknown option 'stpes'\nhint: did you mean 'steps'?",
      message(options.check, "moe.train", { stpes = 1 }, declared))
    assert.equal("f: unknown option 'colour'\nhint: known are a, b",
      message(options.check, "f", { colour = 1 }, { b = "any", a = "any" }))
    assert.equal("f: unknown option '1'\nhint: known are a",
      message(options.check, "f", { "x" }, { a = "any" }))
  end)

  it("refuses wrong types with both", function()
    assert.equal("f: option 'steps' has the wrong type: integer expected, got 2.5",
      message(options.check, "f", { steps = 2.5 }, declared))
    assert.equal("f: option 'steps' has the wrong type: integer expected, got \"2\"",
      message(options.check, "f", { steps = "2" }, declared))
    assert.equal("f: option 'source' has the wrong type: string or table expected, got true",
      message(options.check, "f", { source = true }, declared))
    assert.equal("f: options are not a table: table expected, got 7",
      message(options.check, "f", 7, declared))
  end)

  it("refuses strings that are not in the list", function()
    assert.equal("f: option 'schedule' is 'cosin': unknown\nhint: did you mean 'cosine'?",
      message(options.check, "f", { schedule = "cosin" }, declared))
    assert.equal("f: option 'schedule' is 1: unknown\nhint: known are cosine, linear",
      message(options.check, "f", { schedule = 1 }, declared))
  end)

  it("insists on required options", function()
    assert.equal("f: option 'data' is missing: table expected",
      message(options.check, "f", {}, { data = { "table", required = true } }))
  end)
end)

describe("the command line of a recipe", function()
  local native = (core.kernels == "amx" or core.kernels == "avx512bf16") and "bf16" or "f32"
  local written

  local function read(words, change)
    written = {}
    local declaration = {
      name = "demo",
      about = "Shows options.",
      options = {
        { "steps", 400, "steps to take" },
        { "lr", 0.5, "learning rate" },
        { "top-k", 2, "experts per token" },
        { "dense", true, "train the dense model too" },
        { "schedule", "cosine", "learning rate schedule", choices = { "cosine", "linear" } },
        { "limit", nil, "stop early", type = "integer" },
        { "from", nil, "start here", value = "DIR" },
        { "domain", {}, "a domain", repeatable = true, value = "NAME=PATH" },
      },
      presets = { smoke = { steps = 20, dense = false }, tiny = { steps = 2, domain = { "a=b" } } },
      arg = words,
      write = function(text) written[#written + 1] = text end,
    }
    for key, value in pairs(change or {}) do declaration[key] = value end
    return options(declaration)
  end

  local function refused(words, change)
    local err = failure(read, words, change)
    assert.equal(2, err.exit)
    return err.message
  end

  it("gives the defaults, and those of every recipe", function()
    local opt, given = read {}
    assert.same({
      steps = 400, lr = 0.5, top_k = 2, dense = true, schedule = "cosine", domain = {},
      seed = 1, out = "runs/demo", fresh = false, save_every = 100, dry_run = false, json = false,
      quiet = false, precision = native,
    }, opt)
    assert.same({}, given)
  end)

  it("converts by the type of the default", function()
    local opt, given = read { "--steps", "7", "--lr=1", "--top-k=4", "--limit", "9", "--from", "-",
      "--no-dense", "--fresh", "--schedule=linear" }
    assert.equal("integer", math.type(opt.steps))
    assert.equal("float", math.type(opt.lr))
    assert.same({ 7, 1.0, 4, 9, "-", false, true, "linear" }, { opt.steps, opt.lr, opt.top_k,
      opt.limit, opt.from, opt.dense, opt.fresh, opt.schedule })
    assert.same({ steps = true, lr = true, top_k = true, limit = true, from = true, dense = true,
      fresh = true, schedule = true }, given)
  end)

  it("takes underscores, values with '=', negative numbers, true and false", function()
    local opt = read { "--top_k", "3", "--from=a=b", "--lr", "-0.5", "--dense=false",
      "--quiet=true" }
    assert.same({ 3, "a=b", -0.5, false, true },
      { opt.top_k, opt.from, opt.lr, opt.dense, opt.quiet })
  end)

  it("collects repeatable options without touching the default", function()
    local default = { "x=y" }
    local declared = { { "domain", default, "", repeatable = true } }
    local change = { options = declared, presets = {} }
    assert.same({ "a=1", "b=2" }, read({ "--domain", "a=1", "--domain=b=2" }, change).domain)
    local opt = read({}, change)
    table.insert(opt.domain, "more")
    assert.same({ "x=y" }, default)
  end)

  it("lets explicit options win over the preset, wherever they stand", function()
    local opt = read { "--steps", "5", "--preset", "smoke" }
    assert.same({ 5, false, "smoke" }, { opt.steps, opt.dense, opt.preset })
    assert.same({ 2, true }, { read({ "--preset=tiny" }).steps, read({ "--preset=tiny" }).dense })
    assert.same({ "a=b" }, read({ "--preset=tiny" }).domain)
    assert.same({ "c=d" }, read({ "--preset=tiny", "--domain", "c=d" }).domain)
  end)

  it("lets a recipe declare a common option itself", function()
    local opt = read({}, { options = { { "seed", 7, "own" } }, presets = {} })
    assert.equal(7, opt.seed)
  end)

  it("takes words only when they are declared", function()
    assert.equal("demo: unexpected argument 'x'", refused { "x" })
    local opt = read({ "a", "--steps", "1", "--", "--b" }, { arguments = "MODEL ..." })
    assert.same({ "a", "--b" }, opt.arguments)
  end)

  it("refuses what it does not know, with a suggestion", function()
    assert.equal("demo: unknown option '--stpes'\nhint: did you mean '--steps'?",
      refused { "--stpes", "1" })
    assert.equal("demo: unknown option '--top_kk'\nhint: did you mean '--top-k'?",
      refused { "--top_kk" })
    assert.equal("demo: unknown option '-x'", refused { "-x" })
    assert.equal("demo: unknown preset 'smok'\nhint: did you mean 'smoke'?",
      refused { "--preset", "smok" })
    assert.equal("demo: unknown preset 'x': this recipe has none",
      refused({ "--preset", "x" }, { presets = false }))
    assert.equal("demo: unknown option '--colour'\nhint: --help lists the options",
      refused { "--colour" })
    assert.equal("demo: unknown option '--helpp'\nhint: did you mean '--help'?",
      refused { "--helpp" })
  end)

  it("names the options that a part of their name stands for", function()
    local ok, err = pcall(options, { name = "demo", arg = { "--steps", "3" },
      options = { { "seed_steps", 1 }, { "lr", 1.0 }, { "mix_steps", 1 } } })
    assert.is_false(ok)
    assert.equal("demo: unknown option '--steps'\nhint: there are --seed-steps, --mix-steps",
      err.message)
  end)

  it("refuses numbers below the least one", function()
    local declaration = { name = "demo", options = { { "k", 2, "", min = 1 },
      { "lr", 0.5, "", min = 0 } } }
    local function told(...)
      declaration.arg = { ... }
      local ok, result = pcall(options, declaration)
      return ok and { result.k, result.lr } or { result.exit, result.message }
    end
    assert.same({ 2, "demo: --k is 0: at least 1 expected" }, told("--k", "0"))
    assert.same({ 2, "demo: --lr is -1e-3: at least 0 expected" }, told("--lr", "-1e-3"))
    assert.same({ 1, 0.0 }, told("--k", "1", "--lr=0"))
  end)

  it("refuses values that do not fit", function()
    assert.equal("demo: --steps is 'x': a whole number expected", refused { "--steps", "x" })
    assert.equal("demo: --steps is '1.5': a whole number expected", refused { "--steps=1.5" })
    assert.equal("demo: --lr is '': a number expected", refused { "--lr=" })
    assert.equal("demo: --steps needs a value", refused { "--steps" })
    assert.equal("demo: --fresh is 'maybe': true or false expected", refused { "--fresh=maybe" })
    assert.equal("demo: '--no-dense' takes no value", refused { "--no-dense=1" })
    assert.equal("demo: --schedule is 'cosin': unknown\nhint: did you mean 'cosine'?",
      refused { "--schedule", "cosin" })
  end)

  it("prints help made from the declaration", function()
    local err = failure(read, { [0] = "recipes/demo.lua", "--help", "--steps", "3" })
    assert.same({ exit = 0 }, err)
    assert.equal(([[
demo: Shows options.

usage: moelua recipes/demo.lua [options]

options:
  --steps N           steps to take (default: 400)
  --lr X              learning rate (default: 0.5)
  --top-k N           experts per token (default: 2)
  --dense             train the dense model too (default: on; --no-dense)
  --schedule TEXT     learning rate schedule: cosine, linear (default: cosine)
  --limit N           stop early
  --from DIR          start here
  --domain NAME=PATH  a domain (repeatable)
  --seed N            random seed (default: 1)
  --out DIR           run folder (default: runs/demo)
  --preset NAME       settings to start from
  --fresh             start over instead of continuing
  --precision TEXT    of the matrix products in training: f32, bf16 (default: %s)
  --save-every N      steps between saved states (default: 100)
  --dry-run           print the plan (data, compute, memory, disk, time), write nothing
  --json              results, or the plan, as one JSON object
  --quiet             no progress, only results
  -h, --help          show this text and exit

presets (explicit options win):
  smoke: steps 20, dense false
  tiny: steps 2, domain a=b
]]):format(native), table.concat(written))
  end)

  it("leaves a tool that trains nothing with the few that make sense there", function()
    local opt = options { name = "tool", trains = false, arg = {} }
    assert.same({ json = false, quiet = false }, opt)
    local err = failure(options, { name = "tool", trains = false, arg = { "--dry-run" } })
    assert.equal("tool: unknown option '--dry-run'\nhint: --help lists the options", err.message)
  end)

  it("blames the recipe for a preset that sets nothing", function()
    assert.equal("moe.options: preset 'p' sets an unknown option: 'stepz'",
      message(read, {}, { presets = { p = { stepz = 1 } } }))
    assert.equal("moe.options: a declaration needs a name: { name = \"...\", ... } expected",
      message(options, {}))
  end)
end)
