-- planted.lua: do the fuzzers find bugs? Plants one at a time in a copy of a reader and counts the
-- executions until it is found, for three seeds. Run by `scripts/dev fuzz planted` as
--   lua5.4 scripts/fuzz/planted.lua ROOT BUILD_FOLDER [NAME...]
-- The last line is `N passed, N failed`, a bug that one seed misses being a failure.
--
-- Every entry is { name, file, text, replacement, fuzzer or nil where the file tells }. The text
-- has to occur exactly once, so that the list complains when the reader changes. Bugs that a later
-- check makes up for are no bugs: without the comparison of begin and end, for one, the size of a
-- reversed range fits no shape.

local LIMIT = 1000000
local READ, JSON, STORED = "safetensors_read.c", "json.c", "stored.c"
local LIST, ENTRY, GGUF, BLOCKS = "list.c", "entry.c", "gguf_read.c", "blocks.c"

local bugs = {
  { "header length unchecked", READ, "if (n > size - 8)", "if (n > size)" },
  { "file shorter than its length field", READ, "if (size < 8) return", "if (size < 4) return" },
  { "data behind the tensors", READ, "if (end != f->data_size)", "if (end > f->data_size)" },
  { "data cut off", READ, "if (end != f->data_size)", "if (end < f->data_size)" },
  { "unknown dtype", READ, "!moe__stored_parse(name, &t->type))",
    "!moe__stored_parse(name, &t->type) && false)" },
  { "one dimension too many", READ, "if (t->rank == MOE_STORED_MAX_DIMS)",
    "if (t->rank > MOE_STORED_MAX_DIMS)" },
  { "hole", READ, "t->begin != begin ||", "t->begin < begin ||" },
  { "overlap", READ, "t->begin != begin ||", "t->begin > begin ||" },
  { "data longer than the shape", READ, "if (bytes != t->end - t->begin)",
    "if (bytes > t->end - t->begin)" },
  { "size taken for an end", READ, "if (bytes != t->end - t->begin)",
    "if (bytes != t->end - t->begin && bytes != t->end)" },
  { "tensor twice", READ, "if (by_name(tensors(f) + i - 1, tensors(f) + i) == 0)",
    "if (i > 1 && by_name(tensors(f) + i - 1, tensors(f) + i) == 0)" },
  { "metadata twice", READ, "if (by_key(pairs(f) + i - 1, pairs(f) + i) == 0)",
    "if (by_key(pairs(f) + i - 1, pairs(f) + i) == 1)" },
  { "field twice", READ, "if (seen & 1u << which && which < 3)",
    "if (seen & 1u << which && which < 2)" },
  { "field missing", READ, "if ((seen & 7) != 7)", "if ((seen & 5) != 5)" },
  { "no UTF-8", READ, "if (valid != f->header_size)", "if (valid + 1 < f->header_size && false)" },
  { "leak when refused", READ, "    if (s)\n        moe__safetensors_close(f);",
    "    if (s == MOE_EFORMAT) return s;\n    if (s)\n        moe__safetensors_close(f);" },
  { "double free without memory", LIST, "    if (!items) return false;",
    "    if (!items) moe__free(ctx, l->items, l->capacity * l->size);\n" ..
      "    if (!items) return false;" },
  { "view at any address", ENTRY, "(uintptr_t)e->data % bytes == 0", "bytes > 0" },
  { "control character in a message", ENTRY, "c < 0x20 || c == 0x7f", "c < 0x20" },
  { "product of sizes overflows", STORED,
    "__builtin_mul_overflow(count, shape[i], &count))", "(count *= shape[i], false))" },
  { "size above 2^63", STORED, "if (shape[i] > INT64_MAX || ", "if (" },
  { "number of bits overflows", STORED,
    "if (__builtin_mul_overflow(count, (uint64_t)types[type].bits, &bits)) " ..
      "return MOE_SIZE_OVERFLOW;",
    "bits = count * (uint64_t)types[type].bits;" },
  { "bits that fill no byte", STORED, "    if (bits % 8) return MOE_SIZE_MISALIGNED;\n", "" },
  { "integer below i32", STORED, "x > INT32_MAX || x < INT32_MIN", "x > INT32_MAX" },
  { "integer parse overflow", JSON, "__builtin_mul_overflow(value, (uint64_t)10, &value) ||",
    "(value *= 10, false) ||" },
  { "escape at the end", JSON,
    '    if (j->end - j->at < 2) return moe__json_fail(j, "an escape is cut off");\n', "" },
  { "digits of an escape at the end", JSON,
    '    if (j->end - j->at < 4) return moe__json_fail(j, "an escape is cut off");\n', "" },
  { "control character in a string", JSON,
    "        if ((unsigned char)*j->at < 0x20)\n" ..
      '            return moe__json_fail(j, "a control character in a string");\n', "" },
  { "one level too deep", JSON, "if (depth == MAX_DEPTH)", "if (depth > MAX_DEPTH)" },
  { "lone surrogate", JSON, "if (low < 0xdc00 || low > 0xdfff)", "if (low < 0xdc00)" },
  { "overlong UTF-8", JSON, "    if (lead == 0xe0) low = 0xa0;\n", "" },
  { "number that begins with 0", JSON,
    '    if (*first == \'0\' && j->at - first > 1) ' ..
      'return moe__json_fail(j, "a number begins with 0");\n',
    "" },
  { "something behind the header", JSON,
    'return peek(j) < 0 || moe__json_fail(j, "something follows the value");', "return true;" },

  { "gguf: string past the end", GGUF, "sizeof size) || size > left(f)) return false;",
    "sizeof size)) return false;" },
  { "gguf: array past the end", GGUF, "&bytes) || bytes > left(f))", "&bytes))" },
  { "gguf: size of an array overflows", GGUF,
    "__builtin_mul_overflow(p->count, moe__gguf_type_size(p->type), &bytes)",
    "(bytes = p->count * 4, false)" },
  { "gguf: boolean of any value", GGUF, "if (p->data[i] & ~1)", "if (p->data[i] & ~3)" },
  { "gguf: type 13", GGUF, "if (type >= MOE_GGUF_TYPES)", "if (type > MOE_GGUF_TYPES)" },
  { "gguf: array of arrays", GGUF, "if (p->array && type == MOE_GGUF_ARRAY)", "if (false)" },
  { "gguf: alignment 48", GGUF, "|| alignment & (alignment - 1))", "|| alignment & 1)" },
  { "gguf: alignment of another type", GGUF, "if (p->array || p->type != MOE_GGUF_U32)",
    "if (p->array)" },
  { "gguf: five dimensions", GGUF, "if (e->rank > MOE_GGUF_MAX_DIMS)",
    "if (e->rank > MOE_GGUF_MAX_DIMS + 1)" },
  { "gguf: other offset", GGUF, "if (e->at != *end)", "if (e->at > *end)" },
  { "gguf: something at the end", GGUF, "f->file_size == padded) return MOE_OK;",
    "f->file_size >= padded) return MOE_OK;" },
  { "gguf: key twice", GGUF, "if (by_key(pairs(f) + i - 1, pairs(f) + i) == 0)",
    "if (by_key(pairs(f) + i - 1, pairs(f) + i) == 1)" },
  { "gguf: tensor twice", GGUF, "if (moe__entry_by_name(tensors(f) + i - 1, tensors(f) + i) == 0)",
    "if (moe__entry_by_name(tensors(f) + i - 1, tensors(f) + i) == 1)" },
  { "gguf: leak when refused", GGUF, "    if (s)\n        moe__gguf_close(f);",
    "    if (s == MOE_EFORMAT) return s;\n    if (s)\n        moe__gguf_close(f);" },
  { "gguf: shapes of the other order", GGUF, "for (uint32_t i = e->rank; i-- > 0;)",
    "for (uint32_t i = 0; i < e->rank; i++)" },
  { "gguf: memory for all that is said", GGUF, "    if (*npairs > MAX_PAIRS)\n",
    "    moe__free(f->ctx, moe__alloc(f->ctx, 64 * (size_t)*npairs), 64 * (size_t)*npairs);\n" ..
      "    if (*npairs > MAX_PAIRS)\n" },
  { "gguf: rows of part of a block", "stored.c", "if (row % types[type].elements)",
    "if (count % types[type].elements)", "gguf" },
  { "gguf: sign of Q8_0", BLOCKS, "y[j] = (float)(signed char)b[2 + j] * d;",
    "y[j] = (float)b[2 + j] * d;" },
}

