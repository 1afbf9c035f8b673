/* add.c -- y = a + b */
#include "ops/binary.h"

static moe_status forward(moe_call *c) { return moe__binary_forward(c, c->ctx->kernels->add); }

/* da = db = dy */
static moe_status backward(moe_call *c) {
    moe_status s = moe__binary_pass(c, 0);
    return s ? s : moe__binary_pass(c, 1);
}

MOE_OP(add,
    .sig = "a:operand, b:operand -> tensor",
    .doc = "a + b, element by element, broadcast like NumPy.",
    .sample = "randn(3, 5), randn(3, 5) | randn(2, 1, 4), randn(3, 1) | randn(4), 2",
    .flags = MOE_LAZY_GRAD,
    .infer = moe__binary_infer, .forward = forward, .backward = backward);
