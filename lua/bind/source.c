/* source.c -- where numbers lie, as a Lua table says it:
 *
 *   { file = Checkpoint, name = "model.embed_tokens.weight",     -- or tensor = Tensor
 *     first = 0,               -- the element at which the source begins
 *     shape = { 4, 6 },        -- the tensor's, unless given
 *     rows = i32 Tensor,       -- row i is row rows[i] counted from `first`; -1 is a row of zeros
 *     others = { source... }, from = i32 Tensor }      -- row i is that of others[from[i]] if > 0
 *
 * core.checkpoint.read(source, dtype) makes a tensor of it.
 */
#include "source.h"

#include <string.h>

#include "system.h"

/* Unlike lua_pushstring, lua_getfield gives the collector no chance to run finalizers. */
static bool field(lua_State *L, int table, const char *name) {
    return lua_getfield(L, table, name) != LUA_TNIL;
}

/* A metatable could run Lua, and give values that nothing else keeps. */
static void check_table(lua_State *L, int table, const char *where) {
    if (!lua_istable(L, table))
        lmoe_raise(L, "%s: a source must be a table, not %s", where, lmoe_describe(L, table));
    if (lua_getmetatable(L, table))
        lmoe_raise(L, "%s: a source must be a table without a metatable", where);
    lmoe_checkfields(L, table, where, "file name tensor first shape rows others from");
}

size_t lmoe_count_others(lua_State *L, int table) {
    size_t n = 0;
    if (lua_istable(L, table) && field(L, table, "others") && lua_istable(L, -1))
        n = (size_t)lua_rawlen(L, -1);
    if (lua_istable(L, table)) lua_pop(L, 1);
    return n;
}

/* ---- what is stored ------------------------------------------------------------------------- */

/* Fills in type, data and shape from the file; false after pushing nil, message, "missing". */
static bool read_file(lua_State *L, int table, const char *where, lmoe_source *out) {
    field(L, table, "file");
    out->file = lmoe_tocheckpoint(L, -1);
    if (!out->file)
        lmoe_raise(L, "%s: file must be an open Checkpoint, not %s", where, lmoe_describe(L, -1));
    field(L, table, "name");
    if (lua_type(L, -1) != LUA_TSTRING)
        lmoe_raise(L, "%s: name must be a string, not %s", where, lmoe_describe(L, -1));
    moe_slice name;
    name.data = lua_tolstring(L, -1, &name.size);
    out->entry = moe__checkpoint_find(out->file, name);
    if (!out->entry) {
        const char *path = moe__checkpoint_path(out->file);
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s: no tensor `%s`", where, path, name.data);
        lua_pushliteral(L, "missing");
        return false;
    }
    lua_pop(L, 2);
    out->source.type = out->entry->type;
    out->source.data = out->entry->data;
    if (out->entry->rank > MOE_MAX_DIMS)
        lmoe_raise(L, "%s: %d dimensions, more than %d", where, (int)out->entry->rank,
                   MOE_MAX_DIMS);
    out->rank = out->entry->rank;
    for (size_t i = 0; i < out->rank; i++) out->shape[i] = out->entry->shape[i];
    return true;
}

static void read_tensor(lua_State *L, const char *where, lmoe_source *out) {
    const moe_tensor *t = lmoe_totensor(L, -1);
    if (!t || !moe_tensor_contiguous(t) || !t->storage)
        lmoe_raise(L, "%s: tensor must be a contiguous Tensor, not %s", where,
                   lmoe_describe(L, -1));
    lua_pop(L, 1);
    bool real = t->dtype == MOE_F32 && MOE_REAL_IS_DOUBLE;
    out->source.type = real ? MOE_STORED_F64 : moe__stored_of(t->dtype);
    out->source.data = t->storage->data + (size_t)t->offset * moe__dtype_size(t->dtype);
    out->rank = (size_t)t->ndim;
    for (size_t i = 0; i < out->rank; i++) out->shape[i] = (uint64_t)t->shape[i];
}

