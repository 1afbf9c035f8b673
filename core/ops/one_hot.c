/* one_hot.c -- a row of zeros with a one at each id. */
#include <string.h>

#include "tape/op.h"

static moe_status infer(moe_call *c) {
    const moe_tensor *ids = c->in[0];
    int64_t count = c->arg[0].i, shape[MOE_MAX_DIMS];
    if (count < 0)
        return MOE_REJECT(c, MOE_EARG, "count must not be negative: %lld", (long long)count);
    if (ids->ndim == MOE_MAX_DIMS)
        return MOE_REJECT(c, MOE_ESHAPE, "ids %s leave no room for another dimension (the limit "
                          "is %d)", MOE_SHAPE(ids), MOE_MAX_DIMS);
    moe_status s = moe__ids_below(c, ids, count, -1, "ids");
    if (s) return s;
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->ndim] = count;
    moe__out(c, 0, MOE_F32, ids->ndim + 1, shape);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    const moe_tensor *ids = c->in[0];
    moe_real *y = moe__real(c->out[0]);
    memset(y, 0, sizeof *y * (size_t)c->out[0]->count);
    for (int64_t i = 0; i < ids->count; i++)
        if (moe__int(ids)[i] >= 0) y[i * c->arg[0].i + moe__int(ids)[i]] = 1;
    return MOE_OK;
}

MOE_OP(one_hot,
    .sig = "ids:itensor, count:int -> tensor",
    .doc = "For each of the ids 0 .. count-1 a row of zeros with a one at its place; zeros for -1: "
           "ids [..] -> [.. x count].",
    .infer = infer, .forward = forward);
