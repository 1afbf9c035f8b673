/* reshape.c -- the same elements in row-major order under another shape. */
#include <string.h>

#include "tape/op.h"

/* Fills the size that is -1; false when the elements do not come out. */
static bool complete(int64_t count, int ndim, int64_t *shape) {
    int64_t *unknown = NULL;
    for (int d = 0; d < ndim && !unknown; d++)
        if (shape[d] == -1) unknown = &shape[d];
    if (!unknown) return moe__count(ndim, shape) == count;
    *unknown = 1;
    int64_t known = moe__count(ndim, shape);
    if (known <= 0 || count % known != 0) return false;
    *unknown = count / known;
    return true;
}

/* A tensor that is not contiguous arrives as a copy. */
static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0];
    int ndim = c->nsizes, unknown = 0;
    int64_t shape[MOE_MAX_DIMS];
    memcpy(shape, c->sizes, sizeof shape);
    for (int d = 0; d < ndim; d++) unknown += shape[d] == -1;
    if (unknown > 1)
        return MOE_REJECT(c, MOE_EARG, "only one size may be -1: %s", MOE_SHAPE_OF(ndim, shape));
    if (!complete(x->count, ndim, shape))
        return MOE_REJECT(c, MOE_ESHAPE, "%s has %lld elements and cannot become %s", MOE_SHAPE(x),
                          (long long)x->count, MOE_SHAPE_OF(ndim, c->sizes));
    moe__out(c, 0, x->dtype, ndim, shape);
    moe__row_major(ndim, shape, c->out_desc[0].stride);
    c->out_desc[0].offset = x->offset;
    return MOE_OK;
}

/* dx = dy under the shape of x */
static moe_status backward(moe_call *c) { return moe__grad_pass(c, 0, c->dout[0]); }

MOE_OP(reshape,
    .sig = "x:any, shape:sizes -> any",
    .doc = "The same elements under another shape; one size may be -1. Shares storage with a "
           "contiguous x, copies any other.",
    .sample = "randn(3, 4), 2, 6 | randn(3, 4), 2, -1, 3",
    .flags = MOE_VIEW | MOE_LAZY_GRAD,
    .infer = infer, .backward = backward);
