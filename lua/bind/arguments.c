/* arguments.c -- reading the arguments of functions in C, and saying what is wrong with them in the
 * terms of help(): the function and the parameter have the names that their record gives them. */
#include "bind.h"

#include <string.h>

/* ---- what is wrong -------------------------------------------------------------------------- */

#define LONGEST_VALUE 40

const char *lmoe_describe(lua_State *L, int arg) {
    size_t size;
    if (lua_type(L, arg) == LUA_TSTRING) {
        const char *text = lua_tolstring(L, arg, &size);
        if (size <= LONGEST_VALUE) return lua_pushfstring(L, "\"%s\"", text);
        lua_pushlstring(L, text, LONGEST_VALUE);
        const char *start = lua_pushfstring(L, "\"%s...\"", lua_tostring(L, -1));
        lua_remove(L, -2);
        return start;
    }
    if (lua_type(L, arg) == LUA_TNUMBER && lua_tonumber(L, arg) != lua_tonumber(L, arg))
        return lua_pushliteral(L, "nan");       /* printf would show a sign that says nothing */
    if (lua_type(L, arg) == LUA_TNUMBER || lua_type(L, arg) == LUA_TBOOLEAN)
        return luaL_tolstring(L, arg, NULL);
    if (lua_isnoneornil(L, arg)) return lua_pushliteral(L, "nil");
    const char *type = luaL_typename(L, arg);
    if (luaL_getmetafield(L, arg, "__name") == LUA_TSTRING) type = lua_tostring(L, -1);
    bool ours = strncmp(type, "moelua.", 7) == 0;
    return lua_pushfstring(L, "a %s", ours ? type + 7 : type);
}

/* Pushes the name under which our module holds the running function, or "?". */
static const char *push_function_name(lua_State *L) {
    lua_Debug ar;
    int top = lua_gettop(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    bool known = lua_getstack(L, 0, &ar) && lua_getinfo(L, "f", &ar)
                 && lua_getfield(L, top + 1, "moelua.core") == LUA_TTABLE;
    lua_pushnil(L);
    while (known && lua_next(L, top + 3)) {
        if (lua_rawequal(L, -1, top + 2) && lua_type(L, -2) == LUA_TSTRING) {
            lua_pop(L, 1);
            lua_replace(L, top + 1);
            lua_settop(L, top + 1);
            return lua_tostring(L, -1);
        }
        lua_pop(L, 1);
    }
    lua_settop(L, top);
    return lua_pushliteral(L, "?");
}

/* Pushes the record of a function, what functions.lua says, as "x:any, dim:dim -> integer". */
static const char *push_signature(lua_State *L, const char *function) {
    int top = lua_gettop(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moelua.functions");
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_istable(L, -1)
        && lua_getfield(L, -1, function) == LUA_TTABLE
        && lua_getfield(L, -1, "sig") == LUA_TSTRING) {
        lua_replace(L, top + 1);
        lua_settop(L, top + 1);
        return lua_tostring(L, -1);
    }
    lua_settop(L, top);
    return lua_pushliteral(L, "");
}

/* Pushes the name of parameter number `arg`. */
static const char *push_parameter_name(lua_State *L, const char *function, int arg) {
    const char *at = push_signature(L, function);
    for (int i = 1; i < arg && at; i++) {
        at = strchr(at, ',');
        if (at) at += 1 + strspn(at + 1, " ");
    }
    size_t n = at ? strcspn(at, ":") : 0;
    if (n && at[n]) return lua_pushlstring(L, at, n);
    return lua_pushfstring(L, "argument %d", arg);
}

int lmoe_wrong(lua_State *L, int arg, const char *wanted) {
    const char *got = lmoe_describe(L, arg);
    const char *function = push_function_name(L);
    return lmoe_raise(L, "%s: %s must be %s, not %s", function,
                      push_parameter_name(L, function, arg), wanted, got);
}

int lmoe_released(lua_State *L, int arg) {
    const char *function = push_function_name(L);
    return lmoe_raise(L, "%s: %s was released\nhint: scope:keep(x) lets a tensor outlive its scope",
                      function, push_parameter_name(L, function, arg));
}

/* ---- numbers, strings, functions and tables ------------------------------------------------- */

lua_Integer lmoe_checkinteger(lua_State *L, int arg) {
    int whole;
    lua_Integer value = lua_tointegerx(L, arg, &whole);
    if (!whole || lua_type(L, arg) != LUA_TNUMBER) lmoe_wrong(L, arg, "an integer");
    return value;
}

lua_Number lmoe_checknumber(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TNUMBER) lmoe_wrong(L, arg, "a number");
    return lua_tonumber(L, arg);
}

lua_Number lmoe_optnumber(lua_State *L, int arg, lua_Number otherwise) {
    return lua_isnoneornil(L, arg) ? otherwise : lmoe_checknumber(L, arg);
}

