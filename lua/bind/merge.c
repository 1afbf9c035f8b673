/* merge.c -- one tensor of a merge, as a Lua table describes it:
 *
 *   { name = "model.norm.weight", dtype = "BF16", shape = { 576 }, method = "ties",
 *     sources = { source... }, base = source, masks = { source... },         -- see source.c
 *     params = { weight = { 0.5, 0.5 }, density = 0.3, ... },                -- as mergekit's
 *     seed = 1, stream = name, cast = "BF16" }
 *
 * All memory is taken first; then the entry is read without giving the collector a chance.
 */
#include "merge.h"

#include <string.h>

#include "source.h"
#include "system.h"

/* ---- memory --------------------------------------------------------------------------------- */

enum { WEIGHT, DENSITY, GAMMA, EPSILON, SCALE, LISTS };
static const char *const list_names[LISTS] = {"weight", "density", "gamma", "epsilon", "scale"};
static const double list_defaults[LISTS] = {1, 1, 0.01, 0.15, 1};

/* What an entry is read into; lies in one userdata with what follows it. */
typedef struct lmoe_merging {
    moe_merge merge;
    const moe_method *method;
    moe_merge_figures *figures; /* NULL: not wanted */
    moe_stored type;
    uint64_t shape[MOE_STORED_MAX_DIMS];
    moe_source base;
    moe_source *models, *masks, *others;
    double *lists[LISTS];
    size_t used, room;          /* of the others */
    char where[160], shown[MOE_SHOWN + 4], hash[MOE_CHECKSUM_DIGITS + 1];
} plan;

static size_t list_length(lua_State *L, int entry, const char *name) {
    size_t n = lua_getfield(L, entry, name) == LUA_TTABLE ? (size_t)lua_rawlen(L, -1) : 0;
    lua_pop(L, 1);
    return n;
}

