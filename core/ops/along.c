/* along.c -- rows that lie apart are gathered into scratch, and scattered again. */
#include "ops/along.h"

#include "ops/axis.h"

typedef struct along {
    moe_axis axis;
    moe_softmax_fn *f;
    moe_softmax_grad_fn *grad;
    const moe_real *x, *dy;     /* x: the input, or the saved output */
    moe_real *y;                /* the output, or the gradient to add to */
    moe_scratch scratch;
    int64_t grain, rows;
} along;

moe_status moe__along_infer(moe_call *c) {
    int dim;
    moe_status s = moe__dim(c, c->arg[0].i, c->in[0], &dim);
    if (!s) moe__out_like(c, 0, c->in[0]);
    return s;
}

/* A row of `len` elements that lie `inner` apart, brought together. */
static void gather(const moe_axis *a, const moe_real *x, moe_real *row) {
    for (int64_t i = 0; i < a->len; i++) row[i] = x[i * a->inner];
}

static void scatter(const moe_axis *a, const moe_real *row, moe_real *y) {
    for (int64_t i = 0; i < a->len; i++) y[i * a->inner] = row[i];
}

static void forward_row(const along *a, int64_t at, moe_real *row) {
    if (a->axis.inner == 1) {
        a->f(a->axis.len, a->x + at, a->y + at);
        return;
    }
    gather(&a->axis, a->x + at, row);
    a->f(a->axis.len, row, row);
    scatter(&a->axis, row, a->y + at);
}

static void backward_row(const along *a, int64_t at, moe_real *row) {
    int64_t n = a->axis.len;
    if (a->axis.inner == 1) {
        a->grad(n, a->x + at, a->dy + at, a->y + at);
        return;
    }
    gather(&a->axis, a->x + at, row);
    gather(&a->axis, a->dy + at, row + n);
    gather(&a->axis, a->y + at, row + 2 * n);
    a->grad(n, row, row + n, row + 2 * n);
    scatter(&a->axis, row + 2 * n, a->y + at);
}

static void rows_task(void *arg, int64_t task, int worker) {
    const along *a = arg;
    moe_real *row = moe__scratch_of(&a->scratch, worker);
    int64_t end = (task + 1) * a->grain < a->rows ? (task + 1) * a->grain : a->rows;
    for (int64_t r = task * a->grain; r < end; r++) {
        int64_t at = r / a->axis.inner * a->axis.len * a->axis.inner + r % a->axis.inner;
        if (a->grad)
            backward_row(a, at, row);
        else
            forward_row(a, at, row);
    }
}

static moe_status all_rows(moe_call *c, along *a) {
    a->axis = moe__axis(c->in[0], moe__known_dim(c->in[0], c->arg[0].i));
    a->rows = a->axis.outer * a->axis.inner;
    a->grain = moe__grain(a->axis.len);
    moe_status s = MOE_OK;
    if (a->axis.inner != 1)
        s = moe__scratch(c->ctx, 3 * sizeof(moe_real) * (size_t)a->axis.len, &a->scratch);
    if (!s) moe__parallel(c->ctx, (a->rows + a->grain - 1) / a->grain, rows_task, a);
    return s;
}

moe_status moe__along_forward(moe_call *c, moe_softmax_fn *f) {
    along a = {.f = f, .x = moe__real(c->in[0]), .y = moe__real(c->out[0])};
    return all_rows(c, &a);
}

moe_status moe__along_backward(moe_call *c, moe_softmax_grad_fn *f) {
    along a = {.grad = f, .x = moe__real(c->out[0]), .dy = moe__real(c->dout[0])};
    a.y = moe__grad(c, 0);
    return a.y ? all_rows(c, &a) : MOE_OK;
}
