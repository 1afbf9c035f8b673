/* select.c -- one position of a dimension, as a view without that dimension. */
#include "ops/strided.h"

static void change(const moe_call *c, moe_desc *v) {
    int dim = moe__known_dim(c->in[0], c->arg[0].i);
    int64_t position = c->arg[1].i < 0 ? c->arg[1].i + v->shape[dim] : c->arg[1].i;
    v->offset += position * v->stride[dim];
    v->ndim--;
    for (int d = dim; d < v->ndim; d++) {
        v->shape[d] = v->shape[d + 1];
        v->stride[d] = v->stride[d + 1];
    }
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0];
    int64_t position = c->arg[1].i;
    int dim;
    moe_status s = moe__dim(c, c->arg[0].i, x, &dim);
    if (s) return s;
    if (position >= x->shape[dim] || position < -x->shape[dim])
        return MOE_REJECT(c, MOE_EARG, "there is no position %lld in dimension %d of %s",
                          (long long)(position < 0 ? position : position + 1), dim + 1,
                          MOE_SHAPE(x));
    moe__view_infer(c, change);
    return MOE_OK;
}

static moe_status backward(moe_call *c) { return moe__view_backward(c, change); }

MOE_OP(select,
    .sig = "x:any, dim:dim, position:index -> any",
    .doc = "The slice at one position of a dimension, which disappears; shares storage with x.",
    .sample = "randn(3, 5), 2, 2 | randn(2, 3, 4), 1, -1 | randn(4), 1, 3",
    .flags = MOE_VIEW | MOE_STRIDED,
    .infer = infer, .backward = backward);
