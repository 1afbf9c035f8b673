/* relu.c -- y = max(x, 0), NaN kept */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->relu); }

/* dx = dy where x is above 0 */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->relu_grad, c->in[0]);
}

MOE_OP(relu,
    .sig = "x:tensor -> tensor",
    .doc = "The larger of 0 and each element.",
    .sample = "rand(0.1, 1, 3, 5) | rand(-1, -0.1, 3, 5)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
