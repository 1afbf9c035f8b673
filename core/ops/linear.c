/* linear.c -- y = x W^T (+ bias), with the weight stored [out x in] as in every checkpoint. */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/few.h"
#include "tape/packed.h"

static int64_t rows_of(const moe_tensor *x) {
    int64_t m = 1;
    for (int d = 0; d < x->ndim - 1; d++) m *= x->shape[d];
    return m;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0], *w = c->in[1], *bias = c->in[2];
    if (moe__rank(c, w, "weight", 2)) return MOE_ESHAPE;
    if (x->ndim < 1 || moe__last(x) != w->shape[1])
        return MOE_REJECT(c, MOE_ESHAPE, "inner dimensions differ: %s x transposed %s",
                          MOE_SHAPE(x), MOE_SHAPE(w));
    if (bias && (bias->ndim != 1 || bias->shape[0] != w->shape[0]))
        return MOE_REJECT(c, MOE_ESHAPE, "bias must have one element per output: %s and weight %s",
                          MOE_SHAPE(bias), MOE_SHAPE(w));
    moe_status s = moe__stored_alike(c, 1, 1);
    if (s) return s;
    if (c->arg[0].i) c->format = c->ctx->kernels->f32;
    moe__out_like(c, 0, x);
    c->out_desc[0].shape[x->ndim - 1] = w->shape[0];
    return moe__product_sizes(c, 3, (int64_t[]){rows_of(x), w->shape[0], w->shape[1]});
}

static moe_status forward_few(moe_call *c, int64_t m, int64_t n, int64_t k) {
    moe_real *y = moe__real(c->out[0]);
    moe__few_products(c->ctx, 1, &(moe_few){.m = m, .n = n, .k = k, .x = moe__real(c->in[0]),
                                            .type = c->in[1]->dtype, .y = y,
                                            .w = moe_tensor_data(c->in[1])});
    for (int64_t i = 0; c->in[2] && i < m; i++)
        c->ctx->kernels->accumulate(n, moe__real(c->in[2]), y + i * n);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    int64_t n = c->in[1]->shape[0], k = c->in[1]->shape[1], m = rows_of(c->in[0]);
    if (m <= MOE_FEW_ROWS) return forward_few(c, m, n, k);
    const void *panels;
    moe_status s = moe__packed(c, 1, true, &panels);
    if (s) return s;
    moe_real *y = moe__real(c->out[0]);
    const moe_real *bias = c->in[2] ? moe__real(c->in[2]) : NULL;
    for (int64_t i = 0; bias && i < m; i++) memcpy(y + i * n, bias, sizeof *y * (size_t)n);
    moe_gemm g = {.m = m, .n = n, .k = k, .a = moe__real(c->in[0]), .lda = k,
                  .beta = bias ? 1 : 0, .c = y, .ldc = n, .format = c->format, .panels = panels};
    return moe__gemm_parallel(c->ctx, &g);
}

/* dx = dy W, dW = dy^T x, dbias = sum of the rows of dy */
static moe_status backward(moe_call *c) {
    int64_t n = c->in[1]->shape[0], k = c->in[1]->shape[1], m = rows_of(c->in[0]);
    const moe_real *dy = moe__real(c->dout[0]);
    moe_gemm to_x = {.m = m, .n = k, .k = n, .a = dy, .lda = n, .ldc = k,
                     .format = c->format};
    moe_gemm to_w = {.ta = true, .m = n, .n = k, .k = m, .a = dy, .lda = n,
                     .b = moe__real(c->in[0]), .ldb = k, .ldc = k, .format = c->format};
    moe_status s = moe__wants(c, 0) ? moe__packed(c, 1, false, &to_x.panels) : MOE_OK;
    moe_gemm list[2];
    int count = 0;
    if (moe__wants(c, 0)) list[count++] = to_x;
    if (moe__wants(c, 1)) list[count++] = to_w;
    if (!s) s = moe__gemm_reserve(c->ctx, count, list);
    if (s) return s;
    count = 0;
    to_x.c = moe__grad_beta(c, 0, &to_x.beta);
    if (to_x.c) list[count++] = to_x;
    to_w.c = moe__grad_beta(c, 1, &to_w.beta);
    if (to_w.c) list[count++] = to_w;
    if (to_x.c && to_x.c == to_w.c) {   /* x is its own weight: one sum after the other */
        moe__gemm_parallel(c->ctx, &to_x);
        list[0] = to_w;
        count = 1;
    }
    moe__gemm_batch(c->ctx, count, list);
    moe_real *dbias = moe__grad(c, 2);
    for (int64_t i = 0; dbias && i < m; i++) c->ctx->kernels->accumulate(n, dy + i * n, dbias);
    return MOE_OK;
}

MOE_OP(linear,
    .sig = "x:tensor, weight:float, bias:tensor?, precision:{current|f32}=current -> tensor",
    .doc = "x W^T + bias: x [.. x in], weight [out x in], bias [out] -> [.. x out]; "
           "in f32 if asked to, whatever moe.precision says.",
    .sample = "randn(2, 3, 5), randn(4, 5), randn(4) | randn(3, 5), randn(1, 5)",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
