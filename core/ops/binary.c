/* binary.c -- walking two broadcast operands, forward and back. */
#include "ops/binary.h"

#include <string.h>

#define BLOCK (1 << 13)     /* elements of one task */
#define RUN 512             /* elements of a term at a time: stays in the first cache */

/* The output as few dimensions as possible: those of size 1 are dropped, and neighbours joined
 * that both operands walk through in one stride. The strides of the last one are 0 or 1. */
typedef struct walk {
    int ndim;
    int64_t size[MOE_MAX_DIMS], stride[2][MOE_MAX_DIMS];
} walk;

/* ---- shapes --------------------------------------------------------------------------------- */

/* Size of dimension d, counted in the output's rank. */
static int64_t size_in(const moe_tensor *t, int ndim, int d) {
    int own = d - (ndim - t->ndim);
    return own < 0 ? 1 : t->shape[own];
}

moe_status moe__binary_infer(moe_call *c) {
    const moe_tensor *a = c->in[0], *b = c->in[1];
    int ndim = a->ndim > b->ndim ? a->ndim : b->ndim;
    int64_t shape[MOE_MAX_DIMS];
    for (int d = 0; d < ndim; d++) {
        int64_t na = size_in(a, ndim, d), nb = size_in(b, ndim, d);
        if (na != nb && na != 1 && nb != 1)
            return MOE_REJECT(c, MOE_ESHAPE, "shapes do not fit: %s and %s", MOE_SHAPE(a),
                              MOE_SHAPE(b));
        shape[d] = na == 1 ? nb : na;
    }
    moe__out(c, 0, MOE_F32, ndim, shape);
    return MOE_OK;
}

/* Puts a dimension in front of the walk, or joins it with the one that is in front. */
static void put_in_front(walk *w, int64_t size, int64_t sa, int64_t sb) {
    if (w->ndim && sa == w->stride[0][0] * w->size[0] && sb == w->stride[1][0] * w->size[0]) {
        w->size[0] *= size;
        return;
    }
    for (int d = w->ndim++; d > 0; d--) {
        w->size[d] = w->size[d - 1];
        for (int k = 0; k < 2; k++) w->stride[k][d] = w->stride[k][d - 1];
    }
    w->size[0] = size;
    w->stride[0][0] = sa;
    w->stride[1][0] = sb;
}

static walk walk_of(const moe_call *c) {
    const moe_tensor *out = c->out[0];
    walk w = {0};
    int64_t stride[2] = {1, 1};
    for (int d = out->ndim - 1; d >= 0; d--) {
        int64_t na = size_in(c->in[0], out->ndim, d), nb = size_in(c->in[1], out->ndim, d);
        if (out->shape[d] != 1)
            put_in_front(&w, out->shape[d], na == 1 ? 0 : stride[0], nb == 1 ? 0 : stride[1]);
        stride[0] *= na;
        stride[1] *= nb;
    }
    if (w.ndim == 0) put_in_front(&w, 1, 1, 1);
    return w;
}

/* Where row `row` (an index over all dimensions but the last) of operand k begins. */
static int64_t row_start(const walk *w, int k, int64_t row) {
    int64_t at = 0;
    for (int d = w->ndim - 2; d >= 0; d--) {
        at += row % w->size[d] * w->stride[k][d];
        row /= w->size[d];
    }
    return at;
}

/* ---- forward -------------------------------------------------------------------------------- */

typedef struct forward_arg {
    walk w;
    moe_map2 *f;
    const moe_real *a, *b;
    moe_real *y;
} forward_arg;

static void forward_range(void *arg, int64_t begin, int64_t end) {
    const forward_arg *r = arg;
    const walk *w = &r->w;
    int last = w->ndim - 1, sa = (int)w->stride[0][last], sb = (int)w->stride[1][last];
    for (int64_t i = begin, n; i < end; i += n) {
        int64_t row = i / w->size[last], column = i % w->size[last];
        n = w->size[last] - column;
        if (n > end - i) n = end - i;
        r->f(n, r->a + row_start(w, 0, row) + column * sa, sa,
             r->b + row_start(w, 1, row) + column * sb, sb, r->y + i);
    }
}

moe_status moe__binary_forward(moe_call *c, moe_map2 *f) {
    forward_arg r = {.w = walk_of(c), .f = f, .a = moe__real(c->in[0]), .b = moe__real(c->in[1]),
                     .y = moe__real(c->out[0])};
    moe__parallel_range(c->ctx, c->out[0]->count, BLOCK, forward_range, &r);
    return MOE_OK;
}

/* ---- backward ------------------------------------------------------------------------------- */

