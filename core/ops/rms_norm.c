/* rms_norm.c -- y = x / sqrt(mean(x^2) + eps) * w along the last dimension. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/op.h"

#define ROWS 64     /* rows of one task; dw is summed per task, then over tasks in order */

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0], *w = c->in[1];
    if (x->ndim < 1 || w->ndim != 1 || w->shape[0] != moe__last(x))
        return MOE_REJECT(c, MOE_ESHAPE, "weight must have one element per column: %s and %s",
                          MOE_SHAPE(x), MOE_SHAPE(w));
    if (!(c->arg[0].f >= 0))
        return MOE_REJECT(c, MOE_EARG, "eps must not be negative: %g", c->arg[0].f);
    int64_t d = moe__last(x), rows = d ? x->count / d : 0;
    moe__out_like(c, 0, x);
    moe__keep(c, 0, MOE_F32, 1, &rows);
    return MOE_OK;
}

static void forward_rows(void *arg, int64_t begin, int64_t end) {
    moe_call *c = arg;
    int64_t d = moe__last(c->in[0]);
    const moe_real *x = moe__real(c->in[0]), *w = moe__real(c->in[1]);
    moe_real *y = moe__real(c->out[0]), *inv = c->keep[0] ? moe__real(c->keep[0]) : NULL;
    for (int64_t r = begin; r < end; r++) {
        moe_real i = c->ctx->kernels->rms_norm(d, (moe_real)c->arg[0].f, x + r * d, w, y + r * d);
        if (inv) inv[r] = i;
    }
}

static moe_status forward(moe_call *c) {
    int64_t d = moe__last(c->in[0]);
    moe__parallel_range(c->ctx, d ? c->in[0]->count / d : 0, ROWS, forward_rows, c);
    return MOE_OK;
}

typedef struct back {
    moe_call *c;
    moe_real *dx, *dw, beta;        /* dw: [tasks x d], one row per task */
} back;

static void backward_rows(void *arg, int64_t begin, int64_t end) {
    const back *b = arg;
    const moe_call *c = b->c;
    int64_t d = moe__last(c->in[0]);
    const moe_real *x = moe__real(c->in[0]), *w = moe__real(c->in[1]);
    const moe_real *dy = moe__real(c->dout[0]), *inv = moe__real(c->keep[0]);
    moe_real *dw = b->dw ? b->dw + begin / ROWS * d : NULL;
    if (dw) memset(dw, 0, sizeof *dw * (size_t)d);
    for (int64_t r = begin; r < end; r++)
        c->ctx->kernels->rms_norm_grad(d, inv[r], x + r * d, w, dy + r * d, b->beta,
                                       b->dx ? b->dx + r * d : NULL, dw);
}

static moe_status backward(moe_call *c) {
    int64_t d = moe__last(c->in[0]), rows = d ? c->in[0]->count / d : 0;
    int64_t tasks = (rows + ROWS - 1) / ROWS;
    back b = {.c = c};
    size_t bytes = sizeof *b.dw * (size_t)(tasks * d);
    if (moe__wants(c, 1) && !(b.dw = moe__alloc(c->ctx, bytes)))
        return moe__no_memory(c->ctx, bytes, "the gradient of a norm");
    b.dx = moe__grad_beta(c, 0, &b.beta);
    moe_real *dw = moe__grad(c, 1);
    moe__parallel_range(c->ctx, rows, ROWS, backward_rows, &b);
    for (int64_t t = 0; dw && t < tasks; t++)
        c->ctx->kernels->accumulate(d, b.dw + t * d, dw);
    if (dw) moe__free(c->ctx, b.dw, bytes);
    return MOE_OK;
}

MOE_OP(rms_norm,
    .sig = "x:tensor, weight:tensor, eps:num=1e-5 -> tensor",
    .doc = "Root-mean-square norm along the last dimension, times `weight`: x [.. x d], weight "
           "[d].",
    .sample = "randn(3, 5), randn(5)",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
