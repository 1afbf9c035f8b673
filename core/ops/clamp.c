/* clamp.c -- y = x between two bounds, NaN kept. */
#include "ops/unary.h"

#define BLOCK (1 << 13)

static moe_status infer(moe_call *c) {
    if (!(c->arg[0].f <= c->arg[1].f))
        return MOE_REJECT(c, MOE_EARG, "low must not be above high: %g and %g", c->arg[0].f,
                          c->arg[1].f);
    return moe__unary_infer(c);
}

static void forward_range(void *arg, int64_t begin, int64_t end) {
    const moe_call *c = arg;
    moe_real low = (moe_real)c->arg[0].f, high = (moe_real)c->arg[1].f;
    const moe_real *x = moe__real(c->in[0]);
    moe_real *y = moe__real(c->out[0]);
    for (int64_t i = begin; i < end; i++) y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

static moe_status forward(moe_call *c) {
    moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, forward_range, c);
    return MOE_OK;
}

typedef struct back {
    const moe_call *c;
    moe_real *dx;
} back;

/* dx = dy where x is no further than the bounds */
static void backward_range(void *arg, int64_t begin, int64_t end) {
    const back *b = arg;
    moe_real low = (moe_real)b->c->arg[0].f, high = (moe_real)b->c->arg[1].f;
    const moe_real *x = moe__real(b->c->in[0]), *dy = moe__real(b->c->dout[0]);
    for (int64_t i = begin; i < end; i++)
        if (!(x[i] < low || x[i] > high)) b->dx[i] += dy[i];
}

static moe_status backward(moe_call *c) {
    back b = {.c = c, .dx = moe__grad(c, 0)};
    if (b.dx) moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, backward_range, &b);
    return MOE_OK;
}

MOE_OP(clamp,
    .sig = "x:tensor, low:num, high:num -> tensor",
    .doc = "Each element, but `low` where it is below that and `high` where it is above.",
    .sample = "rand(-2, 2, 3, 5), -1, 1.5",
    .saves = MOE_IN(0),
    .infer = infer, .forward = forward, .backward = backward);
