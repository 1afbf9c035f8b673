/* moe_ffn.c -- a bank of experts over routed tokens: dropless, one node.
 *
 *     y_t = sum_s gate[t,s] W2_e (silu(W1_e x_t) * W3_e x_t)      with e = expert[t,s]: SwiGLU
 *     y_t = sum_s gate[t,s] W2_e f(W1_e x_t)                      plain, f = relu, gelu or silu
 *
 * A slot whose expert is -1 is empty: over capacity, not drawn, not chosen. It takes no time and no
 * memory, and a token with nothing else gets 0 (Fedus et al. 2022, Switch).
 *
 * The (token, slot) pairs are sorted by expert (moe_rows.h). One task takes a block of an expert's
 * rows from x to y: it gathers them while it prepares the left operand, makes the hidden columns in
 * strips of one panel that stay in the first-level cache between the two projections, the
 * activation and the second product's left operand, and leaves rows that are then combined by
 * token. Backward goes the same way; its tasks also leave the operands of the weight gradients as
 * the products want them.
 *
 * Saved for backward are the projections; the expert outputs are not: the gradient of a gate is
 * <W2^T dy, a> (Guo et al. 2025, SonicMoE). They are kept by strips, [rows of e][32] one after the
 * other, as the format holds its panels: backward puts the right operands of the weight gradients
 * in their place.
 */
#include <string.h>

#include "ops/experts.h"
#include "ops/moe_ffn_few.h"
#include "ops/moe_rows.h"
#include "ops/routing.h"
#include "tape/packed.h"

enum { X, GATES, EXPERTS, W1, W3, W2 };             /* inputs */
enum { G, U, DOWN };        /* through w1, w3, w2; kept: G, U [padded rows x width], by strips */

enum {
    STRIP = MOE_PANEL,
    DEPTH = 768,            /* of k at a time: what is multiplied stays in the second-level cache */
    TURNED_DEPTH = 128,     /* in the first, because a turned operand is read across its rows */
    WEIGHT_ROWS = 96        /* of a weight gradient in one task */
};

typedef struct sizes {
    int64_t R, E, I, d;             /* R rows: the slots that are used */
    int64_t width;                  /* I filled up to whole strips */
    int projections;                /* G alone, or G and U */
} sizes;

static sizes measure(const moe_call *c) {
    const int64_t *w1 = c->in[W1]->shape;
    return (sizes){.R = moe__rows_used(c->in[EXPERTS]), .E = w1[0], .I = w1[1], .d = w1[2],
                   .width = moe__round_up(w1[1], STRIP), .projections = c->in[W3] ? 2 : 1};
}

/* Kept in the elements of the format: bf16 takes half of the memory. */
static moe_dtype kept_type(const moe_format *f) { return f->direct ? MOE_F32 : MOE_BF16; }

static moe_status check_routing(moe_call *c) {
    const moe_tensor *x = c->in[X], *gates = c->in[GATES], *experts = c->in[EXPERTS];
    if (moe__rank(c, x, "x", 2) || moe__routing_alike(c, gates, experts)) return MOE_ESHAPE;
    if (gates->shape[1] < 1)
        return MOE_REJECT(c, MOE_ESHAPE, "every token needs at least one slot: gates are %s",
                          MOE_SHAPE(gates));
    if (gates->shape[0] != x->shape[0])
        return MOE_REJECT(c, MOE_ESHAPE, "one row of gates per token is needed: %s and x %s",
                          MOE_SHAPE(gates), MOE_SHAPE(x));
    return MOE_OK;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *experts = c->in[EXPERTS], *w1 = c->in[W1];
    moe_status s = check_routing(c);
    if (!s) s = moe__experts_fit(c, c->in[X], W1, (moe_activation)c->arg[0].i);
    if (!s) s = moe__ids_below(c, experts, w1->shape[0], -1, "experts");
    if (s) return s;
    sizes z = measure(c);
    int64_t hidden[2] = {moe__rows_bound(z.R, z.E, c->format->depth), z.width};
    int64_t wide[2] = {z.R, z.d};
    s = moe__product_sizes(c, 4, (int64_t[]){experts->count, z.E, z.I, z.d});
    if (s) return s;
    if (moe__count(2, hidden) < 0 || moe__count(2, wide) < 0)
        return MOE_REJECT(c, MOE_ESHAPE, "%lld routed rows of w1 %s are too many", (long long)z.R,
                          MOE_SHAPE(w1));
    moe__out_like(c, 0, c->in[X]);
    for (int i = G; i < z.projections; i++) moe__keep(c, i, kept_type(c->format), 2, hidden);
    return MOE_OK;
}

