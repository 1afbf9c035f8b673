-- core.system: files that are whole or absent, locks, processes and clocks.

local lfs = require("lfs")
local system = require("moelua.core").system

local function message_of(f, ...)
  local ok, message = pcall(f, ...)
  assert.is_false(ok)
  return (message:gsub("^[%w_/.-]+%.lua:%d+: ", ""))
end

-- Checks a failure's three results; the message is exact.
local function fails(message, code, ...)
  local value, got, got_code = ...
  assert.is_nil(value)
  assert.equal(message, got)
  assert.equal(code, got_code)
end

local function names_in(folder)
  local names = {}
  for name in lfs.dir(folder) do
    if name ~= "." and name ~= ".." then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

describe("core.system", function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(system.make_folder(folder))
  end)

  after_each(function()
    assert(system.remove_tree(folder))
    assert.is_false(system.exists(folder))
  end)

  describe("files", function()
    it("reads back what was written, of any size and content", function()
      for _, data in ipairs({ "", "a", "a\0b\r\n\xff", ("0123456789abcdef"):rep(20000) }) do
        assert.is_true(system.write(folder .. "/file", data))
        assert.equal(data, system.read(folder .. "/file"))
        assert.equal(#data, system.file_size(folder .. "/file"))
      end
    end)

    it("reads files that have no size", function()
      local status = assert(system.read("/proc/self/status"))
      assert.truthy(status:find("^Name:"))
    end)

    it("leaves nothing beside the file", function()
      assert(system.write(folder .. "/file", "one"))
      assert(system.write(folder .. "/file", "two"))
      assert.same({ "file" }, names_in(folder))
    end)

    it("keeps the old file and no temporary one when it cannot replace it", function()
      assert(system.make_folder(folder .. "/target/inside"))
      fails(folder .. "/target: cannot be written: Is a directory", "io",
        system.write(folder .. "/target", "x"))
      fails(folder .. "/none/file: cannot be written: No such file or directory", "missing",
        system.write(folder .. "/none/file", "x"))
      assert.same({ "target" }, names_in(folder))
    end)

    it("keeps the mode of a file and follows a link", function()
      local file, link = folder .. "/file", folder .. "/link"
      assert(system.write(file, "one"))
      assert.is_true(os.execute("chmod 640 '" .. file .. "'"))
      assert(lfs.link(file, link, true))
      assert(system.write(link, "two"))
      assert.equal("two", system.read(file))
      assert.equal("rw-r-----", lfs.attributes(file, "permissions"))
      assert.equal("link", lfs.symlinkattributes(link, "mode"))
    end)

    it("appends", function()
      assert.is_true(system.append(folder .. "/log", "a\n"))
      assert.is_true(system.append(folder .. "/log", "b\n"))
      assert.equal("a\nb\n", system.read(folder .. "/log"))
    end)

    it("tells a full disk from other failures, and leaves devices in place", function()
      fails("append: /dev/full: No space left on device", "full", system.append("/dev/full", "x"))
      fails("/dev/full: cannot be written: No space left on device", "full",
        system.write("/dev/full", "x"))
      assert.equal("char device", lfs.attributes("/dev/full", "mode"))
      assert.is_true(system.write("/dev/null", "x"))
      assert.equal("char device", lfs.attributes("/dev/null", "mode"))
    end)

    it("says what is missing", function()
      local path = folder .. "/none"
      local reason = ": " .. path .. ": No such file or directory"
      fails("read" .. reason, "missing", system.read(path))
      fails("read_gzip" .. reason, "missing", system.read_gzip(path))
      fails("file_size" .. reason, "missing", system.file_size(path))
      fails("rename: " .. path .. " to " .. path .. "2: No such file or directory", "missing",
        system.rename(path, path .. "2"))
      fails("read: " .. folder .. ": Is a directory", "io", system.read(folder))
    end)

    it("raises on arguments that are no paths", function()
      assert.equal("read: path must be a string: got no value", message_of(system.read))
      assert.equal("read: path holds a NUL byte: a", message_of(system.read, "a\0b"))
      assert.equal("write: data must be a string: got number",
        message_of(system.write, folder .. "/x", 1))
      assert.equal("rename: path must be a string: got table", message_of(system.rename, "a", {}))
    end)
  end)

  describe("folders", function()
    it("are made with those above them", function()
      assert.is_true(system.make_folder(folder .. "/a//b/c/"))
      assert.is_true(system.make_folder(folder .. "/a/b/c"))
      assert.equal("directory", lfs.attributes(folder .. "/a/b/c", "mode"))
    end)

    it("are not made over a file", function()
      assert(system.write(folder .. "/file", ""))
      fails("make_folder: " .. folder .. "/file: a file has this name", "io",
        system.make_folder(folder .. "/file/sub"))
      fails("make_folder: " .. folder .. "/file: a file has this name", "io",
        system.make_folder(folder .. "/file"))
    end)

    it("are removed with all they hold, links not followed", function()
      assert(system.make_folder(folder .. "/kept"))
      assert(system.write(folder .. "/kept/file", "x"))
      assert(system.make_folder(folder .. "/tree/deep/er"))
      assert(system.write(folder .. "/tree/deep/file", "x"))
      assert(lfs.link(folder .. "/kept", folder .. "/tree/link", true))
      assert.is_true(system.remove_tree(folder .. "/tree"))
      assert.same({ "kept" }, names_in(folder))
      assert.equal("x", system.read(folder .. "/kept/file"))
      assert.is_true(system.remove_tree(folder .. "/kept/file"))
      assert.is_true(system.remove_tree(folder .. "/never was"))
    end)

    it("refuses to remove the root", function()
      assert.equal('remove_tree: refused: "/" is no folder to remove',
        message_of(system.remove_tree, "/"))
      assert.equal('remove_tree: refused: "" is no folder to remove',
        message_of(system.remove_tree, ""))
    end)

    it("are seen by exists, and move by rename", function()
      assert.is_true(system.exists(folder))
      assert.is_false(system.exists(folder .. "/a"))
      assert(system.make_folder(folder .. "/a"))
      assert.is_true(system.rename(folder .. "/a", folder .. "/b"))
      assert.same({ "b" }, names_in(folder))
    end)
  end)

  describe("read_gzip", function()
    local function compressed(data)
      assert(system.write(folder .. "/data", data))
      assert.is_true(os.execute("gzip -nf '" .. folder .. "/data'"))
      return folder .. "/data.gz"
    end

    it("reads compressed and plain files", function()
      local data = ("some text \xe9\0\n"):rep(30000)
      assert.equal(data, system.read_gzip(compressed(data)))
      assert.equal("", system.read_gzip(compressed("")))
      assert(system.write(folder .. "/plain", data))
      assert.equal(data, system.read_gzip(folder .. "/plain"))
    end)

    it("refuses damaged data", function()
      local path = compressed(("0123456789"):rep(1000))
      local whole = assert(system.read(path))
      assert(system.write(path, whole:sub(1, -9)))
      fails("read_gzip: " .. path .. ": the compressed data ends too early", "format",
        system.read_gzip(path))
      local wrong_sum = whole:sub(1, -9) .. "\0\0\0\0" .. whole:sub(-4)
      assert(system.write(path, wrong_sum))
      local value, message, code = system.read_gzip(path)
      assert.is_nil(value)
      assert.truthy(message:find("incorrect data check", 1, true))
      assert.equal("format", code)
    end)
  end)

  describe("lock", function()
    it("is held once, until it is released", function()
      local path = folder .. "/lock"
      local lock = assert(system.lock(path))
      fails("lock: " .. path .. ": another process holds it", "busy", system.lock(path))
      lock:release()
      lock:release()
      local again <close> = assert(system.lock(path))
      assert.truthy(again)
    end)

    it("ends with its block and with its last reference", function()
      local path = folder .. "/lock"
      do
        local lock <close> = assert(system.lock(path))
        assert.truthy(lock)
      end
      local forgotten = assert(system.lock(path))
      assert.truthy(forgotten)
      forgotten = nil -- luacheck: ignore 311
      collectgarbage()
      collectgarbage()
      assert(system.lock(path)):release()
    end)

    it("does not pass to children", function()
      local path = folder .. "/lock"
      local lock = assert(system.lock(path))
      local child <close> = assert(system.spawn({ "sleep", "30" }))
      lock:release()
      assert(system.lock(path)):release()
      assert.is_nil(child:wait(0))
    end)
  end)

  describe("spawn", function()
    local function run(options)
      options.stdout = folder .. "/out"
      local process = assert(system.spawn(options))
      local status = assert(process:wait(20))
      return status, system.read(folder .. "/out")
    end

    it("passes arguments, and tells how the child ended", function()
      local status, text = run({ "sh", "-c", 'printf "<%s>" "$@"; exit 3', "x", "a b", "", "*" })
      assert.same({ exited = 3 }, status)
      assert.equal("<a b><><*>", text)
    end)

    it("merges env into the environment", function()
      local status, text = run({ "sh", "-c", 'echo "$ONE,${PATH:+path},${HOME-none}"',
        env = { ONE = "1=1", HOME = false } })
      assert.same({ exited = 0 }, status)
      assert.equal("1=1,path,none\n", text)
    end)

    it("appends both streams to files, also to one", function()
      local options = { "sh", "-c", "echo out; echo err >&2", stderr = folder .. "/out" }
      run(options)
      local _, text = run(options)
      assert.equal("out\nerr\nout\nerr\n", text)
    end)

    it("gives the child no input and no other descriptor", function()
      local file <close> = assert(io.open(folder .. "/held", "w"))
      assert.truthy(file)
      local _, text = run({ "sh", "-c", "cat; for f in /proc/self/fd/*; do readlink $f; done" })
      assert.truthy(text:find("/dev/null", 1, true))
      assert.is_nil(text:find("/held", 1, true))
    end)

    it("waits for a time, and remembers the end", function()
      local child <close> = assert(system.spawn({ "sleep", "30" }))
      assert.is_true(child:pid() > 1)
      assert.is_nil(child:wait(0))
      local start = system.clock()
      assert.is_nil(child:wait(0.05))
      assert.is_true(system.clock() - start >= 0.05)
      assert.is_true(child:kill(9))
      assert.same({ signaled = 9 }, child:wait())
      assert.same({ signaled = 9 }, child:wait(0))
      fails("kill: the process: No such process", "missing", child:kill())
    end)

    it("ends the child with its block", function()
      local pid
      do
        local child <close> = assert(system.spawn({ "sleep", "30" }))
        pid = child:pid()
        assert.is_true(system.exists("/proc/" .. pid))
      end
      assert.is_false(system.exists("/proc/" .. pid))
    end)

    it("says what could not be started or opened", function()
      local none = folder .. "/none"
      fails("spawn: " .. none .. ": No such file or directory", "missing", system.spawn({ none }))
      fails("spawn: " .. none .. "/log: No such file or directory", "missing",
        system.spawn({ "true", stderr = none .. "/log" }))
      fails("spawn: " .. folder .. ": Permission denied", "io", system.spawn({ folder }))
    end)

    it("raises on misuse", function()
      assert.equal("spawn: a table is expected: got string", message_of(system.spawn, "ls"))
      assert.equal("spawn: unknown option: stdot\nhint: the options are stdout, stderr, env",
        message_of(system.spawn, { "true", stdot = "x" }))
      assert.equal("spawn: the program is missing: got an empty list\n"
        .. 'hint: spawn{"program", "argument", ...}', message_of(system.spawn, {}))
      assert.equal("spawn: argument 2 must be a string: got number",
        message_of(system.spawn, { "echo", 1 }))
      assert.equal("spawn: env.A must be a string: got number",
        message_of(system.spawn, { "true", env = { A = 1 } }))
      assert.equal('spawn: a name in env must be a string without "=": got "A=B"',
        message_of(system.spawn, { "true", env = { ["A=B"] = "1" } }))
      local child <close> = assert(system.spawn({ "true" }))
      assert.equal("kill: no such signal: 1000", message_of(child.kill, child, 1000))
      assert.equal("wait: a process is expected: call it as process:wait()",
        message_of(child.wait))
    end)
  end)

  describe("clocks and the machine", function()
    it("measures and sleeps", function()
      local start = system.clock()
      assert.is_true(system.sleep(0.02))
      local passed = system.clock() - start
      assert.is_true(passed >= 0.02 and passed < 10)
      assert.is_true(math.abs(system.time() - os.time()) < 2)
      assert.equal("float", math.type(system.time()))
      assert.equal("sleep: seconds must be a number from 0 on: got -1",
        message_of(system.sleep, -1))
      assert.equal("sleep: seconds must be a number from 0 on: got string",
        message_of(system.sleep, "1"))
    end)

    it("hashes with XXH3-64", function()
      assert.equal("2d06800538d394c2", system.hash(""))
      assert.equal("78af5f94892f3950", system.hash("abc"))
      assert.is_not.equal(system.hash("a\0b"), system.hash("a\0c"))
    end)

    it("counts the processors it may use", function()
      assert.equal("integer", math.type(system.cpus()))
      assert.is_true(system.cpus() >= 1)
    end)
  end)
end)
