/* head_cross_entropy.c -- output projection and cross-entropy without ever holding all logits.
 *
 * Rows are processed in chunks: logits = x W^T, loss, and, when gradients are needed, the chunk's
 * contribution to dx and dW at once, while the logits are at hand. backward then only scales by
 * the incoming gradient.
 */
#include <string.h>

#include "ops/targets.h"
#include "tape/packed.h"

/* Logits of one chunk. W and dW pass through the cache once for each, so it has many rows. */
#define CHUNK_ELEMENTS ((int64_t)1 << 24)
#define CHUNK_ROWS 1024

/* What the gradient of an input takes; nothing for one that needs none. */
static void keep_gradient(moe_call *c, int i) {
    const moe_tensor *t = c->in[i];
    bool wanted = t->requires_grad || t->node;
    moe__keep(c, i, MOE_F32, 2, wanted ? t->shape : (int64_t[2]){0, 0});
}

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
    keep_gradient(c, 0);
    keep_gradient(c, 1);
    return MOE_OK;
}

typedef struct chunk {
    moe_call *c;
    int64_t d, V, first, rows;
    const void *forth, *back;       /* the panels of W^T, of W */
    moe_real *logits, *loss;        /* [rows x V], [rows] */
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

/* The products of a chunk: its logits; of its dlogits, which replace them, dx and dW. */
static void products(const chunk *k, moe_gemm *logits, moe_gemm *dx, moe_gemm *dw) {
    moe_call *c = k->c;
    const moe_real *x = moe__real(c->in[0]) + k->first * k->d;
    *logits = (moe_gemm){.m = k->rows, .n = k->V, .k = k->d, .a = x, .lda = k->d, .c = k->logits,
                         .ldc = k->V, .format = c->format, .panels = k->forth};
    *dx = (moe_gemm){.m = k->rows, .n = k->d, .k = k->V, .a = k->logits, .lda = k->V,
                     .ldc = k->d, .format = c->format, .panels = k->back};
    *dw = (moe_gemm){.ta = true, .m = k->V, .n = k->d, .k = k->rows, .a = k->logits, .lda = k->V,
                     .b = x, .ldb = k->d, .beta = k->first ? 1 : 0, .ldc = k->d,
                     .format = c->format};
    if (k->back) dx->c = moe__real(c->keep[0]) + k->first * k->d;
    if (c->keep[1]) dw->c = moe__real(c->keep[1]);
}

static moe_status run_chunk(const chunk *k, double *sum) {
    moe_gemm logits, gradient[2];
    moe_ctx *ctx = k->c->ctx;
    products(k, &logits, &gradient[0], &gradient[1]);
    moe_status s = moe__gemm_batch(ctx, 1, &logits);
    if (s) return s;
    moe__parallel_range(ctx, k->rows, 16, loss_rows, (void *)k);
    for (int64_t i = 0; i < k->rows; i++) *sum += (double)k->loss[i];
    if (k->scale == 0) return MOE_OK;
    bool to_x = k->back != NULL, to_w = k->c->keep[1]->count != 0;
    return moe__gemm_batch(ctx, to_x + to_w, to_x ? gradient : gradient + 1);
}

static moe_status run(chunk *k, int64_t n, double *sum) {
    int64_t rows = k->rows;
    moe_status s = MOE_OK;
    for (k->first = 0; k->first < n && !s; k->first += rows) {
        k->rows = n - k->first < rows ? n - k->first : rows;
        s = run_chunk(k, sum);
    }
    return s;
}

static moe_status forward(moe_call *c) {
    int64_t n = c->in[0]->shape[0], V = c->in[1]->shape[0], rows = CHUNK_ELEMENTS / V;
    int64_t counted = moe__targets_counted(c->in[2], c->arg[0].i);
    rows = rows < 64 ? 64 : rows > CHUNK_ROWS ? CHUNK_ROWS : rows;
    chunk k = {.c = c, .d = c->in[0]->shape[1], .V = V, .rows = rows < n ? rows : n,
               .scale = c->keep[0] ? 1 / (moe_real)counted : 0};
    moe_status s = moe__packed(c, 1, true, &k.forth);
    if (!s && c->keep[0] && c->keep[0]->count) s = moe__packed(c, 1, false, &k.back);
    if (s) return s;
    size_t bytes = sizeof(moe_real) * (size_t)(k.rows * (V + 1));
    k.logits = moe__alloc(c->ctx, bytes);
    if (!k.logits) return moe__no_memory(c->ctx, bytes, "a chunk of logits");
    k.loss = k.logits + k.rows * V;
    double sum = 0;
    s = run(&k, n, &sum);
    *moe__real(c->out[0]) = (moe_real)(sum / (double)counted);
    moe__free(c->ctx, k.logits, bytes);
    return s;
}

typedef struct scaling {
    const moe_kernels *kernels;
    moe_real scale, beta;
    const moe_real *from;
    moe_real *to;
} scaling;

static void scale_range(void *arg, int64_t begin, int64_t end) {
    const scaling *s = arg;
    (s->beta == 0 ? s->kernels->scale : s->kernels->axpy)(end - begin, s->scale, s->from + begin,
                                                          s->to + begin);
}

/* What forward has kept, times the gradient of the loss; that is mostly 1. */
static moe_status give(moe_call *c, int i) {
    scaling s = {.kernels = c->ctx->kernels, .scale = *moe__real(c->dout[0]),
                 .from = moe__real(c->keep[i])};
    if (!moe__wants(c, i)) return MOE_OK;
    moe_status status = s.scale == 1 ? moe__grad_pass(c, i, c->keep[i]) : moe__grad_ready(c, i);
    if (status) return status;
    c->given |= 1u << i;
    if (s.scale == 1) return MOE_OK;
    s.to = moe__grad_beta(c, i, &s.beta);
    moe__parallel_range(c->ctx, c->in[i]->count, 1 << 15, scale_range, &s);
    return MOE_OK;
}

static moe_status backward(moe_call *c) {
    moe_status s = give(c, 0);
    return s ? s : give(c, 1);
}

MOE_OP(head_cross_entropy,
    .sig = "x:tensor, weight:tensor, targets:itensor, ignore:int=-1 -> tensor",
    .doc = "Mean cross-entropy in nats of logits x W^T against targets: x [N x d], weight [V x d], "
           "targets [N] (0-based ids; `ignore` marks rows that do not count). Computed in chunks.",
    .sample = "randn(5, 3), randn(7, 3), ids{2, 0, 6, -1, 3}",
    .flags = MOE_LAZY_GRAD,
    .infer = infer, .forward = forward, .backward = backward);
