/* softmax.c -- y = exp(x) / sum(exp(x)) along a dimension */
#include "ops/along.h"

static moe_status forward(moe_call *c) { return moe__along_forward(c, c->ctx->kernels->softmax); }

/* dx = y (dy - sum(y dy)) */
static moe_status backward(moe_call *c) {
    return moe__along_backward(c, c->ctx->kernels->softmax_grad);
}

MOE_OP(softmax,
    .sig = "x:tensor, dim:dim=-1 -> tensor",
    .doc = "exp(x) / sum(exp(x)) along `dim`. A row that is all -inf becomes uniform.",
    .sample = "randn(3, 5) | randn(2, 3, 4), 2",
    .saves = MOE_OUT(0),
    .infer = moe__along_infer, .forward = forward, .backward = backward);
