/* rope.c -- rotary position embedding (Su et al. 2021): the pair (i, i + D/2) of every head is
 * turned by the angle position * theta^(-2i / D), or position * frequencies[i] where a longer
 * context is reached by other frequencies, and made `factor` times as long (YaRN). */
#include <math.h>

#include "kernels/kernels.h"
#include "ops/axis.h"

enum { X, STARTS, FREQUENCIES };
enum { THETA, OFFSET, FACTOR };

/* Rows of the table of angles: one per position, of each batch element if these begin apart. */
static int64_t positions(const moe_call *c) {
    const int64_t *shape = c->in[X]->shape;
    return c->in[STARTS] ? shape[0] * shape[1] : shape[1];
}

static moe_status check_frequencies(moe_call *c) {
    const moe_tensor *f = c->in[FREQUENCIES];
    if (f && (f->ndim != 1 || f->shape[0] != c->in[X]->shape[3] / 2))
        return MOE_REJECT(c, MOE_ESHAPE, "one frequency per pair is needed: frequencies %s and x "
                          "%s", MOE_SHAPE(f), MOE_SHAPE(c->in[X]));
    if (f && (f->requires_grad || f->node))
        return MOE_REJECT(c, MOE_EARG, "frequencies have no gradients\n"
                          "hint: frequencies:detach()");
    if (!(c->arg[FACTOR].f > 0 && c->arg[FACTOR].f < INFINITY))
        return MOE_REJECT(c, MOE_EARG, "factor must be positive and finite: %g",
                          c->arg[FACTOR].f);
    return MOE_OK;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[X];
    moe_status s = moe__rank(c, x, "x", 4);
    if (s) return s;
    if (x->shape[3] % 2)
        return MOE_REJECT(c, MOE_ESHAPE, "the size of a head must be even: %s", MOE_SHAPE(x));
    if (!(c->arg[THETA].f > 0))
        return MOE_REJECT(c, MOE_EARG, "theta must be positive: %g", c->arg[THETA].f);
    if (c->arg[OFFSET].i < 0)
        return MOE_REJECT(c, MOE_EARG, "offset must not be negative: %lld",
                          (long long)c->arg[OFFSET].i);
    const moe_tensor *starts = c->in[STARTS];
    if (starts && (starts->ndim != 1 || starts->shape[0] != x->shape[0]))
        return MOE_REJECT(c, MOE_ESHAPE, "one start per batch element is needed: starts %s and x "
                          "%s", MOE_SHAPE(starts), MOE_SHAPE(x));
    if (starts && moe__ids_below(c, starts, INT32_MAX, INT64_MIN, "starts")) return MOE_EARG;
    if ((s = check_frequencies(c)) != MOE_OK) return s;
    int64_t table = positions(c) * x->shape[3];
    moe__out_like(c, 0, x);
    moe__keep(c, 0, MOE_F32, 1, &table);
    return MOE_OK;
}

/* One row per position: D/2 cosines, then D/2 sines. */
typedef struct rotation {
    const moe_call *c;
    int64_t t, rows, heads, half;
    moe_real *table;
    moe_real sign;
    const moe_real *x;
    moe_real *y;
    bool add;
} rotation;

static rotation rotation_of(const moe_call *c) {
    const int64_t *shape = c->in[0]->shape;
    return (rotation){.c = c, .t = shape[1], .rows = positions(c), .heads = shape[2],
                      .half = shape[3] / 2, .sign = 1};
}

static int64_t position(const rotation *r, int64_t row) {
    const moe_tensor *starts = r->c->in[STARTS];
    return row % r->t + r->c->arg[OFFSET].i + (starts ? moe__int(starts)[row / r->t] : 0);
}

static double frequency_of(const rotation *r, int64_t i) {
    const moe_tensor *given = r->c->in[FREQUENCIES];
    if (given) return (double)moe__real(given)[i];
    return pow(r->c->arg[THETA].f, -(double)i / (double)r->half);
}

/* In double: a float loses the angle of a distant position. */
static void fill_table(void *arg, int64_t begin, int64_t end) {
    const rotation *r = arg;
    double factor = r->c->arg[FACTOR].f;
    for (int64_t i = begin; i < end; i++) {
        double frequency = frequency_of(r, i);
        for (int64_t row = 0; row < r->rows; row++) {
            double angle = (double)position(r, row) * frequency;
            r->table[row * 2 * r->half + i] = (moe_real)(factor * cos(angle));
            r->table[row * 2 * r->half + r->half + i] = (moe_real)(factor * sin(angle));
        }
    }
}

/* A range over B x T: all heads of one position. */
static void turn(void *arg, int64_t begin, int64_t end) {
    const rotation *r = arg;
    for (int64_t i = begin; i < end; i++) {
        const moe_real *cosine = r->table + i % r->rows * 2 * r->half;
        for (int64_t h = 0; h < r->heads; h++) {
            int64_t at = (i * r->heads + h) * 2 * r->half;
            r->c->ctx->kernels->rope(r->half, cosine, cosine + r->half, r->sign, r->x + at,
                                     r->y + at, r->add);
        }
    }
}

static void turn_all(rotation *r) {
    moe__parallel_range(r->c->ctx, r->c->in[0]->shape[0] * r->t,
                        moe__grain(r->heads * 2 * r->half), turn, r);
}

static moe_status forward(moe_call *c) {
    rotation r = rotation_of(c);
    r.x = moe__real(c->in[0]);
    r.y = moe__real(c->out[0]);
    size_t bytes = sizeof *r.table * (size_t)(r.rows * 2 * r.half);
    r.table = c->keep[0] ? moe__real(c->keep[0]) : moe__alloc(c->ctx, bytes);
    if (!r.table) return moe__no_memory(c->ctx, bytes, "the angles of rope");
    moe__parallel_range(c->ctx, r.half, moe__grain(16 * r.rows), fill_table, &r);
    turn_all(&r);
    if (!c->keep[0]) moe__free(c->ctx, r.table, bytes);
    return MOE_OK;
}

/* dx is dy turned back, and as much longer */
static moe_status backward(moe_call *c) {
    rotation r = rotation_of(c);
    moe_real beta;
    r.x = moe__real(c->dout[0]);
    r.y = moe__grad_beta(c, 0, &beta);
    if (!r.y) return MOE_OK;
    r.table = moe__real(c->keep[0]);
    r.sign = -1;
    r.add = beta != 0;
    turn_all(&r);
    return MOE_OK;
}

MOE_OP(rope,
    .sig = "x:tensor, theta:num=10000, offset:int=0, starts:itensor?, "
           "frequencies:tensor?, factor:num=1 -> tensor",
    .doc = "Rotary position embedding: x [B x T x H x D]; position t counts from `offset`, or from "
           "there plus the batch element's number in `starts` [B]. Pair i turns by theta^(-2i / D) "
           "per position, or by frequencies[i] [D/2]; the result is `factor` times as long.",
    .sample = "randn(2, 3, 2, 4) | randn(1, 2, 1, 6), 100, 5"
              " | randn(2, 3, 1, 4), 100, 2, ids({ 5, 0 })"
              " | randn(2, 3, 1, 4), 1, 2, nil, mask({ 1, 0.25 }), 1.5",
    .infer = infer, .forward = forward, .backward = backward);
