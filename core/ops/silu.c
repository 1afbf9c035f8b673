/* silu.c -- y = x sigmoid(x) (Elfwing et al. 2017) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->silu); }

/* dx = sigmoid(x) (1 + x (1 - sigmoid(x))) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->silu_grad, c->in[0]);
}

MOE_OP(silu,
    .sig = "x:tensor -> tensor",
    .doc = "x * sigmoid(x) of each element, also called swish.",
    .sample = "randn(3, 17)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
