/* merged_experts.c -- the FFNs of a mixture of tokens: every expert over as many rows.
 *
 * A task takes a block of an expert's rows from one end of the FFN to the other. The hidden columns
 * are made in strips of 32, which stay in the first-level cache between the product, the activation
 * and the next product's left operand. What weight gradients need is left in strips too: in f32 a
 * strip [rows x 32] is a panel of a right operand, and a left operand that lies turned, so that
 * nothing is ever transposed. Other formats make their operands from the strips.
 */
#include <string.h>

#include "ops/mixture_of_tokens.h"
#include "ops/moe_rows.h"
#include "tape/packed.h"

enum {
    STRIP = MOE_PANEL,
    DEPTH = 768,            /* of k at a time: what is multiplied stays in the second-level cache */
    GRAIN = 12,             /* rows of the largest register tile: blocks are made of whole ones */
    WEIGHT_ROWS = 96        /* of a weight gradient in one task: whole strips */
};

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* ---- blocks and desks ----------------------------------------------------------------------- */

static int64_t unit_of(const moe_mixture *m) { return moe__round_up(GRAIN, m->f->depth); }
static int64_t most_rows(const moe_mixture *m) {
    return moe__block_rows(m->E * m->groups, m->f->depth);
}
static int64_t blocks_of(const moe_mixture *m) { return pieces(m->groups, most_rows(m)); }

/* The rows of an expert are cut into blocks of about equal size. */
static moe_block block_of(const moe_mixture *m, int64_t task) {
    int64_t unit = unit_of(m), units = pieces(m->groups, unit), blocks = blocks_of(m);
    int64_t part = task % blocks, first = units * part / blocks * unit;
    int64_t end = minimum(units * (part + 1) / blocks * unit, m->groups);
    return (moe_block){.expert = task / blocks, .first = first, .rows = end - first};
}

/* What a task works on; operands in the format, strips in f32. */
typedef struct desk {
    void *in, *hidden[2];           /* left operands: [rows x d], [rows x DEPTH] */
    moe_real *strip[3];
    moe_real *ones, *unused;        /* gates of the rows: there are none */
} desk;

static int64_t hidden_apart(const moe_mixture *m) {
    return moe__apart(m->f, minimum(moe__strips(m->h) * STRIP, DEPTH));
}

static size_t lay_desk(const moe_mixture *m, char *at, desk *out) {
    int64_t rows = most_rows(m), lines = moe__round_up(rows, m->f->rows);
    size_t operand[] = {(size_t)(lines * moe__apart(m->f, m->d)),
                        (size_t)(lines * hidden_apart(m)), (size_t)(lines * hidden_apart(m))};
    size_t real[] = {(size_t)(rows * STRIP), (size_t)(rows * STRIP), (size_t)(rows * STRIP),
                     (size_t)rows, (size_t)rows};
    void *p[8];
    size_t used = 0;
    for (int i = 0; i < 8; i++) {
        p[i] = at ? at + used : NULL;
        size_t bytes = i < 3 ? m->f->element * operand[i] : sizeof(moe_real) * real[i - 3];
        used += (bytes + 63) & ~(size_t)63;
    }
    *out = (desk){.in = p[0], .hidden = {p[1], p[2]}, .strip = {p[3], p[4], p[5]}, .ones = p[6],
                  .unused = p[7]};
    return used;
}

size_t moe__experts_scratch(const moe_mixture *m) {
    desk unused;
    size_t rows = lay_desk(m, NULL, &unused);
    int64_t depth = minimum(m->rows, DEPTH);
    size_t weights = m->f->element * (size_t)(WEIGHT_ROWS * moe__apart(m->f, depth));
    return rows > weights ? rows : weights;
}

/* ---- products ------------------------------------------------------------------------------- */

/* The whole of k, in steps that fit the cache. */
static void multiply(const moe_format *f, moe_product p) {
    int64_t left = p.k;
    do {
        p.k = minimum(left, DEPTH);
        f->multiply(&p);
        p.a = moe__ahead(f, p.a, DEPTH);
        p.b = moe__ahead(f, p.b, DEPTH * STRIP);
        p.add = true;
        left -= DEPTH;
    } while (left > 0);
}

