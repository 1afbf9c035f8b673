/* log.c -- y = log(x) */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->log); }

/* dx = dy / x */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->log_grad, c->in[0]);
}

MOE_OP(log,
    .sig = "x:tensor -> tensor",
    .doc = "Natural logarithm of each element.",
    .sample = "rand(0.5, 3, 4, 5)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
