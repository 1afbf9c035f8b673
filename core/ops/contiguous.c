/* contiguous.c -- a row-major copy of a tensor with any strides. */
#include "ops/strided.h"

static moe_status infer(moe_call *c) {
    moe__out_like(c, 0, c->in[0]);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    moe__pack(c->in[0], moe_tensor_data(c->out[0]));
    return MOE_OK;
}

/* dx = dy: gradients are always row-major */
static moe_status backward(moe_call *c) { return moe__grad_pass(c, 0, c->dout[0]); }

MOE_OP(contiguous,
    .sig = "x:any -> any",
    .doc = "A copy of x in row-major order.",
    .sample = "randn(3, 5)",
    .flags = MOE_STRIDED | MOE_LAZY_GRAD,
    .infer = infer, .forward = forward, .backward = backward);
