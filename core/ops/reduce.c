/* reduce.c -- sums and maxima along one dimension, or over everything. */
#include "ops/reduce.h"

#include <math.h>

#define CHUNK (1 << 15)     /* elements of a partial sum */
#define COLUMNS 256         /* columns that one task sums when the rows lie apart */

/* ---- shapes --------------------------------------------------------------------------------- */

moe_status moe__reduce_infer(moe_call *c, moe_dtype dtype) {
    const moe_tensor *x = c->in[0];
    bool keep = c->arg[1].i, all = c->arg[0].i == MOE_NO_DIM;
    int64_t shape[MOE_MAX_DIMS];
    int dim = 0, ndim = 0;
    if (!all) {
        moe_status s = moe__dim(c, c->arg[0].i, x, &dim);
        if (s) return s;
    }
    for (int d = 0; d < x->ndim; d++) {
        bool reduced = all || d == dim;
        if (keep || !reduced) shape[ndim++] = reduced ? 1 : x->shape[d];
    }
    moe__out(c, 0, dtype, ndim, shape);
    return MOE_OK;
}

moe_axis moe__reduce_axis(const moe_call *c) {
    const moe_tensor *x = c->in[0];
    if (c->arg[0].i == MOE_NO_DIM) return (moe_axis){1, x->count, 1};
    return moe__axis(x, moe__known_dim(x, c->arg[0].i));
}

moe_status moe__reduce_nonempty(moe_call *c, const char *what) {
    const moe_tensor *x = c->in[0];
    if (moe__reduce_axis(c).len > 0) return MOE_OK;
    if (c->arg[0].i == MOE_NO_DIM)
        return MOE_REJECT(c, MOE_ESHAPE, "%s has no %s", MOE_SHAPE(x), what);
    return MOE_REJECT(c, MOE_ESHAPE, "dimension %d of %s is empty and has no %s",
                      moe__known_dim(x, c->arg[0].i) + 1, MOE_SHAPE(x), what);
}

/* ---- sums ----------------------------------------------------------------------------------- */

typedef struct sum_arg {
    const moe_kernels *k;
    moe_axis axis;
    int64_t parts;          /* of a row, or of the columns */
    moe_real scale;
    const moe_real *x;
    moe_real *y;
} sum_arg;

/* Rows that lie together: part p of row r becomes y[r parts + p]. */
static void sum_parts(void *arg, int64_t begin, int64_t end) {
    const sum_arg *a = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / a->parts, at = i % a->parts * CHUNK, n = a->axis.len - at;
        a->y[i] = a->scale * a->k->sum(n < CHUNK ? n : CHUNK, a->x + row * a->axis.len + at);
    }
}

static moe_status sum_rows(moe_ctx *ctx, sum_arg *a) {
    int64_t rows = a->axis.outer;
    a->parts = a->axis.len > CHUNK ? (a->axis.len + CHUNK - 1) / CHUNK : 1;
    if (a->parts == 1) {
        moe__parallel_range(ctx, rows, moe__grain(a->axis.len), sum_parts, a);
        return MOE_OK;
    }
    sum_arg part = *a;
    size_t bytes = sizeof *part.y * (size_t)(rows * a->parts);
    part.scale = 1;
    part.y = moe__alloc(ctx, bytes);
    if (!part.y) return moe__no_memory(ctx, bytes, "a sum");
    moe__parallel_range(ctx, rows * a->parts, 1, sum_parts, &part);
    for (int64_t r = 0; r < rows; r++) {
        double total = 0;
        for (int64_t p = 0; p < a->parts; p++) total += (double)part.y[r * a->parts + p];
        a->y[r] = (moe_real)(total * (double)a->scale);
    }
    moe__free(ctx, part.y, bytes);
    return MOE_OK;
}

/* Rows that lie apart: a block of columns at a time, row after row. */
static void sum_columns(void *arg, int64_t begin, int64_t end) {
    const sum_arg *a = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t o = i / a->parts, column = i % a->parts * COLUMNS, n = a->axis.inner - column;
        if (n > COLUMNS) n = COLUMNS;
        moe_real *y = a->y + o * a->axis.inner + column;
        const moe_real *x = a->x + o * a->axis.len * a->axis.inner + column;
        for (int64_t k = 0; k < n; k++) y[k] = 0;
        for (int64_t l = 0; l < a->axis.len; l++) a->k->axpy(n, a->scale, x + l * a->axis.inner, y);
    }
}

