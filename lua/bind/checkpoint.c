/* checkpoint.c -- core.checkpoint: files of named tensors as seen from Lua.
 *
 *   open(path) -> Checkpoint        names info tensor raw source metadata verify close
 *                                   (metadata: checkpoint_metadata.c)
 *   save(path, tensors, metadata, options), describe(...)         (checkpoint_save.c)
 *   create(path, plan, metadata), create_gguf(...) -> Writer: names put merge close
 *                                                      (checkpoint_writer.c, checkpoint_pairs.c)
 *   read(source, dtype) -> Tensor                                    (source.c)
 *   merge(entry, options) -> Tensor, figures;  methods()             (merge.c)
 */
#include "checkpoint.h"

#include <string.h>

#include "merge.h"
#include "source.h"
#include "system.h"

#define CHECKPOINT_TYPE "moelua.Checkpoint"

typedef struct checkpoint {
    moe_checkpoint *file;       /* NULL when closed */
} checkpoint;

moe_checkpoint *lmoe_tocheckpoint(lua_State *L, int arg) {
    const checkpoint *c = luaL_testudata(L, arg, CHECKPOINT_TYPE);
    return c ? c->file : NULL;
}

int lmoe_checkpoint_fail(lua_State *L, moe_status status) {
    if (status == MOE_EINTR || status == MOE_EARG || status == MOE_ETYPE || status == MOE_ESHAPE)
        lmoe_check(L, status);
    return lmoe_fail_status(L, status);
}

/* ---- Checkpoint ----------------------------------------------------------------------------- */

static moe_checkpoint *check_file(lua_State *L, const char *function) {
    const checkpoint *c = luaL_testudata(L, 1, CHECKPOINT_TYPE);
    if (!c)
        lmoe_raise(L, "%s: a Checkpoint is expected, got %s\nhint: call it as file:%s(...)",
                   function, luaL_typename(L, 1), function);
    if (!c->file) lmoe_raise(L, "%s: the checkpoint was closed", function);
    return c->file;
}

static void push_slice(lua_State *L, moe_slice text) { lua_pushlstring(L, text.data, text.size); }

/* The path that the file was opened with: the userdata's value. */
static const char *push_path(lua_State *L) {
    lua_getiuservalue(L, 1, 1);
    return lua_tostring(L, -1);
}

/* The tensor named by argument 2; NULL after pushing nil, message, "missing". */
static const moe_entry *find(lua_State *L, const char *function) {
    moe_checkpoint *f = check_file(L, function);
    size_t size;
    const char *name = lmoe_check_text(L, 2, function, "name", &size);
    const moe_entry *e = moe__checkpoint_find(f, (moe_slice){name, size});
    if (e) return e;
    lmoe_guess guess = lmoe_new_guess(name, size);
    for (size_t i = 0; i < moe__checkpoint_count(f); i++) {
        moe_slice other = moe__checkpoint_get(f, i)->name;
        lmoe_consider(&guess, other.data, other.size);
    }
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s: no tensor `%s`", function, push_path(L), name);
    lua_remove(L, -2);
    if (guess.name) {
        lua_pushliteral(L, "\nhint: did you mean '");
        lua_pushlstring(L, guess.name, guess.length);
        lua_pushliteral(L, "'?");
        lua_concat(L, 4);
    }
    lua_pushliteral(L, "missing");
    return NULL;
}

