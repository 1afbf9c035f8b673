/* transpose.c -- two dimensions exchanged, as a view. */
#include "ops/strided.h"

static void change(const moe_call *c, moe_desc *v) {
    int i = moe__known_dim(c->in[0], c->arg[0].i), j = moe__known_dim(c->in[0], c->arg[1].i);
    int64_t size = v->shape[i], stride = v->stride[i];
    v->shape[i] = v->shape[j];
    v->stride[i] = v->stride[j];
    v->shape[j] = size;
    v->stride[j] = stride;
}

static moe_status infer(moe_call *c) {
    int dim;
    moe_status s = moe__dim(c, c->arg[0].i, c->in[0], &dim);
    if (!s) s = moe__dim(c, c->arg[1].i, c->in[0], &dim);
    if (!s) moe__view_infer(c, change);
    return s;
}

static moe_status backward(moe_call *c) { return moe__view_backward(c, change); }

MOE_OP(transpose,
    .sig = "x:any, dim1:dim=-2, dim2:dim=-1 -> any",
    .doc = "Exchanges two dimensions; shares storage with x.",
    .sample = "randn(3, 5) | randn(2, 3, 4), 1, 3",
    .flags = MOE_VIEW | MOE_STRIDED,
    .infer = infer, .backward = backward);
