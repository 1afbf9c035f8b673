/* create.c -- making tensors: zeros, ones, full, arange, rand, randn, tensor{...}. */
#include "bind.h"

#include <math.h>
#include <string.h>

#include "base/pool.h"
#include "base/rng.h"

/* Pushes a new f32 tensor of the shape from `arg` on (numbers or a table). */
static moe_tensor *new_tensor(lua_State *L, int arg, const char *what) {
    int64_t shape[MOE_MAX_DIMS];
    int n = lmoe_checkshape(L, arg, what, shape);
    return lmoe_fillbox(L, lmoe_newbox(L), MOE_F32, n, shape);
}

static int fill_with(lua_State *L, int arg, const char *what, double value) {
    lmoe_check(L, moe__fill(new_tensor(L, arg, what), value));
    return 1;
}

/* zeros(sizes[, { dtype = "bf16" }]) */
static int zeros(lua_State *L) {
    if (lua_gettop(L) < 2 || !lua_istable(L, -1)) return fill_with(L, 1, "zeros", 0);
    lua_insert(L, 1);                   /* the options, below the sizes */
    lmoe_checkfields(L, 1, "zeros", "dtype");
    const char *name = lmoe_strfield(L, 1, "dtype", "f32");
    moe_dtype dtype = lmoe_dtype(L, name, "zeros");
    int64_t shape[MOE_MAX_DIMS];
    int n = lmoe_checkshape(L, 2, "zeros", shape);
    lmoe_check(L, moe__fill(lmoe_fillbox(L, lmoe_newbox(L), dtype, n, shape), 0));
    return 1;
}

static int ones(lua_State *L) { return fill_with(L, 1, "ones", 1); }

static int full(lua_State *L) { return fill_with(L, 2, "full", lmoe_checknumber(L, 1)); }

/* arange(n): 0 .. n-1; arange(first, last[, step]): both ends included, as in Lua's for. */
static int arange(lua_State *L) {
    double first = lmoe_checknumber(L, 1), last = lmoe_optnumber(L, 2, first - 1);
    double step = lmoe_optnumber(L, 3, 1);
    if (lua_isnoneornil(L, 2)) first = 0;
    if (step == 0) lmoe_raise(L, "arange: the step must not be 0");
    double n = floor((last - first) / step + 1e-9) + 1;
    if (isnan(n) || n > 1e15)
        lmoe_raise(L, "arange: %f to %f in steps of %f is no sensible range", first, last, step);
    int64_t size = n > 0 ? (int64_t)n : 0;
    moe_real *x = moe_tensor_data(lmoe_fillbox(L, lmoe_newbox(L), MOE_F32, 1, &size));
    for (int64_t i = 0; i < size; i++) x[i] = (moe_real)(first + (double)i * step);
    return 1;
}

/* ---- random --------------------------------------------------------------------------------- */

typedef void draw_fn(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, moe_real *out);

typedef struct draw {
    draw_fn *fn;
    uint64_t seed, stream;
    moe_real *out;
    double scale, shift;
} draw;

static void draw_range(void *arg, int64_t begin, int64_t end) {
    const draw *d = arg;
    d->fn(d->seed, d->stream, (uint64_t)begin, end - begin, d->out + begin);
    for (int64_t i = begin; i < end; i++)
        d->out[i] = (moe_real)((double)d->out[i] * d->scale + d->shift);
}

/* Without `seed` and `stream` the numbers come from the context's own counter: each call
 * continues. A seed alone stands for the first call after manual_seed(seed). */
static int random_tensor(lua_State *L, const char *what, draw_fn *fn) {
    moe_ctx *ctx = lmoe_ctx(L);
    draw d = {.fn = fn, .seed = ctx->seed, .scale = 1};
    const char *stream = NULL;
    bool options = lua_gettop(L) > 1 && lua_istable(L, -1), seeded = false;
    if (options) {
        lua_insert(L, 1);               /* below the sizes */
        lmoe_checkfields(L, 1, what, "std mean seed stream");
        seeded = lua_getfield(L, 1, "seed") != LUA_TNIL;
        lua_pop(L, 1);
        stream = lmoe_strfield(L, 1, "stream", NULL);
        d.seed = (uint64_t)lmoe_intfield(L, 1, "seed", (lua_Integer)ctx->seed);
        d.scale = lmoe_numfield(L, 1, "std", 1);
        d.shift = lmoe_numfield(L, 1, "mean", 0);
    }
    d.stream = moe__stream(stream ? stream : "moe.manual_seed");
    moe_tensor *t = new_tensor(L, options ? 2 : 1, what);
    d.out = moe_tensor_data(t);
    if (!stream && !seeded) d.stream += ctx->draws++;
    moe__parallel_range(ctx, t->count, 1 << 14, draw_range, &d);
    if (moe_interrupted(ctx)) lmoe_check(L, MOE_EINTR);
    return 1;
}

