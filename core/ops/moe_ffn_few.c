/* moe_ffn_few.c -- experts for the few tokens of a decoding step (see moe_ffn.c).
 *
 * The weights of the chosen experts are read once each, as they are stored: one region makes the
 * hidden rows, a task a block of W1 and the same block of W3; a second one multiplies by W2. What
 * a token gets does not depend on the tokens beside it, down to the bit.
 */
#include "ops/moe_ffn_few.h"

#include <string.h>

#include "kernels/kernels.h"
#include "ops/few.h"

enum { X, GATES, EXPERTS, W1, W3, W2 };

typedef struct work {
    moe_call *c;
    int64_t T, k, R, E, I, d;           /* R = T k pairs of a token and one of its experts */
    int64_t active;                     /* experts with tokens */
    moe_few *gate, *up, *down;          /* one product per active expert */
    int32_t *order;                     /* the pairs, sorted by expert */
    int64_t *start;                     /* of expert e in there: start[e] .. start[e + 1] */
    moe_real *x, *g, *u, *y;            /* rows in that order: [R x d], [R x I] twice, [R x d] */
} work;

bool moe__is_few(const moe_call *c) {
    return !c->needs_grad && c->in[X]->shape[0] <= MOE_FEW_ROWS;
}

static work measure(moe_call *c) {
    const int64_t *gates = c->in[GATES]->shape, *w1 = c->in[W1]->shape;
    return (work){.c = c, .T = gates[0], .k = gates[1], .R = gates[0] * gates[1], .E = w1[0],
                  .I = w1[1], .d = w1[2]};
}

/* ---- working memory ------------------------------------------------------------------------- */

static void *piece(char *base, size_t *used, size_t size, int64_t count) {
    void *p = base ? base + *used : NULL;
    *used += (size * (size_t)count + 63) & ~(size_t)63;
    return p;
}

/* Cuts `base` into pieces, or only counts their bytes. */
static size_t lay_out(work *w, char *base) {
    size_t used = 0;
    int64_t most = w->E < w->R ? w->E : w->R;
    w->gate = piece(base, &used, sizeof *w->gate, most);
    w->up = piece(base, &used, sizeof *w->up, most);
    w->down = piece(base, &used, sizeof *w->down, most);
    w->order = piece(base, &used, sizeof *w->order, w->R);
    w->start = piece(base, &used, sizeof *w->start, w->E + 1);
    w->x = piece(base, &used, sizeof *w->x, w->R * w->d);
    w->g = piece(base, &used, sizeof *w->g, w->R * w->I);
    w->u = piece(base, &used, sizeof *w->u, w->R * w->I);
    w->y = piece(base, &used, sizeof *w->y, w->R * w->d);
    return used;
}

/* ---- sorting -------------------------------------------------------------------------------- */

/* Counting sort, stable in the token; start[e] is the end of expert e - 1 in between. */
static void sort_by_expert(work *w) {
    const int32_t *expert = moe__int(w->c->in[EXPERTS]);
    memset(w->start, 0, sizeof *w->start * (size_t)(w->E + 1));
    for (int64_t i = 0; i < w->R; i++) w->start[expert[i] + 1]++;
    for (int64_t e = 0; e < w->E; e++) w->start[e + 1] += w->start[e];
    for (int64_t i = 0; i < w->R; i++) w->order[w->start[expert[i]]++] = (int32_t)i;
    for (int64_t e = w->E; e > 0; e--) w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

static void gather(work *w) {
    const moe_real *x = moe__real(w->c->in[X]);
    for (int64_t r = 0; r < w->R; r++)
        memcpy(w->x + r * w->d, x + w->order[r] / w->k * w->d, sizeof *x * (size_t)w->d);
}

/* The rows `from` of expert e, `k` wide, times one of its weights. */
static moe_few product(const work *w, int64_t e, int input, const moe_real *from, moe_real *to) {
    moe_tensor *t = w->c->in[input];
    int64_t n = t->shape[1], k = t->shape[2], first = w->start[e];
    size_t matrix = (size_t)(n * k) * moe__dtype_size(t->dtype);
    return (moe_few){.m = w->start[e + 1] - first, .n = n, .k = k, .type = t->dtype,
                     .x = from + first * k, .y = to + first * n,
                     .w = (const char *)moe_tensor_data(t) + (size_t)e * matrix};
}

static void list_products(work *w) {
    for (int64_t e = 0; e < w->E; e++) {
        if (w->start[e + 1] == w->start[e]) continue;
        w->gate[w->active] = product(w, e, W1, w->x, w->g);
        w->up[w->active] = product(w, e, W3, w->x, w->u);
        w->down[w->active++] = product(w, e, W2, w->g, w->y);
    }
}

/* ---- the experts ---------------------------------------------------------------------------- */

/* A block of the hidden columns of one expert's rows: g = silu(g) u. */
static void hidden_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t each = moe__few_tasks(w->gate), block = task % each;
    const moe_few *gate = &w->gate[task / each], *up = &w->up[task / each];
    int64_t first = block * moe__few_rows(gate), last = first + moe__few_rows(gate);
    if (last > w->I) last = w->I;
    (void)worker;
    moe__few_multiply(kernels, gate, block);
    moe__few_multiply(kernels, up, block);
    for (int64_t r = 0; r < gate->m; r++) {
        moe_real *g = gate->y + r * w->I + first;
        kernels->swiglu(last - first, g, up->y + r * w->I + first, g);
    }
}

/* A token's contributions in the order of its slots. */
static void combine(const work *w) {
    const moe_kernels *kernels = w->c->ctx->kernels;
    const moe_real *gate = moe__real(w->c->in[GATES]);
    const int32_t *expert = moe__int(w->c->in[EXPERTS]);
    moe_real *y = moe__real(w->c->out[0]);
    memset(y, 0, sizeof *y * (size_t)(w->T * w->d));
    for (int64_t i = 0; i < w->R; i++) {
        int64_t r = w->start[expert[i]];
        while (w->order[r] != i) r++;           /* one of the few rows of this expert */
        kernels->axpy(w->d, gate[i], w->y + r * w->d, y + i / w->k * w->d);
    }
}

moe_status moe__ffn_few(moe_call *c) {
    work w = measure(c);
    char *base;
    moe_status s = moe__shared(c->ctx, lay_out(&w, NULL), &base);
    if (s) return s;
    lay_out(&w, base);
    sort_by_expert(&w);
    gather(&w);
    list_products(&w);
    if (w.active) moe__parallel(c->ctx, w.active * moe__few_tasks(w.gate), hidden_task, &w);
    moe__few_products(c->ctx, w.active, w.down);
    combine(&w);
    return MOE_OK;
}
