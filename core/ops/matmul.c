/* matmul.c -- matrix products, batched over equal leading dimensions. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/op.h"

/* A two-dimensional right side makes one tall product of the whole batch. */
typedef struct sizes {
    int64_t batch, m, n, k;
} sizes;

static sizes measure(const moe_call *c) {
    const moe_tensor *a = c->in[0], *b = c->in[1];
    sizes s = {.batch = 1, .n = b->shape[b->ndim - 1], .k = b->shape[b->ndim - 2]};
    if (b->ndim > 2)
        for (int i = 0; i < b->ndim - 2; i++) s.batch *= b->shape[i];
    s.m = a->shape[a->ndim - 2];
    if (b->ndim == 2)
        for (int i = 0; i < a->ndim - 2; i++) s.m *= a->shape[i];
    return s;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *a = c->in[0], *b = c->in[1];
    if (a->ndim < 2 || b->ndim < 2)
        return MOE_REJECT(c, MOE_ESHAPE, "both sides need at least 2 dimensions: %s x %s",
                          MOE_SHAPE(a), MOE_SHAPE(b));
    if (a->shape[a->ndim - 1] != b->shape[b->ndim - 2])
        return MOE_REJECT(c, MOE_ESHAPE, "inner dimensions differ: %s x %s", MOE_SHAPE(a),
                          MOE_SHAPE(b));
    if (b->ndim > 2 && (a->ndim != b->ndim ||
                        memcmp(a->shape, b->shape, sizeof *a->shape * (size_t)(a->ndim - 2)) != 0))
        return MOE_REJECT(c, MOE_ESHAPE, "leading dimensions differ: %s x %s", MOE_SHAPE(a),
                          MOE_SHAPE(b));
    moe__out_like(c, 0, a);
    c->out_desc[0].shape[a->ndim - 1] = b->shape[b->ndim - 1];
    sizes s = measure(c);
    return moe__product_sizes(c, 3, (int64_t[]){s.m, s.n, s.k});
}

static moe_status forward(moe_call *c) {
    sizes s = measure(c);
    moe_gemm g = {.m = s.m, .n = s.n, .k = s.k, .a = moe__real(c->in[0]), .lda = s.k,
                  .b = moe__real(c->in[1]), .ldb = s.n, .c = moe__real(c->out[0]), .ldc = s.n,
                  .batch = s.batch, .step_a = s.m * s.k, .step_b = s.k * s.n,
                  .step_c = s.m * s.n, .format = c->format};
    return s.batch ? moe__gemm_batch(c->ctx, 1, &g) : MOE_OK;
}

/* da = dc b^T, db = a^T dc; one after the other, because a may be b. */
static moe_status backward(moe_call *c) {
    sizes s = measure(c);
    const moe_real *dc = moe__real(c->dout[0]);
    moe_gemm list[2] = {
        {.tb = true, .m = s.m, .n = s.k, .k = s.n, .a = dc, .lda = s.n,
         .b = moe__real(c->in[1]), .ldb = s.n, .ldc = s.k, .batch = s.batch,
         .step_a = s.m * s.n, .step_b = s.k * s.n, .step_c = s.m * s.k, .format = c->format},
        {.ta = true, .m = s.k, .n = s.n, .k = s.m, .a = moe__real(c->in[0]), .lda = s.k,
         .b = dc, .ldb = s.n, .ldc = s.n, .batch = s.batch, .step_a = s.m * s.k,
         .step_b = s.m * s.n, .step_c = s.k * s.n, .format = c->format}};
    moe_status status = MOE_OK;
    for (int i = 0; i < 2 && !status; i++)
        if (moe__wants(c, i)) status = moe__gemm_reserve(c->ctx, 1, &list[i]);
    for (int i = 0; i < 2 && !status && s.batch; i++) {
        list[i].c = moe__grad_beta(c, i, &list[i].beta);
        if (list[i].c) status = moe__gemm_batch(c->ctx, 1, &list[i]);
    }
    return status;
}

MOE_OP(matmul,
    .sig = "a:tensor, b:tensor -> tensor",
    .doc = "Matrix product [.. x m x k] x [.. x k x n]; a two-dimensional b serves the whole "
           "batch. -> [.. x m x n].",
    .sample = "randn(2, 3), randn(3, 4) | randn(2, 3, 4), randn(4, 2) | "
              "randn(3, 2, 4), randn(3, 4, 2)",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