moe_status moe__experts_pack(moe_mixture *m, bool backward, moe_experts *out) {
    *out = (moe_experts){.m = m};
    for (int i = 0; i < 3; i++) {
        if (!m->c->in[MIX_W1 + i]) continue;
        moe_status s = moe__packed(m->c, MIX_W1 + i, !backward, &out->bank[i]);
        if (s) return s;
    }
    return MOE_OK;
}

/* Panels of a bank, each expert a right operand [k x n], from a row and column of expert e on. */
static const void *bank_at(const moe_mixture *m, const void *bank, int64_t k, int64_t n, int64_t e,
                           int64_t row, int64_t column) {
    return moe__ahead(m->f, bank, e * moe__right_size(m->f, k, n) +
                                      column * moe__depth(m->f, k) + row * STRIP);
}

/* strip [rows x 32] = a [rows x d] times hidden columns j.. of the bank [d x h]. */
static void project(const moe_mixture *m, const moe_block *b, const void *a, const void *bank,
                    int64_t j, moe_real *strip) {
    multiply(m->f, (moe_product){.m = b->rows, .n = STRIP, .k = m->d, .a = a,
                                 .lda = moe__apart(m->f, m->d),
                                 .b = bank_at(m, bank, m->d, m->h, b->expert, 0, j),
                                 .panel = moe__panel(m->f, m->d), .c = strip, .ldc = STRIP});
}

/* Panels of the block's rows (+)= a [rows x n] times rows j .. j + n of the bank [h x d]. */
static void spread(const moe_mixture *m, const moe_block *b, const void *a, int64_t n,
                   const void *bank, int64_t j, moe_real *to, bool add) {
    to += b->first * m->panels + b->expert * STRIP;
    moe__expect(b->rows, to, m->panels);
    for (int64_t column = 0; column < m->d; column += STRIP, to += m->E * STRIP) {
        if (column + STRIP < m->d) moe__expect(b->rows, to + m->E * STRIP, m->panels);
        multiply(m->f, (moe_product){.m = b->rows, .n = STRIP, .k = n, .a = a,
                                     .lda = hidden_apart(m),
                                     .b = bank_at(m, bank, m->h, m->d, b->expert, j, column),
                                     .panel = moe__panel(m->f, m->h), .c = to,
                                     .ldc = m->panels, .add = add});
    }
}

/* ---- strips --------------------------------------------------------------------------------- */

/* Of rows that experts take, from column j on. */
static moe_real *taken_at(const moe_mixture *m, const moe_block *b, moe_real *strips, int64_t j) {
    return strips + b->expert * m->strips + j * m->rows + b->first * STRIP;
}

/* Of hidden rows: the number of an element. */
static int64_t hidden_at(const moe_mixture *m, int64_t e, int64_t row, int64_t j) {
    return (e * moe__strips(m->h) * STRIP + j) * m->rows + row * STRIP;
}

/* The left operand of the block's rows. */
static void take_rows(const moe_mixture *m, const moe_block *b, moe_real *strips, void *to) {
    for (int64_t j = 0; j < m->d; j += STRIP)
        m->f->left(b->rows, minimum(STRIP, m->d - j), taken_at(m, b, strips, j), STRIP, NULL, NULL,
                   moe__ahead(m->f, to, j), moe__apart(m->f, m->d));
}

static void *kept_at(const moe_mixture *m, const moe_block *b, int which, int64_t j) {
    if (!m->hidden[which]) return NULL;
    return moe__ahead(m->f, m->hidden[which], hidden_at(m, b->expert, b->first, j));
}

/* What was kept of a strip, in f32: in place or converted. */
static const moe_real *recall(const moe_mixture *m, const moe_block *b, int which, int64_t j,
                              moe_real *to) {
    const void *kept = kept_at(m, b, which, j);
    if (m->f->direct || !kept) return kept;
    m->kernels->widen_bf16(b->rows * STRIP, kept, to);
    return to;
}

/* ---- forward -------------------------------------------------------------------------------- */

