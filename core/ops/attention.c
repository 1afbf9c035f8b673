/* attention.c -- causal grouped-query attention as one node.
 *
 * o = softmax(q k^T / sqrt(D) + mask) v per head; query head h uses key head h / (H / KV). Queries
 * are the last T of S positions, so that the same op serves training (T = S) and decoding with a
 * key-value cache. Scores live in blocks of rows that fit the cache; only the output and each row's
 * log-sum-exp are kept, and backward computes the scores again (Dao et al. 2022, without the
 * tiling over keys that long contexts would need).
 */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tape/op.h"

#define BLOCK 64        /* query rows of one block */

typedef struct sizes {
    int64_t B, T, S, H, KV, D;
    int64_t group;              /* query heads per key head */
    moe_real scale;
} sizes;

static sizes measure(const moe_call *c) {
    const int64_t *q = c->in[0]->shape, *k = c->in[1]->shape;
    return (sizes){.B = q[0], .T = q[1], .S = k[1], .H = q[2], .KV = k[2], .D = q[3],
                   .group = q[2] / k[2], .scale = (moe_real)(1 / sqrt((double)q[3]))};
}

static moe_status infer(moe_call *c) {
    const moe_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    if (moe__rank(c, q, "q", 4) || moe__rank(c, k, "k", 4)) return MOE_ESHAPE;
    if (v->ndim != 4 || memcmp(k->shape, v->shape, 4 * sizeof *k->shape) != 0)
        return MOE_REJECT(c, MOE_ESHAPE, "k and v differ: %s and %s", MOE_SHAPE(k), MOE_SHAPE(v));
    if (q->shape[0] != k->shape[0] || q->shape[3] != k->shape[3] || q->shape[3] == 0)
        return MOE_REJECT(c, MOE_ESHAPE, "q and k differ in batch or head size: %s and %s",
                          MOE_SHAPE(q), MOE_SHAPE(k));
    if (k->shape[2] == 0 || q->shape[2] % k->shape[2] != 0)
        return MOE_REJECT(c, MOE_ESHAPE, "%lld query heads cannot share %lld key heads",
                          (long long)q->shape[2], (long long)k->shape[2]);
    if (q->shape[1] > k->shape[1])
        return MOE_REJECT(c, MOE_ESHAPE, "more queries than keys: %s and %s", MOE_SHAPE(q),
                          MOE_SHAPE(k));
    int64_t across = q->shape[2] * q->shape[3], lse[3] = {q->shape[0], q->shape[2], q->shape[1]};
    moe_status s = moe__product_sizes(c, 2, (int64_t[]){k->shape[1], across});
    if (s) return s;
    moe__out_like(c, 0, q);
    moe__keep(c, 0, MOE_F32, 3, lse);
    return MOE_OK;
}

/* Pointers to one head of one batch element; rows are `step` apart. */
typedef struct head {
    const moe_real *q, *k, *v, *o, *dy;
    moe_real *out, *dq, *dk, *dv, *lse;
    int64_t q_step, k_step;
} head;

static head locate(const moe_call *c, const sizes *s, int64_t b, int64_t h) {
    int64_t kv = h / s->group;
    int64_t at_q = (b * s->T * s->H + h) * s->D, at_k = (b * s->S * s->KV + kv) * s->D;
    head p = {.q = moe__real(c->in[0]) + at_q, .k = moe__real(c->in[1]) + at_k,
              .v = moe__real(c->in[2]) + at_k, .q_step = s->H * s->D, .k_step = s->KV * s->D};
    p.o = p.out = moe__real(c->out[0]) + at_q;
    if (c->keep[0]) p.lse = moe__real(c->keep[0]) + (b * s->H + h) * s->T;
    if (c->dout[0]) p.dy = moe__real(c->dout[0]) + at_q;
    return p;
}

/* scores [rows x keys] = scale q k^T for query rows first .. first+rows-1 */
static void score_block(const sizes *s, const head *p, int64_t first, int64_t rows, int64_t keys,
                        moe_real *scores) {
    moe__gemm(&(moe_gemm){.tb = true, .m = rows, .n = keys, .k = s->D, .alpha = s->scale,
                          .a = p->q + first * p->q_step, .lda = p->q_step, .b = p->k,
                          .ldb = p->k_step, .c = scores, .ldc = s->S});
}

/* ---- forward -------------------------------------------------------------------------------- */

typedef struct work {
    moe_call *c;
    sizes s;
    moe_scratch scratch;
    moe_real beta_q, beta_k, beta_v;
    moe_real *dq, *dk, *dv;
} work;

static void forward_block(const work *w, const head *p, int64_t first, int64_t rows,
                          moe_real *scores) {
    const sizes *s = &w->s;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t past = s->S - s->T, keys = past + first + rows;
    score_block(s, p, first, rows, keys, scores);
    for (int64_t i = 0; i < rows; i++) {
        moe_real *row = scores + i * s->S;
        int64_t seen = past + first + i + 1;
        moe_real shift = kernels->max(seen, row), sum = kernels->exp_sum(seen, shift, row);
        kernels->scale(seen, 1 / sum, row, row);
        memset(row + seen, 0, sizeof *row * (size_t)(keys - seen));
        if (p->lse) p->lse[first + i] = shift + (moe_real)log((double)sum);
    }
    moe__gemm(&(moe_gemm){.m = rows, .n = s->D, .k = keys, .alpha = 1, .a = scores, .lda = s->S,
                          .b = p->v, .ldb = p->k_step, .c = p->out + first * p->q_step,
                          .ldc = p->q_step});
}

