/* memory.c -- scopes, the collector's settings, gradient mode, precision, the seed of scripts. */
#include "bind.h"

#include <string.h>

#include "base/ctx.h"
#include "kernels/kernels.h"

#define SCOPE "moelua.Scope"

/* Releases every tensor boxed since the scope opened, and those of scopes inside it that were
 * abandoned without closing (a dead coroutine does not run its <close>). */
static void close_innermost(lmoe_state *s) {
    lmoe_scope *scope = s->scope;
    size_t live = moe_memory(s->ctx).live;
    s->scope = scope->outer;
    while (scope->first) lmoe_emptybox(s, scope->first);
    s->charged -= (int64_t)(live - moe_memory(s->ctx).live);
    scope->open = false;
    scope->outer = s->closed;
    s->closed = scope;
}

static void drop(lmoe_state *s, lmoe_scope **list, lmoe_scope *scope) {
    while (*list && *list != scope) list = &(*list)->outer;
    if (!*list) return;
    *list = scope->outer;
    while (scope->first) lmoe_setscope(s, scope->first, NULL);
    moe__record_free(s->ctx, scope, sizeof *scope);
}

static lmoe_scope **check_scope(lua_State *L, const char *what) {
    lmoe_scope **place = luaL_testudata(L, 1, SCOPE);
    if (!place)
        lmoe_raise(L, "%s: a scope is expected, not %s\nhint: call it as scope:%s(...)", what,
                   lmoe_describe(L, 1), what);
    return place;
}

static int scope_close(lua_State *L) {
    lmoe_scope **place = check_scope(L, "close"), *scope = *place;
    lmoe_state *s = lmoe_getstate(L);
    if (!scope || !scope->open) return 0;
    while (scope->open) close_innermost(s);
    drop(s, &s->closed, scope);
    *place = NULL;
    return 0;
}

/* A scope that is collected while open was abandoned: it leaves the chain, its tensors live on
 * under the collector's care. */
static int scope_gc(lua_State *L) {
    lmoe_scope **place = lua_touserdata(L, 1);
    lmoe_state *s = lmoe_findstate(L);
    if (s && *place) drop(s, (*place)->open ? &s->scope : &s->closed, *place);
    *place = NULL;
    return 0;
}

void lmoe_freescopes(lmoe_state *s) {
    while (s->scope) drop(s, &s->scope, s->scope);
    while (s->closed) drop(s, &s->closed, s->closed);
}

/* Would closing `scope` release the box? Not if it was made further out. */
static bool holds(const lmoe_state *s, const lmoe_scope *scope, const lmoe_box *box) {
    for (const lmoe_scope *at = s->scope; at && at != scope; at = at->outer)
        if (box->scope == at) return true;
    return box->scope == scope;
}

void lmoe_keep(lmoe_state *s, const lmoe_scope *scope, lmoe_box *box) {
    if (holds(s, scope, box)) lmoe_setscope(s, box, scope->outer);
}

/* scope:keep(x, ...) -> x, ...: these outlive the scope, in the one around it if there is one. */
static int scope_keep(lua_State *L) {
    const lmoe_scope *scope = *check_scope(L, "keep");
    lmoe_state *s = lmoe_getstate(L);
    if (!scope || !scope->open) lmoe_raise(L, "keep: the scope is closed");
    for (int i = 2; i <= lua_gettop(L); i++) {
        if (!lmoe_totensor(L, i))
            lmoe_raise(L, "keep: argument %d must be a tensor, not %s", i - 1,
                       lmoe_describe(L, i));
        lmoe_keep(s, scope, lmoe_tobox(L, i));
    }
    return lua_gettop(L) - 1;
}

lmoe_scope *lmoe_pushscope(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    lmoe_scope **place = lua_newuserdatauv(L, sizeof *place, 0), *scope;
    *place = NULL;
    luaL_setmetatable(L, SCOPE);
    bool tried = false;
    do scope = moe__record_alloc(s->ctx, sizeof *scope);
    while (lmoe_again(L, scope ? MOE_OK : MOE_ENOMEM, &tried));
    if (!scope) lmoe_check(L, moe__no_memory(s->ctx, sizeof *scope, "a scope"));
    *scope = (lmoe_scope){.outer = s->scope, .open = true};
    return *place = s->scope = scope;
}

static int scope_new(lua_State *L) {
    lmoe_pushscope(L);
    return 1;
}

