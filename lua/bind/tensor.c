/* tensor.c -- the Tensor userdata: boxes, and the methods that are no ops. */
#include "bind.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/ctx.h"
#include "tape/tape.h"

/* ---- boxes ---------------------------------------------------------------------------------- */

static void unlink_box(lmoe_box *box) {
    if (box->link) *box->link = box->next;
    if (box->next) box->next->link = box->link;
}

void lmoe_setscope(lmoe_state *s, lmoe_box *box, lmoe_scope *scope) {
    if (!scope) scope = &s->outside;
    unlink_box(box);
    box->scope = scope;
    box->next = scope->first;
    box->link = &scope->first;
    if (box->next) box->next->link = &box->next;
    scope->first = box;
}

#define MOST_BYTES 0x1p62               /* twice as much still fits in a size */

static int nothing(lua_State *L) { return lua_gettop(L); }

/* Lua forgets a finalizer that it has no memory to call, which takes a call record and some stack:
 * a call that succeeds leaves both behind. */
static bool can_call_finalizers(lua_State *L) {
    if (!lua_checkstack(L, 1)) return false;
    lua_pushcfunction(L, nothing);
    if (lua_pcall(L, 0, 0, 0) == LUA_OK) return true;
    lua_pop(L, 1);
    return false;
}

void lmoe_collect(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    if (!can_call_finalizers(L)) return;
    lua_gc(L, LUA_GCCOLLECT);
    size_t live = moe_memory(s->ctx).live;
    double more = (double)live * (s->growth - 1);
    if (!(more < MOST_BYTES)) more = MOST_BYTES;            /* growth may be math.huge */
    s->ceiling = live + (more > (double)s->floor ? (size_t)more : s->floor);
    s->charged = 0;
}

bool lmoe_again(lua_State *L, moe_status s, bool *tried) {
    if (s != MOE_ENOMEM || *tried) return false;
    *tried = true;
    lmoe_collect(L);
    return true;
}

/* What Lua's collector has to hear of the bytes charged, in KB. As if tensors were a part of its
 * heap, it shall go round once while all of it doubles: more often would cost a training step,
 * which makes its size in tensors several times over, as much as a layer. */
static size_t debt(lua_State *L, const lmoe_state *s) {
    size_t heap = (size_t)lua_gc(L, LUA_GCCOUNT), live = moe_memory(s->ctx).live >> 10;
    size_t charged = (size_t)s->charged >> 10;
    return live <= heap ? charged : (size_t)((double)charged * (double)heap / (double)live);
}

/* Lua sees 41 bytes where the core holds megabytes. Two measures keep garbage bounded: real bytes
 * are charged as collector debt, and a ceiling in proportion to the live bytes forces a full
 * collection, which generational mode needs. The first waits while a script has stopped the
 * collector. This is the only place for either: no kernel runs, and all arguments sit on the
 * stack. */
static void give_collector_a_chance(lua_State *L, lmoe_state *s) {
    if (moe_memory(s->ctx).live > s->ceiling) {
        lmoe_collect(L);
    } else if (s->charged >= 256 << 10 && lua_gc(L, LUA_GCISRUNNING)) {
        size_t step = debt(L, s);
        if (!step) return;
        lua_gc(L, LUA_GCSTEP, (int)step);
        s->charged = 0;
    }
}

void lmoe_charge(lua_State *L, size_t live_before) {
    lmoe_state *s = lmoe_getstate(L);
    size_t live = moe_memory(s->ctx).live;
    if (live > live_before) s->charged += (int64_t)(live - live_before);
}

lmoe_box *lmoe_pushbox(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    lmoe_box **place = lua_newuserdatauv(L, sizeof *place, 0), *box;
    *place = NULL;
    luaL_setmetatable(L, LMOE_TENSOR);
    bool tried = false;
    do box = moe__record_alloc(s->ctx, sizeof *box);
    while (lmoe_again(L, box ? MOE_OK : MOE_ENOMEM, &tried));
    if (!box) lmoe_check(L, moe__no_memory(s->ctx, sizeof *box, "a reference to a tensor"));
    *box = (lmoe_box){0};
    lmoe_setscope(s, box, s->scope);
    return *place = box;
}

