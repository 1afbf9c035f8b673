-- cli_spec.lua: the executable, from the outside: options, arg, scripts, errors, signals.
local lfs = require("lfs")
local host = require("moelua.host")

local folder

local function path(name)
  return folder .. "/" .. name
end

local function put(name, text)
  local file = assert(io.open(path(name), "w"))
  file:write(text)
  file:close()
  return path(name)
end

local function get(name)
  local file = assert(io.open(path(name), "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function quoted(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- Runs a shell command in the folder; returns exit code, stdout, stderr. A hanging one ends
-- after a minute.
local function shell(command)
  local full = ("cd %s && { %s ; } >%s 2>%s"):format(quoted(folder), command,
    quoted(path("out")), quoted(path("err")))
  local _, _, code = os.execute("timeout -k 5 60 sh -c " .. quoted(full))
  return code, get("out"), get("err")
end

local program = quoted(host.program)

-- Runs the executable with these words and no input.
local function moelua(...)
  local words = { program }
  for i, word in ipairs({ ... }) do words[i + 1] = quoted(word) end
  return shell(table.concat(words, " ") .. " </dev/null")
end

-- Removes what a spec left; the tree is ours and small.
local function remove(name)
  for entry in lfs.dir(name) do
    if entry ~= "." and entry ~= ".." then
      local full = name .. "/" .. entry
      if lfs.attributes(full, "mode") == "directory" then remove(full) else os.remove(full) end
    end
  end
  lfs.rmdir(name)
end

describe("moelua", function()
  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(lfs.mkdir(folder))
  end)

  after_each(function() remove(folder) end)

  describe("options", function()
    it("--version and -v name both versions", function()
      local code, out = moelua("--version")
      assert.equal(0, code)
      assert.matches("^moelua %d+%.%d+%.%d+ %(Lua 5%.4%.%d+%)\n$", out)
      assert.equal(out, select(2, moelua("-v")))
    end)

    it("--help explains options, environment and exit codes on stdout", function()
      local code, out, err = moelua("--help")
      assert.same({ 0, "" }, { code, err })
      local parts = { "usage: moelua ", "-l g=mod", "MOELUA_THREADS", "exit codes:", "130" }
      for _, part in ipairs(parts) do
        assert.is_truthy(out:find(part, 1, true), part)
      end
      assert.is_nil(out:find("--worker", 1, true))
    end)

    it("-e and -l run in the order in which they stand", function()
      put("m.lua", "print('m', ...) return { name = 'm' }")
      local code, out = moelua("-e", "print(m)", "-lm", "-e", "print(m.name)", "-l", "g=m",
        "-eprint(g == m)")
      assert.same({ 0, "nil\nm\tm\t./m.lua\nm\ntrue\n" }, { code, out })
    end)

    it("-e alone does not read standard input", function()
      assert.same({ 0, "1\n", "" }, { shell("echo 'print(2)' | " .. program .. " -e 'print(1)'") })
    end)

    it("-i opens a session after the script, even without a terminal", function()
      put("s.lua", "x = ...")
      local _, out = shell("printf 'x\\n1,2' | " .. program .. " -i s.lua 7")
      assert.matches("^moelua %d[^\n]*\n[^\n]*Ctrl%-D[^\n]*\n> 7\n> 1\t2\n> \n$", out)
    end)

    it("-W turns warnings on", function()
      assert.same({ 0, "", "" }, { moelua("-e", "warn('a', 'b')") })
      assert.same({ 0, "", "moelua: warning: ab\n" }, { moelua("-W", "-e", "warn('a', 'b')") })
      assert.same({ 0, "", "moelua: warning: c\n" }, { moelua("-e", "warn('@on') warn('c')") })
    end)

    it("LUA_INIT runs first, unless -E", function()
      local function with(init, rest) return select(2, shell(init .. " " .. program .. rest)) end
      put("init.lua", "print('file')")
      assert.equal("init\n1\n", with("LUA_INIT='print(\"init\")'", " -e 'print(1)'"))
      assert.equal("file\n", with("LUA_INIT=@init.lua", " -e ''"))
      assert.equal("5.4\n", with("LUA_INIT_5_4='print(5.4)' LUA_INIT='print(1)'", " -e ''"))
      assert.equal("1\n", with("LUA_INIT='print(\"init\")'", " -E -e 'print(1)'"))
    end)

    it("LUA_PATH counts, unless -E", function()
      local command = ("LUA_PATH='/nowhere/?.lua' %s %%s -e 'print(package.path)'"):format(program)
      assert.equal("/nowhere/?.lua\n", select(2, shell(command:format(""))))
      assert.not_equal("/nowhere/?.lua\n", select(2, shell(command:format("-E"))))
    end)

    it("refuses what it does not know with 2", function()
      local rest = "\nusage: moelua [options] [script [arguments]]\n"
        .. "hint: moelua --help lists the options\n"
      assert.same({ 2, "", "moelua: unrecognized option '-x'" .. rest }, { moelua("-x") })
      assert.same({ 2, "", "moelua: unrecognized option '--hlep', did you mean '--help'?" .. rest },
        { moelua("--hlep") })
      assert.same({ 2, "", "moelua: unrecognized option '-ix'" .. rest }, { moelua("-ix") })
      assert.same({ 2, "", "moelua: '-e' needs an argument" .. rest }, { moelua("-e") })
      assert.same({ 2, "", "moelua: '--worker' needs a folder" .. rest }, { moelua("--worker") })
    end)

    it("refuses senseless settings from the environment", function()
      assert.same({ 2, "", "moelua: MOELUA_THREADS is 'two', not a number from 1 to 4096\n" },
        { shell("MOELUA_THREADS=two " .. program .. " -e ''") })
      local code, _, err = shell("MOELUA_KERNELS=abacus " .. program .. " -e ''")
      assert.equal(1, code)
      assert.matches('^moelua: [^\n]*"?abacus"?', err)
    end)

    it("takes the number of threads from the environment", function()
      local code, out = shell("MOELUA_THREADS=1 " .. program
        .. " -e 'print(require(\"moelua.core\").threads)'")
      assert.same({ 0, "1\n" }, { code, out })
    end)
  end)

  describe("scripts", function()
    it("get arg, with negatives, and the arguments", function()
      put("s.lua", "#!/usr/bin/env moelua\nprint(arg[-1], arg[0], arg[1], #arg, ...)")
      assert.same({ 0, "-W\ts.lua\ta b\t2\ta b\t-e\n", "" }, { moelua("-W", "s.lua", "a b", "-e") })
      local _, out = moelua("-e", "print(arg[0] == arg[-1], arg[1], #arg)")
      assert.equal("false\t-e\t2\n", out)
    end)

    it("may come from standard input", function()
      local piped = "echo 'print(\"in\", ...)' | " .. program
      assert.same({ 0, "in\n", "" }, { shell(piped) })
      assert.same({ 0, "in\ta\n", "" }, { shell(piped .. " - a") })
      local code, _, err = shell("echo 'x = = 1' | " .. program)
      assert.same({ 1, "moelua: stdin:1: unexpected symbol near '='\n" }, { code, err })
    end)

    it("may have any name after --", function()
      put("-odd.lua", "print('odd', arg[-1])")
      assert.same({ 0, "odd\t--\n", "" }, { moelua("--", "-odd.lua") })
    end)

    it("keep their line numbers behind a first line for the shell", function()
      put("s.lua", "#!/usr/bin/env moelua\nerror('x')")
      assert.matches("^moelua: s%.lua:2: x\n", select(3, moelua("s.lua")))
      put("s.lua", "\xEF\xBB\xBFprint('mark')")
      assert.equal("mark\n", select(2, moelua("s.lua")))
    end)

    it("are not precompiled", function()
      put("s.luac", string.dump(function() return 1 end))
      local code, _, err = moelua("s.luac")
      assert.equal(1, code)
      assert.matches("attempt to load a binary chunk", err)
    end)

    it("are looked for as given, beside the installed program, in the source tree", function()
      local code, _, err = moelua("recipes/nowhere.lua")
      assert.equal(66, code)
      assert.matches("^moelua: cannot open recipes/nowhere%.lua: No such file or directory\n"
        .. "  also looked at [^\n]*/share/moelua/recipes/nowhere%.lua\n"
        .. "  also looked at [^\n]*/scripts/recipes/nowhere%.lua\n$", err)
      code, _, err = moelua("./none.lua")
      assert.same({ 66, "moelua: cannot open ./none.lua: No such file or directory\n" },
        { code, err })
      code, _, err = moelua(".")
      assert.same({ 74, "moelua: cannot open .: Is a directory\n" },
        { code, err:match("^[^\n]*\n") .. "" })
    end)

    it("are found beside a program that was moved, and a folder of one's own wins", function()
      local install = "mkdir -p bin share/moelua/recipes && cp " .. program .. " bin/moelua"
      assert.equal(0, (shell(install)))
      put("share/moelua/recipes/demo.lua", "print('installed', arg[0]) error('here')")
      local code, out, err = shell("bin/moelua recipes/demo.lua </dev/null")
      assert.same({ 1, "installed\trecipes/demo.lua\n" }, { code, out })
      assert.matches("^moelua: recipes/demo%.lua:1: here\n", err)
      lfs.mkdir(path("recipes"))
      put("recipes/demo.lua", "print('own')")
      assert.same({ 0, "own\n", "" }, { shell("bin/moelua recipes/demo.lua </dev/null") })
    end)
  end)

  describe("errors", function()
    it("of scripts exit with 1 and show where", function()
      put("s.lua", "local function f()\n  error('boom')\nend\nf()")
      local code, out, err = moelua("s.lua")
      assert.same({ 1, "" }, { code, out })
      assert.equal("moelua: s.lua:2: boom\nstack traceback:\n\t[C]: in function 'error'\n"
        .. "\ts.lua:2: in local 'f'\n\ts.lua:4: in main chunk\n", err)
    end)

    it("in moelua's own modules show the frames of the script only", function()
      put("s.lua", "local function f()\n  require('moelua.options').check('demo', "
        .. "{ stpes = 1 }, { steps = 'integer' })\nend\nf()")
      assert.equal("moelua: s.lua:2: demo: unknown option 'stpes'\nhint: did you mean 'steps'?\n"
        .. "stack traceback:\n\ts.lua:2: in local 'f'\n\ts.lua:4: in main chunk\n",
        select(3, moelua("s.lua")))
    end)

    it("of a single line leave out the traceback that would repeat it", function()
      put("s.lua", "\nrequire('moelua').ones(2):softmax(0)")
      assert.equal("moelua: s.lua:2: softmax: dim counts from 1 (or from -1, the last), not 0\n",
        select(3, moelua("s.lua")))
    end)

    it("about names that do not exist come with a hint", function()
      put("s.lua", "local moe = require('moelua')\nmoe.rnadn(2)")
      assert.equal("moelua: s.lua:2: attempt to call a nil value (field 'rnadn')\n"
        .. "hint: did you mean 'randn'?\n", select(3, moelua("s.lua")))
    end)

    it("with a code exit with what it stands for, without a traceback", function()
      local codes = { diverged = 3, format = 65, missing = 66, unsupported = 69, io = 74,
        full = 74, busy = 75, interrupted = 130, memory = 1, other = 1 }
      for name, expected in pairs(codes) do
        local code, _, err = moelua("-e", ("error({ message = 'm', code = '%s' })"):format(name))
        assert.same({ expected, "moelua: m\n" }, { code, err }, name)
      end
    end)

    it("with an exit field exit with it", function()
      assert.same({ 2, "", "moelua: usage\n" },
        { moelua("-e", "error({ exit = 2, message = 'usage' })") })
      assert.same({ 0, "", "" }, { moelua("-e", "error({ exit = 0 })") })
    end)

    it("of other kinds are told as well as they can be", function()
      assert.matches("^moelua: %(error object is a nil value%)\n",
        (select(3, moelua("-e", "error()"))))
      assert.same({ 1, "", "moelua: told\n" }, { moelua("-e",
        "error(setmetatable({}, { __tostring = function() return 'told' end }))") })
    end)

    it("of os.exit are the script's own", function()
      assert.equal(7, (moelua("-e", "os.exit(7)")))
      assert.equal(7, (moelua("-e", "os.exit(7, true)")))
    end)

    it("of a full disk behind stdout are not lost", function()
      local code, _, err = shell(program .. " -e 'print(1)' >/dev/full")
      assert.same({ 74, "moelua: cannot write standard output\n" }, { code, err })
    end)

    it("of a recipe's command line are short", function()
      put("r.lua", "require('moelua').options { name = 'r', options = { { 'steps', 1, '' } } }")
      assert.same({ 2, "", "moelua: r: unknown option '--stpes'\nhint: did you mean '--steps'?\n" },
        { moelua("r.lua", "--stpes", "1") })
      local code, out, err = moelua("r.lua", "--help")
      assert.same({ 0, "" }, { code, err })
      assert.matches("usage: moelua r%.lua %[options%]", out)
    end)
  end)

  describe("signals", function()
    -- Runs a script in which `loop()` makes the file `ready` and never ends, and sends the signal
    -- when that file is there. Returns as shell.
    local function signalled(signal, script)
      os.remove(path("ready"))
      put("s.lua", "function loop() io.open('ready', 'w'):close() while true do end end\n"
        .. script)
      return shell(program .. " s.lua </dev/null & pid=$!; "
        .. "while [ ! -e ready ]; do sleep 0.02; done; kill -" .. signal .. " $pid; wait $pid")
    end

    it("SIGINT stops a loop with 130", function()
      assert.same({ 130, "", "moelua: interrupted!\n" }, { signalled("INT", "loop()") })
    end)

    it("SIGTERM stops it with 143", function()
      assert.same({ 143, "", "moelua: interrupted!\n" }, { signalled("TERM", "loop()") })
    end)

    it("reach into coroutines", function()
      assert.equal(130, (signalled("INT", "coroutine.wrap(loop)()")))
      local code, out = signalled("INT", "print(coroutine.resume(coroutine.create(function()\n"
        .. "  coroutine.wrap(loop)() end)))")
      assert.same({ 0, "false\tinterrupted!\n" }, { code, out })
    end)

    it("raise once: a script may clean up", function()
      local code, out = signalled("INT", "print(pcall(loop))\n"
        .. "for i = 1, 1e6 do end print('cleaned up')")
      assert.same({ 0, "false\tinterrupted!\ncleaned up\n" }, { code, out })
    end)

    it("end a script that will not listen the second time", function()
      put("s.lua", "function loop(name) io.open(name, 'w'):close() while true do end end\n"
        .. "pcall(loop, 'ready') while true do pcall(loop, 'again') end")
      local code = shell(program .. " s.lua & pid=$!; for file in ready again; do "
        .. "while [ ! -e $file ]; do sleep 0.02; done; kill -INT $pid; done; wait $pid")
      assert.equal(130, code)
    end)
  end)

  describe("a session at a terminal", function()
    -- script(1) lends a terminal; typing waits for what the session answers. A shell that stayed
    -- between them would take Ctrl-C for itself too, hence exec.
    it("edits, remembers, and takes Ctrl-C at the prompt and in a loop", function()
      put("type.sh", "answer() { n=0; until grep -q \"$1\" screen 2>/dev/null || [ $n -gt 1000 ]\n"
        .. "do sleep 0.02; n=$((n+1)); done; }\n"
        .. "answer '^> '; printf gone; answer gone; printf '\\003'; answer '^> $'\n"
        .. "printf '6*7\\n'; answer ^42\n"
        .. "printf 'print(\"lo\"..\"op\") while true do end\\n'; answer ^loop; printf '\\003'\n"
        .. "answer interrupted; printf '\"sti\"..\"ll\"\\n'; answer still; printf '\\004'\n")
      local code = shell("sh type.sh | XDG_STATE_HOME=$PWD/state TERM=xterm script -qefc "
        .. quoted("exec " .. program) .. " screen >/dev/null")
      local screen = get("screen")
      assert.equal(0, code)
      assert.matches("\n42\r\n.*\nloop\r\n.*interrupted!\r\n.*\nstill\r\n", screen)
      assert.is_nil(screen:find("stdin:1", 1, true))
      local history = get("state/moelua/history")
      assert.is_truthy(history:find("6*7", 1, true))
      assert.is_nil(history:find("gone", 1, true))
    end)
  end)

  describe("coroutines", function()
    -- The replacements that let signals through must behave as Lua's own.
    it("resume and wrap as in Lua", function()
      local f = coroutine.wrap(function(a) return coroutine.yield(a + 1), nil, 2 end)
      assert.equal(2, f(1))
      assert.same({ 5, nil, 2, n = 3 }, table.pack(f(5)))
      assert.same({ false, "cannot resume dead coroutine" }, { pcall(f) })
      local co = coroutine.create(function(...) error({ ... }) end)
      assert.same({ false, { 1, 2 } }, { coroutine.resume(co, 1, 2) })
      assert.equal("dead", coroutine.status(co))
      assert.is_false(pcall(coroutine.resume, 1))
      local got = {}
      for v in coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end) do
        got[#got + 1] = v
      end
      assert.same({ 1, 2, 3 }, got)
    end)
  end)

  describe("a worker", function()
    it("does not start when its parent is gone", function()
      assert.same({ 1, "", "" }, { moelua("--worker", folder, "999999999") })
    end)

    it("ends with its parent", function()
      put("init.lua", "package.loaded['moelua.worker'] = { run = function(folder)\n"
        .. "  io.open(folder .. '/ready', 'w'):close() while true do end end }")
      local wait = "; n=0; while [ ! -e ready ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done"
      local parent = "LUA_INIT=@init.lua " .. program .. " --worker . $$ & echo $! >pid" .. wait
      shell("sh -c " .. quoted(parent))
      assert.equal("file", lfs.attributes(path("ready"), "mode"))
      local _, state = shell("n=0; while s=$(cut -d' ' -f3 /proc/$(cat pid)/stat) 2>/dev/null "
        .. "&& [ $s != Z ] && [ $n -lt 500 ]; do sleep 0.02; n=$((n+1)); done; echo $s")
      assert.is_truthy(state == "\n" or state == "Z\n", state)
    end)
  end)

  describe("the module moelua.host", function()
    it("tells about the program and the terminal", function()
      assert.equal("/", host.program:sub(1, 1))
      assert.equal("file", lfs.attributes(host.program, "mode"))
      assert.is_true(host.width() >= 1)
      local code, out = moelua("-e", "local h = require('moelua.host') "
        .. "print(h.is_tty(0), h.is_tty(1), h.color, h.live, h.width(), math.type(h.pid))")
      assert.same({ 0, "false\tfalse\tfalse\tfalse\t80\tinteger\n" }, { code, out })
    end)
  end)
end)