/* ---- working memory ------------------------------------------------------------------------- */

/* The panels of a weight of every expert. */
typedef struct bank {
    const void *panels;
    int64_t k, n;
} bank;

typedef struct work {
    moe_call *c;
    const moe_format *f;
    const moe_kernels *kernels;
    sizes z;
    moe_activation activation;
    moe_rows rows;
    bank bank[3];                   /* w1, w3, w2: of forward, or of the gradient through them */
    moe_scratch scratch;
    char *block;
    size_t bytes, used;
    moe_real *wide;                 /* [R x d]: rows of y or dx */
    /* backward */
    moe_real *scale;                /* [R]: the gates in the order of the rows */
    void *dhidden[2];               /* dg and du: R rows where the format is direct; otherwise left
                                       operands dg^T, du^T: per expert [width x its rows] */
    void *x;                        /* right operands: per expert the panels of its rows of x */
    int64_t x_width;                /* columns of x's memory */
    bool wants_x;
    moe_real *dgates, *dw[3], beta[3];  /* gradients of w1, w3, w2, NULL if not wanted */
} work;

static void *piece(work *w, size_t bytes) {
    void *p = w->block ? w->block + w->used : NULL;
    w->used += (bytes + 63) & ~(size_t)63;
    return p;
}

static moe_status allocate(work *w, void (*lay_out)(work *)) {
    moe_ctx *ctx = w->c->ctx;
    lay_out(w);
    w->bytes = w->used;
    w->used = 0;
    w->block = moe__alloc(ctx, w->bytes);
    if (!w->block) return moe__no_memory(ctx, w->bytes, "the rows of the experts");
    lay_out(w);
    return MOE_OK;
}

static void finish(work *w) {
    moe__free(w->c->ctx, w->block, w->bytes);
    moe__rows_free(w->c->ctx, &w->rows);
}

/* ---- products ------------------------------------------------------------------------------- */

static int64_t depth_of(const moe_product *p) { return p->turned ? TURNED_DEPTH : DEPTH; }

/* The whole of k, in steps that fit the cache. */
static void multiply(const moe_format *f, moe_product p) {
    const int64_t depth = depth_of(&p);
    int64_t left = p.k;
    do {
        p.k = left < depth ? left : depth;
        f->multiply(&p);
        p.a = moe__ahead(f, p.a, p.turned ? depth * p.lda : depth);
        p.b = moe__ahead(f, p.b, depth * STRIP);
        p.add = true;
        left -= depth;
    } while (left > 0);
}

/* The panels of expert e from row `row` and column `column` (a multiple of STRIP) on. */
static const void *panels_at(const work *w, const bank *b, int64_t e, int64_t row, int64_t column) {
    int64_t each = moe__right_size(w->f, b->k, b->n);
    return moe__ahead(w->f, b->panels, e * each + column * moe__depth(w->f, b->k) + row * STRIP);
}

/* strip [rows x STRIP] = a [rows x d] times columns j.. of the bank, filled up with zeros. */
static void project(const work *w, const moe_block *b, const void *a, const bank *weight, int64_t j,
                    moe_real *strip) {
    int64_t n = weight->n - j < STRIP ? weight->n - j : STRIP;
    if (n < STRIP) memset(strip, 0, sizeof *strip * (size_t)(b->rows * STRIP));
    multiply(w->f, (moe_product){.m = b->rows, .n = n, .k = weight->k, .a = a,
                                 .lda = moe__apart(w->f, weight->k),
                                 .b = panels_at(w, weight, b->expert, 0, j),
                                 .panel = moe__panel(w->f, weight->k), .c = strip, .ldc = STRIP});
}