static int randn(lua_State *L) { return random_tensor(L, "randn", moe__normal); }
static int rand_(lua_State *L) { return random_tensor(L, "rand", moe__uniform); }

/* One number in [0, 1) (or an integer below `bound`): element `index` of a named stream. */
static int uniform(lua_State *L) {
    moe_real u;
    uint64_t seed = (uint64_t)lmoe_checkinteger(L, 1);
    uint64_t stream = moe__stream(lmoe_checkstring(L, 2));
    uint64_t index = (uint64_t)lmoe_checkinteger(L, 3);
    if (!lua_isnoneornil(L, 4)) {
        lua_pushinteger(L, (lua_Integer)moe__below(seed, stream, index,
                                                   (uint64_t)lmoe_checkinteger(L, 4)));
        return 1;
    }
    moe__uniform(seed, stream, index, 1, &u);
    lua_pushnumber(L, (lua_Number)u);
    return 1;
}

#ifdef MOELUA_TESTING
/* philox(key, stream, block) -> the four 32-bit words of the block. */
static int philox(lua_State *L) {
    uint32_t word[4];
    moe__philox((uint64_t)lmoe_checkinteger(L, 1), (uint64_t)lmoe_checkinteger(L, 2),
                (uint64_t)lmoe_checkinteger(L, 3), word);
    for (int i = 0; i < 4; i++) lua_pushinteger(L, word[i]);
    return 4;
}
#endif

/* ---- from tables ---------------------------------------------------------------------------- */

static int nested_shape(lua_State *L, int64_t *shape) {
    int n = 0;
    lua_pushvalue(L, 1);
    while (lua_istable(L, -1)) {
        if (n == MOE_MAX_DIMS) lmoe_raise(L, "tensor: more than %d levels", MOE_MAX_DIMS);
        shape[n++] = (int64_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
        lua_remove(L, -2);
    }
    lua_pop(L, 1);
    return n;
}

/* Reads the table on top of the stack into elements *next, *next+1 ... */
static void read_nested(lua_State *L, moe_tensor *t, int d, int64_t *next) {
    if (d == t->ndim) {
        int ok;
        double value = lua_tonumberx(L, -1, &ok);
        if (!ok || lua_type(L, -1) != LUA_TNUMBER)
            lmoe_raise(L, "tensor: element %d must be a number, not %s", (int)*next + 1,
                       lmoe_describe(L, -1));
        if (t->dtype == MOE_I32 && (value != floor(value) || value < -0x1p31 || value >= 0x1p31))
            lmoe_raise(L, "tensor: element %d is %f, which is no i32", (int)*next + 1, value);
        if (t->dtype == MOE_I32)
            moe__int(t)[(*next)++] = (int32_t)value;
        else
            moe__real(t)[(*next)++] = (moe_real)value;
        return;
    }
    if (!lua_istable(L, -1))
        lmoe_raise(L, "tensor: a row must be a table of %d, not %s", (int)t->shape[d],
                   lmoe_describe(L, -1));
    if ((int64_t)lua_rawlen(L, -1) != t->shape[d])
        lmoe_raise(L, "tensor: rows of different lengths: %d and %d", (int)t->shape[d],
                   (int)lua_rawlen(L, -1));
    luaL_checkstack(L, 4, "tensor");
    for (int64_t i = 1; i <= t->shape[d]; i++) {
        lua_rawgeti(L, -1, i);
        read_nested(L, t, d + 1, next);
        lua_pop(L, 1);
    }
}

/* tensor(nested table or number[, "i32"]) */
static int tensor(lua_State *L) {
    const char *type = lua_isnoneornil(L, 2) ? "f32" : lmoe_checkstring(L, 2);
    if (strcmp(type, "f32") != 0 && strcmp(type, "i32") != 0)
        lmoe_raise(L, "tensor: element type must be \"f32\" or \"i32\", not \"%s\"", type);
    int64_t shape[MOE_MAX_DIMS], next = 0;
    int n = nested_shape(L, shape);
    moe_dtype dtype = strcmp(type, "i32") == 0 ? MOE_I32 : MOE_F32;
    moe_tensor *t = lmoe_fillbox(L, lmoe_newbox(L), dtype, n, shape);
    lua_pushvalue(L, 1);
    read_nested(L, t, 0, &next);
    lua_pop(L, 1);
    return 1;
}

void lmoe_add_create(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"zeros", zeros}, {"ones", ones}, {"full", full}, {"arange", arange}, {"randn", randn},
        {"rand", rand_}, {"uniform", uniform}, {"tensor", tensor},
#ifdef MOELUA_TESTING
        {"philox", philox},
#endif
        {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
