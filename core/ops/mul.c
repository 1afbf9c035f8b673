/* mul.c -- y = a b */
#include "ops/binary.h"

static moe_status forward(moe_call *c) { return moe__binary_forward(c, c->ctx->kernels->mul); }

/* da = dy b, db = dy a */
static void term_a(const moe_run *r, moe_real *term) {
    r->k->mul(r->n, r->dy, 1, r->b, r->sb, term);
}
static void term_b(const moe_run *r, moe_real *term) {
    r->k->mul(r->n, r->dy, 1, r->a, r->sa, term);
}

static moe_status backward(moe_call *c) {
    moe_status s = moe__binary_backward(c, 0, term_a);
    return s ? s : moe__binary_backward(c, 1, term_b);
}

MOE_OP(mul,
    .sig = "a:operand, b:operand -> tensor",
    .doc = "a * b, element by element, broadcast like NumPy.",
    .sample = "randn(3, 5), randn(3, 5) | randn(2, 1, 4), randn(3, 1) | randn(4), 2 | "
              "randn(3, 1), randn(3, 4)",
    .flags = MOE_LAZY_GRAD, .saves = MOE_IN(0) | MOE_IN(1),
    .infer = moe__binary_infer, .forward = forward, .backward = backward);
