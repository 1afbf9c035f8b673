/* cross_entropy.c -- mean of -log softmax(logits)[target] over the rows that count. */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/axis.h"
#include "ops/targets.h"

static int64_t counted(const moe_call *c) { return moe__targets_counted(c->in[1], c->arg[0].i); }

static moe_status infer(moe_call *c) {
    const moe_tensor *logits = c->in[0];
    moe_status s = moe__rank(c, logits, "logits", 2);
    if (!s) s = moe__targets_infer(c, logits, c->in[1], logits->shape[1], c->arg[0].i);
    if (!s) moe__out(c, 0, MOE_F32, 0, NULL);
    return s;
}

typedef struct loss {
    const moe_call *c;
    const int32_t *target;
    int64_t v, rows, grain;
    moe_real *x, scale, beta;
    moe_real *row_loss;         /* forward */
    moe_real *dx;               /* backward */
    moe_scratch scratch;
} loss;

static loss loss_of(const moe_call *c) {
    return (loss){.c = c, .target = moe__int(c->in[1]), .v = c->in[0]->shape[1],
                  .rows = c->in[0]->shape[0], .grain = moe__grain(c->in[0]->shape[1]),
                  .x = moe__real(c->in[0])};
}

/* With scale 0 the kernel only reads. */
static void forward_rows(void *arg, int64_t begin, int64_t end) {
    const loss *l = arg;
    for (int64_t r = begin; r < end; r++)
        l->row_loss[r] = l->target[r] == l->c->arg[0].i
                             ? 0
                             : l->c->ctx->kernels->cross_entropy(l->v, l->x + r * l->v,
                                                                 l->target[r], 0);
}

static moe_status forward(moe_call *c) {
    loss l = loss_of(c);
    size_t bytes = sizeof *l.row_loss * (size_t)l.rows;
    l.row_loss = moe__alloc(c->ctx, bytes);
    if (!l.row_loss) return moe__no_memory(c->ctx, bytes, "the loss of each row");
    moe__parallel_range(c->ctx, l.rows, l.grain, forward_rows, &l);
    double total = 0;
    for (int64_t r = 0; r < l.rows; r++) total += (double)l.row_loss[r];
    *moe__real(c->out[0]) = (moe_real)(total / (double)counted(c));
    moe__free(c->ctx, l.row_loss, bytes);
    return MOE_OK;
}

/* dlogits = dy (softmax - onehot) / rows that count, written into a fresh gradient directly */
static void backward_row(const loss *l, int64_t r, moe_real *spare) {
    moe_real *dx = l->dx + r * l->v, *row = l->beta == 0 ? dx : spare;
    size_t bytes = sizeof *row * (size_t)l->v;
    if (l->target[r] == l->c->arg[0].i) {
        if (row == dx) memset(dx, 0, bytes);
        return;
    }
    memcpy(row, l->x + r * l->v, bytes);
    l->c->ctx->kernels->cross_entropy(l->v, row, l->target[r], l->scale);
    if (row != dx) l->c->ctx->kernels->accumulate(l->v, row, dx);
}

static void backward_task(void *arg, int64_t task, int worker) {
    const loss *l = arg;
    moe_real *spare = moe__scratch_of(&l->scratch, worker);
    int64_t end = (task + 1) * l->grain < l->rows ? (task + 1) * l->grain : l->rows;
    for (int64_t r = task * l->grain; r < end; r++) backward_row(l, r, spare);
}

static moe_status backward(moe_call *c) {
    loss l = loss_of(c);
    l.scale = *moe__real(c->dout[0]) / (moe_real)counted(c);
    if (l.scale == 0 || !moe__wants(c, 0)) return MOE_OK;   /* scale 0 would leave the logits */
    moe_status s = moe__scratch(c->ctx, sizeof *l.x * (size_t)l.v, &l.scratch);
    if (s) return s;
    l.dx = moe__grad_beta(c, 0, &l.beta);
    moe__parallel(c->ctx, (l.rows + l.grain - 1) / l.grain, backward_task, &l);
    return MOE_OK;
}

MOE_OP(cross_entropy,
    .sig = "logits:tensor, targets:itensor, ignore:int=-1 -> tensor",
    .doc = "Mean of -log softmax(logits)[target]: logits [N x V], targets [N]; rows whose target "
           "is `ignore` do not count.",
    .sample = "randn(3, 5), ids({4, 0, 2}) | randn(4, 3), ids({1, -1, 2, -1})",
    .saves = MOE_IN(0) | MOE_IN(1),
    .infer = infer, .forward = forward, .backward = backward);
