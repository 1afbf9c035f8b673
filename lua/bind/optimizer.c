/* optimizer.c -- in-place updates of lists of parameters. */
#include "bind.h"

#include <math.h>

#include "tape/optimizer.h"

/* Element i of the list at `list`; it must be a tensor, which the list keeps. */
static moe_tensor *element(lua_State *L, const char *what, int list, lua_Integer i) {
    lua_rawgeti(L, list, i);
    moe_tensor *t = lmoe_totensor(L, -1);
    if (!t)
        lmoe_raise(L, "%s: number %I of the list must be a tensor, not %s", what, (LUAI_UACINT)i,
                   lmoe_describe(L, -1));
    lua_pop(L, 1);
    return t;
}

/* Pushes a block of memory with the tensors of the list at 1, and for AdamW their moments from the
 * lists at 2 and 3. Nothing that comes after it runs the collector. */
static moe_param *push_params(lua_State *L, const char *what, bool moments, int64_t *n) {
    for (int i = 1; i <= (moments ? 3 : 1); i++) lmoe_checktype(L, i, LUA_TTABLE);
    *n = (int64_t)lua_rawlen(L, 1);
    moe_param *list = lua_newuserdatauv(L, (size_t)*n * sizeof *list, 0);
    for (int64_t i = 0; i < *n; i++) {
        list[i] = (moe_param){.w = element(L, what, 1, i + 1)};
        if (!moments) continue;
        list[i].m = element(L, what, 2, i + 1);
        list[i].v = element(L, what, 3, i + 1);
    }
    return list;
}

/* The field weight_decay of the options at 4: a number for all parameters, or a list of them. */
static void read_decay(lua_State *L, int64_t n, moe_param *list) {
    bool many = lua_getfield(L, 4, "weight_decay") == LUA_TTABLE;
    for (int64_t i = 0; i < n; i++) {
        if (many) lua_rawgeti(L, -1, i + 1);
        list[i].weight_decay = (moe_real)lua_tonumber(L, -1);
        if (many) lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* adamw_step({ w }, { m }, { v }, { step =, lr =, beta1 =, beta2 =, eps =, clip =, weight_decay =
 * a number or a list }): parameters without a gradient stay as they are. */
static int adamw_step(lua_State *L) {
    lmoe_checktype(L, 4, LUA_TTABLE);
    double step = lmoe_numfield(L, 4, "step", 1), beta1 = lmoe_numfield(L, 4, "beta1", 0.9);
    double beta2 = lmoe_numfield(L, 4, "beta2", 0.95);
    moe_adamw_args a = {.lr = (moe_real)lmoe_numfield(L, 4, "lr", 1e-3),
                        .beta1 = (moe_real)beta1,
                        .beta2 = (moe_real)beta2,
                        .eps = (moe_real)lmoe_numfield(L, 4, "eps", 1e-8),
                        .clip = (moe_real)lmoe_numfield(L, 4, "clip", 1),
                        .c1 = (moe_real)(1 - pow(beta1, step)),
                        .c2 = (moe_real)(1 - pow(beta2, step))};
    int64_t n;
    moe_param *list = push_params(L, "adamw_step", true, &n);
    read_decay(L, n, list);
    lmoe_check(L, moe__adamw_step(lmoe_ctx(L), n, list, &a));
    return 0;
}

/* grad_norm(list of tensors) -> the global 2-norm of their gradients; absent ones count as 0. */
static int grad_norm(lua_State *L) {
    int64_t n;
    double norm = 0;
    moe_param *list = push_params(L, "grad_norm", false, &n);
    lmoe_check(L, moe__grad_norm(lmoe_ctx(L), n, list, &norm));
    lua_pushnumber(L, norm);
    return 1;
}

/* clip_grad_norm(list, max) -> the norm before: scales all gradients so that it is at most max
 * (Pascanu et al. 2013). */
static int clip_grad_norm(lua_State *L) {
    double max = lmoe_checknumber(L, 2), norm = 0;
    if (!(max > 0)) lmoe_raise(L, "clip_grad_norm: max must be above 0, not %f", max);
    int64_t n;
    moe_param *list = push_params(L, "clip_grad_norm", false, &n);
    lmoe_check(L, moe__grad_norm(lmoe_ctx(L), n, list, &norm));
    if (norm > max) moe__grad_scale(lmoe_ctx(L), n, list, (moe_real)(max / norm));
    lua_pushnumber(L, norm);
    return 1;
}

void lmoe_add_optimizer(lua_State *L) {
    static const luaL_Reg functions[] = {{"adamw_step", adamw_step}, {"grad_norm", grad_norm},
                                         {"clip_grad_norm", clip_grad_norm}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
