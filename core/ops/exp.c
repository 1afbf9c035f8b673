/* exp.c -- y = exp(x) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->exp); }

/* dx = y dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->exp_grad, c->out[0]);
}

MOE_OP(exp,
    .sig = "x:tensor -> tensor",
    .doc = "e to the power of each element.",
    .sample = "randn(3, 5) | randn(1)",
    .saves = MOE_OUT(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
