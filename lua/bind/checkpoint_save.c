/* checkpoint_save.c -- core.checkpoint.save: from a Lua table to a file in one go.
 *
 * First the whole plan is made, in memory that Lua owns; it may raise at any point. Then the core
 * writes, and Lua is not called until it is done.
 */
#include <string.h>

#include "checkpoint.h"
#include "system.h"

/* Arguments of save, and what it puts above them. */
enum { PATH = 1, TENSORS, METADATA, OPTIONS, ANCHORS, ITEMS };

/* What the anchors hold for each entry, so that no pointer of the plan outlives its value. */
enum { NAME, VALUE, SIZES, KEPT };

/* Keeps the value on top of the stack until save returns, and pops it. */
static void keep(lua_State *L, size_t entry, int what) {
    lua_rawseti(L, ANCHORS, (lua_Integer)entry * KEPT + what + 1);
}

static moe_slice slice_at(lua_State *L, int at) {
    moe_slice text;
    text.data = lua_tolstring(L, at, &text.size);
    return text;
}

/* How tensors of floats will be written: MOE_STORED_COUNT means as they are. */
static moe_stored float_type(lua_State *L, int arg, const char *function) {
    static const struct {
        const char *name;
        moe_stored type;
    } choice[] = {{"f32", MOE_STORED_F32}, {"bf16", MOE_STORED_BF16}, {"f16", MOE_STORED_F16}};
    if (lua_isnoneornil(L, arg)) return MOE_STORED_COUNT;
    const char *name = lmoe_check_text(L, arg, function, "dtype", NULL);
    for (size_t i = 0; i < sizeof choice / sizeof *choice; i++)
        if (strcmp(name, choice[i].name) == 0) return choice[i].type;
    lmoe_raise(L, "%s: dtype must be \"f32\", \"bf16\" or \"f16\", not \"%s\"", function, name);
    return MOE_STORED_COUNT;
}

static moe_stored type_for(const moe_tensor *t, moe_stored floats) {
    bool unchanged = t->dtype == MOE_I32 || floats == MOE_STORED_COUNT;
    return unchanged ? moe__stored_of(t->dtype) : floats;
}

/* ---- {dtype = "U8", shape = {...}, data = "..."} -------------------------------------------- */

/* Pushes a field of the table at `table`, past metamethods; returns its type. */
static int push_field(lua_State *L, int table, const char *field) {
    lua_pushstring(L, field);
    return lua_rawget(L, table);
}

void lmoe_checkpoint_type(lua_State *L, int table, const char *name, moe_stored_item *item) {
    bool text = push_field(L, table, "dtype") == LUA_TSTRING;
    if (!text || !moe__stored_find(slice_at(L, -1), &item->type))
        lmoe_raise(L, "%s: dtype must be one like \"U8\", \"I64\" or \"BF16\", not %s", name,
                   luaL_tolstring(L, -1, NULL));
    lua_pop(L, 1);
}

void lmoe_checkpoint_shape(lua_State *L, int table, const char *name, moe_stored_item *item) {
    if (push_field(L, table, "shape") != LUA_TTABLE)
        lmoe_raise(L, "%s: shape must be a list, not %s", name, luaL_typename(L, -1));
    item->rank = lua_rawlen(L, -1);
    if (item->rank > MOE_STORED_MAX_DIMS)
        lmoe_raise(L, "%s: shape has %d dimensions, more than %d", name, (int)item->rank,
                   MOE_STORED_MAX_DIMS);
    uint64_t *sizes = lua_newuserdatauv(L, (item->rank + 1) * sizeof *sizes, 0);
    for (size_t i = 0; i < item->rank; i++) {
        lua_rawgeti(L, -2, (lua_Integer)i + 1);
        int whole;
        lua_Integer size = lua_tointegerx(L, -1, &whole);
        if (!whole || size < 0)
            lmoe_raise(L, "%s: shape holds %s, no size", name, luaL_tolstring(L, -1, NULL));
        sizes[i] = (uint64_t)size;
        lua_pop(L, 1);
    }
    item->shape = sizes;
    lua_remove(L, -2);
}

