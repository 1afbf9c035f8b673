-- recipes/merge.lua from the command line.
local helper = require("spec.helper")
local core = require("moelua.core")
local host = require("moelua.host")
local pico = require("spec.pico")
local json, system = core.json, core.system

local folder = helper.tmpdir()
local function get(name) return (assert(system.read(folder .. "/" .. name))) end

-- Runs the recipe; returns exit code, stdout, stderr.
local function recipe(words)
  local _, _, code = os.execute(("cd '%s' && timeout -k 5 %d '%s' recipes/merge.lua %s </dev/null "
    .. ">stdout 2>stderr"):format(folder, 60 * helper.patience, host.program, words))
  return code, get("stdout"), get("stderr")
end

pico.write(folder .. "/a", 1)
pico.write(folder .. "/b", 2)
assert(system.write(folder .. "/m.yml", "merge_method: linear\nmodels: [a, b]\n" ..
  "parameters: {weight: 1}\n"))

describe("recipes/merge.lua", function()
  it("explains itself", function()
    local code, out = recipe("--help")
    assert.equal(0, code)
    for _, words in ipairs { "[CONFIG.yml] OUT", "--memory SIZE", "--plan", "--model DIR=W",
        "model_stock", "--verify" } do
      assert.truthy(out:find(words, 1, true), words)
    end
  end)

  it("merges what a file says, and checks it", function()
    local code, out, narration = recipe("m.yml out --memory 64M --quiet")
    assert.equal("", narration)
    assert.equal(0, code)
    assert.truthy(out:find("\n21 tensors, 21.7 k parameters in out\n", 1, true))
    code, out = recipe("--verify out")
    assert.equal(0, code)
    assert.equal("every file is what was written\n", out)
    os.remove(folder .. "/out/config.json")
    code, out, narration = recipe("--verify out")
    assert.equal("", out)
    assert.equal(65, code)
    assert.equal("moelua: verify: out: config.json is missing\n", narration)
  end)

  it("merges what options say", function()
    local code, out = recipe("--method linear --model a=0.75 --model b=0.25 --param " ..
      "normalize=false --dtype bfloat16 --json given")
    assert.equal(0, code)
    local facts = assert(json.decode(out))
    assert.equal(21, facts.tensors)
    local config = core.yaml.decode(get("given/mergekit_config.yml"))[1]
    assert.same({ merge_method = "linear", dtype = "bfloat16", parameters = { normalize = false },
      models = { { model = "a", parameters = { weight = 0.75 } },
        { model = "b", parameters = { weight = 0.25 } } } }, config)
  end)

  it("plans without writing", function()
    local code, out = recipe("m.yml --plan")
    assert.equal(0, code)
    assert.truthy(out:find("result  llama        2      21.7 k  21 F32", 1, true))
    code, out = recipe("m.yml planned --plan --json")
    assert.equal(0, code)
    assert.equal(21, #json.decode(out).stages[1].tensors)
    assert.is_false(system.exists(folder .. "/planned"))
  end)

  it("ends as other recipes do when something is wrong", function()
    local function ends(words, wanted, text)
      local code, _, narration = recipe(words)
      assert.equal(wanted, code)
      assert.equal("moelua: " .. text .. "\n", narration)
    end
    ends("m.yml", 2, "merge: OUT, the folder of the result, is expected")
    ends("", 2, "merge: a configuration or --method is expected")
    ends("m.yml x --base a", 2, "merge: m.yml and options of a merge are both given")
    ends("m.yml x y", 2, "merge: unexpected argument 'y'")
    ends("--method linear --param x out", 2, "merge: --param is 'x': NAME=VALUE expected")
    ends("nothing.yml x", 66, "read: nothing.yml: No such file or directory")
    ends("--method linear --model a x", 65, "merge: model `a`, tensor " ..
      "`model.embed_tokens.weight`: parameter 'weight' is missing: linear needs it for every " ..
      "model (and 20 more tensors)")
    ends("m.yml a", 65, "merge: out is `a`, which is one of the models")
  end)
end)
