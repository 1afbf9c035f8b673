/* softplus.c -- y = log(1 + exp(x)), a smooth relu; the width of noise in Shazeer et al. 2017 */
#include "ops/unary.h"

static moe_status forward(moe_call *c) { return moe__unary_forward(c, c->ctx->kernels->softplus); }

/* dx = sigmoid(x) dy */
static moe_status backward(moe_call *c) {
    return moe__unary_backward(c, c->ctx->kernels->softplus_grad, c->in[0]);
}

MOE_OP(softplus,
    .sig = "x:tensor -> tensor",
    .doc = "log(1 + exp(x)) of each element, with all digits at both ends.",
    .sample = "randn(3, 17)",
    .saves = MOE_IN(0),
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