/* Column j.. of the hidden rows, which become column `column`.. of the next left operand. */
static void forward_strip(const moe_experts *x, const moe_block *b, const desk *s, int64_t j,
                          int64_t column) {
    const moe_mixture *m = x->m;
    const moe_format *f = m->f;
    void *to = moe__ahead(f, s->hidden[0], column);
    moe_real *strip[2];
    for (int i = 0; i < 2; i++) {
        void *kept = kept_at(m, b, i, j);
        if (!x->bank[i]) continue;
        strip[i] = f->direct && kept ? kept : s->strip[i];
        project(m, b, s->in, x->bank[i], j, strip[i]);
        if (kept && !f->direct)
            f->left(b->rows, STRIP, strip[i], STRIP, NULL, NULL, kept, STRIP);
    }
    m->kernels->expert(m->activation, b->rows, strip[0], strip[1],
                       f->direct ? to : s->strip[2], f->direct ? hidden_apart(m) : STRIP);
    if (!f->direct)
        f->left(b->rows, STRIP, s->strip[2], STRIP, NULL, NULL, to, hidden_apart(m));
}

static void forward_task(void *arg, int64_t task, int worker) {
    const moe_experts *x = arg;
    const moe_mixture *m = x->m;
    moe_block b = block_of(m, task);
    int64_t at = 0;
    desk s;
    lay_desk(m, (char *)moe__scratch_of(&m->scratch, worker), &s);
    take_rows(m, &b, m->merged, s.in);
    do {
        int64_t n = minimum(m->h - at, DEPTH);
        for (int64_t j = 0; j < n; j += STRIP) forward_strip(x, &b, &s, at + j, j);
        spread(m, &b, s.hidden[0], n, x->bank[2], at, m->given, at > 0);
        at += DEPTH;
    } while (at < m->h);
}

void moe__experts_forward(moe_experts *x) {
    moe__parallel(x->m->c->ctx, x->m->E * blocks_of(x->m), forward_task, x);
}

/* ---- backward: the rows --------------------------------------------------------------------- */

/* With a' = W2^T do: the gradients of the hidden rows, and a again where they were. */
static void backward_strip(const moe_experts *x, const moe_block *b, const desk *s, int64_t j,
                           int64_t column) {
    const moe_mixture *m = x->m;
    const moe_format *f = m->f;
    int64_t at = hidden_at(m, b->expert, b->first, j);
    moe_real *a = f->direct ? kept_at(m, b, 0, j) : s->strip[2];
    moe_expert_strip strip = {
        .g = recall(m, b, 0, j, s->strip[0]), .u = recall(m, b, 1, j, s->strip[1]),
        .dy = s->strip[2], .scale = s->ones, .dscale = s->unused, .ld = STRIP, .y = a,
        .dg = m->dhidden[0] + at, .du = m->dhidden[1] ? m->dhidden[1] + at : NULL};
    project(m, b, s->in, x->bank[2], j, s->strip[2]);
    m->kernels->expert_grad(m->activation, b->rows, &strip);
    if (!f->direct) f->right(b->rows, STRIP, a, STRIP, NULL, kept_at(m, b, 0, j));
    for (int i = 0; m->dmerged && i < 2; i++)
        if (x->bank[i])
            f->left(b->rows, STRIP, m->dhidden[i] + at, STRIP, NULL, NULL,
                    moe__ahead(f, s->hidden[i], column), hidden_apart(m));
}

/* The block's rows of m as a right operand. */
static void leave_merged(const moe_mixture *m, const moe_block *b) {
    for (int64_t j = 0; m->merged_panels && j < m->d; j += STRIP) {
        moe_real *strip = taken_at(m, b, m->merged, j);
        m->f->right(b->rows, STRIP, strip, STRIP, NULL,
                    moe__ahead(m->f, m->merged_panels, strip - m->merged));
    }
}

static void backward_task(void *arg, int64_t task, int worker) {
    const moe_experts *x = arg;
    const moe_mixture *m = x->m;
    moe_block b = block_of(m, task);
    int64_t at = 0;
    desk s;
    lay_desk(m, (char *)moe__scratch_of(&m->scratch, worker), &s);
    for (int64_t i = 0; i < b.rows; i++) s.ones[i] = 1, s.unused[i] = 0;
    take_rows(m, &b, m->dgiven, s.in);
    do {
        int64_t n = minimum(m->h - at, DEPTH);
        for (int64_t j = 0; j < n; j += STRIP) backward_strip(x, &b, &s, at + j, j);
        for (int i = 0; m->dmerged && i < 2; i++)
            if (x->bank[i])
                spread(m, &b, s.hidden[i], n, x->bank[i], at, m->dmerged, at > 0 || i > 0);
        at += DEPTH;
    } while (at < m->h);
    leave_merged(m, &b);
}