const char *lmoe_checkstring(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TSTRING) lmoe_wrong(L, arg, "a string");
    return lua_tostring(L, arg);
}

void lmoe_checktype(lua_State *L, int arg, int type) {
    if (lua_type(L, arg) == type) return;
    if (lua_isnone(L, arg)) lua_settop(L, arg);     /* what is pushed now would take its place */
    lmoe_wrong(L, arg, lua_pushfstring(L, "a %s", lua_typename(L, type)));
}

/* ---- sizes ---------------------------------------------------------------------------------- */

int lmoe_readshape(lua_State *L, int arg, int last, const char *what, int64_t *shape) {
    bool table = arg <= last && lua_istable(L, arg);
    if (table && last > arg)
        lmoe_raise(L, "%s: nothing may follow the table of sizes, but there is %s", what,
                   lmoe_describe(L, arg + 1));
    lua_Integer n = table ? (lua_Integer)lua_rawlen(L, arg) : last - arg + 1;
    if (n > MOE_MAX_DIMS)
        lmoe_raise(L, "%s: at most %d dimensions, not %I", what, MOE_MAX_DIMS, (LUAI_UACINT)n);
    for (int i = 0; i < n; i++) {
        if (table)
            lua_rawgeti(L, arg, i + 1);
        else
            lua_pushvalue(L, arg + i);
        int whole;
        shape[i] = lua_tointegerx(L, -1, &whole);
        if (!whole || lua_type(L, -1) != LUA_TNUMBER)
            lmoe_raise(L, "%s: sizes must be integers, not %s", what, lmoe_describe(L, -1));
        lua_pop(L, 1);
    }
    return (int)n;
}

int lmoe_checkshape(lua_State *L, int arg, const char *what, int64_t *shape) {
    int n = lmoe_readshape(L, arg, lua_gettop(L), what, shape);
    for (int i = 0; i < n; i++)
        if (shape[i] < 0)
            lmoe_raise(L, "%s: sizes must not be negative: %s", what, MOE_SHAPE_OF(n, shape));
    return n;
}

/* ---- fields of tables ----------------------------------------------------------------------- */

/* Is `word` one of the words, which are separated by single blanks? */
static bool has_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; n && (at = strstr(at, word)) != NULL; at += n)
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || at[n] == 0)) return true;
    return false;
}

/* Pushes what to say about the word that is none of the known ones. */
static const char *push_hint(lua_State *L, const char *word, const char *known) {
    lmoe_guess guess = lmoe_new_guess(word, strlen(word));
    for (const char *at = known; *at;) {
        size_t n = strcspn(at, " ");
        lmoe_consider(&guess, at, n);
        at += n + (at[n] == ' ');
    }
    if (!guess.name) return lua_pushfstring(L, "known are %s", luaL_gsub(L, known, " ", ", "));
    lua_pushlstring(L, guess.name, guess.length);
    return lua_pushfstring(L, "did you mean '%s'?", lua_tostring(L, -1));
}

void lmoe_checkfields(lua_State *L, int arg, const char *what, const char *known) {
    for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
        int key = lua_gettop(L) - 1;
        bool text = lua_type(L, key) == LUA_TSTRING;
        if (text && has_word(known, lua_tostring(L, key))) continue;
        const char *hint = push_hint(L, text ? lua_tostring(L, key) : "", known);
        lmoe_raise(L, "%s: unknown option '%s'\nhint: %s", what,
                   luaL_tolstring(L, key, NULL), hint);
    }
}

/* The value on top of the stack is that of the option `name`. */
static void wrong_field(lua_State *L, const char *name, const char *wanted) {
    const char *got = lmoe_describe(L, -1);
    lmoe_raise(L, "%s: %s must be %s, not %s", push_function_name(L), name, wanted, got);
}

lua_Integer lmoe_intfield(lua_State *L, int arg, const char *name, lua_Integer otherwise) {
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        int whole;
        otherwise = lua_tointegerx(L, -1, &whole);
        if (!whole) wrong_field(L, name, "an integer");
    }
    lua_pop(L, 1);
    return otherwise;
}

lua_Number lmoe_numfield(lua_State *L, int arg, const char *name, lua_Number otherwise) {
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        int ok;
        otherwise = lua_tonumberx(L, -1, &ok);
        if (!ok) wrong_field(L, name, "a number");
    }
    lua_pop(L, 1);
    return otherwise;
}

/* The string stays valid as long as the table holds it. */
const char *lmoe_strfield(lua_State *L, int arg, const char *name, const char *otherwise) {
    if (lua_getfield(L, arg, name) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING) wrong_field(L, name, "a string");
        otherwise = lua_tostring(L, -1);
    }
    lua_pop(L, 1);
    return otherwise;
}
