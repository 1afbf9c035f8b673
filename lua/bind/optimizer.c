/* optimizer.c -- in-place parameter updates, one tensor a call; the loop over them is Lua. */
#include "bind.h"

#include <math.h>

#include "tape/optimizer.h"

/* adamw_step(w, m, v, {step=, lr=, beta1=, beta2=, eps=, weight_decay=, clip=}) */
static int adamw_step(lua_State *L) {
    lmoe_checktype(L, 4, LUA_TTABLE);
    double step = lmoe_numfield(L, 4, "step", 1), beta1 = lmoe_numfield(L, 4, "beta1", 0.9);
    double beta2 = lmoe_numfield(L, 4, "beta2", 0.95);
    moe_adamw_args a = {.lr = (moe_real)lmoe_numfield(L, 4, "lr", 1e-3),
                        .beta1 = (moe_real)beta1,
                        .beta2 = (moe_real)beta2,
                        .eps = (moe_real)lmoe_numfield(L, 4, "eps", 1e-8),
                        .weight_decay = (moe_real)lmoe_numfield(L, 4, "weight_decay", 0),
                        .clip = (moe_real)lmoe_numfield(L, 4, "clip", 1),
                        .c1 = (moe_real)(1 - pow(beta1, step)),
                        .c2 = (moe_real)(1 - pow(beta2, step))};
    lmoe_check(L, moe__adamw_step(lmoe_checktensor(L, 1), lmoe_checktensor(L, 2),
                                  lmoe_checktensor(L, 3), &a));
    return 0;
}

/* Pushes element i of the list that is argument 1; it must be a tensor. */
static moe_tensor *element(lua_State *L, const char *what, lua_Integer i) {
    lua_rawgeti(L, 1, i);
    moe_tensor *t = lmoe_totensor(L, -1);
    if (!t)
        lmoe_raise(L, "%s: number %I of the list must be a tensor, not %s", what, (LUAI_UACINT)i,
                   lmoe_describe(L, -1));
    return t;
}

/* grad_norm(list of tensors) -> the global 2-norm of their gradients; absent ones count as 0. */
static int grad_norm(lua_State *L) {
    lmoe_checktype(L, 1, LUA_TTABLE);
    double sum = 0;
    lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        const moe_tensor *t = element(L, "grad_norm", i);
        if (t->grad) sum += moe__sum_of_squares(t->grad);
        lua_pop(L, 1);
    }
    lua_pushnumber(L, sqrt(sum));
    return 1;
}

/* clip_grad_norm(list, max) -> the norm before: scales all gradients so that it is at most max
 * (Pascanu et al. 2013). */
static int clip_grad_norm(lua_State *L) {
    double max = lmoe_checknumber(L, 2);
    if (!(max > 0)) lmoe_raise(L, "clip_grad_norm: max must be above 0, not %f", max);
    grad_norm(L);
    double norm = lua_tonumber(L, -1);
    if (!(norm > max)) return 1;
    lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        moe_tensor *g = element(L, "clip_grad_norm", i)->grad;
        if (g) {
            g->ctx->kernels->scale(g->count, (moe_real)(max / norm), moe__real(g), moe__real(g));
            g->storage->version++;
        }
        lua_pop(L, 1);
    }
    return 1;
}

void lmoe_add_optimizer(lua_State *L) {
    static const luaL_Reg functions[] = {{"adamw_step", adamw_step}, {"grad_norm", grad_norm},
                                         {"clip_grad_norm", clip_grad_norm}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
