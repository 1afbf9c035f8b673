/* checkpoint_save.c -- core.checkpoint.save: from a Lua table to a file in one go.
 *
 * First the whole plan is made, in memory that Lua owns; it may raise at any point. Then the core
 * writes, and Lua is not called until it is done.
 */
#include <string.h>

#include "checkpoint.h"
#include "system.h"

/* Arguments of save, and what is put above them. */
enum { PATH = 1, TENSORS, METADATA, OPTIONS, ANCHORS, ITEMS, PAIRS, SIZES };

static const char *name_of(lua_State *L, int at) { return luaL_tolstring(L, at, NULL); }

static moe_slice slice_at(lua_State *L, int at) {
    moe_slice text;
    text.data = lua_tolstring(L, at, &text.size);
    return text;
}

/* How tensors of floats will be written: MOE_STORED_COUNT means as they are. */
static moe_stored float_type(lua_State *L, int arg) {
    static const struct {
        const char *name;
        moe_stored type;
    } choice[] = {{"f32", MOE_STORED_F32}, {"bf16", MOE_STORED_BF16}, {"f16", MOE_STORED_F16}};
    if (lua_isnoneornil(L, arg)) return MOE_STORED_COUNT;
    const char *name = lmoe_check_text(L, arg, "save", "dtype", NULL);
    for (size_t i = 0; i < sizeof choice / sizeof *choice; i++)
        if (strcmp(name, choice[i].name) == 0) return choice[i].type;
    lmoe_raise(L, "save: dtype must be \"f32\", \"bf16\" or \"f16\", not \"%s\"", name);
    return MOE_STORED_COUNT;
}

static moe_stored type_for(const moe_tensor *t, moe_stored floats) {
    bool whole = t->dtype == MOE_I32 || floats == MOE_STORED_COUNT;
    return whole ? moe__stored_of(t->dtype) : floats;
}

/* ---- {dtype = "U8", shape = {...}, data = "..."} -------------------------------------------- */

/* Pushes a field of the table on top of the stack, past metamethods. */
static int push_field(lua_State *L, const char *field) {
    lua_pushstring(L, field);
    return lua_rawget(L, -2);
}

/* The sizes go where there is room for them. */
static void read_shape(lua_State *L, const char *name, moe_stored_item *item, uint64_t *sizes) {
    if (push_field(L, "shape") != LUA_TTABLE)
        lmoe_raise(L, "save: the shape of `%s` must be a list, not %s", name, luaL_typename(L, -1));
    item->rank = lua_rawlen(L, -1);
    if (item->rank > MOE_STORED_MAX_DIMS)
        lmoe_raise(L, "save: `%s` has %d dimensions, more than %d", name, (int)item->rank,
                   MOE_STORED_MAX_DIMS);
    for (size_t i = 0; i < item->rank; i++) {
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        int whole;
        lua_Integer size = lua_tointegerx(L, -1, &whole);
        if (!whole || size < 0)
            lmoe_raise(L, "save: the shape of `%s` holds %s", name, luaL_tolstring(L, -1, NULL));
        sizes[i] = (uint64_t)size;
        lua_pop(L, 1);
    }
    item->shape = sizes;
    lua_pop(L, 1);
}

static void read_type(lua_State *L, const char *name, moe_stored_item *item) {
    bool text = push_field(L, "dtype") == LUA_TSTRING;
    if (!text || !moe__stored_parse(slice_at(L, -1), &item->type))
        lmoe_raise(L, "save: the dtype of `%s` must be one like \"U8\", \"I64\" or \"BF16\", not %s",
                   name, luaL_tolstring(L, -1, NULL));
    lua_pop(L, 1);
}

/* The table is on top of the stack; its data is pushed instead. */
static void read_raw(lua_State *L, const char *name, moe_stored_item *item, uint64_t *sizes) {
    read_type(L, name, item);
    read_shape(L, name, item, sizes);
    if (push_field(L, "data") != LUA_TSTRING)
        lmoe_raise(L, "save: the data of `%s` must be a string, not %s", name,
                   luaL_typename(L, -1));
    item->data = slice_at(L, -1);
    lua_remove(L, -2);
}

/* ---- the plan ------------------------------------------------------------------------------- */

static size_t count_entries(lua_State *L, int table) {
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) n++;
    return n;
}

/* Keeps the value on top of the stack, which it pops, and the key below until save returns. */
static void anchor(lua_State *L, size_t i) {
    lua_rawseti(L, ANCHORS, 2 * (lua_Integer)i + 2);
    lua_pushvalue(L, -1);
    lua_rawseti(L, ANCHORS, 2 * (lua_Integer)i + 1);
}

static void check_name(lua_State *L, const char *what) {
    if (lua_type(L, -2) != LUA_TSTRING)
        lmoe_raise(L, "save: %s must be strings, not %s", what, name_of(L, -2));
}

/* The sizes of raw entries lie in one block, a fixed number for each. */
static uint64_t *new_sizes(lua_State *L, size_t n) {
    return lua_newuserdatauv(L, (n + 1) * MOE_STORED_MAX_DIMS * sizeof(uint64_t), 0);
}

static moe_stored_item *plan_items(lua_State *L, size_t n) {
    moe_stored_item *items = lua_newuserdatauv(L, (n + 1) * sizeof *items, 0);
    lua_insert(L, ITEMS);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, TENSORS) && i < n; i++) {
        check_name(L, "names of tensors");
        items[i] = (moe_stored_item){.name = slice_at(L, -2)};
        if (lua_type(L, -1) == LUA_TTABLE) {
            lua_rawgeti(L, SIZES, (lua_Integer)i + 1);
            lua_pop(L, 1);
        }
        anchor(L, i);
    }
    return items;
}
