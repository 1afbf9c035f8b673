-- commands_spec.lua: what wrong command lines are answered with: all of stderr, and the status.
local assert = require("luassert")
local core = require("moelua.core")
local fixtures = require("spec.messages.fixtures")
local host = require("moelua.host")
local support = require("spec.messages.support")
local system = core.system

local folder = support.folder()

-- Runs the program; returns its status, stdout and stderr, the folder of the files as DIR.
local function run(words)
  local command = { host.program }
  for word in words:gmatch("%S+") do
    command[#command + 1] = word:gsub("DIR", folder)
  end
  command.stdout, command.stderr = folder .. "/stdout", folder .. "/stderr"
  for _, name in ipairs { "stdout", "stderr" } do os.remove(folder .. "/" .. name) end
  local status = assert(system.spawn(command)):wait()
  local function text(name)
    return (assert(system.read(folder .. "/" .. name)):gsub(folder:gsub("%p", "%%%0"), "DIR"))
  end
  return status.exited, text("stdout"), text("stderr")
end

local function rows(list)
  for _, row in ipairs(list) do
    it("moelua " .. row[1], function()
      assert.same({ row[2], "", "moelua: " .. row[3] .. "\n" }, { run(row[1]) })
    end)
  end
end

describe("a command line", function()
  rows {
    { "--versoin", 2, "unrecognized option '--versoin', did you mean '--version'?\n" ..
      "usage: moelua [options] [script [arguments]]\nhint: moelua --help lists the options" },
    { "-e", 2, "'-e' needs an argument\nusage: moelua [options] [script [arguments]]\n" ..
      "hint: moelua --help lists the options" },
    { "/none/script.lua", 66, "cannot open /none/script.lua: No such file or directory" },
    { "DIR", 74, "cannot open DIR: Is a directory" },
    { "DIR/scirpt.lua", 66, "cannot open DIR/scirpt.lua: No such file or directory\n" ..
      "hint: did you mean 'DIR/script.lua'?" },
    { "DIR/script.lua", 1, "DIR/script.lua:3: matmul: inner dimensions differ: " ..
      "[2 x 3] x [4 x 5]" },
    { "DIR/method.lua", 1, "DIR/method.lua:2: attempt to call a nil value (method 'softmx')\n" ..
      "hint: did you mean 'softmax'?" },
    { "DIR/syntax.lua", 1, "DIR/syntax.lua:2: syntax error near 'y'" },
    { "DIR/load.lua", 1, "DIR/load.lua:1: load: gpt2 is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { "-e error{message='full',code='full'}", 74, "full" },
  }
end)

describe("a recipe", function()
  rows {
    { "recipes/btx.lua --prest smoke", 2,
      "btx: unknown option '--prest'\nhint: did you mean '--preset'?" },
    { "recipes/btx.lua --preset smok", 2,
      "btx: unknown preset 'smok'\nhint: did you mean 'smoke'?" },
    { "recipes/btx.lua --steps 3", 2,
      "btx: unknown option '--steps'\nhint: there are --seed-steps, --expert-steps, --mix-steps" },
    { "recipes/btx.lua --k two", 2, "btx: --k is 'two': a whole number expected" },
    { "recipes/btx.lua --k 0", 2, "btx: --k is 0: at least 1 expected" },
    { "recipes/btx.lua --domain a=DIR/text.txt --preset tiny --out DIR/run", 65,
      "corpus \"a\": split \"test\" has 0 tokens: a context of 64 needs 65\n" ..
      "hint: give the corpus more text, or use a shorter context" },
    { "recipes/btx.lua --lr", 2, "btx: --lr needs a value" },
    { "recipes/btx.lua --split tets", 2, "btx: --split is 'tets': unknown\n" ..
      "hint: did you mean 'test'?" },
    { "recipes/btx.lua --from nowhere", 66,
      "load: nowhere is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { "recipes/upcycle.lua --from nowhere", 66,
      "load: nowhere is no model folder: it has no config.json\n" ..
      "hint: the path of a Hugging Face directory on this machine is expected" },
    { "recipes/btx.lua all", 2, "btx: unexpected argument 'all'" },
    { "recipes/btx.lua --domain a --out DIR/run", 2,
      "--domain a: name=path is expected, with letters, digits, - and _ in the name" },
    { "recipes/btx.lua --domain a=DIR/text.txt --domain a=DIR/text.txt --out DIR/run", 2,
      "--domain a=DIR/text.txt: 'a' is given twice" },
    { "recipes/btx.lua --domain a=/none --out DIR/run", 66,
      "--domain a=/none: no such file or folder" },
    { "recipes/btx.lua --domain a=DIR/empty.txt --preset tiny --out DIR/run", 65,
      "corpus: there is no text: 1 files hold none, the first is DIR/empty.txt" },
    { "recipes/btx.lua --domain a=DIR/text.txt --preset tiny --out DIR/text.txt", 74,
      "make_folder: DIR/text.txt: a file has this name\n" ..
      "hint: when that is repaired, the same command again goes on" },
  }

  it("with another name is looked for among those there are", function()
    local status, _, err = run("recipes/btxx.lua")
    assert.equal(66, status)
    assert.matches("\nhint: did you mean 'recipes/btx%.lua'%?\n$", err)
  end)
end)

setup(function()
  fixtures.texts()
  support.write("script.lua", 'local moe = require("moelua")\n\n' ..
    "local y = moe.ones(2, 3):matmul(moe.ones(4, 5))\n")
  support.write("method.lua", 'local x = require("moelua").ones(2)\nx:softmx()\n')
  support.write("syntax.lua", "local x\nx y\n")
  support.write("load.lua", 'local m = assert(require("moelua").load("gpt2"))\n')
end)