/* The dimensions before the last one split into those that operand i has (kept) and those along
 * which it was repeated (summed). An item is one index over the kept ones together with a block of
 * columns; it owns its part of the gradient and goes through the repeats in order. */
typedef struct backward_arg {
    walk w;
    const moe_kernels *k;
    moe_term_fn *term;
    const moe_real *dy, *in[2];
    moe_real *g;
    int i;
    int64_t kept, summed, columns, block, blocks;
} backward_arg;

static void split_rows(backward_arg *r) {
    r->kept = r->summed = 1;
    for (int d = 0; d < r->w.ndim - 1; d++)
        *(r->w.stride[r->i][d] ? &r->kept : &r->summed) *= r->w.size[d];
    r->columns = r->w.size[r->w.ndim - 1];
    bool repeated = r->w.stride[r->i][r->w.ndim - 1] == 0;
    r->block = repeated ? r->columns : r->summed > 1 ? 64 : BLOCK;
    if (r->block > r->columns) r->block = r->columns;
    r->blocks = r->columns ? (r->columns + r->block - 1) / r->block : 0;
}

/* The row whose kept dimensions have index `kept` and whose summed ones have index `summed`. */
static int64_t row_of(const backward_arg *r, int64_t kept, int64_t summed) {
    int64_t row = 0, weight = 1;
    for (int d = r->w.ndim - 2; d >= 0; d--) {
        int64_t *index = r->w.stride[r->i][d] ? &kept : &summed;
        row += *index % r->w.size[d] * weight;
        *index /= r->w.size[d];
        weight *= r->w.size[d];
    }
    return row;
}

/* Adds columns begin .. end-1 of one row; `total` collects them when the columns are summed. */
static void add_run(const backward_arg *r, int64_t row, int64_t begin, int64_t end, double *total) {
    const walk *w = &r->w;
    int last = w->ndim - 1;
    moe_real term[RUN];
    int64_t start[2] = {row_start(w, 0, row), row_start(w, 1, row)};
    for (int64_t at = begin; at < end; at += RUN) {
        moe_run run = {.k = r->k, .n = end - at < RUN ? end - at : RUN,
                       .dy = r->dy + row * r->columns + at,
                       .sa = (int)w->stride[0][last], .sb = (int)w->stride[1][last]};
        if (r->in[0]) run.a = r->in[0] + start[0] + at * run.sa;
        if (r->in[1]) run.b = r->in[1] + start[1] + at * run.sb;
        r->term(&run, term);
        if (w->stride[r->i][last])
            r->k->accumulate(run.n, term, r->g + start[r->i] + at);
        else
            *total += (double)r->k->sum(run.n, term);
    }
}

static void backward_items(void *arg, int64_t begin, int64_t end) {
    const backward_arg *r = arg;
    for (int64_t item = begin; item < end; item++) {
        int64_t kept = item / r->blocks, column = item % r->blocks * r->block;
        int64_t stop = column + r->block < r->columns ? column + r->block : r->columns;
        double total = 0;
        for (int64_t s = 0; s < r->summed; s++)
            add_run(r, row_of(r, kept, s), column, stop, &total);
        if (r->w.stride[r->i][r->w.ndim - 1] == 0)
            r->g[row_start(&r->w, r->i, row_of(r, kept, 0))] += (moe_real)total;
    }
}

moe_status moe__binary_backward(moe_call *c, int i, moe_term_fn *term) {
    if (!moe__wants(c, i)) return MOE_OK;
    moe_status s = moe__grad_ready(c, i);
    if (s) return s;
    backward_arg r = {.w = walk_of(c), .k = c->ctx->kernels, .term = term, .i = i,
                      .dy = moe__real(c->dout[0]), .g = moe__grad(c, i)};
    for (int k = 0; k < 2; k++)
        if (c->in[k]->storage) r.in[k] = moe__real(c->in[k]);
    split_rows(&r);
    int64_t work = r.summed * r.block;
    moe__parallel_range(c->ctx, c->out[0]->count ? r.kept * r.blocks : 0,
                        work >= BLOCK ? 1 : BLOCK / (work ? work : 1), backward_items, &r);
    c->given |= 1u << i;
    return MOE_OK;
}

static void copy_dy(const moe_run *r, moe_real *term) {
    memcpy(term, r->dy, sizeof *term * (size_t)r->n);
}

moe_status moe__binary_pass(moe_call *c, int i) {
    if (!moe__wants(c, i)) return MOE_OK;
    if (c->in[i]->count != c->out[0]->count) return moe__binary_backward(c, i, copy_dy);
    moe_status s = moe__grad_pass(c, i, c->dout[0]);
    if (!s) c->given |= 1u << i;
    return s;
}
