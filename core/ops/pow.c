/* pow.c -- y = x ^ exponent */
#include <math.h>

#include "kernels/kernels.h"
#include "tape/op.h"

#define BLOCK 4096

typedef struct power {
    double exponent;
    const moe_real *x, *dy;
    moe_real *y;
} power;

static moe_status infer(moe_call *c) {
    moe__out_like(c, 0, c->in[0]);
    return MOE_OK;
}

/* In double, so that a float result is correctly rounded but for rare ties. */
static void forward_range(void *arg, int64_t begin, int64_t end) {
    const power *p = arg;
    if (p->exponent == 2)
        for (int64_t i = begin; i < end; i++) p->y[i] = p->x[i] * p->x[i];
    else
        for (int64_t i = begin; i < end; i++)
            p->y[i] = (moe_real)pow((double)p->x[i], p->exponent);
}

static moe_status forward(moe_call *c) {
    power p = {.exponent = c->arg[0].f, .x = moe__real(c->in[0]), .y = moe__real(c->out[0])};
    moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, forward_range, &p);
    return MOE_OK;
}

/* dx = exponent x ^ (exponent - 1) dy */
static void backward_range(void *arg, int64_t begin, int64_t end) {
    const power *p = arg;
    double e = p->exponent;
    for (int64_t i = begin; i < end; i++) {
        double slope = e == 2 ? 2 * (double)p->x[i] : e * pow((double)p->x[i], e - 1);
        p->y[i] += (moe_real)slope * p->dy[i];
    }
}

static moe_status backward(moe_call *c) {
    power p = {.exponent = c->arg[0].f, .x = moe__real(c->in[0]), .dy = moe__real(c->dout[0])};
    p.y = moe__grad(c, 0);
    if (p.y && p.exponent != 0)     /* x^0 is 1 also at 0, where the formula would say 0 * inf */
        moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, backward_range, &p);
    return MOE_OK;
}

MOE_OP(pow,
    .sig = "x:tensor, exponent:num -> tensor",
    .doc = "Each element to the power of a number.",
    .sample = "randn(3, 5), 2 | randn(3, 5), 3 | rand(0.5, 2, 3, 5), -0.5",
    .saves = MOE_IN(0),
    .infer = infer, .forward = forward, .backward = backward);
