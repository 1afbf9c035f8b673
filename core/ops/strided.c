/* strided.c -- rows of the last dimension, found through strides. */
#include "ops/strided.h"

#include <string.h>

/* ---- rows ----------------------------------------------------------------------------------- */

static int64_t row_count(int ndim, const int64_t *shape) {
    int64_t n = 1;
    for (int d = 0; d < ndim - 1; d++) n *= shape[d];
    return n;
}

static int64_t row_start(const moe_desc *v, int64_t row) {
    int64_t at = v->offset;
    for (int d = v->ndim - 2; d >= 0; d--) {
        at += row % v->shape[d] * v->stride[d];
        row /= v->shape[d];
    }
    return at;
}

/* Length and stride of the last dimension; a single number counts as a row of one. */
static int64_t row_length(const moe_desc *v) { return v->ndim ? v->shape[v->ndim - 1] : 1; }
static int64_t row_stride(const moe_desc *v) { return v->ndim ? v->stride[v->ndim - 1] : 1; }

static moe_desc desc_of(const moe_tensor *t) {
    moe_desc d = {.dtype = t->dtype, .ndim = t->ndim, .offset = t->offset};
    memcpy(d.shape, t->shape, sizeof d.shape);
    memcpy(d.stride, t->stride, sizeof d.stride);
    return d;
}

/* ---- packing -------------------------------------------------------------------------------- */

typedef struct pack {
    moe_desc v;
    size_t size;
    const char *from;
    char *to;
} pack;

/* One loop per element size, so that each is a plain load and store. */
static void pack_row(int64_t n, int64_t stride, size_t size, const char *from, char *to) {
    if (stride == 1)
        memcpy(to, from, (size_t)n * size);
    else if (size == 2)
        for (int64_t i = 0; i < n; i++) memcpy(to + 2 * i, from + 2 * i * stride, 2);
    else if (size == 4)
        for (int64_t i = 0; i < n; i++) memcpy(to + 4 * i, from + 4 * i * stride, 4);
    else
        for (int64_t i = 0; i < n; i++) memcpy(to + 8 * i, from + 8 * i * stride, 8);
}

static void pack_range(void *arg, int64_t begin, int64_t end) {
    const pack *p = arg;
    int64_t n = row_length(&p->v);
    for (int64_t r = begin; r < end; r++)
        pack_row(n, row_stride(&p->v), p->size, p->from + row_start(&p->v, r) * (int64_t)p->size,
                 p->to + r * n * (int64_t)p->size);
}

void moe__pack(const moe_tensor *t, void *to) {
    pack p = {.v = desc_of(t), .size = moe__dtype_size(t->dtype), .from = t->storage->data,
              .to = to};
    if (t->count)
        moe__parallel_range(t->ctx, row_count(t->ndim, t->shape), moe__grain(row_length(&p.v)),
                            pack_range, &p);
}

/* ---- views ---------------------------------------------------------------------------------- */

void moe__view_infer(moe_call *c, moe_view_fn *change) {
    moe_desc v = desc_of(c->in[0]);
    change(c, &v);
    moe__out(c, 0, v.dtype, v.ndim, v.shape);
    memcpy(c->out_desc[0].stride, v.stride, sizeof v.stride);
    c->out_desc[0].offset = v.offset;
}

typedef struct spread {
    moe_desc v;
    const moe_real *dy;
    moe_real *dx;
} spread;

static void spread_range(void *arg, int64_t begin, int64_t end) {
    const spread *s = arg;
    int64_t n = row_length(&s->v), stride = row_stride(&s->v);
    for (int64_t r = begin; r < end; r++) {
        moe_real *dx = s->dx + row_start(&s->v, r);
        const moe_real *dy = s->dy + r * n;
        for (int64_t i = 0; i < n; i++) dx[i * stride] += dy[i];
    }
}

moe_status moe__view_backward(moe_call *c, moe_view_fn *change) {
    spread s = {.v = desc_of(c->in[0]), .dy = moe__real(c->dout[0]), .dx = moe__grad(c, 0)};
    moe__row_major(s.v.ndim, s.v.shape, s.v.stride);
    s.v.offset = 0;
    change(c, &s.v);
    if (s.dx && c->out[0]->count)
        moe__parallel_range(c->ctx, row_count(s.v.ndim, s.v.shape), moe__grain(row_length(&s.v)),
                            spread_range, &s);
    return MOE_OK;
}
