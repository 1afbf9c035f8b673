/* neg.c -- y = -x */
#include "ops/unary.h"

static void negate(int64_t n, const moe_real *x, moe_real *y) {
    for (int64_t i = 0; i < n; i++) y[i] = -x[i];
}

static void subtract(int64_t n, const moe_real *x, const moe_real *dy, moe_real *dx) {
    (void)x;
    for (int64_t i = 0; i < n; i++) dx[i] -= dy[i];
}

static moe_status forward(moe_call *c) { return moe__unary_forward(c, negate); }

/* dx = -dy; nothing saved is read, the gradient stands in for it. */
static moe_status backward(moe_call *c) { return moe__unary_backward(c, subtract, c->dout[0]); }

MOE_OP(neg,
    .sig = "x:tensor -> tensor",
    .doc = "Each element with the other sign.",
    .sample = "randn(3, 5)",
    .infer = moe__unary_infer, .forward = forward, .backward = backward);