static size_t bytes_field(lua_State *L, const char *name, size_t otherwise) {
    lua_Integer bytes = lmoe_intfield(L, 1, name, (lua_Integer)otherwise);
    if (bytes < 0) lmoe_raise(L, "memory: %s must not be negative: %I", name, (LUAI_UACINT)bytes);
    return (size_t)bytes;
}

/* memory{limit=, floor=, growth=} sets; both forms return the figures, in bytes. */
static int memory(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    if (!lua_isnoneornil(L, 1)) {
        lmoe_checktype(L, 1, LUA_TTABLE);
        lmoe_checkfields(L, 1, "memory", "limit floor growth");
        size_t limit = bytes_field(L, "limit", moe_memory(s->ctx).limit);
        size_t floor = bytes_field(L, "floor", s->floor);
        double growth = lmoe_numfield(L, 1, "growth", s->growth);
        if (!(growth > 1)) lmoe_raise(L, "memory: growth must be above 1, not %f", growth);
        moe_set_memory_limit(s->ctx, limit);
        s->floor = floor;
        s->growth = growth;
    }
    moe_memory_info m = moe_memory(s->ctx);
    const struct { const char *name; uint64_t value; } figures[] = {
        {"live", m.live}, {"peak", m.peak}, {"cached", m.cached}, {"limit", m.limit},
        {"count", m.tensors}, {"allocations", m.allocations}};
    int n = (int)(sizeof figures / sizeof *figures);
    lua_createtable(L, 0, n);
    for (int i = 0; i < n; i++) {
        lua_pushinteger(L, (lua_Integer)figures[i].value);
        lua_setfield(L, -2, figures[i].name);
    }
    return 1;
}

/* no_grad(f, ...) -> f's results; also switches back when f fails. */
static int no_grad(lua_State *L) {
    moe_ctx *ctx = lmoe_ctx(L);
    lmoe_checktype(L, 1, LUA_TFUNCTION);
    ctx->no_grad++;
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    ctx->no_grad--;
    return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

static int manual_seed(lua_State *L) {
    moe_ctx *ctx = lmoe_ctx(L);
    ctx->seed = (uint64_t)lmoe_checkinteger(L, 1);
    ctx->draws = 0;
    return 0;
}

/* precision(name) -> the one before: how products of matrices hold their operands. */
static int precision(lua_State *L) {
    moe_ctx *ctx = lmoe_ctx(L);
    const char *const names[] = {"f32", "bf16"};
    const moe_format *const formats[] = {ctx->kernels->f32, ctx->kernels->bf16};
    lua_pushstring(L, names[ctx->format == formats[1]]);
    if (lua_isnoneornil(L, 1)) return 1;
    const char *name = lmoe_checkstring(L, 1);
    for (int i = 0; i < 2; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        if (!formats[i])
            lmoe_raise(L, "precision: this build computes in double alone\nhint: use the one with "
                       "MOELUA_REAL=float");
        ctx->format = formats[i];
        return 1;
    }
    return lmoe_raise(L, "precision: '%s' is unknown\nhint: known are f32, bf16", name);
}

#ifdef MOELUA_TESTING
/* fail_allocation(n, count): the n-th request from now on fails, and the count-1 after it.
 * fail_allocation() switches it off and returns how many requests there were in all. */
static int fail_allocation(lua_State *L) {
    moe_heap *h = &lmoe_ctx(L)->heap;
    lua_Integer n = luaL_optinteger(L, 1, 0);
    h->fail_from = n ? h->requests + (uint64_t)n : 0;
    h->fail_count = (uint64_t)luaL_optinteger(L, 2, 1);
    lua_pushinteger(L, (lua_Integer)h->requests);
    return 1;
}
#endif

void lmoe_add_memory(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"scope", scope_new}, {"memory", memory}, {"no_grad", no_grad},
        {"manual_seed", manual_seed}, {"precision", precision},
#ifdef MOELUA_TESTING
        {"fail_allocation", fail_allocation},
#endif
        {NULL, NULL}};
    static const luaL_Reg methods[] = {{"keep", scope_keep}, {"close", scope_close}, {NULL, NULL}};
    lmoe_newtype(L, SCOPE, scope_close, methods);
    luaL_getmetatable(L, SCOPE);
    lua_pushcfunction(L, scope_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
}
