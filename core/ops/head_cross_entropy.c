/* head_cross_entropy.c -- output projection and cross-entropy without ever holding all logits.
 *
 * Rows are processed in chunks: logits = x W^T, loss, and, when gradients are needed, the chunk's
 * contribution to dx and dW at once, while the logits are at hand. backward then only scales by
 * the incoming gradient.
 */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/targets.h"

#define CHUNK_ELEMENTS ((int64_t)1 << 22)   /* logits of one chunk: 16 MB */

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0], *w = c->in[1];
    if (moe__rank(c, x, "x", 2) || moe__rank(c, w, "weight", 2)) return MOE_ESHAPE;
    if (x->shape[1] != w->shape[1])
        return MOE_REJECT(c, MOE_ESHAPE, "inner dimensions differ: %s x transposed %s",
                          MOE_SHAPE(x), MOE_SHAPE(w));
    moe_status s = moe__product_sizes(c, 3, (int64_t[]){x->shape[0], w->shape[0], w->shape[1]});
    if (!s) s = moe__targets_infer(c, x, c->in[2], w->shape[0], c->arg[0].i);
    if (s) return s;
    moe__out(c, 0, MOE_F32, 0, NULL);
    moe__keep(c, 0, MOE_F32, 2, x->shape);
    moe__keep(c, 1, MOE_F32, 2, w->shape);
    return MOE_OK;
}

typedef struct chunk {
    const moe_call *c;
    moe_real *logits, *loss;        /* [rows x V], [rows] */
    int64_t first, V;
    moe_real scale;                 /* of the gradient: 1 / counted rows, or 0 */
} chunk;

static void loss_rows(void *arg, int64_t begin, int64_t end) {
    const chunk *k = arg;
    const int32_t *target = moe__int(k->c->in[2]);
    for (int64_t i = begin; i < end; i++) {
        moe_real *row = k->logits + i * k->V;
        int32_t id = target[k->first + i];
        if (id == k->c->arg[0].i) {
            k->loss[i] = 0;
            if (k->scale != 0) memset(row, 0, sizeof *row * (size_t)k->V);
        } else {
            k->loss[i] = k->c->ctx->kernels->cross_entropy(k->V, row, id, k->scale);
        }
    }
}

static double run_chunk(const moe_call *c, const chunk *k, int64_t rows) {
    int64_t d = c->in[0]->shape[1];
    const moe_real *x = moe__real(c->in[0]) + k->first * d, *w = moe__real(c->in[1]);
    moe__gemm_parallel(c->ctx, &(moe_gemm){.tb = true, .m = rows, .n = k->V, .k = d, .alpha = 1,
                                           .a = x, .lda = d, .b = w, .ldb = d, .c = k->logits,
                                           .ldc = k->V});
    moe__parallel_range(c->ctx, rows, 16, loss_rows, (void *)k);
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += (double)k->loss[i];
    if (k->scale == 0) return sum;
    moe_gemm back[2] = {
        {.m = rows, .n = d, .k = k->V, .alpha = 1, .a = k->logits, .lda = k->V, .b = w, .ldb = d,
         .c = moe__real(c->keep[0]) + k->first * d, .ldc = d},
        {.ta = true, .m = k->V, .n = d, .k = rows, .alpha = 1, .a = k->logits, .lda = k->V, .b = x,
         .ldb = d, .beta = k->first ? 1 : 0, .c = moe__real(c->keep[1]), .ldc = d}};
    moe__gemm_batch(c->ctx, 2, back);
    return sum;
}

static moe_status forward(moe_call *c) {
    int64_t n = c->in[0]->shape[0], V = c->in[1]->shape[0];
    int64_t counted = moe__targets_counted(c->in[2], c->arg[0].i);
    int64_t rows = CHUNK_ELEMENTS / V;
    rows = rows < 64 ? 64 : rows > 1024 ? 1024 : rows;
    if (rows > n) rows = n;
    size_t bytes = sizeof(moe_real) * (size_t)(rows * (V + 1));
    moe_real *buffer = moe__alloc(c->ctx, bytes);
    if (!buffer) return moe__no_memory(c->ctx, bytes, "a chunk of logits");
    double sum = 0;
    for (int64_t first = 0; first < n; first += rows) {
        chunk k = {.c = c, .logits = buffer, .loss = buffer + rows * V, .first = first, .V = V,
                   .scale = c->keep[0] ? 1 / (moe_real)counted : 0};
        sum += run_chunk(c, &k, n - first < rows ? n - first : rows);
    }
    *moe__real(c->out[0]) = (moe_real)(sum / (double)counted);
    moe__free(c->ctx, buffer, bytes);
    return MOE_OK;
}

static moe_status backward(moe_call *c) {
    moe_real scale = *moe__real(c->dout[0]);
    for (int i = 0; i < 2; i++) {
        moe_real beta, *g = moe__grad_beta(c, i, &beta);
        if (!g) continue;
        if (beta == 0)
            c->ctx->kernels->scale(c->in[i]->count, scale, moe__real(c->keep[i]), g);
        else
            c->ctx->kernels->axpy(c->in[i]->count, scale, moe__real(c->keep[i]), g);
    }
    return MOE_OK;
}

MOE_OP(head_cross_entropy,
    .sig = "x:tensor, weight:tensor, targets:itensor, ignore:int=-1 -> tensor",
    .doc = "Mean cross-entropy in nats of logits x W^T against targets: x [N x d], weight [V x d], "
           "targets [N] (0-based ids; `ignore` marks rows that do not count). Computed in chunks.",
    .sample = "randn(5, 3), randn(7, 3), ids{2, 0, 6, -1, 3}",
    .infer = infer, .forward = forward, .backward = backward);
