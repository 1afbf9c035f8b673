/* sqrt.c -- y = sqrt(x) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->sqrt); }

/* dx = dy / (2 y) */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->sqrt_grad, c->out[0]);
}

MOE_OP(sqrt,
    .sig = "x:tensor -> tensor",
    .doc = "Square root of each element.",
    .sample = "rand(0.5, 3, 4, 5)",
    .saves = MOE_OUT(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
