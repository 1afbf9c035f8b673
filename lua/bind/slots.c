/* slots.c -- userdata that hold tensors under fixed names: Experts, Router, MixtureOfTokens.
 *
 * What a layer computes with is checked where it is put and not where it is used: only tensors go
 * into slots, a slot keeps its shape, and a mistyped name is an error at once. Plain data (options,
 * numbers) lies beside them as in a table; methods come from the class, see class.lua.
 *
 * User value 1 is the table of plain data, user value 1 + i the tensor in slot i.
 */
#include "bind.h"

#include <string.h>

#define CLASS lua_upvalueindex(1)           /* the table of methods */
#define NUMBERS lua_upvalueindex(2)         /* slot name -> its number, from 1 */

/* The slot that argument 2 names, 0 when it is none. */
static int slot_of(lua_State *L) {
    lua_pushvalue(L, 2);
    lua_rawget(L, NUMBERS);
    int slot = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return slot;
}

/* Pushes the plain data of argument 1, which only the objects made here have. */
static void push_data(lua_State *L) {
    if (lua_type(L, 1) == LUA_TUSERDATA && lua_getiuservalue(L, 1, 1) == LUA_TTABLE) return;
    lmoe_raise(L, "a layer is expected, not %s", lmoe_describe(L, 1));
}

static int get(lua_State *L) {
    push_data(L);
    int slot = slot_of(L);
    if (slot) {
        lua_getiuservalue(L, 1, 1 + slot);
        return 1;
    }
    lua_pushvalue(L, 2);
    if (lua_rawget(L, -2) != LUA_TNIL) return 1;
    lua_pushvalue(L, 2);
    lua_gettable(L, CLASS);
    return 1;
}

/* Pushes "Experts: w1", for messages. */
static const char *push_place(lua_State *L) {
    lua_getfield(L, CLASS, "__name");
    const char *name = lua_tostring(L, -1);
    return lua_pushfstring(L, "%s: %s", name + sizeof "moelua." - 1, lua_tostring(L, 2));
}

static bool same_shape(const moe_tensor *a, const moe_tensor *b) {
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

/* Any tensor may be the first; later ones have its shape, but may be stored as another type. */
static void check_tensor(lua_State *L, int slot) {
    const moe_tensor *t = lmoe_totensor(L, 3), *before;
    if (!t) lmoe_raise(L, "%s must be a tensor, not %s", push_place(L), lmoe_describe(L, 3));
    lua_getiuservalue(L, 1, 1 + slot);
    before = lmoe_totensor(L, -1);
    if (before && !same_shape(t, before))
        lmoe_raise(L, "%s has the shape %s and cannot become %s\nhint: a layer of another size is "
                      "another layer", push_place(L), MOE_SHAPE(before), MOE_SHAPE(t));
}

static int set(lua_State *L) {
    push_data(L);
    int slot = slot_of(L);
    if (slot) {
        if (!lua_isnil(L, 3)) check_tensor(L, slot);
        lua_pushvalue(L, 3);
        lua_setiuservalue(L, 1, 1 + slot);
        return 0;
    }
    if (lmoe_totensor(L, 3))
        lmoe_raise(L, "%s: there is no tensor of that name here", push_place(L));
    lua_pushvalue(L, 2);
    lua_pushvalue(L, 3);
    lua_rawset(L, -3);
    return 0;
}

/* make(metatable, slots) -> an object without tensors. */
static int make(lua_State *L) {
    lmoe_checktype(L, 1, LUA_TTABLE);
    lua_newuserdatauv(L, 0, 1 + (int)lmoe_checkinteger(L, 2));
    lua_newtable(L);
    lua_setiuservalue(L, -2, 1);
    lua_pushvalue(L, 1);
    lua_setmetatable(L, -2);
    return 1;
}

/* access(class, names) -> __index and __newindex of the class's objects. */
static int access(lua_State *L) {
    lmoe_checktype(L, 1, LUA_TTABLE);
    lmoe_checktype(L, 2, LUA_TTABLE);
    lua_newtable(L);
    for (lua_Integer i = 1; lua_geti(L, 2, i) == LUA_TSTRING; i++) {
        lua_pushinteger(L, i);
        lua_rawset(L, 3);
    }
    lua_settop(L, 3);
    lua_CFunction const functions[] = {get, set};
    for (int i = 0; i < 2; i++) {
        lua_pushvalue(L, 1);
        lua_pushvalue(L, 3);
        lua_pushcclosure(L, functions[i], 2);
    }
    return 2;
}

void lmoe_open_slots(lua_State *L) {
    const luaL_Reg functions[] = {{"make", make}, {"access", access}, {NULL, NULL}};
    luaL_newlib(L, functions);
}