local root, build = arg[1], arg[2]
local chosen = {}
for i = 3, #arg do chosen[arg[i]] = true end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function sh(command) return os.execute(command) end

-- The text with the bug in it; nil and why not.
local function plant(source, text, replacement)
  local from, to = source:find(text, 1, true)
  if not from then return nil, "its text is gone" end
  if source:find(text, to + 1, true) then return nil, "its text occurs twice" end
  return source:sub(1, from - 1) .. replacement .. source:sub(to + 1)
end

local flags = "-std=c11 -D_GNU_SOURCE -DMOELUA_TESTING -DMOE_REAL=float -O2 -g -w " ..
  "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer " ..
  "-fsanitize-coverage=inline-8bit-counters,pc-table"
local libraries = "$(pkg-config --libs openblas jansson zlib) -lpthread -lm"

local makers = { safetensors = "fuzz_files", gguf = "fuzz_gguf_files" }

-- The fuzzer over the copy with the bug: the linker takes the rest of the core from the archive.
local function compile(folder, file, fuzzer)
  local function of(name) return ("%s/CMakeFiles/%s.dir/scripts/fuzz/*.o "):format(build, name) end
  local objects = of("fuzz_" .. fuzzer) .. of(makers[fuzzer])
  return sh(("clang %s -I%s -c %s -o %s.o && " ..
    "clang -fsanitize=fuzzer,address,undefined %s.o %s %s %s -o %s")
    :format(flags, quote(root .. "/core"), quote(folder .. "/" .. file), quote(folder .. "/bug"),
      quote(folder .. "/bug"), objects, build .. "/libmoecore.a", libraries,
      quote(folder .. "/fuzz")))
