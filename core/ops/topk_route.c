/* topk_route.c -- token-choice routing: the k largest logits of each token and their gates.
 *
 * gate "selected": softmax over the k selected logits (BTX, Mixtral); equal to softmax over all,
 *                  cut to the selected and divided by their sum.
 * gate "all":      softmax over all logits, not renormalised (Switch, DeepSeekMoE).
 * gate "sigmoid":  sigmoid per expert, divided by the sum over the selected (DeepSeek-V3).
 *                  When all of these have underflowed to 0, the gates are equal.
 * Equal logits: the lowest expert wins. The selection itself has no gradient.
 */
#include <math.h>

#include "kernels/kernels.h"
#include "tape/op.h"

enum { SELECTED, ALL, SIGMOID };

#define ROWS 256
#define MAX_EXPERTS 4096

static moe_status infer(moe_call *c) {
    const moe_tensor *l = c->in[0];
    int64_t k = c->arg[0].i;
    if (moe__rank(c, l, "logits", 2)) return MOE_ESHAPE;
    if (k < 1 || k > l->shape[1])
        return MOE_REJECT(c, MOE_EARG, "k must be 1 to the number of experts: %lld of %lld",
                          (long long)k, (long long)l->shape[1]);
    if (l->shape[1] > MAX_EXPERTS)
        return MOE_REJECT(c, MOE_EARG, "at most %d experts, not %lld", MAX_EXPERTS,
                          (long long)l->shape[1]);
    for (int64_t i = 0; i < l->count; i++) {        /* -inf is fine: it rules an expert out */
        moe_real x = moe__real(l)[i];
        if (isnan(x) || (isinf(x) && x > 0))
            return MOE_REJECT(c, MOE_EARG, "the logit of token %lld for expert %lld is %s",
                              (long long)(i / l->shape[1] + 1), (long long)(i % l->shape[1] + 1),
                              isnan(x) ? "NaN" : "infinite");
    }
    int64_t shape[2] = {l->shape[0], k};
    moe__out(c, 0, MOE_F32, 2, shape);
    moe__out(c, 1, MOE_I32, 2, shape);
    if (c->arg[1].i != SELECTED) moe__keep(c, 0, MOE_F32, 2, l->shape);
    return MOE_OK;
}

/* Insertion into a list of k kept in descending order; strict comparison keeps ties in order. */
static void select_top(const moe_real *l, int64_t E, int64_t k, int32_t *best) {
    int64_t n = 0;
    for (int64_t e = 0; e < E; e++) {
        if (n == k && !(l[e] > l[best[k - 1]])) continue;
        int64_t at = n < k ? n++ : k - 1;
        for (; at > 0 && l[e] > l[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = (int32_t)e;
    }
}

static void set_gates(const moe_call *c, const moe_real *l, const int32_t *best, moe_real *gate,
                      moe_real *score) {
    int64_t k = c->arg[0].i, E = c->in[0]->shape[1];
    const moe_kernels *kernels = c->ctx->kernels;
    if (c->arg[1].i == SELECTED) {
        for (int64_t i = 0; i < k; i++) gate[i] = l[best[i]];
        kernels->softmax(k, gate, gate);
        return;
    }
    if (c->arg[1].i == ALL)
        kernels->softmax(E, l, score);
    else
        kernels->sigmoid(E, l, score);
    moe_real sum = 0;
    for (int64_t i = 0; i < k; i++) sum += gate[i] = score[best[i]];
    if (c->arg[1].i == SIGMOID)
        for (int64_t i = 0; i < k; i++) gate[i] = sum > 0 ? gate[i] / sum : 1 / (moe_real)k;
}

static void forward_rows(void *arg, int64_t begin, int64_t end) {
    moe_call *c = arg;
    int64_t k = c->arg[0].i, E = c->in[0]->shape[1];
    moe_real own[MAX_EXPERTS];
    for (int64_t t = begin; t < end; t++) {
        const moe_real *l = moe__real(c->in[0]) + t * E;
        int32_t *best = moe__int(c->out[1]) + t * k;
        select_top(l, E, k, best);
        set_gates(c, l, best, moe__real(c->out[0]) + t * k,
                  c->keep[0] ? moe__real(c->keep[0]) + t * E : own);
    }
}

static moe_status forward(moe_call *c) {
    moe__parallel_range(c->ctx, c->in[0]->shape[0], ROWS, forward_rows, c);
    return MOE_OK;
}

/* a_i is the gradient of gate i, S the selected set:
 *   selected: dl_i = g_i (a_i - sum_S g_j a_j)
 *   all:      dl_j = p_j ([j in S] a_j - sum_S p_i a_i)
 *   sigmoid:  dl_i = s_i (1 - s_i) (a_i - sum_S g_j a_j) / sum_S s_j */
static void backward_row(const moe_call *c, int64_t t, moe_real *dl) {
    int64_t k = c->arg[0].i, E = c->in[0]->shape[1];
    const moe_real *a = moe__real(c->dout[0]) + t * k, *g = moe__real(c->out[0]) + t * k;
    const moe_real *score = c->keep[0] ? moe__real(c->keep[0]) + t * E : NULL;
    const int32_t *best = moe__int(c->out[1]) + t * k;
    moe_real mean = 0, sum = 0;
    for (int64_t i = 0; i < k; i++) {
        mean += g[i] * a[i];
        if (score) sum += score[best[i]];
    }
    if (c->arg[1].i == ALL)
        for (int64_t e = 0; e < E; e++) dl[e] -= score[e] * mean;
    for (int64_t i = 0; i < k; i++) {
        int32_t e = best[i];
        if (c->arg[1].i == SELECTED)
            dl[e] += g[i] * (a[i] - mean);
        else if (c->arg[1].i == ALL)
            dl[e] += score[e] * a[i];
        else if (sum > 0)
            dl[e] += score[e] * (1 - score[e]) * (a[i] - mean) / sum;
    }
}

typedef struct back {
    const moe_call *c;
    moe_real *dl;
} back;

static void backward_rows(void *arg, int64_t begin, int64_t end) {
    const back *b = arg;
    for (int64_t t = begin; t < end; t++) backward_row(b->c, t, b->dl + t * b->c->in[0]->shape[1]);
}

static moe_status backward(moe_call *c) {
    back b = {.c = c, .dl = moe__grad(c, 0)};
    if (b.dl && c->dout[0])
        moe__parallel_range(c->ctx, c->in[0]->shape[0], ROWS, backward_rows, &b);
    return MOE_OK;
}

MOE_OP(topk_route,
    .sig = "logits:tensor, k:int=2, gate:{selected|all|sigmoid}=selected -> tensor, itensor",
    .doc = "Top-k routing: logits [T x E] -> gates [T x k] in descending order of the logits, and "
           "the 0-based experts [T x k]. gate: softmax over the \"selected\", over \"all\", or "
           "\"sigmoid\" normalised over the selected.",
    .sample = "randn(4, 5), 2 | randn(3, 4), 3, 'all' | randn(3, 4), 2, 'sigmoid'",
    .saves = MOE_OUT(0) | MOE_OUT(1),
    .infer = infer, .forward = forward, .backward = backward);
