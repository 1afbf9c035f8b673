/* attention.c -- causal grouped-query attention as one node.
 *
 * o = softmax(q k^T / sqrt(D) + mask) v per head; query head h uses key head h / (H / KV). Queries
 * are the last T of S positions, so that the same op serves training (T = S) and decoding with a
 * key-value cache. Only the output and each row's log-sum-exp are kept; backward computes the
 * scores again (Dao et al. 2022). Scores exist in blocks of 32 columns, which is what the products
 * of kernels/product.h take as a right operand:
 *
 *     forward    S^T [keys x 32 queries] = K Q^T, o^T += V^T P^T     softmax runs down the columns
 *     backward   S [queries x 32 keys] = Q K^T, dP = dy V^T          and both over again as
 *                dv^T += dy^T P, dk^T += Q^T dS, dq += dS K          operands, without transposing
 *
 * so that the left operands (K, V^T; Q, Q^T, dy, dy^T) are prepared once for many blocks and the
 * panels, as large as a block, just before it.
 */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/attention_cached.h"
#include "ops/axis.h"

enum {
    STEP = 128,         /* keys or queries of a block: it stays in the first cache */
    RANGE = 512,        /* queries in a task of forward, at most */
    PANELS = 4,         /* of keys that backward takes along the queries together */
    TASKS = 16          /* heads are cut into parts until there are so many tasks */
};

typedef struct sizes {
    int64_t B, T, S, H, KV, D;
    int64_t group;              /* query heads per key head */
    int64_t past;               /* positions before the first query */
    moe_real scale;
} sizes;

static sizes measure(const moe_call *c) {
    const int64_t *q = c->in[0]->shape, *k = c->in[1]->shape;
    return (sizes){.B = q[0], .T = q[1], .S = k[1], .H = q[2], .KV = k[2], .D = q[3],
                   .group = q[2] / k[2], .past = k[1] - q[1],
                   .scale = (moe_real)(1 / sqrt((double)q[3]))};
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
    if (!s) s = moe__attention_cached_infer(c);
    if (s) return s;
    moe__out_like(c, 0, q);
    moe__keep(c, 0, MOE_F32, 3, lse);
    return MOE_OK;
}

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

typedef struct work {
    moe_call *c;
    sizes s;
    const moe_format *f;
    const moe_kernels *kernels;
    moe_scratch scratch;
    int64_t parts, part;        /* of a head: how many, and queries in one (forward) */
    moe_real *dq, *dk, *dv;
    moe_real *part_dq;          /* what each of several parts adds to dq, one after the other */
    bool add_dq, add_dk, add_dv;    /* to what is there already */
} work;

static work work_of(moe_call *c) {
    return (work){.c = c, .s = measure(c), .f = c->format, .kernels = c->ctx->kernels};
}

/* How many parts each head of each batch element is cut into, by shape alone. */
static int64_t parts_of(const sizes *s, int64_t length) {
    int64_t heads = maximum(s->B * s->KV, 1);
    return maximum(1, minimum(pieces(length, PANELS * MOE_PANEL), pieces(TASKS, heads)));
}

/* Where the query head (b, h) begins in q, o, dy and dq, and the key head in k, v, dk and dv. */
static int64_t query_at(const sizes *s, int64_t b, int64_t h) {
    return (b * s->T * s->H + h) * s->D;
}
static int64_t key_at(const sizes *s, int64_t b, int64_t kv) {
    return (b * s->S * s->KV + kv) * s->D;
}

/* The scratch of a task, one piece after the other; without a base the pieces are only counted. */
typedef struct room {
    char *base;
    size_t bytes;
} room;

static void *take(room *r, size_t bytes) {
    size_t at = r->bytes;
    r->bytes += (bytes + 63) & ~(size_t)63;
    return r->base ? r->base + at : NULL;
}

static void *take_left(const moe_format *f, room *r, int64_t m, int64_t k) {
    return take(r, f->element * (size_t)moe__left_size(f, m, k));
}
static void *take_rows(const moe_format *f, room *r, int64_t m, int64_t k) {
    return f->direct ? NULL : take_left(f, r, m, k);
}
static void *take_right(const moe_format *f, room *r, int64_t k, int64_t n) {
    return take(r, f->element * (size_t)moe__right_size(f, k, n));
}
static moe_real *take_reals(room *r, int64_t n) {
    return take(r, sizeof(moe_real) * (size_t)n);
}

