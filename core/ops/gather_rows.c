/* gather_rows.c -- y[i] = x[rows[i]] over the first dimension. */
#include "ops/rows.h"

#include <string.h>

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0], *rows = c->in[1];
    if (x->ndim < 1) return MOE_REJECT(c, MOE_ESHAPE, "x has no rows: %s", MOE_SHAPE(x));
    moe_status s = moe__rank(c, rows, "rows", 1);
    if (!s) s = moe__ids_below(c, rows, x->shape[0], INT64_MIN, "rows");
    if (s) return s;
    int64_t shape[MOE_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = rows->count;
    moe__out(c, 0, MOE_F32, x->ndim, shape);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    moe__rows_take(c->ctx, c->in[1], moe__row_size(c->in[0]), moe__real(c->in[0]),
                   moe__real(c->out[0]), false);
    return MOE_OK;
}

/* dx[rows[i]] += dy[i] */
static moe_status backward(moe_call *c) {
    moe_real *dx = moe__grad(c, 0);
    if (dx) moe__rows_add(c->ctx, c->in[1], moe__row_size(c->in[0]), moe__real(c->dout[0]), dx);
    return MOE_OK;
}

MOE_OP(gather_rows,
    .sig = "x:tensor, rows:itensor -> tensor",
    .doc = "Rows of x by number (from 0): x [R x ..], rows [N] -> [N x ..].",
    .sample = "randn(4, 3), ids({2, 0, 2, 3, 3}) | randn(3, 2, 2), ids({1})",
    .saves = MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