static int names(lua_State *L) {
    moe_checkpoint *f = check_file(L, "names");
    size_t n = moe__checkpoint_count(f);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_slice(L, moe__checkpoint_get(f, i)->name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int info(lua_State *L) {
    const moe_entry *e = find(L, "info");
    if (!e) return 3;
    lua_createtable(L, 0, 3);
    lua_pushstring(L, moe__stored_name(e->type));
    lua_setfield(L, -2, "dtype");
    lua_pushinteger(L, (lua_Integer)e->bytes);
    lua_setfield(L, -2, "bytes");
    lua_createtable(L, (int)e->rank, 0);
    for (uint32_t i = 0; i < e->rank; i++) {
        lua_pushinteger(L, (lua_Integer)e->shape[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "shape");
    return 1;
}

static int raw(lua_State *L) {
    const moe_entry *e = find(L, "raw");
    if (!e) return 3;
    lua_pushlstring(L, e->data, (size_t)e->bytes);
    return 1;
}

/* file:hash(name): XXH3-128 of the bytes of a tensor. */
static int hash(lua_State *L) {
    const moe_entry *e = find(L, "hash");
    if (!e) return 3;
    moe_checksum *sum = moe__checksum_new(lmoe_ctx(L));
    if (!sum) lmoe_check(L, moe__no_memory(lmoe_ctx(L), 1024, "hash"));
    char digits[MOE_CHECKSUM_DIGITS + 1];
    moe__checksum_add(sum, e->data, (size_t)e->bytes);
    moe__checksum_digits(sum, digits);
    moe__checksum_free(lmoe_ctx(L), sum);
    lua_pushstring(L, digits);
    return 1;
}

/* file:path(): as it was opened. */
static int path(lua_State *L) {
    lua_pushstring(L, moe__checkpoint_path(check_file(L, "path")));
    return 1;
}

/* file:source(name): where the numbers lie, { file, name }: a sharded checkpoint or a view under
 * other names answers with one of the file that has them. */
static int source(lua_State *L) {
    if (!find(L, "source")) return 3;
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "file");
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "name");
    return 1;
}

/* file:metadata(): a table of all of it; file:metadata(key): that value, or nil. */
static int metadata(lua_State *L) {
    const moe_checkpoint *f = check_file(L, "metadata");
    moe_slice key;
    bool all = lua_isnoneornil(L, 2);
    if (!all) key.data = lmoe_check_text(L, 2, "metadata", "key", &key.size);
    lmoe_checkpoint_metadata(L, f, all ? NULL : &key);
    return 1;
}

static moe_dtype wanted_type(lua_State *L, const moe_entry *e) {
    moe_dtype dtype = moe__stored_compute(e->type);
    if (lua_isnoneornil(L, 3)) return dtype == MOE_DTYPE_COUNT ? MOE_F32 : dtype;
    const char *name = lmoe_check_text(L, 3, "tensor", "dtype", NULL);
    for (int d = 0; d < MOE_DTYPE_COUNT; d++)
        if (strcmp(name, moe__dtype_name((moe_dtype)d)) == 0) return (moe_dtype)d;
    lmoe_raise(L, "tensor: dtype must be \"f32\", \"i32\", \"bf16\" or \"f16\", not \"%s\"", name);
    return dtype;
}

/* The collector may run before the first attempt and does before the second: what it finalizes
 * could close this very file, so each looks it up anew. */
static moe_status load(lua_State *L, lmoe_box *box) {
    const moe_entry *e = find(L, "tensor");
    moe_dtype dtype = wanted_type(L, e);
    return moe__checkpoint_tensor(check_file(L, "tensor"), e, dtype, &box->tensor);
}

/* file:tensor(name, dtype): f32 and i32 unless told otherwise. */
static int tensor(lua_State *L) {
    lua_settop(L, 3);
    if (!find(L, "tensor")) return 3;
    lmoe_box *box = lmoe_newbox(L);
    bool tried = false;
    size_t live;
    moe_status status;
    do {
        live = moe_memory(lmoe_ctx(L)).live;
        status = load(L, box);
    } while (lmoe_again(L, status, &tried));
    if (status != MOE_OK) return lmoe_checkpoint_fail(L, status);
    lmoe_charge(L, live);
    return 1;
}

/* file:verify(): true when the file is what its writer wrote, else nil, message, code. */
static int verify(lua_State *L) {
    bool tried = false;
    moe_status status;
    do status = moe__checkpoint_verify(check_file(L, "verify"));
    while (lmoe_again(L, status, &tried));
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_checkpoint_fail(L, status);
}

static int close_file(lua_State *L) {
    checkpoint *c = luaL_testudata(L, 1, CHECKPOINT_TYPE);
    if (!c) return lmoe_raise(L, "close: a Checkpoint is expected\nhint: call it as file:close()");
    moe_checkpoint *file = c->file;
    c->file = NULL;
    moe__checkpoint_close(file);
    return 0;
}

static int to_string(lua_State *L) {
    const checkpoint *c = luaL_checkudata(L, 1, CHECKPOINT_TYPE);
    const char *path = push_path(L);
    if (!c->file) {
        lua_pushfstring(L, "Checkpoint %s (closed)", path);
        return 1;
    }
    size_t n = moe__checkpoint_count(c->file);
    lua_pushfstring(L, "Checkpoint %s (%I tensor%s)", path, (lua_Integer)n, n == 1 ? "" : "s");
    return 1;
}

static int open_checkpoint(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "open");
    lua_settop(L, 1);
    checkpoint *c = lua_newuserdatauv(L, sizeof *c, 1);
    c->file = NULL;
    luaL_setmetatable(L, CHECKPOINT_TYPE);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    bool tried = false;
    moe_status status;
    do status = moe__checkpoint_open(lmoe_ctx(L), path, &c->file);
    while (lmoe_again(L, status, &tried));
    return status == MOE_OK ? 1 : lmoe_checkpoint_fail(L, status);
}

void lmoe_open_checkpoint(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"names", names}, {"info", info}, {"tensor", tensor}, {"raw", raw}, {"source", source},
        {"path", path}, {"hash", hash},
        {"metadata", metadata}, {"verify", verify}, {"close", close_file}, {NULL, NULL},
    };
    static const luaL_Reg functions[] = {
        {"open", open_checkpoint}, {"save", lmoe_checkpoint_save},
        {"create", lmoe_checkpoint_create}, {"create_gguf", lmoe_checkpoint_create_gguf},
        {"describe", lmoe_checkpoint_describe},
        {"read", lmoe_checkpoint_read}, {"merge", lmoe_checkpoint_merge},
        {"methods", lmoe_checkpoint_methods},
        {NULL, NULL},
    };
    lmoe_newtype(L, CHECKPOINT_TYPE, close_file, methods);
    luaL_getmetatable(L, CHECKPOINT_TYPE);
    lua_pushcfunction(L, to_string);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    lmoe_checkpoint_writer_type(L);
    luaL_newlib(L, functions);
}
