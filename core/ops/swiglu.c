/* swiglu.c -- y = silu(gate) * up, the activation of Llama's feed-forward layers. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/op.h"

#define BLOCK (1 << 13)
#define RUN 512             /* elements on the stack at a time */

static moe_status infer(moe_call *c) {
    const moe_tensor *gate = c->in[0], *up = c->in[1];
    if (gate->ndim != up->ndim ||
        memcmp(gate->shape, up->shape, sizeof *up->shape * (size_t)up->ndim) != 0)
        return MOE_REJECT(c, MOE_ESHAPE, "gate and up must have the same shape: %s and %s",
                          MOE_SHAPE(gate), MOE_SHAPE(up));
    moe__out_like(c, 0, gate);
    return MOE_OK;
}

static void forward_range(void *arg, int64_t begin, int64_t end) {
    const moe_call *c = arg;
    c->ctx->kernels->swiglu(end - begin, moe__real(c->in[0]) + begin, moe__real(c->in[1]) + begin,
                            moe__real(c->out[0]) + begin);
}

static moe_status forward(moe_call *c) {
    moe__parallel_range(c->ctx, c->out[0]->count, BLOCK, forward_range, c);
    return MOE_OK;
}

typedef struct back {
    const moe_call *c;
    moe_real *d[2], beta[2];    /* gradients of gate and up, NULL if not wanted */
} back;

/* The kernel replaces: it writes into the gradient itself, or into `spare` to be added. */
static void backward_run(const back *b, int64_t at, int64_t n) {
    const moe_kernels *k = b->c->ctx->kernels;
    moe_real spare[2][RUN], *d[2];
    for (int i = 0; i < 2; i++) d[i] = b->d[i] && b->beta[i] == 0 ? b->d[i] + at : spare[i];
    k->swiglu_grad(n, moe__real(b->c->in[0]) + at, moe__real(b->c->in[1]) + at,
                   moe__real(b->c->dout[0]) + at, d[0], d[1], NULL);
    for (int i = 0; i < 2; i++)
        if (b->d[i] && d[i] == spare[i]) k->accumulate(n, spare[i], b->d[i] + at);
}

static void backward_range(void *arg, int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += RUN)
        backward_run(arg, at, end - at < RUN ? end - at : RUN);
}

static moe_status backward(moe_call *c) {
    back b = {.c = c};
    for (int i = 0; i < 2; i++) b.d[i] = moe__grad_beta(c, i, &b.beta[i]);
    moe__parallel_range(c->ctx, c->in[0]->count, BLOCK, backward_range, &b);
    return MOE_OK;
}

MOE_OP(swiglu,
    .sig = "gate:tensor, up:tensor -> tensor",
    .doc = "silu(gate) * up, element by element.",
    .sample = "randn(3, 17), randn(3, 17)",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
