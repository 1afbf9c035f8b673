/* checkpoint_writer.c -- core.checkpoint.create and create_gguf: files written tensor by tensor.
 *
 *   local writer = assert(create(path, { a = { dtype = "BF16", shape = {2, 3} }, ... }, metadata))
 *   for _, name in ipairs(writer:names()) do assert(writer:put(name, make(name))) end
 *   assert(writer:close())
 *
 * The plan fixes the header, so that only one tensor at a time has to exist. The file appears when
 * it is closed; a writer that is collected or goes out of scope before leaves nothing behind.
 */
#include <string.h>

#include "checkpoint.h"
#include "merge.h"
#include "system.h"

#define WRITER_TYPE "moelua.CheckpointWriter"

/* What the two formats do with a file; the pointer is their own. */
typedef struct format {
    moe_status (*put)(void *file, const moe_stored_item *item);
    moe_body *(*body)(void *file);
    moe_status (*filled)(void *file, const moe_stored_item *item);
    moe_status (*commit)(void *file);
    void (*abandon)(void *file);
} format;

/* User value 1 is the list of names in file order; 2 and 3 keep what the items point at. */
typedef struct writer {
    const format *format;
    void *file;                 /* NULL when closed or failed */
    moe_stored_item *items;
    size_t count, next;
} writer;

/* Arguments of create, and what it puts above them. */
enum { PATH = 1, PLAN, METADATA, WRITER, ITEMS, ANCHORS };

static void plan_items(lua_State *L, writer *w, const char *function) {
    for (lua_pushnil(L); w->next < w->count && lua_next(L, PLAN); w->next++) {
        moe_stored_item *item = &w->items[w->next];
        *item = (moe_stored_item){0};
        if (lua_type(L, -2) != LUA_TSTRING)
            lmoe_raise(L, "%s: the name of a tensor must be a string, not %s", function,
                       luaL_tolstring(L, -2, NULL));
        item->name.data = lua_tolstring(L, -2, &item->name.size);
        const char *where = lua_pushfstring(L, "%s: tensor `%s`", function, item->name.data);
        int table = lua_gettop(L) - 1;
        if (!lua_istable(L, table))
            lmoe_raise(L, "%s: a table expected, got %s", where, luaL_typename(L, table));
        lmoe_checkpoint_type(L, table, where, item);
        lmoe_checkpoint_shape(L, table, where, item);
        lua_rawseti(L, ANCHORS, 2 * (lua_Integer)w->next + 1);
        lua_settop(L, table - 1);
        lua_pushvalue(L, -1);
        lua_rawseti(L, ANCHORS, 2 * (lua_Integer)w->next + 2);
    }
    lua_settop(L, ANCHORS);
    w->count = w->next;
    w->next = 0;
}

