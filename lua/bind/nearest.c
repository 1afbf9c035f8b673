/* nearest.c -- the name that was probably meant: for every "did you mean", from C and from Lua.
 *
 * A name is near when at most two typing errors (letters that are missing, too many, wrong, or
 * swapped with their neighbour) separate it from the word, and fewer than half its letters. */
#include "bind.h"

#include <string.h>

#define FAR 3                   /* so many errors make another word */
#define LONGEST 256

static int least(int a, int b) { return a < b ? a : b; }

/* Row i of the table of distances from the ones before; returns the smallest number in it. */
static int fill_row(const char *a, const char *b, int i, int m, const int *before, const int *above,
                    int *row) {
    int best = row[0] = i;
    for (int j = 1; j <= m; j++) {
        int edits = above[j - 1] + (a[i - 1] != b[j - 1]);
        edits = least(edits, least(above[j], row[j - 1]) + 1);
        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
            edits = least(edits, before[j - 2] + 1);
        row[j] = edits;
        best = least(best, edits);
    }
    return best;
}

/* Optimal string alignment; FAR when there are that many errors or more. */
static int distance(const char *a, size_t na, const char *b, size_t nb) {
    if (na > LONGEST || nb > LONGEST || na + FAR <= nb || nb + FAR <= na) return FAR;
    int rows[3][LONGEST + 1], n = (int)na, m = (int)nb;
    for (int j = 0; j <= m; j++) rows[0][j] = j;
    for (int i = 1; i <= n; i++)
        if (fill_row(a, b, i, m, rows[(i + 1) % 3], rows[(i + 2) % 3], rows[i % 3]) >= FAR)
            return FAR;
    return least(rows[n % 3][m], FAR);
}

lmoe_guess lmoe_new_guess(const char *word, size_t size) {
    return (lmoe_guess){.word = word, .size = size, .edits = FAR};
}

bool lmoe_consider(lmoe_guess *g, const char *name, size_t size) {
    int edits = distance(g->word, g->size, name, size);
    size_t longer = size > g->size ? size : g->size;
    if (edits >= g->edits || 2 * (size_t)edits >= longer) return false;
    g->edits = edits;
    g->name = name;
    g->length = size;
    return true;
}

/* nearest(word, list of names) -> the name, or nil. */
static int nearest(lua_State *L) {
    size_t size;
    if (lua_type(L, 1) != LUA_TSTRING)
        lmoe_raise(L, "nearest: name must be a string, not %s", lmoe_describe(L, 1));
    if (!lua_istable(L, 2))
        lmoe_raise(L, "nearest: candidates must be a list, not %s", lmoe_describe(L, 2));
    lua_settop(L, 2);
    lua_pushnil(L);
    const char *word = lua_tolstring(L, 1, &size);
    lmoe_guess guess = lmoe_new_guess(word, size);
    for (lua_Integer i = 1; lua_rawgeti(L, 2, i) != LUA_TNIL; i++) {
        if (lua_type(L, -1) != LUA_TSTRING)
            lmoe_raise(L, "nearest: candidate %I must be a string, not %s", (LUAI_UACINT)i,
                       lmoe_describe(L, -1));
        const char *name = lua_tolstring(L, -1, &size);
        if (lmoe_consider(&guess, name, size))
            lua_replace(L, 3);
        else
            lua_pop(L, 1);
    }
    lua_settop(L, 3);
    return 1;
}

void lmoe_add_nearest(lua_State *L) {
    lua_pushcfunction(L, nearest);
    lua_setfield(L, -2, "nearest");
}