/* A block [k x 32] as a panel: that is what it is already where operands are f32. */
static const void *as_panel(const moe_format *f, int64_t k, const moe_real *block, void *to) {
    if (f->direct) return block;
    f->right(k, MOE_PANEL, block, MOE_PANEL, NULL, to);
    return to;
}

/* A left operand. */
typedef struct rows {
    const void *at;
    int64_t ld;
} rows;

/* The matrix [m x k] as rows: in place where operands are f32. */
static rows as_rows(const moe_format *f, int64_t m, int64_t k, const moe_real *from, int64_t ld,
                    void *to) {
    if (f->direct) return (rows){from, ld};
    f->left(m, k, from, ld, NULL, NULL, to, moe__depth(f, k));
    return (rows){to, moe__depth(f, k)};
}

static const void *row_of(const moe_format *f, const rows *r, int64_t i) {
    return moe__ahead(f, r->at, i * r->ld);
}

static size_t strips_bytes(const moe_format *f, int64_t m, int64_t k) {
    return f->element * (size_t)(moe__left_size(f, m, STEP) * pieces(k, STEP));
}

/* The left operand [m x k] that x [k x m] becomes when it is transposed, in strips of STEP columns:
 * rows as long as the sequence would compete for the same places of the cache. */
static void transpose_strips(const moe_format *f, int64_t m, int64_t k, const moe_real *x,
                             int64_t ld, void *to) {
    for (int64_t i = 0; i < k; i += STEP)
        f->left_transposed(m, minimum(STEP, k - i), x + i * ld, ld, NULL, NULL,
                           moe__ahead(f, to, i / STEP * moe__left_size(f, m, STEP)), STEP);
}

/* From column i on, as far as its strip goes. */
static const void *strip_of(const moe_format *f, int64_t m, const void *strips, int64_t i) {
    return moe__ahead(f, strips, i / STEP * moe__left_size(f, m, STEP) + i % STEP);
}

/* ---- forward -------------------------------------------------------------------------------- */

/* The memory of a task. */
typedef struct forward_room {
    rows k;
    void *k_room, *vt;          /* left operands: [keys x D], strips of [D x keys] */
    void *q, *p;                /* panels: [D x 32], [STEP x 32] */
    moe_real *scores, *out;     /* [STEP x 32], [D x 32] */
} forward_room;

static forward_room forward_room_in(const work *w, room *at) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    forward_room r = {.k_room = take_rows(f, at, s->S, s->D)};
    r.vt = take(at, strips_bytes(f, s->D, s->S));
    r.q = take_right(f, at, s->D, MOE_PANEL);
    r.p = take_right(f, at, STEP, MOE_PANEL);
    r.scores = take_reals(at, STEP * MOE_PANEL);
    r.out = take_reals(at, s->D * MOE_PANEL);
    return r;
}

static void prepare_keys(const work *w, forward_room *r, int64_t b, int64_t kv,
                         int64_t keys) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    int64_t at = key_at(s, b, kv), step = s->KV * s->D;
    const moe_real *k = moe__real(w->c->in[1]) + at, *v = moe__real(w->c->in[2]) + at;
    r->k = as_rows(f, keys, s->D, k, step, r->k_room);
    transpose_strips(f, s->D, keys, v, step, r->vt);
}

/* The softmax of up to 32 queries so far: see moe_attention_step_fn. */
typedef struct columns {
    moe_real top[MOE_PANEL], sum[MOE_PANEL], factor[MOE_PANEL];
} columns;

