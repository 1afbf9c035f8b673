/* core.json: JSON text for configurations, results and logs.
 *
 * Reading is jansson's; this file turns its tree into Lua values. Writing is in json_encode.c.
 *
 * Lua has one kind of table where JSON has two. Arrays carry a metatable as a mark, which decode
 * and json.array put on them, so that an empty array is still an array when it is written again.
 * JSON's null is one userdata value, json.null, because nil cannot be stored in a table.
 */
#include "json.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_TYPE "moelua.json.array"
#define NULL_TYPE "moelua.json.null"
#define TREE_TYPE "moelua.json.tree"
#define NULL_KEY "moelua.json.null.value"

/* ---- marks ---------------------------------------------------------------------------------- */

void lmoe_json_push_null(lua_State *L) {
    lua_getfield(L, LUA_REGISTRYINDEX, NULL_KEY);
}

void lmoe_json_mark_array(lua_State *L) {
    luaL_setmetatable(L, ARRAY_TYPE);
}

bool lmoe_json_is_null(lua_State *L, int index) {
    return luaL_testudata(L, index, NULL_TYPE) != NULL;
}

/* Whether the table at `index` carries the array mark; another metatable says nothing. */
bool lmoe_json_is_array(lua_State *L, int index) {
    if (!lua_getmetatable(L, index)) return false;
    luaL_getmetatable(L, ARRAY_TYPE);
    bool marked = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return marked;
}

/* json.array(t): marks t as an array and returns it. */
static int json_mark_array(lua_State *L) {
    if (!lua_istable(L, 1))
        return lmoe_raise(L, "array: a table is expected: got %s", luaL_typename(L, 1));
    if (lua_getmetatable(L, 1)) {
        lua_pop(L, 1);
        if (!lmoe_json_is_array(L, 1))
            return lmoe_raise(L, "array: the table already has a metatable");
    }
    lua_settop(L, 1);
    lmoe_json_mark_array(L);
    return 1;
}

static int null_tostring(lua_State *L) {
    lua_pushliteral(L, "null");
    return 1;
}

/* ---- decoding ------------------------------------------------------------------------------- */

/* Owns jansson's tree while Lua values are made from it, which may raise at any step. */
struct tree {
    json_t *root;
};

static int tree_release(lua_State *L) {
    struct tree *tree = luaL_checkudata(L, 1, TREE_TYPE);
    json_decref(tree->root);
    tree->root = NULL;
    return 0;
}

static struct tree *push_tree(lua_State *L) {
    struct tree *tree = lua_newuserdatauv(L, sizeof *tree, 0);
    tree->root = NULL;
    luaL_setmetatable(L, TREE_TYPE);
    lua_toclose(L, -1);
    return tree;
}

static bool array_fits_depth(const json_t *array, int allowed);
static bool object_fits_depth(const json_t *object, int allowed);

static bool fits_depth(const json_t *value, int allowed) {
    if (json_is_array(value)) return allowed > 0 && array_fits_depth(value, allowed - 1);
    if (json_is_object(value)) return allowed > 0 && object_fits_depth(value, allowed - 1);
    return true;
}

static bool array_fits_depth(const json_t *array, int allowed) {
    for (size_t i = 0; i < json_array_size(array); i++)
        if (!fits_depth(json_array_get(array, i), allowed)) return false;
    return true;
}

static bool object_fits_depth(const json_t *object, int allowed) {
    /* jansson's iterators take a pointer that is not const, but only read here. */
    json_t *readable = (json_t *)(uintptr_t)object;
    for (void *at = json_object_iter(readable); at; at = json_object_iter_next(readable, at))
        if (!fits_depth(json_object_iter_value(at), allowed)) return false;
    return true;
}

static void push_value(lua_State *L, json_t *value);

/* A size that only serves as a hint for lua_createtable. */
static int size_hint(size_t size) { return size > 1u << 24 ? 1 << 24 : (int)size; }

