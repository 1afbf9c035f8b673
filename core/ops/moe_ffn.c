/* moe_ffn.c -- a bank of SwiGLU experts over routed tokens: dropless, one node.
 *
 *     y_t = sum_s gate[t,s] W2_e (silu(W1_e x_t) * W3_e x_t)      with e = expert[t,s]
 *
 * The (token, slot) pairs are sorted by expert (counting sort, stable in the token), so that each
 * expert sees its rows side by side and all buffers have T k rows, whatever the routing. Saved for
 * backward are the two projections and the sorted order; the expert outputs are not: the gradient
 * of a gate is <W2^T dy, a> (Guo et al. 2025, SonicMoE). A token's contributions are added in the
 * order of its slots by one thread, so the bits do not depend on the number of threads.
 */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/moe_ffn_few.h"
#include "tape/op.h"

enum { X, GATES, EXPERTS, W1, W3, W2 };             /* inputs */
enum { G, U, ORDER, START };                        /* kept: [R x I], [R x I], [R], [E + 1] */

#define ROWS 64

typedef struct sizes {
    int64_t T, k, R, E, I, d;       /* R = T k rows */
} sizes;

static sizes measure(const moe_call *c) {
    const int64_t *gates = c->in[GATES]->shape, *w1 = c->in[W1]->shape;
    return (sizes){.T = gates[0], .k = gates[1], .R = gates[0] * gates[1], .E = w1[0], .I = w1[1],
                   .d = w1[2]};
}

static bool shaped(const moe_tensor *t, int64_t a, int64_t b, int64_t c) {
    return t->ndim == 3 && t->shape[0] == a && t->shape[1] == b && t->shape[2] == c;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[X], *gates = c->in[GATES], *experts = c->in[EXPERTS];
    const moe_tensor *w1 = c->in[W1], *w3 = c->in[W3], *w2 = c->in[W2];
    if (moe__rank(c, x, "x", 2) || moe__rank(c, gates, "gates", 2) || moe__rank(c, w1, "w1", 3))
        return MOE_ESHAPE;
    if (experts->ndim != 2 || memcmp(experts->shape, gates->shape, 2 * sizeof *gates->shape) != 0)
        return MOE_REJECT(c, MOE_ESHAPE, "gates and experts differ: %s and %s", MOE_SHAPE(gates),
                          MOE_SHAPE(experts));
    if (gates->shape[1] < 1)
        return MOE_REJECT(c, MOE_ESHAPE, "every token needs at least one expert: gates are %s",
                          MOE_SHAPE(gates));
    if (gates->shape[0] != x->shape[0])
        return MOE_REJECT(c, MOE_ESHAPE, "one row of gates per token is needed: %s and x %s",
                          MOE_SHAPE(gates), MOE_SHAPE(x));
    if (w1->shape[2] != x->shape[1])
        return MOE_REJECT(c, MOE_ESHAPE, "w1 [E x I x d] does not fit x [T x d]: %s and %s",
                          MOE_SHAPE(w1), MOE_SHAPE(x));
    if (!shaped(w3, w1->shape[0], w1->shape[1], w1->shape[2]) ||
        !shaped(w2, w1->shape[0], w1->shape[2], w1->shape[1]))
        return MOE_REJECT(c, MOE_ESHAPE, "w1 [E x I x d], w3 [E x I x d] and w2 [E x d x I] do not "
                          "fit: %s, %s and %s", MOE_SHAPE(w1), MOE_SHAPE(w3), MOE_SHAPE(w2));
    moe_status s = moe__stored_alike(c, W1, 3);
    if (!s) s = moe__ids_below(c, experts, w1->shape[0], INT64_MIN, "experts");
    if (s) return s;
    sizes z = measure(c);
    int64_t hidden[2] = {z.R, z.I}, wide[2] = {z.R, z.d}, bounds = z.E + 1;
    s = moe__product_sizes(c, 4, (int64_t[]){z.R, z.E, z.I, z.d});
    if (s) return s;
    if (moe__count(2, hidden) < 0 || moe__count(2, wide) < 0)
        return MOE_REJECT(c, MOE_ESHAPE, "%lld routed rows of w1 %s are too many", (long long)z.R,
                          MOE_SHAPE(w1));
    moe__out_like(c, 0, x);
    moe__keep(c, G, MOE_F32, 2, hidden);
    moe__keep(c, U, MOE_F32, 2, hidden);
    moe__keep(c, ORDER, MOE_I32, 1, &z.R);
    moe__keep(c, START, MOE_I32, 1, &bounds);
    return MOE_OK;
}