/* ---- the plan ------------------------------------------------------------------------------- */

size_t lmoe_checkpoint_entries(lua_State *L, int table) {
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) n++;
    return n;
}

static void check_key(lua_State *L, const char *where, const char *what) {
    if (lua_type(L, -2) != LUA_TSTRING)
        lmoe_raise(L, "%s: %s must be a string, not %s", where, what, luaL_tolstring(L, -2, NULL));
}

/* The value on top of the stack, which it pops. Of a tensor only the type is looked at. */
static void plan_value(lua_State *L, size_t i, moe_stored_item *item) {
    const char *name = lua_pushfstring(L, "save: tensor `%s`", item->name.data);
    int value = lua_gettop(L) - 1;
    if (lua_type(L, value) == LUA_TTABLE) {
        lmoe_checkpoint_type(L, value, name, item);
        lmoe_checkpoint_shape(L, value, name, item);
        keep(L, i, SIZES);
        if (push_field(L, value, "data") != LUA_TSTRING)
            lmoe_raise(L, "%s: data must be a string, not %s", name, luaL_typename(L, -1));
        item->data = slice_at(L, -1);
        lua_replace(L, value);
    } else if (!luaL_testudata(L, value, LMOE_TENSOR))
        lmoe_raise(L, "%s: a tensor or {dtype, shape, data} expected, got %s", name,
                   luaL_typename(L, value));
    lua_settop(L, value);
    keep(L, i, VALUE);
}

static moe_stored_item *plan_items(lua_State *L, size_t n) {
    moe_stored_item *items = lua_newuserdatauv(L, (n + 1) * sizeof *items, 0);
    size_t i = 0;
    for (lua_pushnil(L); i < n && lua_next(L, TENSORS); i++) {
        check_key(L, "save", "the name of a tensor");
        items[i] = (moe_stored_item){.name = slice_at(L, -2)};
        lua_pushvalue(L, -2);
        keep(L, i, NAME);
        plan_value(L, i, &items[i]);
    }
    lua_settop(L, ITEMS);
    return items;
}

/* Looks at the tensors when nothing allocates any more, which could run a finalizer that releases
 * one of them. */
static void resolve_tensors(lua_State *L, moe_stored_item *items, size_t n, moe_stored floats) {
    for (size_t i = 0; i < n; i++) {
        moe_stored_item *item = &items[i];
        if (lua_rawgeti(L, ANCHORS, (lua_Integer)i * KEPT + VALUE + 1) == LUA_TUSERDATA) {
            moe_tensor *t = lmoe_totensor(L, -1);
            if (!t) lmoe_raise(L, "save: tensor `%s` was released", item->name.data);
            item->tensor = t;
            item->type = type_for(t, floats);
            item->rank = (size_t)t->ndim;
            item->shape = (const uint64_t *)t->shape;
        }
        lua_pop(L, 1);
    }
}

moe_stored_pair *lmoe_checkpoint_pairs(lua_State *L, int table, const char *where, size_t *n) {
    *n = 0;
    if (lua_isnil(L, table)) return NULL;
    if (!lua_istable(L, table))
        lmoe_raise(L, "%s: metadata must be a table, not %s", where, luaL_typename(L, table));
    size_t count = lmoe_checkpoint_entries(L, table);
    moe_stored_pair *pairs = lua_newuserdatauv(L, (count + 1) * sizeof *pairs, 0);
    for (lua_pushnil(L); *n < count && lua_next(L, table); lua_pop(L, 1)) {
        check_key(L, where, "a key of the metadata");
        if (lua_type(L, -1) != LUA_TSTRING)
            lmoe_raise(L, "%s: metadata `%s` must be a string, not %s", where, lua_tostring(L, -2),
                       luaL_typename(L, -1));
        pairs[(*n)++] = (moe_stored_pair){slice_at(L, -2), slice_at(L, -1)};
    }
    return pairs;
}