end

-- Executions until the bug is found; nil when it is not.
local function hunt(folder, seed)
  local log = ("%s/log%d"):format(folder, seed)
  local found = not sh(("cd %s && ./fuzz -runs=%d -seed=%d -max_len=256 -timeout=5 " ..
    "-rss_limit_mb=512 -print_final_stats=1 -artifact_prefix=seed%d- > %s 2>&1")
    :format(quote(folder), LIMIT, seed, seed, quote(log)))
  local count = read(log):match("stat::number_of_executed_units:%s*(%d+)")
  return found and tonumber(count) or nil
end

local function try(number, bug)
  local name, file, text, replacement, fuzzer = table.unpack(bug)
  fuzzer = fuzzer or (file == GGUF or file == BLOCKS) and "gguf" or "safetensors"
  local folder = ("%s/planted/%02d"):format(build, number)
  local source, why = plant(read(root .. "/core/checkpoint/" .. file), text, replacement)
  if not source then return false, why end
  sh(("rm -rf %s && mkdir -p %s"):format(quote(folder), quote(folder)))
  write(folder .. "/" .. file, source)
  if not compile(folder, file, fuzzer) then return false, "it does not compile" end
  local counts, all = {}, true
  for seed = 1, 3 do
    local count = hunt(folder, seed)
    counts[seed] = ("%9s"):format(count or "-")
    all = all and count
  end
  return all, table.concat(counts), name
end

local passed, failed = 0, 0
print(("%-34s %-18s %s"):format("planted bug", "file", "executions until found, seeds 1, 2, 3"))
for number, bug in ipairs(bugs) do
  if next(chosen) == nil or chosen[bug[1]] then
    local ok, said = try(number, bug)
    print(("%-34s %-18s %s%s"):format(bug[1], bug[2], said, ok and "" or "   NOT FOUND"))
    io.stdout:flush()
    passed, failed = passed + (ok and 1 or 0), failed + (ok and 0 or 1)
  end
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and passed > 0)
