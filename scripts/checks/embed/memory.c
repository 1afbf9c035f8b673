/* memory.c -- a host whose memory runs out at every place where it can.
 *
 *     memory FOLDER [EVERY]
 *
 * All memory of an interpreter, Lua's and the core's, comes from one function of the host. Here it
 * fails at the n-th request, once and from there on, for every EVERY-th n (default 7; operations
 * with few requests: every n), while the operations of the table below run. Each time the error
 * must be a clean one, no tensor, descriptor or temporary file may be left, files must be the old
 * ones or the new ones, and the same operation must work afterwards; in the end the closed
 * interpreter has returned every byte. Then interpreters and contexts are opened and closed a
 * thousand times. The last line is `N passed, N failed`.
 */
#include <dirent.h>
#include <lauxlib.h>
#include <lua.h>
#include <moelua.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Sanitizers keep what was freed for a while. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

enum { FEW = 400, CYCLES = 1000, FIRST_CYCLES = 100, MORE_PAGES = 256 };

static const char *folder;
static long every = 7;
static int passed, failed;

/* ---- the host's memory ---------------------------------------------------------------------- */

static struct heap {
    long requests, fail_from, fail_count;
    long blocks;
    size_t bytes;
} heap;

static void *host_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
    struct heap *h = ud;
    size_t old = ptr ? osize : 0;       /* without a block, osize says what Lua wants one for */
    if (nsize == 0) {
        free(ptr);
        h->bytes -= old;
        h->blocks -= ptr != NULL;
        return NULL;
    }
    if (nsize > old) {                  /* Lua counts on blocks that can shrink */
        h->requests++;
        if (h->fail_from && h->requests >= h->fail_from &&
            h->requests - h->fail_from < h->fail_count)
            return NULL;
    }
    void *block = realloc(ptr, nsize);
    if (!block) return NULL;
    h->bytes += nsize - old;
    h->blocks += ptr == NULL;
    return block;
}

static void fail_from(long n, long count) {
    heap.fail_from = n ? heap.requests + n : 0;
    heap.fail_count = count;
}

/* ---- what must not change ------------------------------------------------------------------- */

static int entries_of(const char *path, const char *end) {
    DIR *d = opendir(path);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        size_t size = strlen(e->d_name), tail = strlen(end);
        n += size >= tail && strcmp(e->d_name + size - tail, end) == 0;
        if (tail && e->d_type == DT_DIR && e->d_name[0] != '.') {
            char inner[1024];
            snprintf(inner, sizeof inner, "%.700s/%.255s", path, e->d_name);
            n += entries_of(inner, end);
        }
    }
    if (d) closedir(d);
    return n;
}

static int descriptors(void) { return entries_of("/proc/self/fd", ""); }

static long resident_pages(void) {
    long size = 0, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &size, &pages) != 2) pages = 0;
    if (f) fclose(f);
    return pages;
}

static bool complain(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
    return false;
}

static void count(bool ok, const char *name, long n) {
    printf("%s  memory: %s: %ld requests\n", ok ? "ok    " : "FAILED", name, n);
    *(ok ? &passed : &failed) += 1;
}

/* ---- operations ----------------------------------------------------------------------------- */

/* `code` runs with failing memory; `clean` puts back what a failed attempt may have changed, and
 * raises when it finds something that must not be. The globals of `setup` are there for both. */
static const struct operation {
    const char *name, *code, *clean;
} operations[] = {
    {"load a model", "assert(moe.load(folder .. '/model'))", ""},
    {"forward", "model:loss(x, y):item()", ""},
    {"backward", "model:loss(x, y):backward()", "forget()"},
    {"an optimizer step",
     "local _ <close> = moe.scope(); model:loss(x, y):backward(); optimizer:step()", "forget()"},
    {"save a file", "assert(moe.checkpoint.save(file, { a = other }))",
     "local now = assert(system.read(file))\n"
     "assert(now == old_file or saved and now == new_file, 'the file is neither')\n"
     "assert(saved or now == old_file, 'the failed save changed the file')\n"
     "assert(system.write(file, old_file))"},
    /* Between two models, while files move into place, the folder is none. */
    {"save a model", "assert(model:save(folder .. '/saved'))",
     "local again, why = moe.load(folder .. '/saved')\n"
     "assert(again or not saved and why:find('it has no config.json', 1, true), why)\n"
     "if again then again:loss(x, y) else assert(model:save(folder .. '/saved')) end"},
    {"a corpus", "moe.data.corpus({ path = folder .. '/text', cache = cache })",
     "os.remove(cache)"},
    {"a line of the session",
     "local lines = { 'v = moe.randn(2, 3)', 'v', 'help(moe.zeros)' }\n"
     "require('moelua.repl').run { read = function() return table.remove(lines, 1) end,\n"
     "                             write = function() end }", "v = nil"},
    {"a training run",
     "moe.train(pupil, { data = corpus, steps = 2, batch = 2, out = folder .. '/run',\n"
     "                   fresh = true, quiet = true, save_every = 1 })", "forget()"},
    {"mix", "moe.mix({ dense, dense }, { router = { k = 1 } })", ""},
    {"branch",
     "moe.branch(dense, { a = corpus }, { steps = 1, batch = 2, out = folder .. '/branches',\n"
     "                                    fresh = true, quiet = true })", "forget()"},
    {"generate", "model:generate('ab', { max_tokens = 3, seed = 1 })", ""},
};

