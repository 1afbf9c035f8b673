/* gelu.c -- y = x Phi(x) (Hendrycks and Gimpel 2016) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->gelu); }

/* dx = (Phi(x) + x phi(x)) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->gelu_grad, c->in[0]);
}

MOE_OP(gelu,
    .sig = "x:tensor -> tensor",
    .doc = "x times the normal distribution's Phi(x), exactly, of each element.",
    .sample = "randn(3, 5)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