/* o^T and the columns get the keys key .. key + keys - 1. */
static void forward_step(const work *w, const forward_room *r, columns *col, int64_t wide,
                         int64_t first, int64_t key, int64_t keys) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    f->multiply(&(moe_product){.m = keys, .n = wide, .k = s->D, .b = r->q,
                               .a = row_of(f, &r->k, key), .lda = r->k.ld,
                               .panel = moe__panel(f, s->D), .c = r->scores, .ldc = MOE_PANEL});
    w->kernels->attention_step(keys, wide, s->past + first - key, s->scale, r->scores, col->top,
                               col->sum, col->factor);
    if (key > 0) w->kernels->scale_columns(s->D, wide, col->factor, r->out);
    f->multiply(&(moe_product){.m = s->D, .n = wide, .k = keys, .lda = STEP,
                               .a = strip_of(f, s->D, r->vt, key),
                               .b = as_panel(f, keys, r->scores, r->p),
                               .panel = moe__panel(f, keys), .c = r->out, .ldc = MOE_PANEL,
                               .add = key > 0});
}

/* o and the log-sum-exp, in units of the scores before they are scaled: the difference of two
 * large scores loses nothing to a product. */
static void forward_end(const work *w, const forward_room *r, columns *col, int64_t queries,
                        int64_t wide, moe_real *o, moe_real *lse) {
    const sizes *s = &w->s;
    for (int64_t i = 0; i < wide; i++) col->factor[i] = 1 / col->sum[i];
    w->kernels->scale_columns(s->D, wide, col->factor, r->out);
    w->kernels->f32->left_transposed(queries, s->D, r->out, MOE_PANEL, NULL, NULL, o,
                                     s->H * s->D);
    if (!lse) return;
    w->kernels->log(queries, col->sum, col->sum);
    for (int64_t i = 0; i < queries; i++) lse[i] = col->top[i] + col->sum[i] / s->scale;
}

/* The queries first .. first + 31 of one head. */
static void forward_panel(const work *w, const forward_room *r, int64_t b, int64_t h,
                          int64_t first) {
    const sizes *s = &w->s;
    int64_t queries = minimum(MOE_PANEL, s->T - first), wide = moe__round_up(queries, 16);
    int64_t keys = s->past + first + queries, at = query_at(s, b, h) + first * s->H * s->D;
    columns col;
    for (int64_t i = 0; i < wide; i++) col.top[i] = -(moe_real)INFINITY;
    memset(col.sum, 0, sizeof col.sum);
    w->f->right_transposed(s->D, queries, moe__real(w->c->in[0]) + at, s->H * s->D, r->q);
    for (int64_t key = 0; key < keys; key += STEP)
        forward_step(w, r, &col, wide, first, key, minimum(STEP, keys - key));
    moe_tensor *lse = w->c->keep[0];
    forward_end(w, r, &col, queries, wide, moe__real(w->c->out[0]) + at,
                lse ? moe__real(lse) + (b * s->H + h) * s->T + first : NULL);
}

/* A task is a range of queries of all the heads that share a key head; those with the most keys go
 * first, so that no thread is left alone with one. */
static void forward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const sizes *s = &w->s;
    room scratch = {.base = (char *)moe__scratch_of(&w->scratch, worker)};
    forward_room r = forward_room_in(w, &scratch);
    int64_t heads = s->B * s->KV, b = task % heads / s->KV, kv = task % s->KV;
    int64_t begin = (w->parts - 1 - task / heads) * w->part, end = minimum(begin + w->part, s->T);
    prepare_keys(w, &r, b, kv, s->past + end);
    for (int64_t h = kv * s->group; h < (kv + 1) * s->group; h++)
        for (int64_t first = begin; first < end; first += MOE_PANEL)
            forward_panel(w, &r, b, h, first);
}

