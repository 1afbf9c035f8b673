/* lines.c -- core.text.lines: the lines of texts, and which of them another text has. */
#include "text/lines.h"

#include "system.h"

#define LINES_TYPE "moelua.Lines"

static moe_lines *check_lines(lua_State *L, const char *what) {
    moe_lines *set = luaL_testudata(L, 1, LINES_TYPE);
    if (!set) lmoe_raise(L, "%s: lines expected, got %s", what, luaL_typename(L, 1));
    if (!set->ctx) lmoe_raise(L, "%s: the lines were released", what);
    return set;
}

/* add(text): keeps its lines. */
static int add(lua_State *L) {
    size_t size;
    moe_lines *set = check_lines(L, "add");
    const char *text = lmoe_check_text(L, 2, "add", "text", &size);
    lmoe_check(L, moe__lines_add(set, text, (int64_t)size));
    return 0;
}

/* tally(text): how many lines it has, and how many of them were added before. */
static int tally(lua_State *L) {
    size_t size;
    const moe_lines *set = check_lines(L, "tally");
    const char *text = lmoe_check_text(L, 2, "tally", "text", &size);
    int64_t lines = 0, shared = 0;
    moe__lines_tally(set, text, (int64_t)size, &lines, &shared);
    lua_pushinteger(L, lines);
    lua_pushinteger(L, shared);
    return 2;
}

static int release(lua_State *L) {
    moe_lines *set = luaL_testudata(L, 1, LINES_TYPE);
    if (!set) return lmoe_raise(L, "release: lines expected, got %s", luaL_typename(L, 1));
    moe__lines_close(set);
    return 0;
}

/* lines(longer): an empty set of lines of more than so many bytes. */
static int lines(lua_State *L) {
    lua_Integer longer = lmoe_checkinteger(L, 1);
    moe_lines *set = lua_newuserdatauv(L, sizeof *set, 0);
    set->ctx = NULL;
    luaL_setmetatable(L, LINES_TYPE);
    moe__lines_open(lmoe_ctx(L), 1, '\n', longer, set);
    return 1;
}

void lmoe_add_lines(lua_State *L) {
    static const luaL_Reg methods[] = {{"add", add}, {"tally", tally}, {"release", release},
                                       {NULL, NULL}};
    lmoe_newtype(L, LINES_TYPE, release, methods);
    lua_pushcfunction(L, lines);
    lua_setfield(L, -2, "lines");
}
