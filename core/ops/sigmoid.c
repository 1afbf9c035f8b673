/* sigmoid.c -- y = 1 / (1 + exp(-x)) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->sigmoid); }

/* dx = y (1 - y) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->sigmoid_grad, c->out[0]);
}

MOE_OP(sigmoid,
    .sig = "x:tensor -> tensor",
    .doc = "1 / (1 + exp(-x)) of each element.",
    .sample = "randn(3, 17)",
    .saves = MOE_OUT(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
