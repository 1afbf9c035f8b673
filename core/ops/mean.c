/* mean.c -- means along one dimension, or of everything. */
#include "ops/reduce.h"

static moe_status infer(moe_call *c) {
    moe_status s = moe__reduce_infer(c, MOE_F32);
    return s ? s : moe__reduce_nonempty(c, "mean");
}

static moe_status forward(moe_call *c) {
    return moe__sum_forward(c, 1 / (double)moe__reduce_axis(c).len);
}

/* dx = dy / n, repeated along the dimension */
static moe_status backward(moe_call *c) {
    return moe__sum_backward(c, 1 / (double)moe__reduce_axis(c).len);
}

MOE_OP(mean,
    .sig = "x:tensor, dim:dim?, keepdim:bool=false -> tensor",
    .doc = "Mean along `dim`, or of all elements.",
    .sample = "randn(3, 5) | randn(3, 5), 1 | randn(2, 3, 4), 2, true",
    .infer = infer, .forward = forward, .backward = backward);