static size_t count_others(lua_State *L, int entry) {
    static const char *const lists[] = {"sources", "masks"};
    size_t n = lua_getfield(L, entry, "base") == LUA_TTABLE
                   ? lmoe_count_others(L, lua_gettop(L)) : 0;
    lua_pop(L, 1);
    for (int k = 0; k < 2; k++) {
        size_t length = list_length(L, entry, lists[k]);
        lua_getfield(L, entry, lists[k]);
        for (size_t i = 0; i < length; i++) {
            lua_rawgeti(L, -1, (lua_Integer)i + 1);
            n += lmoe_count_others(L, lua_gettop(L));
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    return n;
}

/* Pushes the memory for an entry. */
static plan *push_plan(lua_State *L, int entry) {
    size_t models = list_length(L, entry, "sources"), others = count_others(L, entry);
    size_t sources = (2 * models + others + 1) * sizeof(moe_source);
    plan *p = lua_newuserdatauv(L, sizeof *p + sources + LISTS * (models + 1) * sizeof(double), 0);
    memset(p, 0, sizeof *p);
    p->models = (moe_source *)(void *)(p + 1);
    p->masks = p->models + models;
    p->others = p->masks + models;
    double *numbers = (double *)(void *)(p->others + others + 1);
    for (int i = 0; i < LISTS; i++) p->lists[i] = numbers + (size_t)i * (models + 1);
    p->merge.count = (int)models;
    p->room = others;
    return p;
}

/* ---- parameters ----------------------------------------------------------------------------- */

/* The end of a name among those that the method knows; NULL when it is not there. */
static const char *find_name(const moe_method *method, const char *name) {
    size_t n = strlen(name);
    for (const char *at = strstr(method->params, name); at; at = strstr(at + 1, name))
        if (at[-1] == ' ' && (at[n] == ' ' || at[n] == '!')) return at + n;
    return NULL;
}

static bool requires(const moe_method *method, const char *name) {
    const char *end = find_name(method, name);
    return end && *end == '!';
}

static void check_names(lua_State *L, int params, const char *where, const moe_method *method) {
    for (lua_pushnil(L); lua_next(L, params); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
        if (*name && find_name(method, name)) continue;
        const char *shown = lmoe_describe(L, -2);
        lmoe_raise(L, "%s: %s has no parameter %s\nhint: it has%s", where, method->name, shown,
                   luaL_gsub(L, method->params, "!", ""));
    }
}

static double number_of(lua_State *L, const char *where, const char *name) {
    if (lua_type(L, -1) != LUA_TNUMBER)
        lmoe_raise(L, "%s: %s must be a number, not %s", where, name, lmoe_describe(L, -1));
    return lua_tonumber(L, -1);
}

/* One number for all models, or a list with one for each. */
static void read_list(lua_State *L, int params, plan *p, int which, const moe_method *method) {
    const char *name = list_names[which];
    int kind = lua_getfield(L, params, name);
    for (int i = 0; i < p->merge.count; i++) p->lists[which][i] = list_defaults[which];
    if (kind == LUA_TNIL && requires(method, name))
        lmoe_raise(L, "%s: %s needs %s", p->where, method->name, name);
    if (kind == LUA_TTABLE && (int)lua_rawlen(L, -1) != p->merge.count)
        lmoe_raise(L, "%s: %s has %d numbers for %d models", p->where, name,
                   (int)lua_rawlen(L, -1), p->merge.count);
    for (int i = 0; kind != LUA_TNIL && i < p->merge.count; i++) {
        if (kind == LUA_TTABLE)
            lua_rawgeti(L, -1, i + 1);
        else
            lua_pushvalue(L, -1);
        p->lists[which][i] = number_of(L, p->where, name);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static double read_number(lua_State *L, int params, const plan *p, const char *name,
                          double otherwise, const moe_method *method) {
    double value = otherwise;
    if (lua_getfield(L, params, name) != LUA_TNIL)
        value = number_of(L, p->where, name);
    else if (requires(method, name))
        lmoe_raise(L, "%s: %s needs %s", p->where, method->name, name);
    lua_pop(L, 1);
    return value;
}

/* At most a million steps: nothing looks at the interrupt flag between them. */
static int read_count(lua_State *L, int params, const plan *p, const char *name, int otherwise,
                      const moe_method *method) {
    double value = read_number(L, params, p, name, otherwise, method);
    if (!(value >= 0 && value <= 1e6))
        lmoe_raise(L, "%s: %s must be in 0 .. 1000000, not %f", p->where, name, value);
    return (int)value;
}

static bool read_flag(lua_State *L, int params, const plan *p, const char *name, bool otherwise) {
    int kind = lua_getfield(L, params, name);
    if (kind != LUA_TNIL && kind != LUA_TBOOLEAN)
        lmoe_raise(L, "%s: %s must be true or false, not %s", p->where, name,
                   lmoe_describe(L, -1));
    bool value = kind == LUA_TNIL ? otherwise : lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

/* `params` is a table. `epsilon` is a list for some methods and one small number for others. */
static void read_params(lua_State *L, int params, plan *p, const moe_method *method) {
    check_names(L, params, p->where, method);
    for (int i = 0; i < LISTS; i++) read_list(L, params, p, i, method);
    moe_merge_params *v = &p->merge.params;
    lua_getfield(L, params, "epsilon");
    if (lua_isnil(L, -1) && method->epsilon > 0)
        for (int i = 0; i < p->merge.count; i++) p->lists[EPSILON][i] = method->epsilon;
    lua_pop(L, 1);
    *v = (moe_merge_params){
        .weight = p->lists[WEIGHT], .density = p->lists[DENSITY], .gamma = p->lists[GAMMA],
        .epsilon = p->lists[EPSILON], .scale = p->lists[SCALE],
        .t = read_number(L, params, p, "t", 0, method),
        .lambda = read_number(L, params, p, "lambda", 1, method),
        .eps = read_number(L, params, p, "eps", 1e-8, method),
        .tol = read_number(L, params, p, "tol", 1e-5, method),
        .select_topk = read_number(L, params, p, "select_topk", 1, method),
        .r = read_number(L, params, p, "r", 0.1, method),
        .alpha = read_number(L, params, p, "alpha", 0.2, method),
        .max_iter = read_count(L, params, p, "max_iter", 10, method),
        .normalize = read_flag(L, params, p, "normalize", method->normalize),
        .rescale = read_flag(L, params, p, "rescale", method->rescale),
        .filter_wise = read_flag(L, params, p, "filter_wise", false),
        .nuslerp_flatten = read_flag(L, params, p, "nuslerp_flatten", true),
        .nuslerp_row_wise = read_flag(L, params, p, "nuslerp_row_wise", false),
    };
    v->normalize = read_flag(L, params, p, "normalize_weights", v->normalize);
}

/* ---- sources -------------------------------------------------------------------------------- */

static bool read_source(lua_State *L, plan *p, const char *what, int number, moe_source *out,
                        lmoe_source *whole) {
    char where[256];
    int table = lua_gettop(L);
    snprintf(where, sizeof where, "%s: %s", p->where, what);
    if (number) snprintf(where, sizeof where, "%s: %s[%d]", p->where, what, number);
    if (!lmoe_read_source(L, table, where, whole, p->others + p->used, p->room - p->used))
        return false;
    p->used += lmoe_count_others(L, table);
    *out = whole->source;
    if (out->count != p->merge.elements)
        lmoe_raise(L, "%s: %s are merged, this is %s", where,
                   MOE_SHAPE_OF((int)p->merge.rank, (const int64_t *)p->shape),
                   MOE_SHAPE_OF((int)whole->rank, (const int64_t *)whole->shape));
    return true;
}

static bool read_list_of_sources(lua_State *L, int entry, plan *p, const char *what,
                                 moe_source *out) {
    bool found = true;
    if (lua_getfield(L, entry, what) != LUA_TTABLE)
        lmoe_raise(L, "%s: %s must be a list of sources, not %s", p->where, what,
                   lmoe_describe(L, -1));
    int list = lua_gettop(L);
    for (int i = 0; found && i < p->merge.count; i++) {
        lmoe_source whole;
        lua_rawgeti(L, list, i + 1);
        found = read_source(L, p, what, i + 1, &out[i], &whole);
        if (!found) return false;
        lua_pop(L, 1);
        if (i == 0 && out == p->models && whole.file && moe__source_run(&whole.source)) {
            p->merge.file = moe__checkpoint_mapping(whole.file);
            p->merge.path = moe__checkpoint_path(whole.file);
            const char *start = p->merge.file->data;
            p->merge.at = (uint64_t)(moe__source_run(&whole.source) - start);
        }
    }
    lua_pop(L, 1);
    return true;
}

/* false after pushing nil, message, "missing". */
static bool read_sources(lua_State *L, int entry, plan *p) {
    if (!read_list_of_sources(L, entry, p, "sources", p->models)) return false;
    p->merge.models = p->models;
    if (lua_getfield(L, entry, "base") != LUA_TNIL) {
        lmoe_source whole;
        if (!read_source(L, p, "base", 0, &p->base, &whole)) return false;
        p->merge.base = &p->base;
    }
    lua_pop(L, 1);
    bool masks = lua_getfield(L, entry, "masks") != LUA_TNIL;
    lua_pop(L, 1);
    if (!masks) return true;
    if ((int)list_length(L, entry, "masks") != p->merge.count)
        lmoe_raise(L, "%s: masks must be as many as sources", p->where);
    if (!read_list_of_sources(L, entry, p, "masks", p->masks)) return false;
    p->merge.masks = p->masks;
    return true;
}

/* ---- the entry ------------------------------------------------------------------------------ */

static const moe_method *read_method(lua_State *L, int entry, const char *where) {
    if (lua_getfield(L, entry, "method") != LUA_TSTRING)
        lmoe_raise(L, "%s: method must be a string, not %s", where, lmoe_describe(L, -1));
    size_t size;
    const char *name = lua_tolstring(L, -1, &size);
    const moe_method *method = moe__method_named(name);
    lua_pop(L, 1);
    if (method) return method;
    lmoe_guess guess = lmoe_new_guess(name, size);
    for (size_t i = 0; (method = moe__method(i)); i++)
        lmoe_consider(&guess, method->name, strlen(method->name));
    if (guess.name)
        lmoe_raise(L, "%s: no method \"%s\"\nhint: did you mean '%s'?", where, name, guess.name);
    lmoe_raise(L, "%s: no method \"%s\"", where, name);
    return NULL;
}

static moe_stored read_type(lua_State *L, int entry, const char *where, const char *name,
                            moe_stored otherwise) {
    moe_stored type = otherwise;
    if (lua_getfield(L, entry, name) != LUA_TNIL) {
        moe_slice text = {NULL, 0};
        if (lua_type(L, -1) == LUA_TSTRING) text.data = lua_tolstring(L, -1, &text.size);
        if (!text.data || !moe__stored_parse(text, &type))
            lmoe_raise(L, "%s: %s must be one like \"BF16\", not %s", where, name,
                       lmoe_describe(L, -1));
    }
    lua_pop(L, 1);
    return type;
}

static void read_shape(lua_State *L, int entry, plan *p) {
    moe_stored_item item = {0};
    if (lua_getfield(L, entry, "shape") == LUA_TNIL)
        lmoe_raise(L, "%s: shape is missing", p->where);
    lua_pop(L, 1);
    lmoe_checkpoint_shape(L, entry, p->where, &item);
    int64_t n = 1;
    for (size_t i = 0; i < item.rank; i++) {
        p->shape[i] = item.shape[i];
        if (__builtin_mul_overflow(n, (int64_t)item.shape[i], &n))
            lmoe_raise(L, "%s: shape is too large", p->where);
    }
    lua_pop(L, 1);
    p->merge.rank = item.rank;
    p->merge.shape = p->shape;
    p->merge.elements = n;
}

static const char *string_field(lua_State *L, int entry, const plan *p, const char *name,
                                const char *otherwise) {
    if (lua_getfield(L, entry, name) != LUA_TNIL && lua_type(L, -1) != LUA_TSTRING)
        lmoe_raise(L, "%s: %s must be a string, not %s", p->where, name, lmoe_describe(L, -1));
    const char *text = lua_isnil(L, -1) ? otherwise : lua_tostring(L, -1);
    lua_pop(L, 1);
    return text;
}

/* Reads all but the sources. The strings belong to the entry, which has no metatable that could
 * make new ones. */
static const moe_method *read_entry(lua_State *L, int entry, plan *p) {
    strcpy(p->where, "merge");
    if (lua_getmetatable(L, entry))
        lmoe_raise(L, "merge: an entry must be a table without a metatable");
    const char *name = string_field(L, entry, p, "name", "result");
    moe__shown((moe_slice){name, strlen(name)}, p->shown);
    snprintf(p->where, sizeof p->where, "merge: `%s`", p->shown);
    p->merge.name = p->where;
    const moe_method *method = read_method(L, entry, p->where);
    p->type = read_type(L, entry, p->where, "dtype", MOE_STORED_F32);
    p->merge.cast = read_type(L, entry, p->where, "cast", MOE_STORED_COUNT);
    p->merge.stream = string_field(L, entry, p, "stream", name);
    read_shape(L, entry, p);
    p->merge.seed = (uint64_t)lmoe_intfield(L, entry, "seed", 1);
    if (lua_getfield(L, entry, "params") == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
    } else if (!lua_istable(L, -1))
        lmoe_raise(L, "%s: params must be a table, not %s", p->where, lmoe_describe(L, -1));
    read_params(L, lua_gettop(L), p, method);
    lua_pop(L, 1);
    return method;
}

/* ---- what it tells -------------------------------------------------------------------------- */

static void push_numbers(lua_State *L, const moe_merge_figures *f, int count, size_t offset,
                         const char *name) {
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        double value;
        memcpy(&value, (const char *)&f->models[i] + offset, sizeof value);
        lua_pushnumber(L, value);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setfield(L, -2, name);
}

static void push_figures(lua_State *L, const plan *p) {
    const moe_merge_figures *f = p->figures;
    lua_createtable(L, 0, 6);
    if (!f || f->agreement < 0) return;
    push_numbers(L, f, p->merge.count, offsetof(moe_merge_figure, cosine), "cosine");
    push_numbers(L, f, p->merge.count, offsetof(moe_merge_figure, distance), "distance");
    push_numbers(L, f, p->merge.count, offsetof(moe_merge_figure, kept), "kept");
    lua_pushnumber(L, f->agreement);
    lua_setfield(L, -2, "agreement");
}

/* ---- the functions -------------------------------------------------------------------------- */

/* Leaves the memory of the figures on the stack. */
static moe_merge_figures *push_room(lua_State *L, const plan *p) {
    size_t models = (size_t)p->merge.count * sizeof(moe_merge_figure);
    moe_merge_figures *f = lua_newuserdatauv(L, sizeof *f + models, 0);
    f->models = (moe_merge_figure *)(void *)(f + 1);
    f->agreement = -1;
    return f;
}

static void read_options(lua_State *L, int options, plan *p) {
    moe_merge_figures *room = push_room(L, p);
    p->figures = room;
    if (!lua_istable(L, options)) return;
    lmoe_checkfields(L, options, p->where, "memory figures");
    lua_Integer memory = lmoe_intfield(L, options, "memory", 0);
    if (memory < 0) lmoe_raise(L, "%s: memory must not be negative: %I", p->where, memory);
    p->merge.memory = (size_t)memory;
    if (lua_getfield(L, options, "figures") != LUA_TNIL && !lua_toboolean(L, -1))
        p->figures = NULL;
    lua_pop(L, 1);
}

/* All but the sources: these are read when nothing takes memory of Lua any more. */
static plan *push_entry(lua_State *L, int entry, int options) {
    plan *p = push_plan(L, entry);
    p->method = read_entry(L, entry, p);
    read_options(L, options, p);
    return p;
}

lmoe_merging *lmoe_plan_merge(lua_State *L, int entry, int options, const moe_stored_item *item) {
    plan *p = push_entry(L, entry, options);
    if (p->type != item->type || p->merge.rank != item->rank ||
        memcmp(p->shape, item->shape, item->rank * sizeof *p->shape) != 0)
        lmoe_raise(L, "%s: dtype or shape is not what was planned", p->where);
    return read_sources(L, entry, p) ? p : NULL;
}

moe_status lmoe_run_merge(lmoe_merging *m, moe_body *body, const moe_stored_item *item) {
    moe_ctx *ctx = body->ctx;
    moe_checksum *sum = moe__checksum_new(ctx);
    if (!sum) return moe__no_memory(ctx, 1024, m->where);
    moe_sink sink = {.type = item->type, .output = body->output, .at = body->at,
                     .of_file = body->checksum, .of_tensor = sum};
    moe_status s = moe__merge(ctx, m->method, &m->merge, &sink, m->figures);
    if (!s) s = moe__body_filled(body, moe__item_bytes(item));
    moe__checksum_digits(sum, m->hash);
    moe__checksum_free(ctx, sum);
    return s;
}

void lmoe_push_merged(lua_State *L, const lmoe_merging *m) {
    push_figures(L, m);
    lua_pushstring(L, m->hash);
    lua_setfield(L, -2, "hash");
}

/* The type of a tensor that can hold what the entry wants, and of its elements in memory. */
static moe_dtype dtype_of(lua_State *L, const plan *p, moe_stored *stored) {
    *stored = p->type;
    if (p->type == MOE_STORED_BF16) return MOE_BF16;
    if (p->type == MOE_STORED_F16) return MOE_F16;
    if (p->type != MOE_STORED_F32)
        lmoe_raise(L, "%s: a Tensor cannot be %s\nhint: F32, BF16 and F16 can", p->where,
                   moe__stored_name(p->type));
    if (MOE_REAL_IS_DOUBLE) *stored = MOE_STORED_F64;
    return MOE_F32;
}

int lmoe_checkpoint_merge(lua_State *L) {
    lua_settop(L, 2);
    lmoe_checktype(L, 1, LUA_TTABLE);
    plan *p = push_entry(L, 1, 2);
    moe_sink sink = {0};
    moe_dtype dtype = dtype_of(L, p, &sink.type);
    int64_t shape[MOE_STORED_MAX_DIMS];
    for (size_t i = 0; i < p->merge.rank; i++) shape[i] = (int64_t)p->shape[i];
    lmoe_box *box = lmoe_newbox(L);
    int result = lua_gettop(L);
    size_t live = moe_memory(lmoe_ctx(L)).live;
    moe_tensor *t = lmoe_fillbox(L, box, dtype, (int)p->merge.rank, shape);
    if (!read_sources(L, 1, p)) return 3;
    sink.memory = t->storage->data;
    moe_status s = moe__merge(lmoe_ctx(L), p->method, &p->merge, &sink, p->figures);
    if (s != MOE_OK) return lmoe_checkpoint_fail(L, s);
    lmoe_charge(L, live);
    push_figures(L, p);
    lua_pushvalue(L, result);
    lua_insert(L, -2);
    return 2;
}

int lmoe_checkpoint_methods(lua_State *L) {
    static const char *const base[] = {"none", "optional", "required"};
    const moe_method *method;
    lua_newtable(L);
    for (size_t i = 0; (method = moe__method(i)); i++) {
        lua_createtable(L, 0, 4);
        lua_pushstring(L, method->params + 1);
        lua_setfield(L, -2, "params");
        lua_pushstring(L, base[method->base]);
        lua_setfield(L, -2, "base");
        lua_pushinteger(L, method->least);
        lua_setfield(L, -2, "least");
        lua_pushinteger(L, method->most);
        lua_setfield(L, -2, "most");
        lua_setfield(L, -2, method->name);
    }
    return 1;
}