static void keep_names(lua_State *L, const writer *w) {
    lua_createtable(L, (int)w->count, 0);
    for (size_t i = 0; i < w->count; i++) {
        lua_pushlstring(L, w->items[i].name.data, w->items[i].name.size);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setiuservalue(L, WRITER, 1);
}

/* Leaves the writer, its items and their anchors above the arguments. */
static writer *new_writer(lua_State *L, const format *f, const char *function) {
    lua_settop(L, METADATA);
    if (!lua_istable(L, PLAN))
        lmoe_raise(L, "%s: the plan must be a table, not %s", function, luaL_typename(L, PLAN));
    writer *w = lua_newuserdatauv(L, sizeof *w, 3);
    *w = (writer){.format = f, .count = lmoe_checkpoint_entries(L, PLAN)};
    luaL_setmetatable(L, WRITER_TYPE);
    w->items = lua_newuserdatauv(L, (w->count + 1) * sizeof *w->items, 0);
    lua_createtable(L, 2 * (int)w->count, 0);
    lua_pushvalue(L, ITEMS);
    lua_setiuservalue(L, WRITER, 2);
    lua_pushvalue(L, ANCHORS);
    lua_setiuservalue(L, WRITER, 3);
    plan_items(L, w, function);
    return w;
}

/* The results of creating: the writer, or why there is none. */
static int created(lua_State *L, const writer *w, moe_status status) {
    if (status != MOE_OK) return lmoe_checkpoint_fail(L, status);
    keep_names(L, w);
    lua_settop(L, WRITER);
    return 1;
}

static moe_status put_safetensors(void *file, const moe_stored_item *item) {
    return moe__safetensors_put(file, item);
}
static moe_body *safetensors_body(void *file) { return moe__safetensors_body(file); }
static moe_status safetensors_filled(void *file, const moe_stored_item *item) {
    (void)file, (void)item;
    return MOE_OK;
}
static moe_status commit_safetensors(void *file) { return moe__safetensors_commit(file); }
static void abandon_safetensors(void *file) { moe__safetensors_abandon(file); }

int lmoe_checkpoint_create(lua_State *L) {
    static const format f = {put_safetensors, safetensors_body, safetensors_filled,
                             commit_safetensors, abandon_safetensors};
    const char *path = lmoe_check_path(L, PATH, "create");
    writer *w = new_writer(L, &f, "create");
    bool tried = false;
    moe_status status;
    do {
        size_t n;
        moe_safetensors_writer *file = NULL;
        moe_stored_pair *pairs = lmoe_checkpoint_pairs(L, METADATA, "create", &n);
        status = moe__safetensors_begin(lmoe_ctx(L), path, w->items, w->count, pairs, n, &file);
        w->file = file;
    } while (lmoe_again(L, status, &tried));
    return created(L, w, status);
}

static moe_status put_gguf(void *file, const moe_stored_item *item) {
    return moe__gguf_put(file, item);
}
static moe_body *gguf_body(void *file) { return moe__gguf_body(file); }
static moe_status gguf_filled(void *file, const moe_stored_item *item) {
    return moe__gguf_filled(file, item);
}
static moe_status commit_gguf(void *file) { return moe__gguf_commit(file); }
static void abandon_gguf(void *file) { moe__gguf_abandon(file); }

int lmoe_checkpoint_create_gguf(lua_State *L) {
    static const format f = {put_gguf, gguf_body, gguf_filled, commit_gguf, abandon_gguf};
    const char *path = lmoe_check_path(L, PATH, "create_gguf");
    writer *w = new_writer(L, &f, "create_gguf");
    bool tried = false;
    moe_status status;
    do {
        size_t n;
        moe_gguf_writer *file = NULL;
        moe_gguf_pair *pairs = lmoe_checkpoint_gguf_pairs(L, METADATA, &n);
        status = moe__gguf_begin(lmoe_ctx(L), path, w->items, w->count, pairs, n, &file);
        w->file = file;
    } while (lmoe_again(L, status, &tried));
    return created(L, w, status);
}

static void abandon(writer *w) {
    void *file = w->file;
    w->file = NULL;
    if (file) w->format->abandon(file);
}

static writer *check_writer(lua_State *L, const char *function) {
    writer *w = luaL_testudata(L, 1, WRITER_TYPE);
    if (!w)
        lmoe_raise(L, "%s: a writer is expected, got %s\nhint: call it as writer:%s(...)", function,
                   luaL_typename(L, 1), function);
    if (!w->file) lmoe_raise(L, "%s: the writer was closed", function);
    return w;
}

static int names(lua_State *L) {
    check_writer(L, "names");
    lua_getiuservalue(L, 1, 1);
    return 1;
}

/* The item that is next, which must be the one named by argument 2. */
static moe_stored_item next_item(lua_State *L, const char *function) {
    const writer *w = check_writer(L, function);
    moe_slice name;
    name.data = lmoe_check_text(L, 2, function, "name", &name.size);
    if (w->next == w->count)
        lmoe_raise(L, "%s: all tensors are written, `%s` is too much", function, name.data);
    moe_stored_item item = w->items[w->next];
    if (moe__slice_compare(name, item.name) != 0)
        lmoe_raise(L, "%s: tensors come in the order of names(): `%s` is next, not `%s`", function,
                   item.name.data, name.data);
    return item;
}

static moe_status put_next(lua_State *L) {
    moe_stored_item item = next_item(L, "put");
    writer *w = check_writer(L, "put");
    if (lua_type(L, 3) == LUA_TSTRING)
        item.data.data = lua_tolstring(L, 3, &item.data.size);
    else
        item.tensor = lmoe_checktensor(L, 3);
    moe_status status = w->format->put(w->file, &item);
    if (status == MOE_OK) w->next++;
    return status;
}

/* writer:merge(name, entry, options): makes the next tensor out of others, see merge.c. Returns
 * what there is to tell of it. */
static int merge(lua_State *L) {
    lua_settop(L, 4);
    moe_stored_item item = next_item(L, "merge");
    if (!lua_istable(L, 3)) lmoe_raise(L, "merge: an entry must be a table, not %s",
                                       lmoe_describe(L, 3));
    lmoe_merging *merging = lmoe_plan_merge(L, 3, 4, &item);
    writer *w = check_writer(L, "merge");       /* not before: finalizers may have closed it */
    if (!merging) {
        abandon(w);
        return 3;
    }
    moe_status status = lmoe_run_merge(merging, w->format->body(w->file), &item);
    if (status == MOE_OK) status = w->format->filled(w->file, &item);
    if (status != MOE_OK) {
        abandon(w);
        return lmoe_checkpoint_fail(L, status);
    }
    w->next++;
    lmoe_push_merged(L, merging);
    return 1;
}

/* writer:put(name, tensor or string of bytes): the names come in the order of names(). */
static int put(lua_State *L) {
    bool tried = false;
    moe_status status;
    do status = put_next(L);
    while (lmoe_again(L, status, &tried));
    if (status == MOE_OK) return lmoe_succeed(L);
    abandon(lua_touserdata(L, 1));
    return lmoe_checkpoint_fail(L, status);
}

static int close_writer(lua_State *L) {
    writer *w = check_writer(L, "close");
    if (w->next < w->count)
        return lmoe_raise(L, "close: tensor `%s` was not written", w->items[w->next].name.data);
    void *file = w->file;
    w->file = NULL;
    moe_status status = w->format->commit(file);
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_checkpoint_fail(L, status);
}

static int release(lua_State *L) {
    writer *w = luaL_testudata(L, 1, WRITER_TYPE);
    if (w) abandon(w);
    return 0;
}

void lmoe_checkpoint_writer_type(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"names", names}, {"put", put}, {"merge", merge}, {"close", close_writer},
        {"abandon", release}, {NULL, NULL},
    };
    lmoe_newtype(L, WRITER_TYPE, release, methods);
}
