/* kth_excluding.c -- what each logit has to exceed to be one of the k largest of its row: the k-th
 * largest of the others (kth_excluding in Shazeer et al. 2017, eq. 9).
 *
 *     y_ti = x_t(k+1) where x_ti is one of the k largest, otherwise x_t(k)
 *
 * x_t(r) is the r-th largest of row t, of equal ones the first; the gradient goes to it.
 */
#include "ops/axis.h"
#include "ops/routing.h"

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[0];
    int64_t k = c->arg[0].i;
    if (moe__rank(c, x, "logits", 2)) return MOE_ESHAPE;
    if (k < 1 || k >= x->shape[1])
        return MOE_REJECT(c, MOE_EARG, "k must be 1 to the number of other logits: %lld of %lld",
                          (long long)k, (long long)x->shape[1] - 1);
    if (x->shape[1] > MOE_MAX_EXPERTS)
        return MOE_REJECT(c, MOE_EARG, "at most %d experts, not %lld", MOE_MAX_EXPERTS,
                          (long long)x->shape[1]);
    moe_status s = moe__logits_finite(c, x);
    if (s) return s;
    int64_t best[2] = {x->shape[0], k + 1};
    moe__out_like(c, 0, x);
    moe__keep(c, 0, MOE_I32, 2, best);
    return MOE_OK;
}

static void forward_rows(void *arg, int64_t begin, int64_t end) {
    const moe_call *c = arg;
    int64_t N = c->in[0]->shape[1], k = c->arg[0].i;
    int32_t own[MOE_MAX_EXPERTS];
    for (int64_t t = begin; t < end; t++) {
        const moe_real *x = moe__real(c->in[0]) + t * N;
        moe_real *y = moe__real(c->out[0]) + t * N;
        int32_t *best = c->keep[0] ? moe__int(c->keep[0]) + t * (k + 1) : own;
        moe__select_top(x, N, k + 1, best);
        for (int64_t i = 0; i < N; i++) y[i] = x[best[k - 1]];
        for (int64_t r = 0; r < k; r++) y[best[r]] = x[best[k]];
    }
}

static moe_status forward(moe_call *c) {
    int64_t grain = moe__grain(c->in[0]->shape[1] * c->arg[0].i);
    moe__parallel_range(c->ctx, c->in[0]->shape[0], grain, forward_rows, c);
    return MOE_OK;
}

typedef struct back {
    const moe_call *c;
    moe_real *dx;
} back;

static void backward_rows(void *arg, int64_t begin, int64_t end) {
    const back *b = arg;
    int64_t N = b->c->in[0]->shape[1], k = b->c->arg[0].i;
    for (int64_t t = begin; t < end; t++) {
        const moe_real *dy = moe__real(b->c->dout[0]) + t * N;
        const int32_t *best = moe__int(b->c->keep[0]) + t * (k + 1);
        moe_real inside = 0, outside = 0;
        for (int64_t r = 0; r < k; r++) inside += dy[best[r]];
        for (int64_t i = 0; i < N; i++) outside += dy[i];
        b->dx[t * N + best[k]] += inside;
        b->dx[t * N + best[k - 1]] += outside - inside;
    }
}

static moe_status backward(moe_call *c) {
    back b = {.c = c, .dx = moe__grad(c, 0)};
    if (b.dx)
        moe__parallel_range(c->ctx, c->in[0]->shape[0], moe__grain(c->in[0]->shape[1]),
                            backward_rows, &b);
    return MOE_OK;
}

MOE_OP(kth_excluding,
    .sig = "logits:tensor, k:int -> tensor",
    .doc = "For each of the logits [T x N] the k-th largest of the others in its row: what it has "
           "to exceed to be one of the k largest.",
    .sample = "randn(4, 5), 2 | randn(3, 4), 3 | randn(3, 2), 1",
    .infer = infer, .forward = forward, .backward = backward);
