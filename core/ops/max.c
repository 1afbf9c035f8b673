/* max.c -- the largest element along one dimension, or of everything. */
#include "ops/reduce.h"

static moe_status infer(moe_call *c) {
    moe_status s = moe__reduce_infer(c, MOE_F32);
    if (!s) s = moe__reduce_nonempty(c, "largest element");
    if (!s && moe__reduce_axis(c).len > INT32_MAX)
        return MOE_REJECT(c, MOE_ESHAPE, "positions in %s do not fit into i32",
                          MOE_SHAPE(c->in[0]));
    if (!s) moe__keep(c, 0, MOE_I32, c->out_desc[0].ndim, c->out_desc[0].shape);
    return s;
}

static moe_status forward(moe_call *c) {
    moe__argmax(c, c->keep[0] ? moe__int(c->keep[0]) : NULL, moe__real(c->out[0]));
    return MOE_OK;
}

/* dx = dy at the first maximum of each row, which forward kept */
static moe_status backward(moe_call *c) {
    moe_axis a = moe__reduce_axis(c);
    const moe_real *dy = moe__real(c->dout[0]);
    const int32_t *best = moe__int(c->keep[0]);
    moe_real *dx = moe__grad(c, 0);
    for (int64_t i = 0; dx && i < a.outer * a.inner; i++)
        dx[(i / a.inner * a.len + best[i]) * a.inner + i % a.inner] += dy[i];
    return MOE_OK;
}

MOE_OP(max,
    .sig = "x:tensor, dim:dim?, keepdim:bool=false -> tensor",
    .doc = "Largest element along `dim`, or of all; NaN if there is one. The gradient goes to the "
           "first of equals.",
    .sample = "randn(3, 5) | randn(3, 5), 1 | randn(2, 3, 4), 2, true",
    .infer = infer, .forward = forward, .backward = backward);