static void push_array(lua_State *L, json_t *array) {
    size_t size = json_array_size(array);
    lua_createtable(L, size_hint(size), 0);
    lmoe_json_mark_array(L);
    for (size_t i = 0; i < size; i++) {
        push_value(L, json_array_get(array, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static void push_object(lua_State *L, json_t *object) {
    lua_createtable(L, 0, size_hint(json_object_size(object)));
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        lua_pushlstring(L, json_object_iter_key(at), json_object_iter_key_len(at));
        push_value(L, json_object_iter_value(at));
        lua_rawset(L, -3);
    }
}

static void push_value(lua_State *L, json_t *value) {
    luaL_checkstack(L, 4, "decode: too deep");
    switch (json_typeof(value)) {
        case JSON_OBJECT: push_object(L, value); break;
        case JSON_ARRAY: push_array(L, value); break;
        case JSON_STRING:
            lua_pushlstring(L, json_string_value(value), json_string_length(value));
            break;
        case JSON_INTEGER: lua_pushinteger(L, (lua_Integer)json_integer_value(value)); break;
        case JSON_REAL: lua_pushnumber(L, json_real_value(value)); break;
        case JSON_TRUE: lua_pushboolean(L, 1); break;
        case JSON_FALSE: lua_pushboolean(L, 0); break;
        case JSON_NULL: lmoe_json_push_null(L); break;
    }
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* Returns the end of the string literal that starts at `at`. */
static const char *skip_string(const char *at, const char *end) {
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\' && at + 1 < end) at++;
    return at < end ? at + 1 : end;
}

/* Copies one number and gives it an exponent when it is an integer past 64 bits. */
static const char *copy_number(luaL_Buffer *out, const char *at, const char *end) {
    const char *stop = at + 1;
    while (stop < end && is_digit(*stop)) stop++;
    luaL_addlstring(out, at, (size_t)(stop - at));
    bool integer = stop == end || (*stop != '.' && *stop != 'e' && *stop != 'E');
    if (!integer) {
        while (stop < end && (is_digit(*stop) || strchr(".eE+-", *stop) != NULL) && *stop)
            luaL_addchar(out, *stop++);
        return stop;
    }
    errno = 0;
    (void)strtoll(at, NULL, 10);
    if (errno == ERANGE) luaL_addstring(out, "e0");
    return stop;
}

/* Pushes the text with every integer that has no 64-bit form written as a real number. Tokenizer
 * configurations in the wild hold 1000000000000000019884624838656 for "no limit". */
static const char *push_with_wide_integers(lua_State *L, const char *text, size_t *size) {
    const char *at = text;
    const char *end = text + *size;
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    while (at < end) {
        const char *from = at;
        if (*at == '-' || is_digit(*at)) {
            at = copy_number(&out, at, end);
            continue;
        }
        at = *at == '"' ? skip_string(at, end) : at + 1;
        luaL_addlstring(&out, from, (size_t)(at - from));
    }
    luaL_pushresult(&out);
    return lua_tolstring(L, -1, size);
}

static json_t *parse(const char *text, size_t size, json_error_t *error) {
    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL;
    return json_loadb(text, size, flags, error);
}

static int fail(lua_State *L, const char *code) {
    lua_pushnil(L);
    lua_insert(L, -2);
    lua_pushstring(L, code);
    return 3;
}

static int fail_parse(lua_State *L, const json_error_t *error) {
    bool memory = json_error_code(error) == json_error_out_of_memory;
    lua_pushfstring(L, "decode: line %d, column %d: %s", error->line, error->column, error->text);
    return fail(L, memory ? "memory" : "format");
}

/* json.decode(text): the value, or nil, message, "format". Objects become tables, arrays become
 * marked tables, null becomes json.null; integers past 64 bits become floats. */
static int json_decode(lua_State *L) {
    if (lua_type(L, 1) != LUA_TSTRING)
        return lmoe_raise(L, "decode: text must be a string: got %s", luaL_typename(L, 1));
    size_t size;
    const char *text = lua_tolstring(L, 1, &size);
    struct tree *tree = push_tree(L);
    json_error_t error;
    tree->root = parse(text, size, &error);
    if (tree->root == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        text = push_with_wide_integers(L, text, &size);
        tree->root = parse(text, size, &error);
    }
    if (tree->root == NULL) return fail_parse(L, &error);
    if (!fits_depth(tree->root, LMOE_JSON_DEPTH)) {
        lua_pushfstring(L, "decode: nested deeper than %d levels", LMOE_JSON_DEPTH);
        return fail(L, "format");
    }
    push_value(L, tree->root);
    return 1;
}

/* ---- opening -------------------------------------------------------------------------------- */

/* The mark has no __name: a marked table shall print like any other. */
static void make_mark(lua_State *L) {
    luaL_newmetatable(L, ARRAY_TYPE);
    lua_pushnil(L);
    lua_setfield(L, -2, "__name");
    lua_pop(L, 1);
}

/* One null for a state, however often the library is opened in it. */
static void make_null(lua_State *L) {
    lmoe_json_push_null(L);
    bool made = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (made) return;
    lua_newuserdatauv(L, 0, 0);
    luaL_newmetatable(L, NULL_TYPE);
    lua_pushcfunction(L, null_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
    lua_setfield(L, LUA_REGISTRYINDEX, NULL_KEY);
}

void lmoe_open_json(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"decode", json_decode},
        {"array", json_mark_array},
        {NULL, NULL},
    };
    make_mark(L);
    lmoe_newtype(L, TREE_TYPE, tree_release, NULL);
    make_null(L);
    luaL_newlib(L, functions);
    lmoe_json_add_encode(L);
    lmoe_json_push_null(L);
    lua_setfield(L, -2, "null");
}