static void forward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    head p = locate(w->c, &w->s, task / w->s.H, task % w->s.H);
    moe_real *scores = moe__scratch_of(&w->scratch, worker);
    for (int64_t first = 0; first < w->s.T; first += BLOCK) {
        int64_t rows = w->s.T - first < BLOCK ? w->s.T - first : BLOCK;
        forward_block(w, &p, first, rows, scores);
    }
}

static moe_status forward(moe_call *c) {
    work w = {.c = c, .s = measure(c)};
    int64_t rows = w.s.T < BLOCK ? w.s.T : BLOCK;
    moe_status s = moe__scratch(c->ctx, sizeof(moe_real) * (size_t)(rows * w.s.S), &w.scratch);
    if (s) return s;
    moe__parallel(c->ctx, w.s.B * w.s.H, forward_task, &w);
    return MOE_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* With P = exp(scores - lse) and dP = dy v^T: dS = P (dP - <dy, o>) scale, dq = dS k, dk += dS^T q,
 * dv += P^T dy. */
static void backward_block(const work *w, const head *p, int64_t first, int64_t rows,
                           moe_real *prob, moe_real *ds) {
    const sizes *s = &w->s;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t past = s->S - s->T, keys = past + first + rows;
    const moe_real *dy = p->dy + first * p->q_step;
    score_block(s, p, first, rows, keys, prob);
    moe__gemm(&(moe_gemm){.tb = true, .m = rows, .n = keys, .k = s->D, .alpha = 1, .a = dy,
                          .lda = p->q_step, .b = p->v, .ldb = p->k_step, .c = ds, .ldc = s->S});
    for (int64_t i = 0; i < rows; i++) {
        int64_t seen = past + first + i + 1;
        moe_real delta = kernels->dot(s->D, dy + i * p->q_step, p->o + (first + i) * p->q_step);
        kernels->attention_grad(seen, p->lse[first + i], delta, s->scale, prob + i * s->S,
                                ds + i * s->S);
        memset(prob + i * s->S + seen, 0, sizeof *prob * (size_t)(keys - seen));
        memset(ds + i * s->S + seen, 0, sizeof *ds * (size_t)(keys - seen));
    }
    if (p->dq)
        moe__gemm(&(moe_gemm){.m = rows, .n = s->D, .k = keys, .alpha = 1, .a = ds, .lda = s->S,
                              .b = p->k, .ldb = p->k_step, .beta = w->beta_q,
                              .c = p->dq + first * p->q_step, .ldc = p->q_step});
    if (p->dk)
        moe__gemm(&(moe_gemm){.ta = true, .m = keys, .n = s->D, .k = rows, .alpha = 1, .a = ds,
                              .lda = s->S, .b = p->q + first * p->q_step, .ldb = p->q_step,
                              .beta = 1, .c = p->dk, .ldc = p->k_step});
    if (p->dv)
        moe__gemm(&(moe_gemm){.ta = true, .m = keys, .n = s->D, .k = rows, .alpha = 1, .a = prob,
                              .lda = s->S, .b = dy, .ldb = p->q_step, .beta = 1, .c = p->dv,
                              .ldc = p->k_step});
}

/* One task is one key head with all the query heads that share it: nobody else writes its dk and
 * dv. */
static void backward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const sizes *s = &w->s;
    int64_t b = task / s->KV, kv = task % s->KV;
    int64_t at_k = (b * s->S * s->KV + kv) * s->D;
    moe_real *prob = moe__scratch_of(&w->scratch, worker);
    moe_real *ds = prob + (s->T < BLOCK ? s->T : BLOCK) * s->S;
    for (int64_t h = kv * s->group; h < (kv + 1) * s->group; h++) {
        head p = locate(w->c, s, b, h);
        p.dq = w->dq ? w->dq + (b * s->T * s->H + h) * s->D : NULL;
        p.dk = w->dk ? w->dk + at_k : NULL;
        p.dv = w->dv ? w->dv + at_k : NULL;
        for (int64_t first = 0; first < s->T; first += BLOCK) {
            int64_t rows = s->T - first < BLOCK ? s->T - first : BLOCK;
            backward_block(w, &p, first, rows, prob, ds);
        }
    }
}

static moe_status backward(moe_call *c) {
    work w = {.c = c, .s = measure(c)};
    int64_t rows = w.s.T < BLOCK ? w.s.T : BLOCK;
    moe_status s = moe__scratch(c->ctx, sizeof(moe_real) * (size_t)(2 * rows * w.s.S), &w.scratch);
    if (s) return s;
    w.dq = moe__grad_beta(c, 0, &w.beta_q);
    w.dk = moe__grad(c, 1);
    w.dv = moe__grad(c, 2);
    moe__parallel(c->ctx, w.s.B * w.s.KV, backward_task, &w);
    return MOE_OK;
}

MOE_OP(attention,
    .sig = "q:tensor, k:tensor, v:tensor -> tensor",
    .doc = "Causal grouped-query attention: q [B x T x H x D], k and v [B x S x KV x D] with "
           "T <= S and H a multiple of KV; the queries are the last T positions. "
           "-> [B x T x H x D].",
    .sample = "randn(2, 5, 2, 3), randn(2, 5, 2, 3), randn(2, 5, 2, 3)"
              " | randn(1, 3, 4, 2), randn(1, 7, 2, 2), randn(1, 7, 2, 2)"
              " | randn(1, 70, 2, 2), randn(1, 70, 1, 2), randn(1, 70, 1, 2)",
    .saves = MOE_IN(0) | MOE_IN(1) | MOE_IN(2) | MOE_OUT(0),
    .infer = infer, .forward = forward, .backward = backward);
