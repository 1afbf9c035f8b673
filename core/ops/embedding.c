/* embedding.c -- the row of `weight` for each token id. */
#include "ops/rows.h"

#include <string.h>

static moe_status infer(moe_call *c) {
    const moe_tensor *weight = c->in[0], *ids = c->in[1];
    moe_status s = moe__rank(c, weight, "weight", 2);
    if (s) return s;
    s = moe__stored_alike(c, 0, 1);
    if (s) return s;
    if (ids->ndim == MOE_MAX_DIMS)
        return MOE_REJECT(c, MOE_ESHAPE, "ids %s leave no room for another dimension (the limit "
                          "is %d)", MOE_SHAPE(ids), MOE_MAX_DIMS);
    s = moe__ids_below(c, ids, weight->shape[0], INT64_MIN, "ids");
    if (s) return s;
    int64_t shape[MOE_MAX_DIMS];
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->ndim] = weight->shape[1];
    moe__out(c, 0, MOE_F32, ids->ndim + 1, shape);
    return MOE_OK;
}

/* Rows that are stored in 16 bits: so few that one thread is enough. */
static void widen_rows(moe_call *c, moe_widen_fn *widen) {
    const moe_tensor *ids = c->in[1];
    const uint16_t *from = moe_tensor_data(c->in[0]);
    int64_t n = c->in[0]->shape[1];
    for (int64_t i = 0; i < ids->count; i++)
        widen(n, from + moe__int(ids)[i] * n, moe__real(c->out[0]) + i * n);
}

static moe_status forward(moe_call *c) {
    moe_widen_fn *widen = moe__widen(c->ctx->kernels, c->in[0]->dtype);
    if (widen) {
        widen_rows(c, widen);
        return MOE_OK;
    }
    moe__rows_take(c->ctx, c->in[1], c->in[0]->shape[1], moe__real(c->in[0]),
                   moe__real(c->out[0]), false);
    return MOE_OK;
}

/* dweight[ids[i]] += dy[i] */
static moe_status backward(moe_call *c) {
    moe_real *dw = moe__grad(c, 0);
    if (dw) moe__rows_add(c->ctx, c->in[1], c->in[0]->shape[1], moe__real(c->dout[0]), dw);
    return MOE_OK;
}

MOE_OP(embedding,
    .sig = "weight:float, ids:itensor -> tensor",
    .doc = "Rows of `weight` by token id: weight [V x d], ids [..] -> [.. x d].",
    .sample = "randn(5, 3), ids({4, 0, 4, 1})",
    .saves = MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
