-- Corpora and token files: what is read, in which order, and what is refused.
local helper = require("spec.helper")
local split_of = helper.split_of
local core = require("moelua.core")
local data = require("moelua.data")
local lfs = require("lfs")

-- Without waiting for the disk, as core.system.write would: there are hundreds.
local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
  return path
end

-- Deterministic prose: lines of ten words, a blank line after every eighth.
local function prose(bytes, seed)
  local lines, size, state = {}, 0, seed
  while size < bytes do
    local words = {}
    for i = 1, 10 do
      state = (state * 1103515245 + 12345) % 2147483648
      words[i] = ("%x"):format(state >> 12)
    end
    local line = table.concat(words, " ") .. (#lines % 8 == 7 and "\n\n" or "\n")
    lines[#lines + 1], size = line, size + #line
  end
  return table.concat(lines):sub(1, bytes)
end

-- Throws unless f raises exactly this message, with the line of this file in front.
local function misuse(f, message)
  local ok, got = pcall(f)
  assert.is_false(ok)
  assert.equal(message, (got:gsub("^[^\n]*data_spec%.lua:%d+: ", "")))
  assert.matches("data_spec%.lua:%d+: ", got)
end

describe("moe.data.corpus", function()
  local folder

  before_each(function() folder = helper.tmpdir() end)

  local function corpus_of(texts, more)
    for i, text in ipairs(texts) do write(("%s/%04d.txt"):format(folder, i), text) end
    local opt = { path = folder, match = "%.txt$" }
    for key, value in pairs(more or {}) do opt[key] = value end
    return assert(data.corpus(opt))
  end

  local function texts(n, bytes)
    local list = {}
    for i = 1, n do list[i] = prose(bytes, i) end
    return list
  end

  it("holds every document in the split of its hash, in order of the paths", function()
    local list = texts(60, 500)
    local corpus = corpus_of(list)
    local want = { test = {}, validation = {}, train = {} }
    for _, text in ipairs(list) do table.insert(want[split_of(text)], text) end
    for split, parts in pairs(want) do
      assert.equal(#parts, corpus:documents(split))
      assert.equal(500 * #parts, corpus:tokens(split))
      assert.equal(table.concat(parts), data.text(corpus, split, 1000000))
    end
    assert.equal(60, corpus:documents())
    assert.equal(30000, corpus:tokens())
    assert.equal(256, corpus:vocab())
    assert.equal(table.concat(want.train):sub(1, 700), data.text(corpus, "train", 700))
    assert.matches("^Corpus moelua%-.*: 30000 tokens in 60 documents$", tostring(corpus))
  end)

  it("drops exact duplicates and empty files, and keeps any byte", function()
    local odd = "a\0b\255\r\n"
    local corpus = corpus_of({ odd, "", "other", odd, "  \n" })
    assert.equal(2, corpus:documents())
    assert.equal(#odd + 5, corpus:tokens())
    assert.equal("1", corpus:metadata().duplicates)
    local got = data.text(corpus, "train", 100) .. data.text(corpus, "test", 100) ..
      data.text(corpus, "validation", 100)
    assert.is_truthy(got:find(odd, 1, true))
  end)

  it("takes lists, looks into folders, but not into hidden ones or through links", function()
    lfs.mkdir(folder .. "/sub")
    lfs.mkdir(folder .. "/.hidden")
    write(folder .. "/sub/b.h", "bbb")
    write(folder .. "/a.c", "aa")
    write(folder .. "/a.txt", "none")
    write(folder .. "/.hidden/c.h", "cccc")
    lfs.link(folder, folder .. "/sub/loop", true)
    local corpus = assert(data.corpus { path = folder, match = "%.[ch]$" })
    assert.equal(5, corpus:tokens())
    local paths = { folder .. "/sub", folder .. "/a.txt", folder .. "/sub/b.h" }
    corpus = assert(data.corpus { path = paths, match = "%.h$" })
    assert.equal(7, corpus:tokens())
    assert.equal("sub", corpus.name)
    assert.equal("x", assert(data.corpus { path = folder .. "/a.c", name = "x" }).name)
  end)

  it("reads .gz and .dz", function()
    local text = prose(5000, 3)
    write(folder .. "/plain", text)
    local status = os.execute(("gzip -c '%s/plain' > '%s/t.dz'"):format(folder, folder))
    assert.is_true(status)
    local corpus = assert(data.corpus { path = folder .. "/t.dz" })
    assert.equal(5000, corpus:tokens())
    assert.equal(text, data.text(corpus, split_of(text), 5000))
    write(folder .. "/broken.gz", assert(core.system.read(folder .. "/t.dz")):sub(1, 200))
    local none, message, code = data.corpus { path = folder .. "/broken.gz" }
    assert.is_nil(none)
    assert.matches("^corpus: .*/broken%.gz: ", message)
    assert.equal("format", code)
  end)

  it("leaves out whole documents, evenly spaced, above max_bytes", function()
    local list = texts(200, 200)
    local corpus = corpus_of(list, { max_bytes = 10000 })
    assert.is_true(corpus:tokens() <= 10000 and corpus:tokens() >= 9200)
    local whole = corpus_of(list)
    for _, split in ipairs({ "test", "validation", "train" }) do
      local share = corpus:documents(split) / whole:documents(split)
      assert.is_true(math.abs(share - 0.25) < 0.25, split)
      assert.is_true(corpus:documents(split) >= 1)
    end
    local train = data.text(corpus, "train", 1000000)
    local first, last
    for i, text in ipairs(list) do
      if train:find(text, 1, true) then first, last = first or i, i end
    end
    assert.is_true(first <= 20 and last >= 180)
    local tiny = corpus_of(list, { max_bytes = 10 })
    assert.same({ 1, 1, 1 }, { tiny:documents("train"), tiny:documents("validation"),
      tiny:documents("test") })
    assert.equal(200, corpus_of(list, { max_bytes = 40000 }):documents())
  end)

  it("counts the lines of test that train holds", function()
    local shared = "this line is in all of the documents"
    local list = {}
    for i = 1, 100 do list[i] = shared .. "\nunique to the document " .. i .. "\nshort\n" end
    local corpus = corpus_of(list)
    local share, common, lines = data.shared_lines(corpus)
    assert.equal(2 * corpus:documents("test"), lines)
    assert.equal(corpus:documents("test"), common)
    assert.equal(0.5, share)
  end)

  it("saves a token file that opens again", function()
    local corpus = corpus_of(texts(40, 300), { name = "mine" })
    assert.is_nil(corpus.path)
    assert(corpus:save(folder .. "/saved.tokens"))
    local again = assert(data.open(folder .. "/saved.tokens"))
    assert.equal("mine", again.name)
    assert.equal(folder .. "/saved.tokens", again.path)
    assert.same(corpus:metadata(), again:metadata())
    assert.equal(data.text(corpus, "train", 99999), data.text(again, "train", 99999))
    again:release()
    again:release()
    misuse(function() again:tokens("train") end, "tokens: the corpus was released")
  end)

  describe("cache", function()
    local function cached(more)
      local opt = { path = folder, match = "%.txt$", cache = folder .. "/deep/er/x.tokens" }
      for key, value in pairs(more or {}) do opt[key] = value end
      return assert(data.corpus(opt))
    end

    -- What the file is: a rebuilt one is another.
    local function identity() return lfs.attributes(folder .. "/deep/er/x.tokens", "ino") end

    it("is used again while sources and options agree", function()
      for i = 1, 30 do write(folder .. "/" .. i .. ".txt", prose(100, i)) end
      local first, file = cached(), identity()
      local again = cached({ name = "other" })
      assert.equal(file, identity())
      assert.equal("other", again.name)
      assert.equal(folder .. "/deep/er/x.tokens", again.path)
      assert.equal(data.text(first, "train", 9999), data.text(again, "train", 9999))
    end)

    it("is made anew when a file or an option changes", function()
      for i = 1, 30 do write(folder .. "/" .. i .. ".txt", prose(100, i)) end
      assert.equal(3000, cached():tokens())
      write(folder .. "/31.txt", prose(70, 31))
      assert.equal(3070, cached():tokens())
      write(folder .. "/31.txt", prose(80, 31))
      assert.equal(3080, cached():tokens())
      assert.is_true(cached({ max_bytes = 1500 }):tokens() <= 1700)
      lfs.touch(folder .. "/31.txt", 1000000000)
      local before = identity()
      assert.equal(3080, cached():tokens())
      assert.not_equal(before, identity())
    end)

    it("that is damaged is made anew", function()
      for i = 1, 30 do write(folder .. "/" .. i .. ".txt", prose(100, i)) end
      local path = folder .. "/deep/er/x.tokens"
      local hash = cached().hash
      local good = assert(core.system.read(path))
      for _, bad in ipairs({ good:sub(1, -2), good:sub(1, 600), good:sub(1, -2) .. "\9",
        good .. "more" }) do
        write(path, bad)
        assert.equal(hash, cached().hash)
        assert.equal(good, core.system.read(path))
      end
    end)

    it("that is something else is left alone", function()
      write(folder .. "/1.txt", "text")
      local path = write(folder .. "/precious", "my only copy of something")
      local none, message, code = data.corpus { path = folder .. "/1.txt", cache = path }
      assert.is_nil(none)
      local hint = "\nhint: it would be overwritten: remove it, or choose another cache"
      assert.equal(hint, message:sub(-#hint))
      assert.equal("format", code)
      assert.equal("my only copy of something", core.system.read(path))
    end)
  end)

  describe("refuses", function()
    local function refused(opt, message, code)
      local none, got, got_code = data.corpus(opt)
      assert.is_nil(none)
      assert.equal(message, got)
      assert.equal(code, got_code)
    end

    it("paths without text", function()
      refused({ path = folder .. "/none" }, "corpus: no such file or folder: " .. folder .. "/none",
        "missing")
      refused({ path = folder }, "corpus: the folder holds no files: " .. folder, "missing")
      write(folder .. "/a.txt", "\n")
      write(folder .. "/b.txt", "")
      refused({ path = folder, match = "%.c$" },
        "corpus: no file name matches \"%.c$\": " .. folder .. " holds 2 files", "missing")
      refused({ path = folder }, "corpus: there is no text: 2 files hold none, the first is " ..
        folder .. "/a.txt", "format")
    end)

    it("files that cannot be read, by name", function()
      lfs.link("nowhere", folder .. "/dangling.txt", true)
      refused({ path = folder },
        "corpus: read: " .. folder .. "/dangling.txt: No such file or directory", "missing")
      refused({ path = "/dev/null" },
        "corpus: neither file nor folder but a char device: /dev/null", "io")
    end)

    it("wrong options", function()
      local function wrong(opt, message)
        misuse(function() data.corpus(opt) end, message)
      end
      wrong({}, "moe.data.corpus: option 'path' is missing: string or table expected")
      wrong({ path = "x", mach = "" },
        "moe.data.corpus: unknown option 'mach'\nhint: did you mean 'match'?")
      wrong({ path = {} }, "corpus: path is an empty list")
      wrong({ path = { 7 } }, "corpus: path must be a string, not 7")
      wrong({ path = "x", match = "%" }, "corpus: match is no Lua pattern: \"%\"")
      wrong({ path = "x", max_bytes = 0 }, "moe.data.corpus: max_bytes must be positive: 0")
      wrong({ path = "x", tokenizer = "words" }, "moe.data.corpus: there is no tokenizer " ..
        "\"words\"\nhint: \"bytes\", the path of one, or what moe.tokenizer.open returned")
    end)
  end)
end)

describe("package files", function()
  it("are those that dpkg lists", function()
    local files = assert(data.package_files("libc6-dev", "/stdio%.h$"))
    assert.same({ "/usr/include/stdio.h" }, { files[1] })
    for _, path in ipairs(files) do assert.equal("file", lfs.attributes(path, "mode")) end
  end)

  it("of a package that is missing come with the command to install it", function()
    local none, message, code = data.package_files("no-such-package-here")
    assert.is_nil(none)
    assert.equal("package_files: the package is not installed: no-such-package-here\n" ..
      "hint: apt-get install no-such-package-here", message)
    assert.equal("missing", code)
    none, message = data.package_files("libc6-dev", "no such file")
    assert.is_nil(none)
    assert.equal("package_files: no file of libc6-dev matches \"no such file\"", message)
    misuse(function() data.package_files("x; true") end,
      "package_files: no name of a package: x; true")
  end)
end)

describe("token file", function()
  local folder

  setup(function() folder = helper.tmpdir() end)

  local function token_file(change)
    local parts = {
      ids = { dtype = "U16", shape = { 4 }, data = ("<I2I2I2I2"):pack(1, 2, 3, 4) },
      docs = { dtype = "I64", shape = { 3 }, data = ("<i8i8i8"):pack(0, 1, 4) },
      split = { dtype = "U8", shape = { 2 }, data = "\2\1" },
    }
    local metadata = { vocab = "256", tokenizer = "bytes" }
    if change then change(parts, metadata) end
    local path = folder .. "/x.tokens"
    assert(core.checkpoint.save(path, parts, metadata))
    return path
  end

  it("is read as documents by split", function()
    local corpus = assert(data.open(token_file()))
    assert.same({ 1, 3, 0 }, { corpus:tokens("train"), corpus:tokens("validation"),
      corpus:tokens("test") })
    assert.equal("\2\3\4", data.text(corpus, "validation", 9))
    assert.same({}, corpus.handle:ids("test", 1, 5))
  end)

  it("may have wide ids", function()
    local corpus = assert(data.open(token_file(function(parts, metadata)
      parts.ids = { dtype = "U32", shape = { 4 }, data = ("<I4I4I4I4"):pack(1, 70000, 3, 4) }
      metadata.vocab = "70001"
    end)))
    assert.equal(70001, corpus:vocab())
    assert.same({ 70000, 3, 4 }, corpus.handle:ids("validation", 1, 3))
  end)

  it("that makes no sense is refused", function()
    local function refused(message, change)
      local path = token_file(change)
      local none, got, code = data.open(path)
      assert.is_nil(none)
      assert.equal("corpus: " .. path .. message, got)
      assert.equal("format", code)
    end
    refused(" is no token file: it has no tensor \"docs\"", function(p) p.docs = nil end)
    refused(": \"ids\" is I16 instead of U16 or U32", function(p) p.ids.dtype = "I16" end)
    refused(": \"ids\" has 2 dimensions instead of one", function(p) p.ids.shape = { 2, 2 } end)
    refused(": \"docs\" has 3 offsets: 3 documents need one more", function(p)
      p.split = { dtype = "U8", shape = { 3 }, data = "\0\0\0" }
    end)
    refused(": document 1 begins at token 1 instead of 0", function(p)
      p.docs.data = ("<i8i8i8"):pack(1, 2, 4)
    end)
    refused(": document 2 ends at token 1: it begins at 3, and there are 4 tokens", function(p)
      p.docs.data = ("<i8i8i8"):pack(0, 3, 1)
    end)
    refused(": document 1 ends at token 5: it begins at 0, and there are 4 tokens", function(p)
      p.docs.data = ("<i8i8i8"):pack(0, 5, 4)
    end)
    refused(": the documents end at token 3: there are 4", function(p)
      p.docs.data = ("<i8i8i8"):pack(0, 1, 3)
    end)
    refused(": document 2 is in split 3: known are 0 to 2", function(p) p.split.data = "\0\3" end)
    refused(": the metadata gives no size of the vocabulary", function(_, m) m.vocab = "many" end)
    refused(": the metadata gives no size of the vocabulary", function(_, m) m.vocab = nil end)
  end)

  it("with other text than was written into it is refused", function()
    local path = token_file(function(_, m) m.hash = "0123456789abcdef" end)
    local none, message, code = data.open(path)
    assert.is_nil(none)
    assert.matches("^corpus: " .. path:gsub("%p", "%%%0") .. " is damaged: its text is not what "
      .. "was written %(hash 0123456789abcdef, now %x+%)\nhint: save the corpus again$",
      message)
    assert.equal("format", code)
    local hash = message:match("now (%x+)")
    assert.equal(hash, assert(data.open(token_file(function(_, m) m.hash = hash end))).hash)
  end)

  it("has the hash of its text, its documents and their splits", function()
    local hashes, count = {}, 0
    local function note(change)
      local hash = assert(data.open(token_file(change))).hash
      if not hashes[hash] then count = count + 1 end
      hashes[hash] = true
    end
    note()
    note(function(_, m) m.name, m.sources = "other", "elsewhere" end)
    assert.equal(1, count)
    note(function(p) p.ids.data = ("<I2I2I2I2"):pack(1, 2, 3, 5) end)
    note(function(p) p.docs.data = ("<i8i8i8"):pack(0, 2, 4) end)
    note(function(p) p.split.data = "\1\2" end)
    note(function(p)
      p.ids = { dtype = "U32", shape = { 4 }, data = ("<I4I4I4I4"):pack(1, 2, 3, 4) }
    end)
    assert.equal(5, count)
  end)

  it("with an id beyond the vocabulary is refused when it is read", function()
    local corpus = assert(data.open(token_file(function(_, m) m.vocab = "3" end)))
    misuse(function() corpus:window_batch("validation", 2, nil, 1, 1) end,
      "token 3 of the corpus is 3: the vocabulary has 3")
  end)
end)