static const char setup[] =
    "moe = require('moelua')\n"
    "system = require('moelua.core').system\n"
    "local size = { dim = 4, layers = 1, heads = 2, hidden = 5, vocab = 256, context = 8 }\n"
    "dense, pupil = moe.model.new(size), moe.model.new(size)\n"
    "size.ffn = { kind = 'moe', experts = 3, hidden = 5,\n"
    "  router = { k = 2, balance = { form = 'btx' }, z_loss = 1e-3 } }\n"
    "model = moe.model.new(size)\n"
    "for _, m in ipairs { dense, pupil, model } do m.tokenizer = moe.tokenizer.bytes() end\n"
    "x, y = moe.tensor({ { 1, 2, 3 } }, 'i32'), moe.tensor({ { 2, 3, 4 } }, 'i32')\n"
    "optimizer = moe.optimizer(model)\n"
    "assert(model:save(folder .. '/model'))\n"
    "assert(model:save(folder .. '/saved'))\n"
    "file, cache, other = folder .. '/file.safetensors', folder .. '/tokens', moe.ones(3)\n"
    "assert(moe.checkpoint.save(file, { a = other }))\n"
    "new_file = system.read(file)\n"
    "assert(moe.checkpoint.save(file, { a = moe.zeros(3) }))\n"
    "old_file = system.read(file)\n"
    "assert(system.make_folder(folder .. '/text'))\n"
    "for i = 1, 60 do\n"
    "  assert(system.write(('%s/text/%d'):format(folder, i), ('word %d '):format(i):rep(9)))\n"
    "end\n"
    "corpus = assert(moe.data.corpus { path = folder .. '/text' })\n"
    "function forget()\n"
    "  for _, m in ipairs { dense, pupil, model } do\n"
    "    for _, p in ipairs(moe.nn.tensors(m)) do p:zero_grad() end\n"
    "  end\n"
    "end\n"
    "function collect()\n"
    "  collectgarbage(); collectgarbage()\n"
    "  local now = moe.memory()\n"
    "  live, tensors = now.live, now.count\n"
    "end\n";

/* ---- sweeping ------------------------------------------------------------------------------- */

static moelua *open_host(void) {
    moelua *m;
    moelua_config cfg = {.size = sizeof cfg, .alloc = host_alloc, .alloc_ud = &heap, .threads = 2};
    moelua_open(&m, &cfg);
    return m;
}

static bool run(moelua *m, const char *code) {
    if (moelua_run_string(m, code, "host") == MOELUA_OK) return true;
    return complain("    %s", moelua_errmsg(m));
}

static long long global(moelua *m, const char *name) {
    lua_State *L = moelua_state(m);
    lua_getglobal(L, name);
    long long value = lua_tointeger(L, -1);
    lua_pop(L, 1);
    return value;
}

/* A lack of memory is told by its status, or by the core's message. */
static bool is_clean(moelua *m, moelua_status s) {
    return s == MOELUA_OK || s == MOELUA_MEMORY || strstr(moelua_errmsg(m), "out of memory: ") ||
           strstr(moelua_errmsg(m), "not enough memory");
}

static bool same_as_before(moelua *m, long long live, long long tensors, int fds) {
    if (!run(m, "collect()")) return false;
    if (global(m, "live") != live || global(m, "tensors") != tensors)
        return complain("    %lld bytes in %lld tensors are live, not %lld in %lld",
                        global(m, "live"), global(m, "tensors"), live, tensors);
    if (descriptors() != fds) return complain("    %d descriptors, not %d", descriptors(), fds);
    if (entries_of(folder, ".tmp")) return complain("    a temporary file is left");
    return true;
}

static bool attempt(moelua *m, const struct operation *o, long n, long times) {
    fail_from(n, times);
    moelua_status s = moelua_run_string(m, o->code, "host");
    fail_from(0, 0);
    if (!is_clean(m, s)) return complain("    %s", moelua_errmsg(m));
    lua_pushboolean(moelua_state(m), s == MOELUA_OK);
    lua_setglobal(moelua_state(m), "saved");
    return run(m, o->clean);
}

