/* checkpoint_metadata.c -- what a file says of itself, as Lua values: strings in safetensors;
 * numbers, booleans, strings and lists of them in GGUF. */
#include <string.h>

#include "checkpoint.h"

static void push_slice(lua_State *L, moe_slice text) { lua_pushlstring(L, text.data, text.size); }

/* Beyond 2^63-1 lies the realm of floats. */
static void push_u64(lua_State *L, uint64_t x) {
    if (x <= INT64_MAX)
        lua_pushinteger(L, (lua_Integer)x);
    else
        lua_pushnumber(L, (lua_Number)x);
}

#define PUSH(stored_type, push)                  \
    {                                            \
        stored_type x;                           \
        memcpy(&x, *at, sizeof x);               \
        *at += sizeof x;                         \
        push;                                    \
        break;                                   \
    }

/* The value at *at, which moves behind it. */
static void push_value(lua_State *L, moe_gguf_type type, const char **at) {
    switch (type) {
        case MOE_GGUF_U8: PUSH(uint8_t, lua_pushinteger(L, x))
        case MOE_GGUF_I8: PUSH(int8_t, lua_pushinteger(L, x))
        case MOE_GGUF_U16: PUSH(uint16_t, lua_pushinteger(L, x))
        case MOE_GGUF_I16: PUSH(int16_t, lua_pushinteger(L, x))
        case MOE_GGUF_U32: PUSH(uint32_t, lua_pushinteger(L, x))
        case MOE_GGUF_I32: PUSH(int32_t, lua_pushinteger(L, x))
        case MOE_GGUF_U64: PUSH(uint64_t, push_u64(L, x))
        case MOE_GGUF_I64: PUSH(int64_t, lua_pushinteger(L, x))
        case MOE_GGUF_F32: PUSH(float, lua_pushnumber(L, (lua_Number)x))
        case MOE_GGUF_F64: PUSH(double, lua_pushnumber(L, x))
        case MOE_GGUF_BOOL: PUSH(uint8_t, lua_pushboolean(L, x))
        default: push_slice(L, moe__gguf_string(at));
    }
}

static void push_pair(lua_State *L, const moe_gguf_pair *p) {
    const char *at = p->data;
    if (!p->array) {
        push_value(L, p->type, &at);
        return;
    }
    lua_createtable(L, (int)p->count, 0);
    for (uint64_t i = 0; i < p->count; i++) {
        push_value(L, p->type, &at);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static bool equal(moe_slice a, const moe_slice *b) { return moe__slice_compare(a, *b) == 0; }

/* Sets a field of the table below the value, or keeps the value when one was asked for: true. */
static void of_gguf(lua_State *L, const moe_gguf *f, const moe_slice *key) {
    const moe_gguf_pair *pair;
    size_t n = moe__gguf_pairs(f, &pair);
    for (size_t i = 0; i < n; i++) {
        if (!key) {
            push_slice(L, pair[i].key);
            push_pair(L, &pair[i]);
            lua_rawset(L, -3);
        } else if (equal(pair[i].key, key))
            push_pair(L, &pair[i]);
    }
}

static void of_safetensors(lua_State *L, const moe_safetensors *f, const moe_slice *key) {
    const moe_stored_pair *pair;
    size_t n = moe__safetensors_pairs(f, &pair);
    for (size_t i = 0; i < n; i++) {
        if (!key) {
            push_slice(L, pair[i].key);
            push_slice(L, pair[i].value);
            lua_rawset(L, -3);
        } else if (equal(pair[i].key, key))
            push_slice(L, pair[i].value);
    }
}

void lmoe_checkpoint_metadata(lua_State *L, const moe_checkpoint *c, const moe_slice *key) {
    int top = lua_gettop(L);
    if (!key) lua_newtable(L);
    if (moe__checkpoint_gguf(c))
        of_gguf(L, moe__checkpoint_gguf(c), key);
    else
        of_safetensors(L, moe__checkpoint_safetensors(c), key);
    if (lua_gettop(L) == top) lua_pushnil(L);
}
