/* narrow.c -- a stretch of one dimension, as a view. */
#include "ops/strided.h"

/* The position counted from 0; from the end when negative. */
static int64_t first(const moe_call *c, int64_t size) {
    return c->arg[1].i < 0 ? c->arg[1].i + size : c->arg[1].i;
}

static void change(const moe_call *c, moe_desc *v) {
    int dim = moe__known_dim(c->in[0], c->arg[0].i);
    v->offset += first(c, v->shape[dim]) * v->stride[dim];
    v->shape[dim] = c->arg[2].i;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0];
    int64_t length = c->arg[2].i;
    int dim;
    moe_status s = moe__dim(c, c->arg[0].i, x, &dim);
    if (s) return s;
    if (length < 0)
        return MOE_REJECT(c, MOE_EARG, "length must not be negative: %lld", (long long)length);
    int64_t start = first(c, x->shape[dim]);
    if (start < 0 || length > x->shape[dim] || start > x->shape[dim] - length)
        return MOE_REJECT(c, MOE_EARG, "%lld from position %lld is not inside dimension %d of %s",
                          (long long)length,
                          (long long)(c->arg[1].i < 0 ? c->arg[1].i : c->arg[1].i + 1), dim + 1,
                          MOE_SHAPE(x));
    moe__view_infer(c, change);
    return MOE_OK;
}

static moe_status backward(moe_call *c) { return moe__view_backward(c, change); }

MOE_OP(narrow,
    .sig = "x:any, dim:dim, start:index, length:int -> any",
    .doc = "`length` positions of a dimension from `start` on; shares storage with x.",
    .sample = "randn(3, 5), 2, 2, 3 | randn(4, 2, 3), 1, -2, 2",
    .flags = MOE_VIEW | MOE_STRIDED,
    .infer = infer, .backward = backward);