static long requests_of(moelua *m, const struct operation *o) {
    long before = heap.requests;
    return run(m, o->code) ? heap.requests - before : -1;
}

static bool sweep(moelua *m, const struct operation *o, long *requests) {
    for (int i = 0; i < 2; i++)         /* what is made once is made now */
        if (!attempt(m, o, 0, 0) || !run(m, "collect()")) return false;
    *requests = requests_of(m, o);
    if (*requests < 0 || !attempt(m, o, 0, 0) || !run(m, "collect()")) return false;
    long long live = global(m, "live"), tensors = global(m, "tensors");
    int fds = descriptors();
    for (long n = 1; n <= *requests; n += *requests <= FEW ? 1 : every)
        for (int once = 0; once < 2; once++)
            if (!attempt(m, o, n, once ? 1 : 1L << 40) || !same_as_before(m, live, tensors, fds))
                return complain("    failing at request %ld%s", n,
                                once ? "" : " and from there on");
    return attempt(m, o, 0, 0) && run(m, o->code) && run(m, o->clean);
}

/* All operations in one interpreter, which must then close without a trace. */
static void sweep_operations(void) {
    moelua *m = open_host();
    lua_pushstring(moelua_state(m), folder);
    lua_setglobal(moelua_state(m), "folder");
    bool ready = run(m, setup);
    for (size_t i = 0; ready && i < sizeof operations / sizeof *operations; i++) {
        long n = 0;
        bool ok = sweep(m, &operations[i], &n);
        count(ok, operations[i].name, n);
    }
    moelua_close(m);
    bool empty = heap.blocks == 0 && heap.bytes == 0;
    if (!empty) complain("    %ld blocks of %zu bytes are left", heap.blocks, heap.bytes);
    count(ready && empty, "everything is returned", heap.requests);
}

static bool opening_fails_cleanly(long n, long times) {
    fail_from(n, times);
    moelua *m;
    moelua_config cfg = {.size = sizeof cfg, .alloc = host_alloc, .alloc_ud = &heap, .threads = 2};
    moelua_status s = moelua_open(&m, &cfg);
    fail_from(0, 0);
    if ((s == MOELUA_OK) != (m && moelua_state(m))) return complain("    half an interpreter");
    if (s != MOELUA_OK && !is_clean(m, s)) return complain("    %s", moelua_errmsg(m));
    if (s != MOELUA_OK && times > 1 && s != MOELUA_MEMORY) return complain("    status %d", s);
    moelua_close(m);
    return heap.blocks == 0 || complain("    %ld blocks are left", heap.blocks);
}

static void sweep_opening(void) {
    long before = heap.requests;
    bool ok = opening_fails_cleanly(0, 0);
    long requests = heap.requests - before;
    for (long n = 1; ok && n <= requests; n += n < 100 ? 1 : every)
        ok = opening_fails_cleanly(n, 1) && opening_fails_cleanly(n, 1L << 40);
    count(ok && opening_fails_cleanly(0, 0), "open an interpreter", requests);
}

/* ---- coming and going ----------------------------------------------------------------------- */

static bool cycle_interpreter(void) {
    moelua *m = open_host();
    bool ok = run(m, "local x = require('moelua').randn(1 << 17); assert(x:sum():item() < 1e6)");
    moelua_close(m);
    return ok;
}

static bool cycle_context(void) {
    moe_ctx *ctx;
    moe_tensor *t;
    moe_config cfg = {.size = sizeof cfg, .alloc = host_alloc, .alloc_ud = &heap};
    if (moe_open(&ctx, &cfg) != MOE_OK) return false;
    bool ok = moe_tensor_new(ctx, MOE_F32, 1, (int64_t[]){1 << 10}, &t) == MOE_OK;
    moe_tensor_release(t);
    moe_close(ctx);
    return ok;
}

static void come_and_go(const char *name, bool (*cycle)(void)) {
    long pages = 0, before = heap.requests;
    int fds = 0;
    bool ok = true;
    for (int i = 0; ok && i < CYCLES; i++) {
        if (i == FIRST_CYCLES) pages = resident_pages(), fds = descriptors();
        ok = cycle();
    }
    long more = resident_pages() - pages;
    if (more > MORE_PAGES && !SANITIZED) ok = complain("    %ld more pages", more);
    if (descriptors() != fds) ok = complain("    %d descriptors, not %d", descriptors(), fds);
    if (heap.blocks) ok = complain("    %ld blocks are left", heap.blocks);
    count(ok, name, heap.requests - before);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    folder = argv[1];
    if (argc > 2) every = strtol(argv[2], NULL, 10);
    setvbuf(stdout, NULL, _IOLBF, 0);
    sweep_opening();
    sweep_operations();
    come_and_go("a thousand interpreters", cycle_interpreter);
    come_and_go("a thousand contexts", cycle_context);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
