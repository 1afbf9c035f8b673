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

/* Without two sizes above 0 all matrices are empty, and the batch may have any size. */
static size_t list_bytes(const sizes *s) {
    bool empty = (s->m > 0) + (s->n > 0) + (s->k > 0) < 2;
    return empty ? 0 : sizeof(moe_gemm) * (size_t)s->batch;
}

static moe_status new_list(moe_call *c, const sizes *s, moe_gemm **list) {
    *list = moe__alloc(c->ctx, list_bytes(s));
    return *list ? MOE_OK : moe__no_memory(c->ctx, list_bytes(s), "a batch of products");
}

/* c_i = a_i b_i for `count` products, whose operands lie step_a, step_b and step_c apart. */
static void multiply(moe_call *c, int64_t count, moe_gemm *list, const moe_gemm *first,
                     int64_t step_a, int64_t step_b, int64_t step_c) {
    if (count * step_c == 0) return;
    for (int64_t i = 0; i < count; i++) {
        list[i] = *first;
        list[i].a += i * step_a;
        list[i].b += i * step_b;
        list[i].c += i * step_c;
    }
    moe__gemm_batch(c->ctx, count, list);
}

static moe_status forward(moe_call *c) {
    sizes s = measure(c);
    moe_gemm *list;
    moe_status status = new_list(c, &s, &list);
    if (status) return status;
    moe_gemm g = {.m = s.m, .n = s.n, .k = s.k, .alpha = 1, .a = moe__real(c->in[0]),
                  .lda = s.k, .b = moe__real(c->in[1]), .ldb = s.n,
                  .c = moe__real(c->out[0]), .ldc = s.n};
    multiply(c, s.batch, list, &g, s.m * s.k, s.k * s.n, s.m * s.n);
    moe__free(c->ctx, list, list_bytes(&s));
    return MOE_OK;
}

/* da = dc b^T, db = a^T dc */
static moe_status backward(moe_call *c) {
    sizes s = measure(c);
    const moe_real *dc = moe__real(c->dout[0]);
    moe_gemm *list;
    moe_status status = new_list(c, &s, &list);
    if (status) return status;
    moe_real beta, *da = moe__grad_beta(c, 0, &beta);
    if (da) {
        moe_gemm g = {.tb = true, .m = s.m, .n = s.k, .k = s.n, .alpha = 1, .a = dc,
                      .lda = s.n, .b = moe__real(c->in[1]),
                      .ldb = s.n, .beta = beta, .c = da, .ldc = s.k};
        multiply(c, s.batch, list, &g, s.m * s.n, s.k * s.n, s.m * s.k);
    }
    moe_real *db = moe__grad_beta(c, 1, &beta);
    if (db) {
        moe_gemm g = {.ta = true, .m = s.k, .n = s.n, .k = s.m, .alpha = 1,
                      .a = moe__real(c->in[0]), .lda = s.k, .b = dc,
                      .ldb = s.n, .beta = beta, .c = db, .ldc = s.n};
        multiply(c, s.batch, list, &g, s.m * s.k, s.m * s.n, s.k * s.n);
    }
    moe__free(c->ctx, list, list_bytes(&s));
    return MOE_OK;
}

MOE_OP(matmul,
    .sig = "a:tensor, b:tensor -> tensor",
    .doc = "Matrix product [.. x m x k] x [.. x k x n]; a two-dimensional b serves the whole "
           "batch. -> [.. x m x n].",
    .sample = "randn(2, 3), randn(3, 4) | randn(2, 3, 4), randn(4, 2) | "
              "randn(3, 2, 4), randn(3, 4, 2)",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