/* ---- working memory: one block, cut into pieces --------------------------------------------- */

typedef struct work {
    moe_call *c;
    sizes z;
    char *block;
    size_t bytes, used;
    moe_real *rows_in, *g, *u, *rows_out;
    moe_real *hidden;               /* a = silu(g) u; backward: W2^T dy, then a times the gate */
    int32_t *order, *start;         /* order[r] = t * k + s of sorted row r; expert e: start[e].. */
    int32_t *place;                 /* place[t * k + s] = r */
    moe_gemm *list;
    moe_real *dx, *dgates, beta;
} work;

static void *piece(work *w, size_t bytes) {
    void *p = w->block ? w->block + w->used : NULL;
    w->used += (bytes + 63) & ~(size_t)63;
    return p;
}

static void cut(work *w, bool backward) {
    const sizes *z = &w->z;
    size_t wide = sizeof(moe_real) * (size_t)(z->R * z->d);
    size_t hidden = sizeof(moe_real) * (size_t)(z->R * z->I);
    w->used = 0;
    w->rows_in = piece(w, wide);
    w->rows_out = piece(w, wide);
    w->g = w->c->keep[G] && !backward ? moe__real(w->c->keep[G]) : piece(w, hidden);
    w->u = w->c->keep[U] && !backward ? moe__real(w->c->keep[U]) : piece(w, hidden);
    w->order = w->c->keep[ORDER] ? moe__int(w->c->keep[ORDER])
                                 : piece(w, sizeof(int32_t) * (size_t)z->R);
    w->start = w->c->keep[START] ? moe__int(w->c->keep[START])
                                 : piece(w, sizeof(int32_t) * (size_t)(z->E + 1));
    w->place = piece(w, sizeof(int32_t) * (size_t)z->R);
    w->list = piece(w, sizeof(moe_gemm) * (size_t)(3 * z->E));
    w->hidden = piece(w, hidden);
}

static moe_status allocate(work *w, bool backward) {
    cut(w, backward);
    w->bytes = w->used;
    w->block = moe__alloc(w->c->ctx, w->bytes);
    if (!w->block) return moe__no_memory(w->c->ctx, w->bytes, "the rows of the experts");
    cut(w, backward);
    return MOE_OK;
}

/* ---- sorting, gathering, multiplying -------------------------------------------------------- */