static moe_status forward(moe_call *c) {
    if (moe__is_cached(c)) return moe__attention_cached(c);
    work w = work_of(c);
    int64_t parts = maximum(parts_of(&w.s, w.s.T), pieces(w.s.T, RANGE));
    w.part = moe__round_up(pieces(maximum(w.s.T, 1), parts), MOE_PANEL);
    w.parts = pieces(w.s.T, w.part);
    room size = {0};
    forward_room_in(&w, &size);
    moe_status s = moe__scratch(c->ctx, size.bytes, &w.scratch);
    if (s) return s;
    moe__parallel(c->ctx, w.s.B * w.s.KV * w.parts, forward_task, &w);
    return MOE_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* 32 keys. */
typedef struct panel {
    int64_t key, keys;          /* the first, and how many there really are */
    int64_t begin;              /* the first query, where the format can cut a sum */
    int64_t at;                 /* in k, v, dk and dv */
    void *kt, *vt, *k;          /* panels: [D x 32], [32 x D] */
    moe_real *dkt, *dvt;        /* [D x 32] */
} panel;

/* With P = exp(scores - lse) and dP = dy v^T: dS = P (dP - <dy, o>) scale, dq = dS k, dk = dS^T q,
 * dv = P^T dy. */
typedef struct backward_room {
    void *q, *dy, *qt, *dyt;            /* left operands of one head: [T x D], strips */
    panel panels[PANELS];
    void *p, *ds, *ds_rows;             /* P and dS as operands */
    moe_real *scores, *grads;           /* S, then P; dP, then dS: [STEP x 32] */
    moe_real *rows;                     /* [32 x D] */
    moe_real *delta;                    /* <dy, o> */
} backward_room;

static backward_room backward_room_in(const work *w, room *at) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    backward_room r = {.q = take_rows(f, at, s->T, s->D), .dy = take_rows(f, at, s->T, s->D)};
    r.qt = take(at, strips_bytes(f, s->D, s->T));
    r.dyt = take(at, strips_bytes(f, s->D, s->T));
    for (panel *p = r.panels; p < r.panels + PANELS; p++) {
        p->kt = take_right(f, at, s->D, MOE_PANEL);
        p->vt = take_right(f, at, s->D, MOE_PANEL);
        p->k = take_right(f, at, MOE_PANEL, s->D);
        p->dkt = take_reals(at, s->D * MOE_PANEL);
        p->dvt = take_reals(at, s->D * MOE_PANEL);
    }
    r.p = take_right(f, at, STEP, MOE_PANEL);
    r.ds = take_right(f, at, STEP, MOE_PANEL);
    r.ds_rows = take_rows(f, at, STEP, MOE_PANEL);
    r.scores = take_reals(at, STEP * MOE_PANEL);
    r.grads = take_reals(at, STEP * MOE_PANEL);
    r.rows = take_reals(at, s->D * MOE_PANEL);
    r.delta = take_reals(at, s->T);
    return r;
}

/* One query head in a task of backward. */
typedef struct query_head {
    int64_t index;              /* among those that share a key head */
    rows q, dy;
    const moe_real *lse;
    moe_real *dq;
    int64_t first_key;          /* of the part: its panel stores dq, the others add */
} query_head;

/* Rows of dq that no key of the part sees become 0 here. */
static query_head prepare_head(const work *w, const backward_room *r, int64_t b, int64_t h,
                               int64_t part) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    int64_t at = query_at(s, b, h), step = s->H * s->D;
    const moe_real *q = moe__real(w->c->in[0]) + at, *o = moe__real(w->c->out[0]) + at;
    const moe_real *dy = moe__real(w->c->dout[0]) + at;
    if (w->dk) transpose_strips(f, s->D, s->T, q, step, r->qt);
    if (w->dv) transpose_strips(f, s->D, s->T, dy, step, r->dyt);
    for (int64_t t = 0; t < s->T; t++)
        r->delta[t] = w->kernels->dot(s->D, dy + t * step, o + t * step);

    query_head head = {.index = h % s->group, .q = as_rows(f, s->T, s->D, q, step, r->q),
                       .dy = as_rows(f, s->T, s->D, dy, step, r->dy),
                       .lse = moe__real(w->c->keep[0]) + (b * s->H + h) * s->T,
                       .first_key = part * PANELS * MOE_PANEL};
    if (!w->dq) return head;
    head.dq = at + (w->part_dq ? w->part_dq + part * s->B * s->T * step : w->dq);
    for (int64_t t = 0; !w->add_dq && t < head.first_key - s->past; t++)
        memset(head.dq + t * step, 0, sizeof *head.dq * (size_t)s->D);
    return head;
}