/* Of sizes whose product may overflow where one of them is 0: a file may hold such a shape. */
static int64_t product(lua_State *L, const char *where, const uint64_t *shape, size_t rank) {
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++)
        if (__builtin_mul_overflow(n, shape[i], &n)) lmoe_raise(L, "%s: shape is too large", where);
    return n;
}

/* ---- which of it ---------------------------------------------------------------------------- */

static uint64_t read_first(lua_State *L, int table, const char *where) {
    int whole = 1;
    lua_Integer first = field(L, table, "first") ? lua_tointegerx(L, -1, &whole) : 0;
    if (!whole || first < 0)
        lmoe_raise(L, "%s: first must be an element, counted from 0, not %s", where,
                   lmoe_describe(L, -1));
    lua_pop(L, 1);
    return (uint64_t)first;
}

/* A list of integers that has one for each row; NULL when the field is nil. */
static const moe_tensor *read_indices(lua_State *L, int table, const char *where,
                                      const char *name) {
    const moe_tensor *t = field(L, table, name) ? lmoe_totensor(L, -1) : NULL;
    bool good = t && t->dtype == MOE_I32 && t->ndim == 1 && moe_tensor_contiguous(t);
    if (!good && !lua_isnil(L, -1))
        lmoe_raise(L, "%s: %s must be a contiguous i32 Tensor of one dimension, not %s", where,
                   name, lmoe_describe(L, -1));
    lua_pop(L, 1);
    return t;
}