/* to [rows x d] (+)= a [rows x n], rows `apart`, times rows j .. j + n of the bank. */
static void spread(const work *w, const moe_block *b, const void *a, int64_t apart, int64_t n,
                   const bank *weight, int64_t j, moe_real *to, bool add) {
    multiply(w->f, (moe_product){.m = b->rows, .n = weight->n, .k = n, .a = a, .lda = apart,
                                 .b = panels_at(w, weight, b->expert, j, 0),
                                 .panel = moe__panel(w->f, weight->k), .c = to, .ldc = weight->n,
                                 .add = add});
}

/* Where strip j of a block lies in memory that holds [its rows x STRIP] per expert and strip. */
static void *strip_at(const work *w, const moe_block *b, const void *memory, int64_t width,
                      int64_t j) {
    const int64_t *padded = w->rows.padded, e = b->expert;
    int64_t rows = padded[e + 1] - padded[e], before = b->first - w->rows.start[e];
    return moe__ahead(w->f, memory, padded[e] * width + rows * j + before * STRIP);
}

static void *kept_at(const work *w, const moe_block *b, int which, int64_t j) {
    const moe_tensor *t = w->c->keep[which];
    return t ? strip_at(w, b, t->storage->data, w->z.width, j) : NULL;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* What a task works on; operands in the format, strips in f32. */
typedef struct desk {
    void *in;                       /* rows of x or dy */
    void *hidden[2];                /* activation, or dg and du: [rows x DEPTH], `apart` */
    int64_t apart;
    moe_real *h[2], *a, *dgate;
} desk;

static size_t lay_desk(const work *w, char *at, desk *out) {
    const moe_format *f = w->f;
    int64_t rows = moe__block_rows(w->z.R, f->depth), strip = rows * STRIP;
    int64_t apart = moe__apart(f, w->z.width < DEPTH ? w->z.width : DEPTH);
    size_t lines = (size_t)moe__round_up(rows, f->rows), hidden = lines * (size_t)apart;
    size_t operand[] = {lines * (size_t)moe__apart(f, w->z.d), hidden, hidden};
    size_t real[] = {(size_t)strip, (size_t)strip, (size_t)strip, (size_t)rows};
    void *p[7];
    size_t used = 0;
    for (int i = 0; i < 7; i++) {
        p[i] = at ? at + used : NULL;
        size_t bytes = i < 3 ? f->element * operand[i] : sizeof(moe_real) * real[i - 3];
        used += (bytes + 63) & ~(size_t)63;
    }
    *out = (desk){.in = p[0], .hidden = {p[1], p[2]}, .apart = apart, .h = {p[3], p[4]},
                  .a = p[5], .dgate = p[6]};
    return used;
}

/* Column j.. of the hidden rows, into `to`. A format that takes f32 as it is needs no copies. */
static void forward_strip(const work *w, const moe_block *b, const desk *s, int64_t j, void *to) {
    const moe_format *f = w->f;
    moe_real *h[2] = {0}, *y = f->direct ? to : s->h[G];
    void *kept[2];
    for (int i = G; i < w->z.projections; i++) {
        kept[i] = kept_at(w, b, i, j);
        h[i] = f->direct && kept[i] ? kept[i] : s->h[i];
        project(w, b, s->in, &w->bank[i], j, h[i]);
    }
    for (int i = G; i < w->z.projections; i++)
        if (!f->direct && kept[i]) f->left(b->rows, STRIP, h[i], STRIP, NULL, NULL, kept[i], STRIP);
    w->kernels->expert(w->activation, b->rows, h[G], h[U], y, f->direct ? s->apart : STRIP);
    if (!f->direct) f->left(b->rows, STRIP, y, STRIP, NULL, NULL, to, s->apart);
}

static void forward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const moe_format *f = w->f;
    const moe_block *b = &w->rows.block[task];
    int64_t d = w->z.d, I = w->z.I, at = 0;
    desk s;
    lay_desk(w, (char *)moe__scratch_of(&w->scratch, worker), &s);
    f->left(b->rows, d, moe__real(w->c->in[X]), d, w->rows.token + b->first, NULL, s.in,
            moe__apart(f, d));
    do {
        int64_t n = I - at < DEPTH ? I - at : DEPTH;
        for (int64_t j = 0; j < n; j += STRIP)
            forward_strip(w, b, &s, at + j, moe__ahead(f, s.hidden[0], j));
        spread(w, b, s.hidden[0], s.apart, n, &w->bank[DOWN], at, w->wide + b->first * d, at > 0);
        at += DEPTH;
    } while (at < I);
}