static void prepare_panel(const work *w, panel *p, int64_t b, int64_t kv, int64_t key) {
    const sizes *s = &w->s;
    int64_t step = s->KV * s->D;
    p->key = key;
    p->keys = minimum(MOE_PANEL, s->S - key);
    p->begin = maximum(0, key - s->past) / w->f->depth * w->f->depth;
    p->at = key_at(s, b, kv) + key * step;
    const moe_real *k = moe__real(w->c->in[1]) + p->at, *v = moe__real(w->c->in[2]) + p->at;
    w->f->right_transposed(s->D, p->keys, k, step, p->kt);
    w->f->right_transposed(s->D, p->keys, v, step, p->vt);
    if (w->dq) w->f->right(p->keys, s->D, k, step, NULL, p->k);
}

/* to [D x 32] (+)= the columns first .. first + count - 1 of strips [D x T], times a panel */
static void gather(const work *w, const void *strips, int64_t first, int64_t count,
                   const void *right, moe_real *to, bool add) {
    const moe_format *f = w->f;
    f->multiply(&(moe_product){.m = w->s.D, .n = MOE_PANEL, .k = count, .b = right,
                               .a = strip_of(f, w->s.D, strips, first), .lda = STEP,
                               .panel = moe__panel(f, count), .c = to, .ldc = MOE_PANEL,
                               .add = add});
}

/* The queries first .. first + count - 1 against a panel of keys. */
static void backward_step(const work *w, const backward_room *r, const query_head *head,
                          const panel *k, int64_t first, int64_t count) {
    const sizes *s = &w->s;
    const moe_format *f = w->f;
    bool add = first > k->begin;
    moe_product p = {.m = count, .n = MOE_PANEL, .k = s->D, .panel = moe__panel(f, s->D),
                     .ldc = MOE_PANEL};
    p.a = row_of(f, &head->q, first), p.lda = head->q.ld, p.b = k->kt, p.c = r->scores;
    f->multiply(&p);
    p.a = row_of(f, &head->dy, first), p.lda = head->dy.ld, p.b = k->vt, p.c = r->grads;
    f->multiply(&p);
    w->kernels->attention_grad(count, s->past + first + 1 - k->key, head->lse + first,
                               r->delta + first, s->scale, r->scores, r->grads);
    if (w->dv) gather(w, r->dyt, first, count, as_panel(f, count, r->scores, r->p), k->dvt, add);
    if (w->dk) gather(w, r->qt, first, count, as_panel(f, count, r->grads, r->ds), k->dkt, add);
    if (!w->dq) return;
    rows ds = as_rows(f, count, MOE_PANEL, r->grads, MOE_PANEL, r->ds_rows);
    f->multiply(&(moe_product){.m = count, .n = s->D, .k = k->keys, .a = ds.at, .lda = ds.ld,
                               .b = k->k, .panel = moe__panel(f, k->keys),
                               .c = head->dq + first * s->H * s->D, .ldc = s->H * s->D,
                               .add = w->add_dq || k->key > head->first_key});
}

/* The rows of a panel in dk or dv (+)= from [D x 32], transposed. */
static void put_transposed(const work *w, const backward_room *r, const panel *p,
                           const moe_real *from, moe_real *to, bool add) {
    const sizes *s = &w->s;
    int64_t step = s->KV * s->D;
    to += p->at;
    w->kernels->f32->left_transposed(p->keys, s->D, from, MOE_PANEL, NULL, NULL,
                                     add ? r->rows : to, add ? s->D : step);
    for (int64_t i = 0; add && i < p->keys; i++)
        w->kernels->accumulate(s->D, r->rows + i * s->D, to + i * step);
}

/* All queries of a head against a few panels of keys. */
static void backward_panels(const work *w, backward_room *r, const query_head *head, int64_t b,
                            int64_t kv, int64_t key) {
    const sizes *s = &w->s;
    panel *end = r->panels;
    for (; end < r->panels + PANELS && key < s->S; end++, key += MOE_PANEL)
        prepare_panel(w, end, b, kv, key);
    for (int64_t first = r->panels->begin, next; first < s->T; first = next) {
        next = minimum(first / STEP * STEP + STEP, s->T);
        for (const panel *p = r->panels; p < end && p->begin < next; p++) {
            int64_t from = maximum(first, p->begin);
            backward_step(w, r, head, p, from, next - from);
        }
    }
    for (const panel *p = r->panels; p < end; p++) {
        if (w->dk) put_transposed(w, r, p, p->dkt, w->dk, w->add_dk || head->index > 0);
        if (w->dv) put_transposed(w, r, p, p->dvt, w->dv, w->add_dv || head->index > 0);
    }
}

