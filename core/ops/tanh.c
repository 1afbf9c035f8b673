/* tanh.c -- y = tanh(x) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->tanh); }

/* dx = (1 - y^2) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->tanh_grad, c->out[0]);
}

MOE_OP(tanh,
    .sig = "x:tensor -> tensor",
    .doc = "Hyperbolic tangent of each element.",
    .sample = "randn(3, 5)",
    .saves = MOE_OUT(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
