/* config.c -- a fuzzer of what reads text: JSON (config.json, tokenizer.json, an index of shards)
 * and YAML.
 *
 * The library is the whole one; a script, config.lua or yaml.lua, makes the texts up and says what
 * must be true of what becomes of them. Here time and memory are watched.
 */
#include <ftw.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "moelua.h"

#define MOST_MEMORY ((size_t)24 << 20)
#define MOST_SECONDS 2      /* a processor's, not the clock's */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static moelua *interpreter;
static struct {
    size_t live, peak;
} heap;

static void *counted(void *ud, void *block, size_t old_size, size_t new_size) {
    (void)ud;
    void *moved = NULL;
    size_t was = block ? old_size : 0;
    if (new_size == 0)
        free(block);
    else if (!(moved = realloc(block, new_size)))
        return NULL;
    heap.live += new_size - was;
    if (heap.live > heap.peak) heap.peak = heap.live;
    return moved;
}

static char folder[64];

static int forget(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info, (void)type, (void)place;
    return remove(path);
}

static void forget_folder(void) { nftw(folder, forget, 8, FTW_DEPTH | FTW_PHYS); }

_Noreturn static void violation(const char *what) {
    fprintf(stderr, "VIOLATION %s\n", what);
    forget_folder();
    abort();
}

static void open_interpreter(void) {
    static char script[] = FUZZ_SCRIPT;
    char *argv[] = {folder};
    snprintf(folder, sizeof folder, "/tmp/moelua-fuzz-%ld", (long)getpid());
    atexit(forget_folder);
    moelua_config config = {.size = sizeof config, .alloc = counted, .threads = 1};
    if (moelua_open(&interpreter, &config) != MOELUA_OK ||
        moelua_run_file(interpreter, script, 1, argv) != MOELUA_OK)
        violation(moelua_errmsg(interpreter));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!interpreter) open_interpreter();
    lua_State *L = moelua_state(interpreter);
    heap.peak = heap.live;
    size_t before = heap.live;
    alarm(10 * MOST_SECONDS);
    lua_getglobal(L, "fuzz");
    lua_pushlstring(L, (const char *)data, size);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) violation(lua_tostring(L, -1));
    alarm(0);
    double seconds = lua_tonumber(L, -1);
    lua_settop(L, 0);
    if (seconds > MOST_SECONDS) violation("it took too long");
    if (heap.peak - before > MOST_MEMORY) violation("it took too much memory");
    return 0;
}