/* A task is a key head with all the query heads that share it, and of its keys every `parts`th
 * group of panels, so that all have as much to do: nobody else writes their dk and dv. */
static void backward_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const sizes *s = &w->s;
    room scratch = {.base = (char *)moe__scratch_of(&w->scratch, worker)};
    backward_room r = backward_room_in(w, &scratch);
    int64_t part = task % w->parts, b = task / w->parts / s->KV, kv = task / w->parts % s->KV;
    for (int64_t h = kv * s->group; h < (kv + 1) * s->group; h++) {
        query_head head = prepare_head(w, &r, b, h, part);
        for (int64_t key = head.first_key; key < s->S; key += w->parts * PANELS * MOE_PANEL)
            backward_panels(w, &r, &head, b, kv, key);
    }
}

/* dq gets what the parts found, in their order. */
static void sum_parts(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    int64_t count = moe__count(4, w->c->in[0]->shape);
    for (int64_t part = 0; part < w->parts; part++)
        w->kernels->accumulate(end - begin, w->part_dq + part * count + begin, w->dq + begin);
}

static moe_status reserve(work *w, int64_t part_count) {
    room size = {0};
    char *shared = NULL;
    backward_room_in(w, &size);
    moe_status s = moe__scratch(w->c->ctx, size.bytes, &w->scratch);
    if (s || part_count == 0) return s;
    s = moe__shared(w->c->ctx, sizeof *w->part_dq * (size_t)part_count, &shared);
    w->part_dq = (moe_real *)(void *)shared;
    return s;
}

/* Whether there is something to add to. */
static moe_real *gradient(moe_call *c, int i, bool *add) {
    moe_real beta = 0, *g = moe__grad_beta(c, i, &beta);
    *add = beta != 0;
    return g;
}

/* One tensor may stand in several places: then their gradients are the same memory, and what is
 * asked for second is added to the first. Hence dq is 0 before several parts are summed into it. */
static moe_status backward(moe_call *c) {
    work w = work_of(c);
    int64_t count = moe__count(4, c->in[0]->shape);
    w.parts = parts_of(&w.s, w.s.S);
    moe_status s = reserve(&w, w.parts > 1 && moe__wants(c, 0) ? count * w.parts : 0);
    if (s) return s;
    w.dq = w.part_dq || count == 0 ? moe__grad(c, 0) : gradient(c, 0, &w.add_dq);
    w.dk = count == 0 ? moe__grad(c, 1) : gradient(c, 1, &w.add_dk);
    w.dv = count == 0 ? moe__grad(c, 2) : gradient(c, 2, &w.add_dv);
    if (count == 0) return MOE_OK;
    moe__parallel(c->ctx, w.s.B * w.s.KV * w.parts, backward_task, &w);
    if (w.part_dq) moe__parallel_range(c->ctx, count, moe__grain(w.parts), sum_parts, &w);
    return MOE_OK;
}

MOE_OP(attention,
    .sig = "q:tensor, k:float, v:float, lengths:itensor? -> tensor",
    .doc = "Causal grouped-query attention: q [B x T x H x D], k and v [B x S x KV x D] with "
           "T <= S and H a multiple of KV; the queries are the last T positions, of `lengths` [B] "
           "keys each if that is given: a cache has room for more. -> [B x T x H x D].",
    .sample = "randn(2, 5, 2, 3), randn(2, 5, 2, 3), randn(2, 5, 2, 3)"
              " | randn(1, 3, 4, 2), randn(1, 7, 2, 2), randn(1, 7, 2, 2)"
              " | randn(1, 70, 2, 2), randn(1, 70, 1, 2), randn(1, 70, 1, 2)"
              " | randn(1, 5, 3, 3), randn(1, 131, 1, 3), randn(1, 131, 1, 3)",
    .saves = MOE_IN(0) | MOE_IN(1) | MOE_IN(2) | MOE_OUT(0),
    .infer = infer, .forward = forward, .backward = backward);
