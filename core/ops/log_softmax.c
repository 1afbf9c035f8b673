/* log_softmax.c -- y = x - log(sum(exp(x))) along a dimension */
#include "ops/along.h"

static moe_status forward(moe_call *c) {
    return moe__along_forward(c, c->ctx->kernels->log_softmax);
}

/* dx = dy - exp(y) sum(dy) */
static moe_status backward(moe_call *c) {
    return moe__along_backward(c, c->ctx->kernels->log_softmax_grad);
}

MOE_OP(log_softmax,
    .sig = "x:tensor, dim:dim=-1 -> tensor",
    .doc = "Logarithm of softmax along `dim`, without its loss of digits.",
    .sample = "randn(3, 5) | randn(2, 3, 4), 2",
    .saves = MOE_OUT(0),
    .infer = moe__along_infer, .forward = forward, .backward = backward);
