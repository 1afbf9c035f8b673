/* concat.c -- tensors one after the other along a dimension. */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/axis.h"

#define BLOCK (1 << 14)

static bool fits(const moe_tensor *a, const moe_tensor *b, int dim) {
    if (a->ndim != b->ndim) return false;
    for (int d = 0; d < a->ndim; d++)
        if (d != dim && a->shape[d] != b->shape[d]) return false;
    return true;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *first = c->in[0];
    int dim;
    moe_status s = moe__dim(c, c->arg[0].i, first, &dim);
    if (s) return s;
    int64_t shape[MOE_MAX_DIMS];
    memcpy(shape, first->shape, sizeof shape);
    for (int i = 1; i < c->nin; i++) {
        if (!fits(first, c->in[i], dim))
            return MOE_REJECT(c, MOE_ESHAPE, "tensors 1 and %d differ in more than dimension %d: "
                              "%s and %s", i + 1, dim + 1, MOE_SHAPE(first), MOE_SHAPE(c->in[i]));
        if (c->in[i]->dtype != first->dtype)
            return MOE_REJECT(c, MOE_ETYPE, "tensors 1 and %d differ in type: %s and %s", i + 1,
                              moe__dtype_name(first->dtype), moe__dtype_name(c->in[i]->dtype));
        shape[dim] += c->in[i]->shape[dim];     /* 64 of them fit: see moe__count */
    }
    moe__out(c, 0, first->dtype, first->ndim, shape);
    return MOE_OK;
}

/* One input against the joint tensor: stretches of `width` elements, one per outer index, that lie
 * `pitch` apart there. */
typedef struct part {
    const moe_kernels *k;
    int64_t width, pitch;
    size_t size;                /* bytes of an element */
    char *own, *joint;
    bool back;
} part;

static void part_range(void *arg, int64_t begin, int64_t end) {
    const part *p = arg;
    for (int64_t i = begin, n; i < end; i += n) {
        int64_t column = i % p->width;
        n = p->width - column < end - i ? p->width - column : end - i;
        char *joint = p->joint + (size_t)(i / p->width * p->pitch + column) * p->size;
        char *own = p->own + (size_t)i * p->size;
        if (p->back)
            p->k->accumulate(n, (moe_real *)(void *)joint, (moe_real *)(void *)own);
        else
            memcpy(joint, own, p->size * (size_t)n);
    }
}

static void each_part(moe_call *c, char *joint, bool back) {
    int dim = moe__known_dim(c->in[0], c->arg[0].i);
    moe_axis whole = moe__axis(c->out[0], dim);
    for (int i = 0; i < c->nin; i++) {
        part p = {.k = c->ctx->kernels, .width = c->in[i]->shape[dim] * whole.inner,
                  .pitch = whole.len * whole.inner, .joint = joint, .back = back,
                  .size = moe__dtype_size(c->in[0]->dtype)};
        p.own = back ? (char *)moe__grad(c, i) : moe_tensor_data(c->in[i]);
        if (p.own) moe__parallel_range(c->ctx, c->in[i]->count, BLOCK, part_range, &p);
        joint += (size_t)p.width * p.size;
    }
}

static moe_status forward(moe_call *c) {
    each_part(c, moe_tensor_data(c->out[0]), false);
    return MOE_OK;
}

static moe_status backward(moe_call *c) {
    each_part(c, moe_tensor_data(c->dout[0]), true);
    return MOE_OK;
}

MOE_OP(concat,
    .sig = "xs:tensors, dim:dim=1 -> tensor",
    .doc = "Joins a list of tensors of one type along a dimension.",
    .sample = "{randn(2, 3), randn(1, 3)} | {randn(2, 3), randn(2, 1), randn(2, 4)}, 2",
    .infer = infer, .forward = forward, .backward = backward);