static size_t scratch_bytes(const work *w) {
    desk unused;
    size_t rows = lay_desk(w, NULL, &unused);
    int64_t depth = w->z.R < DEPTH ? w->z.R : DEPTH;
    int64_t left = w->f->direct ? TURNED_DEPTH * moe__apart(w->f, WEIGHT_ROWS)
                                : WEIGHT_ROWS * moe__apart(w->f, depth);
    size_t weights = w->f->element * (size_t)left;
    return rows > weights ? rows : weights;
}

static void lay_forward(work *w) {
    w->wide = piece(w, sizeof(moe_real) * (size_t)(w->z.R * w->z.d));
}

/* What both directions ask for, before anything else is done. */
static moe_status prepare(work *w, bool transposed, void (*lay_out)(work *)) {
    for (int i = G; i <= DOWN; i++) {
        const moe_tensor *t = w->c->in[W1 + i];
        if (!t) continue;
        w->bank[i] = (bank){.k = t->shape[transposed ? 2 : 1], .n = t->shape[transposed ? 1 : 2]};
        moe_status s = moe__packed(w->c, W1 + i, transposed, &w->bank[i].panels);
        if (s) return s;
    }
    moe_status s = moe__rows_sort(w->c->ctx, w->c->in[EXPERTS], w->z.E, w->f->depth, &w->rows);
    if (!s) s = allocate(w, lay_out);
    return s ? s : moe__scratch(w->c->ctx, scratch_bytes(w), &w->scratch);
}

static work work_of(moe_call *c) {
    return (work){.c = c, .f = c->format, .kernels = c->ctx->kernels, .z = measure(c),
                  .activation = (moe_activation)c->arg[0].i};
}

static moe_status forward(moe_call *c) {
    if (moe__is_few(c)) return moe__ffn_few(c);
    work w = work_of(c);
    moe_status s = prepare(&w, true, lay_forward);
    if (!s) {
        moe__parallel(c->ctx, w.rows.blocks, forward_task, &w);
        moe__rows_combine(c->ctx, &w.rows, moe__real(c->in[GATES]), w.wide, w.z.d, 0,
                          moe__real(c->out[0]));
    }
    finish(&w);
    return s;
}

/* ---- backward: a block of rows -------------------------------------------------------------- */

/* What was kept of a strip, in f32: in place or converted. */
static const moe_real *recall(const work *w, const void *kept, int64_t rows, moe_real *to) {
    if (w->f->direct || !kept) return kept;
    w->kernels->widen_bf16(rows * STRIP, kept, to);
    return to;
}

/* dg^T or du^T of a strip where the weight gradient will look for it. */
static void leave_transposed(const work *w, const moe_block *b, const moe_real *strip, int64_t j,
                             void *memory) {
    const int64_t *padded = w->rows.padded, e = b->expert;
    int64_t rows = padded[e + 1] - padded[e], before = b->first - w->rows.start[e];
    int64_t at = padded[e] * w->z.width + j * rows + before;
    if (!memory) return;
    w->f->left_transposed(STRIP, b->rows, strip, STRIP, NULL, NULL, moe__ahead(w->f, memory, at),
                          rows);
}