void moe__experts_backward(moe_experts *x) {
    moe__parallel(x->m->c->ctx, x->m->E * blocks_of(x->m), backward_task, x);
}

/* ---- backward: the weights ------------------------------------------------------------------ */

/* dw [E x rows x columns] = left^T right, both strips over the groups: dw1 = dhidden^T m, and
 * dw2 = dgiven^T a. */
typedef struct outer {
    const moe_mixture *m;
    const moe_real *left;
    const void *right;
    int64_t rows, columns;
    int64_t apart_left, apart_right;    /* numbers from one expert to the next */
    moe_real *dw;
    bool add;
} outer;

/* Rows i .. i + rows of the left operand for k groups from `first` on, in the format: turned, or
 * in `room`. Returns how many rows lie in one matrix. */
static int64_t left_of(const outer *o, int64_t e, int64_t i, int64_t rows, int64_t first,
                       moe_product *p, void *room) {
    const moe_format *f = o->m->f;
    const moe_real *strip = o->left + e * o->apart_left + i * o->m->rows + first * STRIP;
    p->turned = f->direct;
    p->lda = f->direct ? STRIP : moe__apart(f, p->k);
    p->a = f->direct ? strip : room;
    for (int64_t at = 0; !f->direct && at < rows; at += STRIP)
        f->left_transposed(minimum(STRIP, rows - at), p->k, strip + at * o->m->rows, STRIP, NULL,
                           NULL, moe__ahead(f, room, at * p->lda), p->lda);
    return f->direct ? STRIP : rows;
}

static void outer_task(void *arg, int64_t task, int worker) {
    const outer *o = arg;
    const moe_mixture *m = o->m;
    int64_t tasks = pieces(o->rows, WEIGHT_ROWS), e = task / tasks, i = task % tasks * WEIGHT_ROWS;
    int64_t rows = minimum(WEIGHT_ROWS, o->rows - i), first = 0;
    moe_real *to = o->dw + (e * o->rows + i) * o->columns;
    do {
        moe_product p = {.k = minimum(m->groups - first, DEPTH), .ldc = o->columns,
                         .add = o->add || first > 0};
        int64_t step = left_of(o, e, i, rows, first, &p, moe__scratch_of(&m->scratch, worker));
        const char *left = p.a;
        moe__expect(rows, to, o->columns);
        for (int64_t j = 0; j < o->columns; j += STRIP) {
            if (j + STRIP < o->columns) moe__expect(rows, to + j + STRIP, o->columns);
            for (int64_t at = 0; at < rows; at += step) {
                p.m = minimum(step, rows - at);
                p.n = minimum(STRIP, o->columns - j);
                p.a = moe__ahead(m->f, left, at * m->rows);
                p.b = moe__ahead(m->f, o->right,
                                 e * o->apart_right + j * m->rows + first * STRIP);
                p.c = to + at * o->columns + j;
                m->f->multiply(&p);
            }
        }
        first += DEPTH;
    } while (first < m->groups);
}

void moe__experts_weights(moe_experts *x, int input, moe_real *dw, bool add) {
    const moe_mixture *m = x->m;
    int64_t hidden = moe__strips(m->h) * STRIP * m->rows;
    const void *merged = m->merged_panels ? m->merged_panels : m->merged;
    outer down = {.m = m, .left = m->dgiven, .right = m->hidden[0], .rows = m->d, .columns = m->h,
                  .apart_left = m->strips, .apart_right = hidden, .dw = dw, .add = add};
    outer up = {.m = m, .left = m->dhidden[input - MIX_W1 != 0], .right = merged, .rows = m->h,
                .columns = m->d, .apart_left = hidden, .apart_right = m->strips, .dw = dw,
                .add = add};
    outer *o = input == MIX_W2 ? &down : &up;
    moe__parallel(m->c->ctx, m->E * pieces(o->rows, WEIGHT_ROWS), outer_task, o);
}
