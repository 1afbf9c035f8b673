/* recompute.c -- recompute(f, ...): calls f without recording and lets backward call it again.
 *
 * What f is given is kept in two places. The tensors belong to the node on the tape; the function
 * and everything else stay in a table of Lua's registry, where the node has a reference to it. A
 * node may live longer than the Lua state, which therefore knows all references.
 */
#include <string.h>

#include "base/ctx.h"
#include "bind.h"
#include "tape/tape.h"

typedef struct lmoe_again {
    moe_replay replay;          /* first: what the tape calls */
    lmoe_state *state;          /* NULL when it is closed */
    struct lmoe_again *next, **link;
    moe_ctx *ctx;
    int ref;                    /* { f, ... } with `its_tensor` for each tensor */
    const struct moe_format *format;    /* the precision, ...                           */
    uint64_t seed, draws;               /* ... and the random numbers, that f worked with */
} again;

static const char its_tensor = 0;

/* The f32 tensor at `arg`: those are what has gradients. */
static moe_tensor *result(lua_State *L, int arg) {
    moe_tensor *t = lmoe_totensor(L, arg);
    return t && t->dtype == MOE_F32 ? t : NULL;
}

/* ---- again ---------------------------------------------------------------------------------- */

typedef struct job {
    const again *a;
    const moe_call *c;
    moe_tensor *const *in;
    moe_tensor **out;
} job;

static void push_tensor(lua_State *L, moe_tensor *t) {
    lmoe_box *box = lmoe_pushbox(L);
    moe_tensor_retain(t);
    box->tensor = t;
}

/* Pushes the function and its arguments, as they were the first time. */
static void push_call(lua_State *L, const job *j) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, j->a->ref);
    int held = lua_gettop(L), n = (int)lua_rawlen(L, held), tensors = 0;
    luaL_checkstack(L, n + LUA_MINSTACK, "recompute");
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, held, i);
        if (lua_touserdata(L, -1) != &its_tensor) continue;
        lua_pop(L, 1);
        push_tensor(L, j->in[tensors++]);
    }
    lua_remove(L, held);
}

static void check_result(lua_State *L, const job *j, int k, const moe_tensor *t) {
    const moe_tensor *before = k < j->c->nout ? j->c->out[k] : NULL;
    if (before && t && t->ndim == before->ndim &&
        memcmp(t->shape, before->shape, sizeof *t->shape * (size_t)t->ndim) == 0) return;
    lmoe_raise(L, "recompute: result %d of the function is %s when it is called again, but was %s",
               k + 1, t ? MOE_SHAPE(t) : "missing", before ? MOE_SHAPE(before) : "missing");
}

/* The tensors of the call belong to a scope; those that are asked for are taken out before it
 * closes. */
static int run_protected(lua_State *L) {
    const job *j = lua_touserdata(L, 1);
    lmoe_pushscope(L);
    lua_toclose(L, -1);
    int first = lua_gettop(L) + 1, k = 0;
    push_call(L, j);
    lua_call(L, lua_gettop(L) - first, LUA_MULTRET);
    for (int i = first; i <= lua_gettop(L); i++)
        if (result(L, i)) check_result(L, j, k++, result(L, i));
    if (k < j->c->nout) check_result(L, j, k, NULL);
    k = 0;
    for (int i = first; i <= lua_gettop(L); i++) {
        moe_tensor *t = result(L, i);
        if (!t) continue;
        moe_tensor_retain(t);
        j->out[k++] = t;
    }
    return 0;
}

/* With the tape on, and the precision and the random numbers of the first time. */
static int run_as_before(lua_State *L, job *j) {
    moe_ctx *ctx = j->a->ctx;
    int no_grad = ctx->no_grad;
    uint64_t seed = ctx->seed, draws = ctx->draws;
    const struct moe_format *format = ctx->format;
    ctx->no_grad = 0;
    ctx->format = j->a->format;
    ctx->seed = j->a->seed;
    ctx->draws = j->a->draws;
    lua_pushcfunction(L, run_protected);
    lua_pushlightuserdata(L, j);
    int status = lua_pcall(L, 1, 0, 0);
    ctx->no_grad = no_grad;
    ctx->format = format;
    ctx->seed = seed;
    ctx->draws = draws;
    return status;
}

/* An error stays on the stack, for backward to raise it. */
static moe_status run(moe_replay *r, void *ud, const moe_call *c, moe_tensor *const *in,
                      moe_tensor **out) {
    again *a = (again *)r;
    lmoe_pass *p = ud;
    if (!a->state || !lua_checkstack(p->L, 4))
        return moe__fail(a->ctx, MOE_EARG, "backward: the function to recompute is gone");
    job j = {.a = a, .c = c, .in = in, .out = out};
    if (run_as_before(p->L, &j) == LUA_OK) return MOE_OK;
    p->raised = true;
    for (int k = 0; k < c->nout; k++) {         /* closing the scope may have failed */
        moe_tensor_release(out[k]);
        out[k] = NULL;
    }
    return moe__fail(a->ctx, MOE_EARG, "backward: the function to recompute failed");
}

/* ---- the first time ------------------------------------------------------------------------- */

static void detach(again *a) {
    *a->link = a->next;
    if (a->next) a->next->link = a->link;
    a->state = NULL;
}

/* Frees slots of a table that exist already: nothing here can raise. */
static void release(moe_replay *r) {
    again *a = (again *)r;
    if (a->state) {
        luaL_unref(a->state->main, LUA_REGISTRYINDEX, a->ref);
        detach(a);
    }
    moe__record_free(a->ctx, a, sizeof *a);
}

