/* normal_cdf.c -- y = Phi(x), the probability that a standard normal number lies below x */
#include "ops/unary.h"

static moe_status forward(moe_call *c) {
    return moe__unary_forward(c, c->ctx->kernels->normal_cdf);
}

/* dx = exp(-x^2 / 2) / sqrt(2 pi) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->normal_cdf_grad, c->in[0]);
}

MOE_OP(normal_cdf,
    .sig = "x:tensor -> tensor",
    .doc = "Probability that a standard normal number lies below each element; the tail below 0 "
           "keeps its digits.",
    .sample = "randn(3, 17)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
