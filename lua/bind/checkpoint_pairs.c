/* checkpoint_pairs.c -- metadata of a GGUF file from Lua values.
 *
 * Integers become u32 (i64 when they do not fit), floats f32, booleans and strings themselves; a
 * list becomes an array of what all of its values are: strings, booleans, f32 when one is a
 * float, else i32. These are the types that the readers of models expect.
 */
#include <string.h>

#include "checkpoint.h"

/* The type that holds the value on top of the stack; ARRAY for what cannot stand in a list. */
static moe_gguf_type type_of(lua_State *L) {
    switch (lua_type(L, -1)) {
        case LUA_TBOOLEAN: return MOE_GGUF_BOOL;
        case LUA_TSTRING: return MOE_GGUF_STRING;
        case LUA_TNUMBER: return lua_isinteger(L, -1) ? MOE_GGUF_I32 : MOE_GGUF_F32;
        default: return MOE_GGUF_ARRAY;
    }
}

static bool fits(lua_Integer x, lua_Integer least, lua_Integer most) {
    return x >= least && x <= most;
}

static void check_list_value(lua_State *L, const char *key, lua_Integer i, moe_gguf_type type,
                             moe_gguf_type own) {
    bool number = type == MOE_GGUF_F32 && own == MOE_GGUF_I32;
    if ((own != type && !number) || own == MOE_GGUF_ARRAY)
        lmoe_raise(L, "create_gguf: metadata `%s`: value %I is %s, unlike those before it", key, i,
                   luaL_typename(L, -1));
    if (type == MOE_GGUF_I32 && !fits(lua_tointeger(L, -1), INT32_MIN, INT32_MAX))
        lmoe_raise(L, "create_gguf: metadata `%s`: value %I does not fit into i32", key, i);
}

/* What all values of the list on top of the stack can be written as. */
static moe_gguf_type type_of_list(lua_State *L, const char *key, lua_Integer n) {
    moe_gguf_type type = MOE_GGUF_ARRAY;
    if (n == 0) lmoe_raise(L, "create_gguf: metadata `%s` is an empty list", key);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        moe_gguf_type own = type_of(L);
        if (i == 1 || (type == MOE_GGUF_I32 && own == MOE_GGUF_F32)) type = own;
        check_list_value(L, key, i, type, own);
        lua_pop(L, 1);
    }
    return type;
}

static void add_bytes(luaL_Buffer *b, const void *data, size_t size) {
    luaL_addlstring(b, data, size);
}

/* Appends the value at `at`, of a type that suits it. */
static void add_value(lua_State *L, luaL_Buffer *b, int at, moe_gguf_type type) {
    if (type == MOE_GGUF_STRING) {
        size_t size;
        const char *text = lua_tolstring(L, at, &size);
        uint64_t length = size;
        add_bytes(b, &length, sizeof length);
        add_bytes(b, text, size);
    } else if (type == MOE_GGUF_F32) {
        float x = (float)lua_tonumber(L, at);
        add_bytes(b, &x, sizeof x);
    } else if (type == MOE_GGUF_BOOL) {
        char x = (char)lua_toboolean(L, at);
        add_bytes(b, &x, 1);
    } else {                            /* little endian: the low bytes come first */
        lua_Integer x = lua_tointeger(L, at);
        add_bytes(b, &x, moe__gguf_type_size(type));
    }
}

/* Replaces the value on top of the stack by its bytes. */
static void encode(lua_State *L, const char *key, moe_gguf_pair *pair) {
    luaL_Buffer b;
    int at = lua_gettop(L);
    pair->array = lua_istable(L, at);
    pair->count = pair->array ? lua_rawlen(L, at) : 1;
    pair->type = pair->array ? type_of_list(L, key, (lua_Integer)pair->count) : type_of(L);
    if (pair->type == MOE_GGUF_ARRAY)
        lmoe_raise(L, "create_gguf: metadata `%s` is a %s, which a file cannot hold", key,
                   luaL_typename(L, at));
    if (!pair->array && pair->type == MOE_GGUF_I32)
        pair->type = fits(lua_tointeger(L, at), 0, UINT32_MAX) ? MOE_GGUF_U32 : MOE_GGUF_I64;
    lua_pushnil(L);                     /* the place of one value of a list */
    luaL_buffinit(L, &b);
    for (uint64_t i = 1; i <= pair->count; i++) {
        if (pair->array) {
            lua_rawgeti(L, at, (lua_Integer)i);
            lua_replace(L, at + 1);
        }
        add_value(L, &b, pair->array ? at + 1 : at, pair->type);
    }
    luaL_pushresult(&b);
    lua_replace(L, at);
    lua_settop(L, at);
    pair->data = lua_tolstring(L, at, &pair->bytes);
}

moe_gguf_pair *lmoe_checkpoint_gguf_pairs(lua_State *L, int table, size_t *n) {
    *n = 0;
    if (!lua_istable(L, table))
        lmoe_raise(L, "create_gguf: metadata must be a table, not %s", luaL_typename(L, table));
    size_t count = lmoe_checkpoint_entries(L, table);
    moe_gguf_pair *pairs = lua_newuserdatauv(L, (count + 1) * sizeof *pairs, 0);
    lua_createtable(L, (int)count, 0);
    int kept = lua_gettop(L);
    for (lua_pushnil(L); *n < count && lua_next(L, table);) {
        moe_gguf_pair *pair = &pairs[(*n)++];
        if (lua_type(L, -2) != LUA_TSTRING)
            lmoe_raise(L, "create_gguf: a key of the metadata must be a string, not %s",
                       luaL_tolstring(L, -2, NULL));
        pair->key.data = lua_tolstring(L, -2, &pair->key.size);
        encode(L, pair->key.data, pair);
        lua_rawseti(L, kept, (lua_Integer)*n);
    }
    lua_settop(L, kept);
    return pairs;
}