lmoe_box *lmoe_newbox(lua_State *L) {
    give_collector_a_chance(L, lmoe_getstate(L));
    return lmoe_pushbox(L);
}

moe_tensor *lmoe_fillbox(lua_State *L, lmoe_box *box, moe_dtype dtype, int ndim,
                         const int64_t *shape) {
    moe_ctx *ctx = lmoe_ctx(L);
    moe_desc desc = {.ndim = ndim};     /* collecting may free what `shape` belongs to */
    for (int i = 0; i < ndim; i++) desc.shape[i] = shape[i];
    bool tried = false;
    size_t live;
    moe_status s;
    do {
        live = moe_memory(ctx).live;
        s = moe_tensor_new(ctx, dtype, ndim, desc.shape, &box->tensor);
    } while (lmoe_again(L, s, &tried));
    lmoe_check(L, s);
    lmoe_charge(L, live);
    return box->tensor;
}

void lmoe_emptybox(lmoe_state *s, lmoe_box *box) {
    lmoe_setscope(s, box, NULL);
    moe_tensor *t = box->tensor;
    box->tensor = NULL;
    moe_tensor_release(t);
}

static void free_box(lmoe_state *s, lmoe_box *box) {
    unlink_box(box);
    moe_tensor_release(box->tensor);
    moe__record_free(s->ctx, box, sizeof *box);
}

void lmoe_freeboxes(lmoe_state *s) {
    while (s->outside.first) free_box(s, s->outside.first);
}

/* Pushes nothing when the value is no tensor. */
static lmoe_box **to_place(lua_State *L, int arg) {
    lmoe_box **place = lua_touserdata(L, arg);
    if (!place || !lua_getmetatable(L, arg)) return NULL;
    bool ours = lua_topointer(L, -1) == lmoe_getstate(L)->tensor_type;
    lua_pop(L, 1);
    return ours ? place : NULL;
}

lmoe_box *lmoe_tobox(lua_State *L, int arg) {
    lmoe_box **place = to_place(L, arg);
    return place ? *place : NULL;
}

moe_tensor *lmoe_totensor(lua_State *L, int arg) {
    lmoe_box *box = lmoe_tobox(L, arg);
    return box ? box->tensor : NULL;
}

moe_tensor *lmoe_checktensor(lua_State *L, int arg) {
    lmoe_box **place = to_place(L, arg);
    if (!place) lmoe_wrong(L, arg, "a tensor");
    if (!*place || !(*place)->tensor) lmoe_released(L, arg);
    return (*place)->tensor;
}

/* Calls nothing that may fail: it is the finalizer. Boxes do not outlive the state. */
static int release(lua_State *L) {
    lmoe_box **place = lua_touserdata(L, 1);
    lmoe_state *s = lmoe_findstate(L);
    if (s && *place) free_box(s, *place);
    *place = NULL;
    return 0;
}

static int free_tensor(lua_State *L) {
    if (!to_place(L, 1)) lmoe_checktensor(L, 1);
    return release(L);
}

/* ---- what it is ----------------------------------------------------------------------------- */