/* With u' = W2^T dy and a = silu(g) u or f(g): dg, du, and the gate's gradient <u', a>. */
static void backward_strip(const work *w, const moe_block *b, const desk *s, int64_t j,
                           int64_t column) {
    const moe_format *f = w->f;
    void *kept[2], *to[2];
    const moe_real *h[2];
    moe_real *dh[2];
    for (int i = G; i <= U; i++) {
        kept[i] = kept_at(w, b, i, j);
        h[i] = recall(w, kept[i], b->rows, s->h[i]);
        to[i] = moe__ahead(f, s->hidden[i], column);
        dh[i] = f->direct ? to[i] : s->h[i];
    }
    moe_expert_strip strip = {
        .g = h[G], .u = h[U], .dy = s->a, .scale = w->scale + b->first, .dscale = s->dgate,
        .dg = dh[G], .du = dh[U], .ld = f->direct ? s->apart : STRIP,
        .y = f->direct ? kept[G] : s->a};
    project(w, b, s->in, &w->bank[DOWN], j, s->a);
    w->kernels->expert_grad(w->activation, b->rows, &strip);
    if (f->direct) return;
    for (int i = G; i < w->z.projections; i++) {
        leave_transposed(w, b, dh[i], j, w->dhidden[i]);
        f->left(b->rows, STRIP, dh[i], STRIP, NULL, NULL, to[i], s->apart);
    }
    f->right(b->rows, STRIP, strip.y, STRIP, NULL, kept[G]);
}

/* A direct format has dg and du from column `at` on made where the weight gradients want them. */
static void leave_in_place(const work *w, const moe_block *b, desk *s, int64_t at) {
    if (!w->f->direct || !w->dhidden[G]) return;
    s->apart = moe__apart(w->f, w->z.width);
    for (int i = G; i < w->z.projections; i++)
        s->hidden[i] = moe__ahead(w->f, w->dhidden[i], b->first * s->apart + at);
}

static void leave_x(const work *w, const moe_block *b) {
    const int32_t *token = w->rows.token + b->first;
    int64_t d = w->z.d;
    for (int64_t j = 0; w->x && j < d; j += STRIP)
        w->f->right(b->rows, d - j < STRIP ? d - j : STRIP, moe__real(w->c->in[X]) + j, d, token,
                    strip_at(w, b, w->x, w->x_width, j));
}

static void backward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const moe_format *f = w->f;
    const moe_block *b = &w->rows.block[task];
    const int32_t *order = w->rows.order + b->first;
    int64_t d = w->z.d, I = w->z.I, at = 0;
    desk s;
    lay_desk(w, (char *)moe__scratch_of(&w->scratch, worker), &s);
    f->left(b->rows, d, moe__real(w->c->dout[0]), d, w->rows.token + b->first, NULL, s.in,
            moe__apart(f, d));
    memset(s.dgate, 0, sizeof *s.dgate * (size_t)b->rows);
    do {
        int64_t n = I - at < DEPTH ? I - at : DEPTH;
        moe_real *to = w->wide + b->first * d;
        leave_in_place(w, b, &s, at);
        for (int64_t j = 0; j < n; j += STRIP) backward_strip(w, b, &s, at + j, j);
        for (int i = G; w->wants_x && i < w->z.projections; i++)
            spread(w, b, s.hidden[i], s.apart, n, &w->bank[i], at, to, at > 0 || i > G);
        at += DEPTH;
    } while (at < I);
    leave_x(w, b);
    for (int64_t i = 0; w->dgates && i < b->rows; i++) w->dgates[order[i]] += s.dgate[i];
}

/* ---- backward: the weights ------------------------------------------------------------------ */

static int64_t weight_rows(const work *w, int which) { return which == DOWN ? w->z.d : w->z.I; }

static int64_t weight_tasks(const work *w, int which) {
    return w->dw[which] ? (weight_rows(w, which) + WEIGHT_ROWS - 1) / WEIGHT_ROWS : 0;
}

