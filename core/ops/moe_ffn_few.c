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
#include "ops/moe_rows.h"

enum { X, GATES, EXPERTS, W1, W3, W2 };

typedef struct work {
    moe_call *c;
    int64_t E, I, d;
    moe_rows rows;
    int64_t active;                     /* experts with tokens */
    moe_few *gate, *up, *down;          /* one product per active expert */
    moe_real *x, *g, *u, *y;            /* by expert: [R x d], [R x I] twice, [R x d] */
    moe_activation activation;
} work;

bool moe__is_few(const moe_call *c) {
    return !c->needs_grad && c->in[X]->shape[0] <= MOE_FEW_ROWS;
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
    int64_t R = w->rows.count, most = w->E < R ? w->E : R;
    w->gate = piece(base, &used, sizeof *w->gate, most);
    w->up = piece(base, &used, sizeof *w->up, most);
    w->down = piece(base, &used, sizeof *w->down, most);
    w->x = piece(base, &used, sizeof *w->x, R * w->d);
    w->g = piece(base, &used, sizeof *w->g, R * w->I);
    w->u = piece(base, &used, sizeof *w->u, R * w->I);
    w->y = piece(base, &used, sizeof *w->y, R * w->d);
    return used;
}

/* ---- the products --------------------------------------------------------------------------- */

static void gather(work *w) {
    const moe_real *x = moe__real(w->c->in[X]);
    for (int64_t r = 0; r < w->rows.count; r++)
        memcpy(w->x + r * w->d, x + w->rows.token[r] * w->d, sizeof *x * (size_t)w->d);
}

/* The rows `from` of expert e, `k` wide, times one of its weights. */
static moe_few product(const work *w, int64_t e, int input, const moe_real *from, moe_real *to) {
    moe_tensor *t = w->c->in[input];
    int64_t n = t->shape[1], k = t->shape[2], first = w->rows.start[e];
    size_t matrix = (size_t)(n * k) * moe__dtype_size(t->dtype);
    return (moe_few){.m = w->rows.start[e + 1] - first, .n = n, .k = k, .type = t->dtype,
                     .x = from + first * k, .y = to + first * n,
                     .w = (const char *)moe_tensor_data(t) + (size_t)e * matrix};
}

static void list_products(work *w) {
    for (int64_t e = 0; e < w->E; e++) {
        if (w->rows.start[e + 1] == w->rows.start[e]) continue;
        w->gate[w->active] = product(w, e, W1, w->x, w->g);
        if (w->c->in[W3]) w->up[w->active] = product(w, e, W3, w->x, w->u);
        w->down[w->active++] = product(w, e, W2, w->g, w->y);
    }
}

/* ---- the experts ---------------------------------------------------------------------------- */

static void activate(const moe_kernels *kernels, moe_activation f, int64_t n, moe_real *g,
                     const moe_real *u) {
    switch (f) {
    case MOE_SWIGLU: kernels->swiglu(n, g, u, g); break;
    case MOE_RELU: kernels->relu(n, g, g); break;
    case MOE_GELU: kernels->gelu(n, g, g); break;
    case MOE_SILU: kernels->silu(n, g, g); break;
    }
}

/* A block of the hidden columns of one expert's rows, in place of g. */
static void hidden_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t each = moe__few_tasks(w->gate), block = task % each;
    const moe_few *gate = &w->gate[task / each];
    int64_t first = block * moe__few_rows(gate), last = first + moe__few_rows(gate);
    if (last > w->I) last = w->I;
    (void)worker;
    moe__few_multiply(kernels, gate, block);
    if (w->c->in[W3]) moe__few_multiply(kernels, &w->up[task / each], block);
    for (int64_t r = 0; r < gate->m; r++) {
        moe_real *g = gate->y + r * w->I + first;
        activate(kernels, w->activation, last - first, g, w->u + (g - w->g));
    }
}

/* The products and what they need, all of it in one block. */
static moe_status prepare(work *w) {
    char *base;
    moe_status s = moe__rows_sort(w->c->ctx, w->c->in[EXPERTS], w->E, 1, &w->rows);
    if (!s) s = moe__shared(w->c->ctx, lay_out(w, NULL), &base);
    if (s) return s;
    lay_out(w, base);
    gather(w);
    list_products(w);
    return MOE_OK;
}

moe_status moe__ffn_few(moe_call *c) {
    const int64_t *w1 = c->in[W1]->shape;
    work w = {.c = c, .E = w1[0], .I = w1[1], .d = w1[2],
              .activation = (moe_activation)c->arg[0].i};
    moe_status s = prepare(&w);
    if (!s) {
        if (w.active) moe__parallel(c->ctx, w.active * moe__few_tasks(w.gate), hidden_task, &w);
        moe__few_products(c->ctx, w.active, w.down);
        moe__rows_combine(c->ctx, &w.rows, moe__real(c->in[GATES]), w.y, w.d, 0,
                          moe__real(c->out[0]));
    }
    moe__rows_free(c->ctx, &w.rows);
    return s;
}
