/* sum.c -- sums along one dimension, or of everything. */
#include "ops/reduce.h"

static moe_status infer(moe_call *c) { return moe__reduce_infer(c, MOE_F32); }

static moe_status forward(moe_call *c) { return moe__sum_forward(c, 1); }

/* dx = dy, repeated along the dimension */
static moe_status backward(moe_call *c) { return moe__sum_backward(c, 1); }

MOE_OP(sum,
    .sig = "x:tensor, dim:dim?, keepdim:bool=false -> tensor",
    .doc = "Sum along `dim`, or of all elements.",
    .sample = "randn(3, 5) | randn(3, 5), 1 | randn(2, 3, 4), 2, true",
    .infer = infer, .forward = forward, .backward = backward);