static int shape(lua_State *L) {
    lua_createtable(L, lmoe_checktensor(L, 1)->ndim, 0);
    const moe_tensor *t = lmoe_checktensor(L, 1);
    for (int i = 0; i < t->ndim; i++) {
        lua_pushinteger(L, t->shape[i]);
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

static int size(lua_State *L) {
    const moe_tensor *t = lmoe_checktensor(L, 1);
    lua_Integer dim = lmoe_checkinteger(L, 2);
    if (dim == 0 || dim > t->ndim || dim < -t->ndim)
        lmoe_raise(L, "size: there is no dimension %I in %s", (LUAI_UACINT)dim, MOE_SHAPE(t));
    lua_pushinteger(L, t->shape[dim > 0 ? dim - 1 : dim + t->ndim]);
    return 1;
}

static int count(lua_State *L) {
    lua_pushinteger(L, lmoe_checktensor(L, 1)->count);
    return 1;
}

static int dim(lua_State *L) {
    lua_pushinteger(L, lmoe_checktensor(L, 1)->ndim);
    return 1;
}

static int dtype(lua_State *L) {
    lua_pushstring(L, moe__dtype_name(lmoe_checktensor(L, 1)->dtype));
    return 1;
}

static int is_contiguous(lua_State *L) {
    lua_pushboolean(L, moe_tensor_contiguous(lmoe_checktensor(L, 1)));
    return 1;
}

static int64_t position(const moe_tensor *t, int64_t i) {
    int64_t at = t->offset;
    for (int d = t->ndim - 1; d >= 0; d--) {
        at += i % t->shape[d] * t->stride[d];
        i /= t->shape[d];
    }
    return at;
}

/* Element number i in row-major order, whatever the strides. */
static void push_element(lua_State *L, const moe_tensor *t, int64_t i) {
    size_t bytes = moe__dtype_size(t->dtype);
    const char *at = t->storage->data + (size_t)position(t, i) * bytes;
    if (t->dtype == MOE_I32) {
        lua_pushinteger(L, *(const int32_t *)(const void *)at);
        return;
    }
    moe_real value;
    moe__convert(t->dtype, at, MOE_F32, &value, 1);
    lua_pushnumber(L, (lua_Number)value);
}

/* Leaves a private box of the tensor at `arg` on the stack, so that no finalizer can release it
 * under our hands while Lua allocates. */
static lmoe_box *hold(lua_State *L, int arg) {
    lmoe_box *box = lmoe_pushbox(L);
    lmoe_setscope(lmoe_getstate(L), box, NULL);
    moe_tensor *t = lmoe_checktensor(L, arg);
    moe_tensor_retain(t);
    box->tensor = t;
    return box;
}

static int item(lua_State *L) {
    const moe_tensor *t = lmoe_checktensor(L, 1);
    if (t->count != 1)
        lmoe_raise(L, "item: the tensor %s holds %I numbers, not one", MOE_SHAPE(t),
                   (LUAI_UACINT)t->count);
    push_element(L, t, 0);
    return 1;
}

static void push_nested(lua_State *L, const moe_tensor *t, int d, int64_t *next) {
    if (d == t->ndim) {
        push_element(L, t, (*next)++);
        return;
    }
    luaL_checkstack(L, 4, "totable");
    lua_createtable(L, (int)t->shape[d], 0);
    for (int64_t i = 0; i < t->shape[d]; i++) {
        push_nested(L, t, d + 1, next);
        lua_seti(L, -2, i + 1);
    }
}

static int totable(lua_State *L) {
    int64_t next = 0;
    lmoe_checktensor(L, 1);
    lmoe_box *box = hold(L, 1);
    push_nested(L, box->tensor, 0, &next);
    lmoe_emptybox(lmoe_getstate(L), box);
    return 1;
}

/* The elements' bytes in row-major order, for bit-for-bit comparisons and hashes. */
static int bytes(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    if (!moe_tensor_contiguous(t)) lmoe_raise(L, "bytes: the tensor is not contiguous");
    lua_pushlstring(L, moe_tensor_data(t), (size_t)t->count * moe__dtype_size(t->dtype));
    return 1;
}

/* XXH3-64 of what bytes() gives, as system.hash writes it: no copy of the bytes is made. */
static int hash(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    if (!moe_tensor_contiguous(t)) lmoe_raise(L, "hash: the tensor is not contiguous");
    return lmoe_pushhash(L, moe_tensor_data(t), (size_t)t->count * moe__dtype_size(t->dtype));
}

/* ---- text: a header, then a corner of at most 8 x 8 ----------------------------------------- */

#define CORNER 8

static void add_number(luaL_Buffer *b, const moe_tensor *t, int64_t i) {
    lua_State *L = b->L;
    char text[32];
    push_element(L, t, i);
    if (lua_isinteger(L, -1))
        snprintf(text, sizeof text, "%8lld", (long long)lua_tointeger(L, -1));
    else if (isnan(lua_tonumber(L, -1)))        /* printf would show a sign that says nothing */
        snprintf(text, sizeof text, "%11s", "nan");
    else
        snprintf(text, sizeof text, "%11.4g", lua_tonumber(L, -1));
    lua_pop(L, 1);
    luaL_addstring(b, text);
}

static void add_row(luaL_Buffer *b, const moe_tensor *t, int64_t first, int64_t columns) {
    luaL_addstring(b, "\n ");
    for (int64_t j = 0; j < columns && j < CORNER; j++) add_number(b, t, first + j);
    if (columns > CORNER) luaL_addstring(b, "  ...");
}

static int tostring(lua_State *L) {
    lmoe_box *box = lmoe_tobox(L, 1);
    if (!box || !box->tensor) {
        lua_pushliteral(L, "Tensor (released)");
        return 1;
    }
    box = hold(L, 1);
    const moe_tensor *t = box->tensor;
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, "Tensor ");
    luaL_addstring(&b, moe__dtype_name(t->dtype));
    luaL_addstring(&b, " ");
    luaL_addstring(&b, MOE_SHAPE(t));
    int64_t columns = moe__last(t), rows = columns ? t->count / columns : 0;
    for (int64_t i = 0; i < rows && i < CORNER; i++) add_row(&b, t, i * columns, columns);
    if (rows > CORNER) luaL_addstring(&b, "\n  ...");
    luaL_pushresult(&b);
    lmoe_emptybox(lmoe_getstate(L), box);
    return 1;
}

/* ---- gradients ------------------------------------------------------------------------------ */

static int requires_grad(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    bool wanted = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    if (t->dtype != MOE_F32)
        lmoe_raise(L, "requires_grad: only f32 tensors have gradients, not %s",
                   moe__dtype_name(t->dtype));
    if (t->node)
        lmoe_raise(L, "requires_grad: the tensor %s is the result of an operation\n"
                      "hint: x:detach() makes a leaf of it", MOE_SHAPE(t));
    t->requires_grad = wanted;
    lua_settop(L, 1);
    return 1;
}

static int tracks_grad(lua_State *L) {
    const moe_tensor *t = lmoe_checktensor(L, 1);
    lua_pushboolean(L, t->requires_grad || t->node);
    return 1;
}

static int grad(lua_State *L) {
    lmoe_box *box = lmoe_checktensor(L, 1)->grad ? lmoe_pushbox(L) : NULL;
    moe_tensor *g = lmoe_checktensor(L, 1)->grad;
    if (g) {
        moe_tensor_retain(g);
        box->tensor = g;
    } else {
        lua_pushnil(L);
    }
    return 1;
}

static int zero_grad(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    moe_tensor_release(t->grad);
    t->grad = NULL;
    return 0;
}

static void collect(void *pass) { lmoe_collect(((lmoe_pass *)pass)->L); }

static int backward(lua_State *L) {
    lmoe_pass pass = {.L = L};
    moe_status s = moe__backward(lmoe_checktensor(L, 1), collect, &pass);
    if (pass.raised) return lua_error(L);
    lmoe_check(L, s);
    return 0;
}

static int detach(lua_State *L) {
    lmoe_checktensor(L, 1);
    lmoe_box *box = lmoe_newbox(L);
    bool tried = false;
    moe_status s;
    do s = moe__tensor_alias(lmoe_checktensor(L, 1), true, &box->tensor);
    while (lmoe_again(L, s, &tried));
    lmoe_check(L, s);
    return 1;
}

/* ---- copying and writing -------------------------------------------------------------------- */

moe_dtype lmoe_dtype(lua_State *L, const char *name, const char *what) {
    for (int d = 0; d < MOE_DTYPE_COUNT; d++)
        if (strcmp(name, moe__dtype_name((moe_dtype)d)) == 0) return (moe_dtype)d;
    lmoe_raise(L, "%s: unknown element type \"%s\"\nhint: f32, i32, bf16 or f16", what, name);
    return MOE_F32;
}

/* A contiguous copy outside the tape. */
static int clone(lua_State *L) {
    lmoe_checktensor(L, 1);
    lmoe_box *box = lmoe_newbox(L);
    const moe_tensor *t = lmoe_checktensor(L, 1);
    moe_tensor *copied = lmoe_fillbox(L, box, t->dtype, t->ndim, t->shape);
    moe__copy_strided(lmoe_checktensor(L, 1), copied);
    return 1;
}

static int to(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    moe_dtype wanted = lmoe_dtype(L, lmoe_checkstring(L, 2), "to");
    if (t->dtype == wanted) {
        lua_settop(L, 1);
        return 1;
    }
    if (!moe_tensor_contiguous(t)) {
        lua_settop(L, 1);
        clone(L);
        lua_replace(L, 1);
    }
    lmoe_box *box = lmoe_newbox(L);
    t = lmoe_checktensor(L, 1);
    moe_tensor *made = lmoe_fillbox(L, box, wanted, t->ndim, t->shape);
    t = lmoe_checktensor(L, 1);
    moe__convert(t->dtype, moe_tensor_data(t), wanted, moe_tensor_data(made), t->count);
    return 1;
}

static int fill(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    lmoe_check(L, moe__fill(t, lmoe_checknumber(L, 2)));
    lua_settop(L, 1);
    return 1;
}

static int copy_from(lua_State *L) {
    bool tried = false;
    moe_status s;
    do s = moe__copy_into(lmoe_checktensor(L, 1), lmoe_checktensor(L, 2));
    while (lmoe_again(L, s, &tried));
    lmoe_check(L, s);
    lua_settop(L, 1);
    return 1;
}

/* x:put_rows_(rows, from): x[rows[i]] = row i of from, in x's type. */
static int put_rows(lua_State *L) {
    lmoe_check(L, moe__put_rows(lmoe_checktensor(L, 1), lmoe_checktensor(L, 2),
                                lmoe_checktensor(L, 3)));
    lua_settop(L, 1);
    return 1;
}

/* ---- operators: the ops of the same meaning ------------------------------------------------- */

static int operate(lua_State *L) {
    int n = lua_gettop(L);
    luaL_getmetatable(L, LMOE_TENSOR);
    lua_getfield(L, -1, "__index");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_gettable(L, -2);
    lua_replace(L, n + 1);
    lua_settop(L, n + 1);
    lua_insert(L, 1);
    bool unary = lua_toboolean(L, lua_upvalueindex(2));
    lua_settop(L, unary ? 2 : 3);
    lua_call(L, unary ? 1 : 2, 1);
    return 1;
}

static void add_operators(lua_State *L) {
    static const char *const names[][2] = {{"__add", "add"}, {"__sub", "sub"}, {"__mul", "mul"},
                                           {"__div", "div"}, {"__pow", "pow"}, {"__unm", "neg"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lua_pushstring(L, names[i][1]);
        lua_pushboolean(L, strcmp(names[i][1], "neg") == 0);
        lua_pushcclosure(L, operate, 2);
        lua_setfield(L, -2, names[i][0]);
    }
}

void lmoe_open_tensor(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"shape", shape}, {"size", size}, {"count", count}, {"dim", dim}, {"dtype", dtype},
        {"is_contiguous", is_contiguous}, {"item", item}, {"totable", totable}, {"bytes", bytes},
        {"hash", hash},
        {"requires_grad", requires_grad}, {"tracks_grad", tracks_grad}, {"grad", grad},
        {"zero_grad", zero_grad}, {"backward", backward}, {"detach", detach}, {"clone", clone},
        {"to", to}, {"fill_", fill}, {"copy_", copy_from},
        {"put_rows_", put_rows}, {"free", free_tensor}, {NULL, NULL}};
    lmoe_newtype(L, LMOE_TENSOR, release, functions);
    luaL_getmetatable(L, LMOE_TENSOR);
    lmoe_getstate(L)->tensor_type = lua_topointer(L, -1);
    lua_pushcfunction(L, tostring);
    lua_setfield(L, -2, "__tostring");
    add_operators(L);
    lua_getfield(L, -1, "__index");
    lua_remove(L, -2);
}