moe_status moe__sum_forward(moe_call *c, double scale) {
    sum_arg a = {.k = c->ctx->kernels, .axis = moe__reduce_axis(c), .scale = (moe_real)scale,
                 .x = moe__real(c->in[0]), .y = moe__real(c->out[0])};
    if (a.axis.inner == 1) return sum_rows(c->ctx, &a);
    a.parts = (a.axis.inner + COLUMNS - 1) / COLUMNS;
    int64_t width = a.axis.inner < COLUMNS ? a.axis.inner : COLUMNS;
    moe__parallel_range(c->ctx, a.axis.outer * a.parts, moe__grain(a.axis.len * width),
                        sum_columns, &a);
    return MOE_OK;
}

/* Here x is dy and y is dx: every row of dx gets its row of dy. */
static void spread_rows(void *arg, int64_t begin, int64_t end) {
    const sum_arg *a = arg;
    int64_t inner = a->axis.inner;
    for (int64_t r = begin; r < end; r++)
        a->k->axpy(inner, a->scale, a->x + r / a->axis.len * inner, a->y + r * inner);
}

/* The same where a row is a single number, over a range of elements. */
static void spread_numbers(void *arg, int64_t begin, int64_t end) {
    const sum_arg *a = arg;
    for (int64_t i = begin, n; i < end; i += n) {
        int64_t row = i / a->axis.len;
        n = (row + 1) * a->axis.len - i;
        if (n > end - i) n = end - i;
        moe_real term = a->scale * a->x[row];
        a->k->add(n, a->y + i, 1, &term, 0, a->y + i);
    }
}

moe_status moe__sum_backward(moe_call *c, double scale) {
    sum_arg a = {.k = c->ctx->kernels, .axis = moe__reduce_axis(c), .scale = (moe_real)scale,
                 .x = moe__real(c->dout[0]), .y = moe__grad(c, 0)};
    if (!a.y) return MOE_OK;
    if (a.axis.inner == 1)
        moe__parallel_range(c->ctx, c->in[0]->count, CHUNK, spread_numbers, &a);
    else
        moe__parallel_range(c->ctx, a.axis.outer * a.axis.len, moe__grain(a.axis.inner),
                            spread_rows, &a);
    return MOE_OK;
}

/* ---- maxima --------------------------------------------------------------------------------- */

typedef struct max_arg {
    const moe_kernels *k;
    moe_axis axis;
    const moe_real *x;
    int32_t *best;
    moe_real *value;
} max_arg;

/* The kernel finds the value, a second look finds where it stood first. */
static int64_t first_largest(const moe_kernels *k, int64_t n, const moe_real *x) {
    moe_real top = k->max(n, x);
    int64_t i = 0;
    if (isnan(top))
        while (!isnan(x[i])) i++;
    else
        while (x[i] != top) i++;
    return i;
}

static int64_t first_largest_apart(int64_t n, int64_t stride, const moe_real *x) {
    int64_t best = 0;
    for (int64_t i = 1; i < n && !isnan(x[best * stride]); i++)
        if (x[i * stride] > x[best * stride] || isnan(x[i * stride])) best = i;
    return best;
}

static void argmax_range(void *arg, int64_t begin, int64_t end) {
    const max_arg *a = arg;
    int64_t inner = a->axis.inner, len = a->axis.len;
    for (int64_t i = begin; i < end; i++) {
        const moe_real *x = a->x + i / inner * len * inner + i % inner;
        int64_t best =
            inner == 1 ? first_largest(a->k, len, x) : first_largest_apart(len, inner, x);
        if (a->best) a->best[i] = (int32_t)best;
        if (a->value) a->value[i] = x[best * inner];
    }
}

void moe__argmax(moe_call *c, int32_t *best, moe_real *value) {
    max_arg a = {.k = c->ctx->kernels, .axis = moe__reduce_axis(c), .x = moe__real(c->in[0]),
                 .best = best, .value = value};
    moe__parallel_range(c->ctx, a.axis.outer * a.axis.inner, moe__grain(a.axis.len), argmax_range,
                        &a);
}