/* dw1 = dg^T x or dw3 = du^T x: both operands are there. */
static void project_gradient(const work *w, moe_product p, int64_t e, int64_t i, const void *left) {
    int64_t before = w->rows.padded[e], rows = w->rows.padded[e + 1] - before;
    p.turned = w->f->direct;
    p.lda = p.turned ? moe__apart(w->f, w->z.width) : rows;
    p.a = moe__ahead(w->f, left, p.turned ? w->rows.start[e] * p.lda + i
                                          : before * w->z.width + i * rows);
    p.b = moe__ahead(w->f, w->x, before * w->x_width);
    multiply(w->f, p);
}

/* dw2 = (s dy)^T a: the left operand is made here. */
static void spread_gradient(const work *w, moe_product p, int64_t e, int64_t i, void *left) {
    const moe_format *f = w->f;
    int64_t first = w->rows.start[e], end = first + p.k, d = w->z.d;
    p.b = moe__ahead(f, w->c->keep[G]->storage->data, w->rows.padded[e] * w->z.width);
    p.a = left;
    p.turned = f->direct;
    const int64_t depth = depth_of(&p);
    do {
        const int32_t *token = w->rows.token + first;
        const moe_real *dy = moe__real(w->c->dout[0]) + i, *scale = w->scale + first;
        p.k = end - first < depth ? end - first : depth;
        p.lda = moe__apart(f, p.turned ? WEIGHT_ROWS : p.k);
        if (p.turned)
            f->left(p.k, p.m, dy, d, token, scale, left, p.lda);
        else
            f->left_transposed(p.m, p.k, dy, d, token, scale, left, p.lda);
        f->multiply(&p);
        p.b = moe__ahead(f, p.b, depth * STRIP);
        p.add = true;
        first += depth;
    } while (first < end);
}

static void weight_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    int64_t each = weight_tasks(w, 0) + weight_tasks(w, 1) + weight_tasks(w, 2);
    int64_t e = task / each, which = 0;
    for (task %= each; task >= weight_tasks(w, (int)which); which++)
        task -= weight_tasks(w, (int)which);
    int64_t i = task * WEIGHT_ROWS, m = weight_rows(w, (int)which);
    int64_t n = which == DOWN ? w->z.I : w->z.d;
    int64_t rows = w->rows.padded[e + 1] - w->rows.padded[e];
    moe_product p = {.m = m - i < WEIGHT_ROWS ? m - i : WEIGHT_ROWS, .n = n,
                     .k = w->rows.start[e + 1] - w->rows.start[e], .panel = rows * STRIP,
                     .c = w->dw[which] + (e * m + i) * n, .ldc = n, .add = w->beta[which] != 0};
    if (which == DOWN)
        spread_gradient(w, p, e, i, moe__scratch_of(&w->scratch, worker));
    else
        project_gradient(w, p, e, i, w->dhidden[which]);
}

/* ---- backward ------------------------------------------------------------------------------- */

/* The panels of x take the place of u when they fit. */
static void lay_backward(work *w) {
    const sizes *z = &w->z;
    int64_t padded = moe__rows_bound(z->R, z->E, w->f->depth);
    int64_t hidden = w->f->direct ? z->R * moe__apart(w->f, z->width) : padded * z->width;
    w->wants_x = moe__wants(w->c, X);
    w->scale = piece(w, sizeof(moe_real) * (size_t)z->R);
    w->wide = w->wants_x ? piece(w, sizeof(moe_real) * (size_t)(z->R * z->d)) : NULL;
    w->x_width = moe__round_up(z->d, STRIP);
    if (!moe__wants(w->c, W1) && !moe__wants(w->c, W3)) return;
    for (int i = G; i < z->projections; i++)
        w->dhidden[i] = piece(w, w->f->element * (size_t)hidden);
    if (w->c->keep[U] && w->x_width <= z->width) {
        w->x_width = z->width;
        w->x = w->c->keep[U]->storage->data;
    } else {
        w->x = piece(w, w->f->element * (size_t)(padded * w->x_width));
    }
}

