/* unary.c -- a kernel over all elements, cut into blocks for the pool. */
#include "ops/unary.h"

#define BLOCK (1 << 13)

typedef struct map {
    moe_map *f;
    const moe_real *x;
    moe_real *y;
} map;

typedef struct map_grad {
    moe_map_grad *f;
    const moe_real *saved, *dy;
    moe_real *dx;
} map_grad;

moe_status moe__unary_infer(moe_call *c) {
    moe__out_like(c, 0, c->in[0]);
    return MOE_OK;
}

static void forward_range(void *arg, int64_t begin, int64_t end) {
    const map *m = arg;
    m->f(end - begin, m->x + begin, m->y + begin);
}

moe_status moe__unary_forward(moe_call *c, moe_map *f) {
    map m = {.f = f, .x = moe__real(c->in[0]), .y = moe__real(c->out[0])};
    moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, forward_range, &m);
    return MOE_OK;
}

static void backward_range(void *arg, int64_t begin, int64_t end) {
    const map_grad *m = arg;
    m->f(end - begin, m->saved + begin, m->dy + begin, m->dx + begin);
}

moe_status moe__unary_backward(moe_call *c, moe_map_grad *f, const moe_tensor *saved) {
    map_grad m = {.f = f, .saved = moe__real(saved), .dy = moe__real(c->dout[0])};
    m.dx = moe__grad(c, 0);
    if (m.dx) moe__parallel_range(c->ctx, saved->count, BLOCK, backward_range, &m);
    return MOE_OK;
}