void lmoe_forgetcalls(lmoe_state *s) {
    while (s->again) detach(s->again);
}

/* What the node shall own; NULL when there is no memory. Takes the table from the stack. */
static again *new_again(lua_State *L, const again *first) {
    lmoe_state *s = lmoe_getstate(L);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    again *a;
    bool tried = false;
    do a = moe__record_alloc(s->ctx, sizeof *a);
    while (lmoe_again(L, a ? MOE_OK : MOE_ENOMEM, &tried));
    if (!a) {
        luaL_unref(L, LUA_REGISTRYINDEX, ref);
        lmoe_check(L, moe__no_memory(s->ctx, sizeof *a, "a function to recompute"));
    }
    *a = *first;
    a->ref = ref;
    a->next = s->again;
    a->link = &s->again;
    if (a->next) a->next->link = &a->next;
    return s->again = a;
}

/* Pushes { f, ... } of the stack from 1 to n, with marks for the tensors. */
static void push_held(lua_State *L, int n) {
    int tensors = 0;
    lua_createtable(L, n, 0);
    for (int i = 1; i <= n; i++) {
        if (!lmoe_totensor(L, i)) {
            lua_pushvalue(L, i);
        } else {
            if (++tensors > MOE_MAX_IN)
                lmoe_raise(L, "recompute: the function must not get more than %d tensors",
                           MOE_MAX_IN);
            lua_pushlightuserdata(L, (void *)&its_tensor);
        }
        lua_rawseti(L, -2, i);
    }
}

/* The call is stack[1..n], { f, ... } lies above it, results are at `at`. */
typedef struct first {
    int n, nout, at[MOE_MAX_OUT];
    lmoe_box *box[MOE_MAX_OUT];
    moe_tensor *in[MOE_MAX_IN], *out[MOE_MAX_OUT];
} first;

/* False when the function has released one of them. */
static bool read_tensors(lua_State *L, first *f, moe_call *c) {
    bool all = true;
    c->nin = 0;
    for (int i = 1; i <= f->n; i++) {
        lua_rawgeti(L, f->n + 1, i);
        bool was_tensor = lua_touserdata(L, -1) == &its_tensor;
        lua_pop(L, 1);
        if (was_tensor) all &= (f->in[c->nin++] = lmoe_totensor(L, i)) != NULL;
    }
    for (int k = 0; k < f->nout; k++) all &= (f->out[k] = result(L, f->at[k])) != NULL;
    return all;
}

/* Each tensor from `at` to the top gets a new box, in the scope around ours. */
static void push_boxes(lua_State *L, int at, lmoe_scope *outer, first *f) {
    int last = lua_gettop(L);
    luaL_checkstack(L, MOE_MAX_OUT + LUA_MINSTACK, "recompute");
    for (; at <= last; at++) {
        if (!result(L, at)) continue;
        if (f->nout == MOE_MAX_OUT)
            lmoe_raise(L, "recompute: the function must not return more than %d tensors",
                       MOE_MAX_OUT);
        f->at[f->nout] = at;
        f->box[f->nout] = lmoe_newbox(L);
        lmoe_setscope(lmoe_getstate(L), f->box[f->nout++], outer);
    }
}

/* The tensors among the results from `at` on become the outputs of a node. */
static void record(lua_State *L, int n, int at, lmoe_scope *outer, const again *seen) {
    first f = {.n = n};
    push_boxes(L, at, outer, &f);
    if (!f.nout) return;
    lua_pushvalue(L, n + 1);
    again *a = new_again(L, seen);
    moe_call c;
    moe_status s;
    bool all, tried = false;
    do {
        c = (moe_call){.ctx = a->ctx, .in = f.in};
        all = read_tensors(L, &f, &c);
        s = all ? moe__apply_again(&c, f.nout, f.out, &a->replay) : MOE_EARG;
    } while (lmoe_again(L, s, &tried));
    if (s) release(&a->replay);
    if (!all) lmoe_raise(L, "recompute: the function released what it was given, or returns");
    lmoe_check(L, s);
    for (int k = f.nout - 1; k >= 0; k--) {
        f.box[k]->tensor = c.out[k];
        lua_replace(L, f.at[k]);
    }
}

/* recompute(f, ...) -> f's results */
static int recompute(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    moe_ctx *ctx = s->ctx;
    lmoe_checktype(L, 1, LUA_TFUNCTION);
    int n = lua_gettop(L);
    luaL_checkstack(L, n + LUA_MINSTACK, "recompute");
    push_held(L, n);
    lmoe_scope *scope = lmoe_pushscope(L);
    lua_toclose(L, -1);
    again seen = {.replay = {.run = run, .release = release}, .state = s, .ctx = ctx,
                  .format = ctx->format, .seed = ctx->seed, .draws = ctx->draws};
    for (int i = 1; i <= n; i++) lua_pushvalue(L, i);
    bool met_grad = ctx->met_grad;
    ctx->met_grad = false;
    ctx->no_grad++;
    int status = lua_pcall(L, n - 1, LUA_MULTRET, 0);
    ctx->no_grad--;
    bool needed = ctx->met_grad && !ctx->no_grad;
    ctx->met_grad |= met_grad;
    if (status != LUA_OK) return lua_error(L);
    if (needed) record(L, n, n + 3, scope->outer, &seen);
    for (int i = n + 3; i <= lua_gettop(L); i++)
        if (lmoe_totensor(L, i)) lmoe_keep(s, scope, lmoe_tobox(L, i));
    return lua_gettop(L) - (n + 2);
}

void lmoe_add_recompute(lua_State *L) {
    lua_pushcfunction(L, recompute);
    lua_setfield(L, -2, "recompute");
}