static void read_shape(lua_State *L, int table, const char *where, lmoe_source *out) {
    if (!field(L, table, "shape")) {
        lua_pop(L, 1);
        return;
    }
    if (!lua_istable(L, -1) || lua_rawlen(L, -1) > MOE_MAX_DIMS)
        lmoe_raise(L, "%s: shape must be a list of at most %d sizes", where, MOE_MAX_DIMS);
    out->rank = (size_t)lua_rawlen(L, -1);
    uint64_t count = 1;
    for (size_t i = 0; i < out->rank; i++) {
        int whole;
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        lua_Integer size = lua_tointegerx(L, -1, &whole);
        if (!whole || size < 0 || __builtin_mul_overflow(count, (uint64_t)size, &count) ||
            count > (uint64_t)INT64_MAX)
            lmoe_raise(L, "%s: shape holds %s, no size", where, lmoe_describe(L, -1));
        out->shape[i] = (uint64_t)size;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void check_run(lua_State *L, const char *where, const moe_source *s, uint64_t total) {
    uint64_t end;
    if (__builtin_add_overflow(s->first, (uint64_t)s->count, &end) || end > total)
        lmoe_raise(L, "%s: elements %I to %I of a tensor of %I", where, (lua_Integer)s->first,
                   (lua_Integer)(s->first + (uint64_t)s->count), (lua_Integer)total);
}

static void check_rows(lua_State *L, const char *where, const moe_source *s, const moe_tensor *rows,
                       uint64_t total) {
    uint64_t left = s->first < total ? total - s->first : 0;
    int64_t most = s->width ? (int64_t)(left / (uint64_t)s->width) : INT32_MAX;
    for (int64_t i = 0; i < rows->count; i++)
        if (s->rows[i] < -1 || s->rows[i] >= most)
            lmoe_raise(L, "%s: rows[%I] is %d: -1 to %I can be had", where, (lua_Integer)i + 1,
                       (int)s->rows[i], (lua_Integer)most - 1);
}

/* Blocks are not cut by where a source begins or ends, nor by its rows. */
static void check_blocks(lua_State *L, const char *where, const moe_source *s) {
    uint64_t elements, bytes;
    moe__stored_block(s->type, &elements, &bytes);
    if (s->first % elements || (uint64_t)s->count % elements ||
        (s->rows && (uint64_t)s->width % elements))
        lmoe_raise(L, "%s: %s comes in blocks of %d elements: a source cannot begin at element %I "
                   "and have %I in rows of %I", where, moe__stored_name(s->type), (int)elements,
                   (lua_Integer)s->first, (lua_Integer)s->count, (lua_Integer)s->width);
}

static bool read_own(lua_State *L, int table, const char *where, lmoe_source *out) {
    check_table(L, table, where);
    memset(out, 0, sizeof *out);
    if (field(L, table, "tensor")) {
        read_tensor(L, where, out);
    } else {
        lua_pop(L, 1);
        if (!read_file(L, table, where, out)) return false;
    }
    moe_source *s = &out->source;
    uint64_t total = (uint64_t)product(L, where, out->shape, out->rank);
    const moe_tensor *rows = read_indices(L, table, where, "rows");
    const moe_tensor *from = read_indices(L, table, where, "from");
    if (rows && out->rank) out->shape[0] = (uint64_t)rows->count;
    read_shape(L, table, where, out);
    s->first = read_first(L, table, where);
    s->count = product(L, where, out->shape, out->rank);
    s->width = out->rank ? product(L, where, out->shape + 1, out->rank - 1) : 1;
    int64_t length = out->rank ? (int64_t)out->shape[0] : 1;
    if ((rows && rows->count != length) || (from && from->count != length))
        lmoe_raise(L, "%s: rows and from need a number for each of the %I rows", where,
                   (lua_Integer)length);
    s->rows = rows ? moe__int(rows) : NULL;
    s->from = from ? moe__int(from) : NULL;
    check_blocks(L, where, s);
    if (rows)
        check_rows(L, where, s, rows, total);
    else
        check_run(L, where, s, total);
    return true;
}

/* ---- others --------------------------------------------------------------------------------- */

static bool read_others(lua_State *L, int table, const char *where, const moe_source *s,
                        size_t n, moe_source *others) {
    for (size_t i = 0; i < n; i++) {
        lmoe_source one;
        lua_rawgeti(L, table, (lua_Integer)i + 1);
        if (!read_own(L, lua_gettop(L), where, &one)) return false;
        if (one.source.from || lmoe_count_others(L, lua_gettop(L)))
            lmoe_raise(L, "%s: others[%d] has others of its own", where, (int)i + 1);
        if (one.source.count != s->count || one.source.width != s->width)
            lmoe_raise(L, "%s: others[%d] has %I elements in rows of %I, not %I in rows of %I",
                       where, (int)i + 1, (lua_Integer)one.source.count,
                       (lua_Integer)one.source.width, (lua_Integer)s->count,
                       (lua_Integer)s->width);
        if (moe__stored_compute(one.source.type) != moe__stored_compute(s->type))
            lmoe_raise(L, "%s: others[%d] is %s, which does not go with %s", where, (int)i + 1,
                       moe__stored_name(one.source.type), moe__stored_name(s->type));
        others[i] = one.source;
        lua_pop(L, 1);
    }
    return true;
}

bool lmoe_read_source(lua_State *L, int table, const char *where, lmoe_source *out,
                      moe_source *others, size_t room) {
    size_t n = lmoe_count_others(L, table);
    luaL_checkstack(L, 16, where);
    if (n > room) lmoe_raise(L, "%s: others changed while they were read", where);
    if (!read_own(L, table, where, out)) return false;
    moe_source *s = &out->source;
    int64_t rows = s->from ? (out->rank ? (int64_t)out->shape[0] : 1) : 0;
    for (int64_t i = 0; i < rows; i++)
        if (s->from[i] > (int64_t)n)
            lmoe_raise(L, "%s: from[%I] is %d, of %d others", where, (lua_Integer)i + 1,
                       (int)s->from[i], (int)n);
    if (!n) return true;
    field(L, table, "others");
    if (!read_others(L, lua_gettop(L), where, s, n, others)) return false;
    lua_pop(L, 1);
    s->others = others;
    return true;
}

/* ---- reading -------------------------------------------------------------------------------- */

static moe_dtype wanted(lua_State *L, const moe_source *s) {
    static const char *const names[] = {"f32", "bf16", "f16", "i32", NULL};
    static const moe_dtype types[] = {MOE_F32, MOE_BF16, MOE_F16, MOE_I32};
    if (lua_isnoneornil(L, 2))
        return moe__stored_compute(s->type) == MOE_I32 ? MOE_I32 : MOE_F32;
    return types[luaL_checkoption(L, 2, NULL, names)];
}

/* A run is a tensor of the file, from another element on and of another shape. */
static moe_status read_run(moe_ctx *ctx, const lmoe_source *from, moe_dtype as, moe_tensor **out) {
    const moe_source *s = &from->source;
    uint64_t elements, bytes;
    moe__stored_block(s->type, &elements, &bytes);
    moe_entry e = {.name = {"tensor", 6}, .type = s->type, .rank = (uint32_t)from->rank,
                   .shape = from->shape, .data = moe__source_run(s)};
    if (from->entry) {
        e.name = from->entry->name;
        e.at = from->entry->at + s->first / elements * bytes;
    }
    moe_mapping *map = from->file ? moe__checkpoint_mapping(from->file) : NULL;
    const char *path = from->file ? moe__checkpoint_path(from->file) : "read";
    return moe__entry_tensor(ctx, path, map, &e, as, out);
}

typedef struct gathering {
    const moe_kernels *kernels;
    const moe_source *source;
    moe_tensor *out;
} gathering;

#define PIECE 1024

static void gather_range(void *arg, int64_t begin, int64_t end) {
    const gathering *g = arg;
    char *to = g->out->storage->data;
    size_t size = moe__dtype_size(g->out->dtype);
    float piece[PIECE];
    moe_real reals[PIECE];
    for (int64_t i = begin; i < end; i += PIECE) {
        int64_t n = end - i < PIECE ? end - i : PIECE;
        moe__source_read(g->kernels, g->source, i, n, piece);
        for (int64_t k = 0; k < n; k++) reals[k] = (moe_real)piece[k];
        moe__convert(MOE_F32, reals, g->out->dtype, to + (size_t)i * size, n);
    }
}

static moe_status gather(moe_ctx *ctx, const lmoe_source *from, moe_dtype as, moe_tensor **out) {
    moe_desc desc = {.dtype = as, .ndim = (int)from->rank};
    for (size_t i = 0; i < from->rank; i++) desc.shape[i] = (int64_t)from->shape[i];
    if (as == MOE_I32 || moe__stored_compute(from->source.type) != MOE_F32)
        return moe__fail(ctx, MOE_EUNSUPPORTED, "read: rows of %s cannot be gathered as %s",
                         moe__stored_name(from->source.type), moe__dtype_name(as));
    moe_status s = moe__tensor_new(ctx, &desc, out);
    if (s) return s;
    gathering g = {.kernels = ctx->kernels, .source = &from->source, .out = *out};
    moe__parallel_range(ctx, (*out)->count, 1 << 16, gather_range, &g);
    return moe_interrupted(ctx) ? moe__fail(ctx, MOE_EINTR, "interrupted!") : MOE_OK;
}

int lmoe_checkpoint_read(lua_State *L) {
    lua_settop(L, 2);
    size_t n = lmoe_count_others(L, 1);
    moe_source *others = lua_newuserdatauv(L, (n + 1) * sizeof *others, 0);
    lmoe_box *box = lmoe_newbox(L);
    lmoe_source from;
    bool tried = false;
    size_t live;
    moe_status s;
    do {
        live = moe_memory(lmoe_ctx(L)).live;
        if (!lmoe_read_source(L, 1, "read", &from, others, n)) return 3;
        bool run = !from.source.rows && !from.source.from;
        s = (run ? read_run : gather)(lmoe_ctx(L), &from, wanted(L, &from.source), &box->tensor);
    } while (lmoe_again(L, s, &tried));
    if (s != MOE_OK) return lmoe_checkpoint_fail(L, s);
    lmoe_charge(L, live);
    return 1;
}
