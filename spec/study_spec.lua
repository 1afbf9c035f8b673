-- study_spec.lua: the run folder and the command line of a recipe, from the outside.
local lfs = require("lfs")
local host = require("moelua.host")
local core = require("moelua.core")
local json, system = core.json, core.system

local RECIPE = [[
local moe = require("moelua")
local opt = moe.options { name = "r", options = { { "domain", {}, repeatable = true },
  { "max_bytes", 100000 }, { "context", 16 }, { "k", 1 }, { "eval_windows", 2 } } }
local study = moe.study.open(opt, { recipe = "r", title = "R", about = "r" })
study:need(opt.k < 3, "--k is %d: too many", opt.k)
local model = moe.model.new { dim = 8, layers = 1, heads = 1, hidden = 8, vocab = 256,
  context = 16, seed = opt.seed }
model.tokenizer = moe.tokenizer.bytes()
local cost = study:train("seed", model, { data = study.domains, steps = 2, batch = 2 })
study:keep(model)
study:arm("a row whose name is long enough to be cut in a table for eighty columns", model, cost)
study:finish()
]]

local folder

local function put(name, text)
  assert(system.write(folder .. "/" .. name, text))
end

local function get(name) return (assert(system.read(folder .. "/" .. name))) end

-- Runs the recipe; returns exit code, stdout, stderr.
local function recipe(words)
  local _, _, code = os.execute(("cd '%s' && timeout -k 5 60 '%s' r.lua %s </dev/null >out 2>err")
    :format(folder, host.program, words))
  return code, get("out"), get("err")
end

describe("study", function()
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
    assert(lfs.mkdir(folder .. "/text"))
    put("r.lua", RECIPE)
    for i = 1, 80 do put("text/" .. i, ("document %d has words of its own\n"):format(i):rep(9)) end
  end)

  teardown(function() system.remove_tree(folder) end)

  before_each(function() system.remove_tree(folder .. "/runs") end)

  it("refuses a domain that is none before a folder is made", function()
    local form = "name=path is expected, with letters, digits, - and _ in the name\n"
    assert.same({ 2, "", "moelua: --domain text: " .. form }, { recipe("--domain text") })
    assert.same({ 2, "", "moelua: --domain a=r.lua: 'a' is given twice\n" },
      { recipe("--domain a=text --domain a=r.lua") })
    assert.same({ 66, "", "moelua: --domain a=nowhere: no such file or folder\n" },
      { recipe("--domain a=nowhere") })
    assert.same({ 66, "", "moelua: --domain a=~/x: no such file or folder\n"
      .. "hint: write $HOME instead of ~\n" }, { recipe("'--domain=a=~/x'") })
    assert.is_false(system.exists(folder .. "/runs"))
  end)

  it("is not bound by options that were refused before the first stage", function()
    assert.same({ 2, "", "moelua: r: --k is 3: too many\n" },
      { recipe("--domain a=text --k 3") })
    local code, _, err = recipe("--domain a=text --context 100000")
    assert.equal(65, code)
    assert.matches("a context of 100000 needs 100001", err)
    assert.equal(0, (recipe("--domain a=text")))
    code, _, err = recipe("--domain a=text --k 2")
    assert.equal(1, code)
    assert.matches("runs/r was made with other options: k was 1, now 2", err, 1, true)
  end)

  it("says which stages were there before, and cuts no name for a pipe", function()
    assert.is_nil(select(3, recipe("--domain a=text")):find("finished before", 1, true))
    local code, out, err = recipe("--domain a=text")
    assert.equal(0, code)
    assert.matches("\nseed: finished before\nevaluating a row ", err)
    assert.is_truthy(out:find("\na row whose name is long enough to be cut in a table for eighty "
      .. "columns  ", 1, true))
    assert.same({ 0, out, "" }, { recipe("--domain a=text --quiet") })
  end)

  it("says what is begun: text, folder, parameters, steps", function()
    local _, _, err = recipe("--domain a=text --domain b=text")
    assert.matches("^r: a %d%d.%d k tokens, b %d%d.%d k tokens; run folder runs/r\n"
      .. "seed: 2.52 k parameters, 2 steps\n", err)
  end)

  it("prints one JSON object, with the paths, for a program", function()
    local code, out, err = recipe("--domain a=text --json")
    assert.equal(0, code)
    assert.matches("^[^\n]+\n$", out)
    assert.matches("\nevaluating a row ", err)
    local got, written = json.decode(out), json.decode(get("runs/r/results.json"))
    assert.same({ out = "runs/r", results = "runs/r/results.json", report = "runs/r/report.html",
      model = "runs/r/model" }, got.paths)
    got.paths = nil
    assert.same(written, got)
    assert.same({ 0, out, "" }, { recipe("--domain a=text --json --quiet") })
    code, out, err = recipe("--domain a=text --json --k 3 --out runs/other")
    assert.same({ 2, "" }, { code, out })
    assert.matches("--k is 3: too many\n$", err)
  end)

  it("saves states as often as asked, which is no other run", function()
    assert.equal(0, (recipe("--domain a=text --save-every 1")))
    assert.equal(1, json.decode(get("runs/r/seed/config.json")).save_every or 1)
    os.remove(folder .. "/runs/r/results.json")
    assert.equal(0, (recipe("--domain a=text --save-every 7")))
  end)
end)