static void sort_by_expert(work *w) {
    const int32_t *expert = moe__int(w->c->in[EXPERTS]);
    memset(w->start, 0, sizeof *w->start * (size_t)(w->z.E + 1));
    for (int64_t i = 0; i < w->z.R; i++) w->start[expert[i] + 1]++;
    for (int64_t e = 0; e < w->z.E; e++) w->start[e + 1] += w->start[e];
    for (int64_t i = 0; i < w->z.R; i++) w->order[w->start[expert[i]]++] = (int32_t)i;
    for (int64_t e = w->z.E; e > 0; e--) w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

static void invert_order(work *w) {
    for (int64_t r = 0; r < w->z.R; r++) w->place[w->order[r]] = (int32_t)r;
}

typedef struct gather {
    const work *w;
    const moe_real *from;           /* [T x d] */
} gather;

static void gather_range(void *arg, int64_t begin, int64_t end) {
    const gather *g = arg;
    int64_t d = g->w->z.d;
    for (int64_t r = begin; r < end; r++)
        memcpy(g->w->rows_in + r * d, g->from + g->w->order[r] / g->w->z.k * d,
               sizeof *g->from * (size_t)d);
}

static void gather_rows(work *w, const moe_real *from) {
    gather g = {.w = w, .from = from};
    moe__parallel_range(w->c->ctx, w->z.R, ROWS, gather_range, &g);
}

/* out[rows of e, n] = in[rows of e, k] op(weight_e), appended to the batch for every expert. */
static int64_t add_products(work *w, int64_t at, const moe_real *in, int64_t k, int input,
                            bool transposed, moe_real beta, moe_real *out, int64_t n) {
    const moe_real *weight = moe__real(w->c->in[input]);
    for (int64_t e = 0; e < w->z.E; e++) {
        int64_t first = w->start[e];
        w->list[at++] = (moe_gemm){
            .tb = transposed, .m = w->start[e + 1] - first, .n = n, .k = k, .alpha = 1,
            .a = in + first * k, .lda = k, .b = weight + e * n * k, .ldb = transposed ? k : n,
            .beta = beta, .c = out + first * n, .ldc = n};
    }
    return at;
}

/* dweight_e [n x k] += left[rows of e, n]^T right[rows of e, k]; an expert without rows gets zeros,
 * because a product over nothing stores them. */
static void add_weight_gradient(work *w, int input, const moe_real *left, int64_t n,
                                const moe_real *right, int64_t k) {
    moe_real beta, *dw = moe__grad_beta(w->c, input, &beta);
    if (!dw) return;
    for (int64_t e = 0; e < w->z.E; e++) {
        int64_t first = w->start[e];
        w->list[e] = (moe_gemm){.ta = true, .m = n, .n = k, .k = w->start[e + 1] - first,
                                .alpha = 1, .a = left + first * n, .lda = n,
                                .b = right + first * k, .ldb = k, .beta = beta,
                                .c = dw + e * n * k, .ldc = k};
    }
    moe__gemm_batch(w->c->ctx, w->z.E, w->list);
}

/* ---- forward -------------------------------------------------------------------------------- */

static void activate_range(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    int64_t n = w->z.I;
    w->c->ctx->kernels->swiglu((end - begin) * n, w->g + begin * n, w->u + begin * n,
                               w->hidden + begin * n);
}

static void combine_range(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    int64_t d = w->z.d, k = w->z.k;
    const moe_real *gate = moe__real(w->c->in[GATES]);
    moe_real *y = moe__real(w->c->out[0]);
    for (int64_t t = begin; t < end; t++) {
        const moe_kernels *kernels = w->c->ctx->kernels;
        kernels->scale(d, gate[t * k], w->rows_out + w->place[t * k] * d, y + t * d);
        for (int64_t s = 1; s < k; s++)
            kernels->axpy(d, gate[t * k + s], w->rows_out + w->place[t * k + s] * d, y + t * d);
    }
}

static moe_status forward(moe_call *c) {
    if (moe__is_few(c)) return moe__ffn_few(c);
    work w = {.c = c, .z = measure(c)};
    const sizes *z = &w.z;
    moe_status s = allocate(&w, false);
    if (s) return s;
    sort_by_expert(&w);
    invert_order(&w);
    gather_rows(&w, moe__real(c->in[X]));
    int64_t n = add_products(&w, 0, w.rows_in, z->d, W1, true, 0, w.g, z->I);
    n = add_products(&w, n, w.rows_in, z->d, W3, true, 0, w.u, z->I);
    moe__gemm_batch(c->ctx, n, w.list);
    moe__parallel_range(c->ctx, z->R, ROWS, activate_range, &w);
    n = add_products(&w, 0, w.hidden, z->I, W2, true, 0, w.rows_out, z->d);
    moe__gemm_batch(c->ctx, n, w.list);
    moe__parallel_range(c->ctx, z->T, ROWS, combine_range, &w);
    moe__free(c->ctx, w.block, w.bytes);
    return MOE_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* On entry w->hidden holds u' = W2^T dy per row. Per row with gate s: a = silu(g) u, the gate's
 * gradient is <u', a>, and da = s u' gives dg and du. Leaves s a in w->hidden. */
static void activation_grad_range(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    const moe_kernels *kernels = w->c->ctx->kernels;
    const moe_real *gate = moe__real(w->c->in[GATES]);
    const moe_real *g = moe__real(w->c->keep[G]), *u = moe__real(w->c->keep[U]);
    int64_t n = w->z.I;
    for (int64_t r = begin; r < end; r++) {
        moe_real *da = w->hidden + r * n, *dg = w->g + r * n, *du = w->u + r * n;
        kernels->swiglu(n, g + r * n, u + r * n, dg);
        if (w->dgates) w->dgates[w->order[r]] += kernels->dot(n, da, dg);
        kernels->scale(n, gate[w->order[r]], da, da);
        kernels->swiglu_grad(n, g + r * n, u + r * n, da, dg, du, da);
        kernels->scale(n, gate[w->order[r]], da, da);
    }
}

static void scatter_range(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    int64_t d = w->z.d, k = w->z.k;
    const moe_kernels *kernels = w->c->ctx->kernels;
    for (int64_t t = begin; t < end; t++) {
        moe_real *dx = w->dx + t * d;
        const moe_real *first = w->rows_out + w->place[t * k] * d;
        if (w->beta == 0)
            memcpy(dx, first, sizeof *dx * (size_t)d);
        else
            kernels->accumulate(d, first, dx);
        for (int64_t s = 1; s < k; s++)
            kernels->accumulate(d, w->rows_out + w->place[t * k + s] * d, dx);
    }
}

static moe_status backward(moe_call *c) {
    work w = {.c = c, .z = measure(c)};
    const sizes *z = &w.z;
    moe_status s = allocate(&w, true);
    if (s) return s;
    w.dgates = moe__grad(c, GATES);
    invert_order(&w);
    gather_rows(&w, moe__real(c->dout[0]));
    int64_t n = add_products(&w, 0, w.rows_in, z->d, W2, false, 0, w.hidden, z->I);
    moe__gemm_batch(c->ctx, n, w.list);
    moe__parallel_range(c->ctx, z->R, ROWS, activation_grad_range, &w);
    add_weight_gradient(&w, W2, w.rows_in, z->d, w.hidden, z->I);
    w.dx = moe__grad_beta(c, X, &w.beta);
    if (w.dx) {
        n = add_products(&w, 0, w.g, z->I, W1, false, 0, w.rows_out, z->d);
        moe__gemm_batch(c->ctx, n, w.list);
        n = add_products(&w, 0, w.u, z->I, W3, false, 1, w.rows_out, z->d);
        moe__gemm_batch(c->ctx, n, w.list);
        moe__parallel_range(c->ctx, z->T, ROWS, scatter_range, &w);
    }
    gather_rows(&w, moe__real(c->in[X]));
    add_weight_gradient(&w, W1, w.g, z->I, w.rows_in, z->d);
    add_weight_gradient(&w, W3, w.u, z->I, w.rows_in, z->d);
    moe__free(c->ctx, w.block, w.bytes);
    return MOE_OK;
}

MOE_OP(moe_ffn,
    .sig = "x:tensor, gates:tensor, experts:itensor, w1:float, w3:float, w2:float -> tensor",
    .doc = "SwiGLU experts over routed tokens, dropless: x [T x d], gates and 0-based experts "
           "[T x k], w1 and w3 [E x I x d], w2 [E x d x I] -> [T x d].",
    .sample = "randn(5, 3), rand(0.1, 1, 5, 2), ids{{0, 1}, {1, 3}, {3, 0}, {1, 0}, {0, 3}},"
              " randn(4, 2, 3), randn(4, 2, 3), randn(4, 3, 2)",
    .saves = MOE_IN(X) | MOE_IN(GATES) | MOE_IN(EXPERTS) | MOE_IN(W1) | MOE_IN(W3) | MOE_IN(W2),
    .infer = infer, .forward = forward, .backward = backward);