static void sort_gates(work *w) {
    const moe_real *gate = moe__real(w->c->in[GATES]);
    for (int64_t r = 0; r < w->z.R; r++) w->scale[r] = gate[w->rows.order[r]];
}

static void run_weights(work *w) {
    int64_t each = weight_tasks(w, 0) + weight_tasks(w, 1) + weight_tasks(w, 2);
    moe__parallel(w->c->ctx, w->z.E * each, weight_task, w);
}

/* One tensor may stand in several places: then their gradients are the same memory, to which one
 * after the other is added. */
static void weight_gradients(work *w) {
    moe_real *const dw[3] = {w->dw[0], w->dw[1], w->dw[2]};
    if (dw[0] != dw[1] && dw[1] != dw[2] && dw[2] != dw[0]) {
        run_weights(w);
        return;
    }
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) w->dw[j] = j == i ? dw[j] : NULL;
        run_weights(w);
    }
}

static moe_status backward(moe_call *c) {
    work w = work_of(c);
    moe_real beta = 0, *dx;
    moe_status s = prepare(&w, false, lay_backward);
    if (!s) {
        sort_gates(&w);
        w.dgates = moe__grad(c, GATES);
        for (int i = 0; i < 3; i++) w.dw[i] = moe__grad_beta(c, W1 + i, &w.beta[i]);
        moe__parallel(c->ctx, w.rows.blocks, backward_task, &w);
        dx = moe__grad_beta(c, X, &beta);
        if (dx) moe__rows_combine(c->ctx, &w.rows, NULL, w.wide, w.z.d, beta, dx);
        weight_gradients(&w);
    }
    finish(&w);
    return s;
}

MOE_OP(moe_ffn,
    .sig = "x:tensor, gates:tensor, experts:itensor, w1:float, w3:float?, w2:float, "
           "activation:{swiglu|relu|gelu|silu}=swiglu -> tensor",
    .doc = "Experts over routed tokens, dropless: x [T x d], gates and 0-based experts [T x k], "
           "w1 and w3 [E x I x d], w2 [E x d x I] -> [T x d]. A slot with expert -1 is empty. "
           "\"swiglu\": W2 (silu(W1 x) * W3 x); the others without w3: W2 f(W1 x).",
    .sample = "randn(5, 3), rand(0.1, 1, 5, 2), ids{{0, 1}, {1, 3}, {3, 0}, {1, 0}, {0, 3}},"
              " randn(4, 2, 3), randn(4, 2, 3), randn(4, 3, 2)"
              " | randn(4, 2), rand(0.1, 1, 4, 1), ids{{2}, {0}, {2}, {2}}, randn(3, 35, 2),"
              " randn(3, 35, 2), randn(3, 2, 35)"
              " | randn(4, 3), rand(0.1, 1, 4, 3), ids{{-1, 2, 0}, {-1, -1, -1}, {2, -1, -1},"
              " {0, 2, -1}}, randn(3, 2, 3), randn(3, 2, 3), randn(3, 3, 2)"
              " | randn(4, 2), rand(0.1, 1, 4, 1), ids{{1}, {0}, {1}, {-1}}, randn(2, 35, 2), nil,"
              " randn(2, 2, 35), 'gelu'"
              " | randn(5, 3), rand(0.1, 1, 5, 1), ids{{0}, {1}, {0}, {1}, {0}}, randn(2, 3, 3),"
              " nil, randn(2, 3, 3), 'relu'"
              " | randn(3, 3), rand(0.1, 1, 3, 1), ids{{0}, {1}, {0}}, randn(2, 3, 3), nil,"
              " randn(2, 3, 3), 'silu'",
    .saves = MOE_IN(X) | MOE_IN(GATES) | MOE_IN(EXPERTS) | MOE_IN(W1) | MOE_IN(W3) | MOE_IN(W2),
    .infer = infer, .forward = forward, .backward = backward);
