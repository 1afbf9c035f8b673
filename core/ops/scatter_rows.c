/* scatter_rows.c -- y[rows[i]] += x[i] over the first dimension, from zero. */
#include "ops/rows.h"

#include <string.h>

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0], *rows = c->in[1];
    int64_t count = c->arg[0].i;
    moe_status s = moe__rank(c, rows, "rows", 1);
    if (s) return s;
    if (x->ndim < 1 || x->shape[0] != rows->count)
        return MOE_REJECT(c, MOE_ESHAPE, "rows must have one number per row of x: %s and %s",
                          MOE_SHAPE(x), MOE_SHAPE(rows));
    if (count < 0)
        return MOE_REJECT(c, MOE_EARG, "count must not be negative: %lld", (long long)count);
    s = moe__ids_below(c, rows, count, INT64_MIN, "rows");
    if (s) return s;
    int64_t shape[MOE_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = count;
    moe__out(c, 0, MOE_F32, x->ndim, shape);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    moe_real *y = moe__real(c->out[0]);
    memset(y, 0, sizeof *y * (size_t)c->out[0]->count);
    moe__rows_add(c->ctx, c->in[1], moe__row_size(c->in[0]), moe__real(c->in[0]), y);
    return MOE_OK;
}

/* dx[i] = dy[rows[i]] */
static moe_status backward(moe_call *c) {
    moe_real beta, *dx = moe__grad_beta(c, 0, &beta);
    if (dx)
        moe__rows_take(c->ctx, c->in[1], moe__row_size(c->in[0]), moe__real(c->dout[0]), dx,
                       beta != 0);
    return MOE_OK;
}

MOE_OP(scatter_rows,
    .sig = "x:tensor, rows:itensor, count:int -> tensor",
    .doc = "Adds row i of x to row rows[i] (from 0) of a zero tensor with `count` rows.",
    .sample = "randn(5, 3), ids({2, 0, 2, 3, 3}), 4 | randn(1, 2, 2), ids({1}), 3",
    .saves = MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