/* Reads the options table at argument 4, whose only field is dtype. */
static moe_stored read_options(lua_State *L) {
    if (lua_isnil(L, OPTIONS)) return MOE_STORED_COUNT;
    if (!lua_istable(L, OPTIONS))
        lmoe_raise(L, "save: options must be a table, not %s", luaL_typename(L, OPTIONS));
    push_field(L, OPTIONS, "dtype");
    moe_stored floats = float_type(L, -1, "save");
    lua_pop(L, 1);
    return floats;
}

static moe_status plan_and_write(lua_State *L, const char *path, moe_stored floats) {
    lua_settop(L, OPTIONS);
    size_t npairs, n = lmoe_checkpoint_entries(L, TENSORS);
    lua_createtable(L, (int)n * KEPT, 0);
    moe_stored_item *items = plan_items(L, n);
    moe_stored_pair *pairs = lmoe_checkpoint_pairs(L, METADATA, "save", &npairs);
    resolve_tensors(L, items, n, floats);
    return moe__safetensors_write(lmoe_ctx(L), path, items, n, pairs, npairs);
}

int lmoe_checkpoint_save(lua_State *L) {
    const char *path = lmoe_check_path(L, PATH, "save");
    lua_settop(L, OPTIONS);
    if (!lua_istable(L, TENSORS))
        lmoe_raise(L, "save: tensors must be a table, not %s", luaL_typename(L, TENSORS));
    moe_stored floats = read_options(L);
    bool tried = false;
    moe_status status;
    do status = plan_and_write(L, path, floats);
    while (lmoe_again(L, status, &tried));
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_checkpoint_fail(L, status);
}

/* describe(name, value, dtype): how save would write the value, a tensor or a table with dtype and
 * shape: { dtype, shape, bytes, elements, width }. A file begins with the widest. */
int lmoe_checkpoint_describe(lua_State *L) {
    const char *name = lmoe_check_text(L, 1, "describe", "name", NULL);
    lua_settop(L, 3);
    const char *where = lua_pushfstring(L, "checkpoint: tensor `%s`", name);
    moe_stored floats = float_type(L, 3, "describe");
    moe_stored_item item = {0};
    uint64_t bytes = 0, elements = 1;
    const moe_tensor *t = luaL_testudata(L, 2, LMOE_TENSOR) ? lmoe_checktensor(L, 2) : NULL;
    if (t) {
        item = (moe_stored_item){.type = type_for(t, floats), .rank = (size_t)t->ndim,
                                 .shape = (const uint64_t *)t->shape};
    } else {
        if (!lua_istable(L, 2))
            lmoe_raise(L, "%s: a tensor or a table expected, got %s", where, luaL_typename(L, 2));
        lmoe_checkpoint_type(L, 2, where, &item);
        lmoe_checkpoint_shape(L, 2, where, &item);
    }
    if (moe__stored_bytes(item.type, item.rank, item.shape, &bytes) != MOE_SIZE_OK)
        lmoe_raise(L, "%s: too large, or no whole bytes", where);
    for (size_t i = 0; i < item.rank; i++) elements *= item.shape[i];
    lua_createtable(L, 0, 5);
    lua_createtable(L, (int)item.rank, 0);
    for (size_t i = 0; i < item.rank; i++) {
        lua_pushinteger(L, (lua_Integer)item.shape[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "shape");
    lua_pushstring(L, moe__stored_name(item.type));
    lua_setfield(L, -2, "dtype");
    lua_pushinteger(L, (lua_Integer)bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushinteger(L, (lua_Integer)elements);
    lua_setfield(L, -2, "elements");
    lua_pushinteger(L, (lua_Integer)item.type);
    lua_setfield(L, -2, "width");
    return 1;
}
