/* topk_route.c -- token-choice routing: the k best experts of each token and their gates.
 *
 * The gates g come from the scores s of the logits:
 * gate "selected": softmax over the k selected logits (BTX, Mixtral); equal to softmax over all,
 *                  cut to the selected and divided by their sum.
 * gate "all":      s = softmax over all logits, g = s, not renormalised (Switch, DeepSeekMoE).
 * gate "sigmoid":  s = sigmoid of each logit; for k > 1 divided by the sum over the selected
 *                  (DeepSeek-V3, Megatron). When all of these have underflowed to 0, the gates
 *                  are equal.
 * The largest logits are selected, or with a bias b the largest s + b, s of "selected" being that
 * of "all" (Wang et al. 2024, "Auxiliary-loss-free load balancing", eq. 3): the gates then follow
 * from s alone, and their order is that of s + b. Of equal ones the lowest expert wins. Neither
 * the selection nor the bias has a gradient.
 */
#include <math.h>

#include "kernels/kernels.h"
#include "ops/routing.h"

enum { LOGITS, BIAS };
enum { SELECTED, ALL, SIGMOID };

#define ROWS 256

/* As for logits: -inf rules an expert out. */
static moe_status check_bias(moe_call *c, const moe_tensor *bias, int64_t experts) {
    if (bias->ndim != 1 || bias->shape[0] != experts)
        return MOE_REJECT(c, MOE_ESHAPE, "bias must be one number for each of %lld experts, not %s",
                          (long long)experts, MOE_SHAPE(bias));
    for (int64_t e = 0; e < experts; e++) {
        moe_real b = moe__real(bias)[e];
        if (isnan(b) || (isinf(b) && b > 0))
            return MOE_REJECT(c, MOE_EARG, "the bias of expert %lld is %s", (long long)e + 1,
                              isnan(b) ? "NaN" : "infinite");
    }
    return MOE_OK;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *l = c->in[LOGITS];
    int64_t k = c->arg[0].i;
    if (moe__rank(c, l, "logits", 2)) return MOE_ESHAPE;
    if (k < 1 || k > l->shape[1])
        return MOE_REJECT(c, MOE_EARG, "k must be 1 to the number of experts: %lld of %lld",
                          (long long)k, (long long)l->shape[1]);
    if (l->shape[1] > MOE_MAX_EXPERTS)
        return MOE_REJECT(c, MOE_EARG, "at most %d experts, not %lld", MOE_MAX_EXPERTS,
                          (long long)l->shape[1]);
    moe_status s = moe__logits_finite(c, l);
    if (!s && c->in[BIAS]) s = check_bias(c, c->in[BIAS], l->shape[1]);
    if (s) return s;
    int64_t shape[2] = {l->shape[0], k};
    moe__out(c, 0, MOE_F32, 2, shape);
    moe__out(c, 1, MOE_I32, 2, shape);
    if (c->arg[1].i != SELECTED) moe__keep(c, 0, MOE_F32, 2, l->shape);
    return MOE_OK;
}

static void set_scores(const moe_call *c, const moe_real *l, moe_real *score) {
    int64_t N = c->in[LOGITS]->shape[1];
    if (c->arg[1].i == SIGMOID)
        c->ctx->kernels->sigmoid(N, l, score);
    else
        c->ctx->kernels->softmax(N, l, score);
}

static void add_bias(const moe_call *c, const moe_real *l, const moe_real *score, moe_real *key) {
    const moe_real *bias = moe__real(c->in[BIAS]);
    for (int64_t e = 0; e < c->in[LOGITS]->shape[1]; e++)
        key[e] = isinf(l[e]) ? l[e] : score[e] + bias[e];
}

/* Are the gates the scores divided by their sum over the selected? */
static bool divided(const moe_call *c) { return c->arg[1].i == SIGMOID && c->arg[0].i > 1; }

static void set_gates(const moe_call *c, const moe_real *l, const moe_real *score,
                      const int32_t *best, moe_real *gate) {
    int64_t k = c->arg[0].i;
    const moe_real *from = c->arg[1].i == SELECTED ? l : score;
    moe_real sum = 0;
    for (int64_t i = 0; i < k; i++) sum += gate[i] = from[best[i]];
    if (c->arg[1].i == SELECTED) c->ctx->kernels->softmax(k, gate, gate);
    for (int64_t i = 0; i < k && divided(c); i++)
        gate[i] = sum > 0 ? gate[i] / sum : 1 / (moe_real)k;
}

static void forward_rows(void *arg, int64_t begin, int64_t end) {
    moe_call *c = arg;
    int64_t k = c->arg[0].i, N = c->in[LOGITS]->shape[1];
    moe_real own[MOE_MAX_EXPERTS], key[MOE_MAX_EXPERTS];
    for (int64_t t = begin; t < end; t++) {
        const moe_real *l = moe__real(c->in[LOGITS]) + t * N;
        moe_real *score = c->keep[0] ? moe__real(c->keep[0]) + t * N : own;
        int32_t *best = moe__int(c->out[1]) + t * k;
        if (c->arg[1].i != SELECTED || c->in[BIAS]) set_scores(c, l, score);
        if (c->in[BIAS]) add_bias(c, l, score, key);
        moe__select_top(c->in[BIAS] ? key : l, N, k, best);
        set_gates(c, l, score, best, moe__real(c->out[0]) + t * k);
    }
}

static moe_status forward(moe_call *c) {
    moe__parallel_range(c->ctx, c->in[LOGITS]->shape[0], ROWS, forward_rows, c);
    return MOE_OK;
}

/* a_i is the gradient of gate i, S the selected set:
 *   selected: dl_i = g_i (a_i - sum_S g_j a_j)
 *   all:      dl_j = s_j ([j in S] a_j - sum_S s_i a_i)
 *   sigmoid:  dl_i = s_i (1 - s_i) (a_i - sum_S g_j a_j) / sum_S s_j,   k = 1: s_i (1 - s_i) a_i */
static void backward_row(const moe_call *c, int64_t t, moe_real *dl) {
    int64_t k = c->arg[0].i, N = c->in[LOGITS]->shape[1];
    const moe_real *a = moe__real(c->dout[0]) + t * k, *g = moe__real(c->out[0]) + t * k;
    const moe_real *score = c->keep[0] ? moe__real(c->keep[0]) + t * N : NULL;
    const int32_t *best = moe__int(c->out[1]) + t * k;
    moe_real mean = 0, sum = 0;
    for (int64_t i = 0; i < k; i++) {
        mean += g[i] * a[i];
        if (score) sum += score[best[i]];
    }
    if (c->arg[1].i == ALL)
        for (int64_t e = 0; e < N; e++) dl[e] -= score[e] * mean;
    for (int64_t i = 0; i < k; i++) {
        int32_t e = best[i];
        if (c->arg[1].i == SELECTED)
            dl[e] += g[i] * (a[i] - mean);
        else if (c->arg[1].i == ALL)
            dl[e] += score[e] * a[i];
        else if (!divided(c))
            dl[e] += score[e] * (1 - score[e]) * a[i];
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
    int64_t N = b->c->in[LOGITS]->shape[1];
    for (int64_t t = begin; t < end; t++) backward_row(b->c, t, b->dl + t * N);
}

static moe_status backward(moe_call *c) {
    back b = {.c = c, .dl = moe__grad(c, LOGITS)};
    if (b.dl && c->dout[0])
        moe__parallel_range(c->ctx, c->in[LOGITS]->shape[0], ROWS, backward_rows, &b);
    return MOE_OK;
}

MOE_OP(topk_route,
    .sig = "logits:tensor, k:int=2, gate:{selected|all|sigmoid}=selected, bias:tensor? "
           "-> tensor, itensor",
    .doc = "Top-k routing: logits [T x N] -> gates [T x k] in descending order of the logits, and "
           "the 0-based experts [T x k]. gate: softmax over the \"selected\", over \"all\", or "
           "\"sigmoid\", for k > 1 normalised over the selected. bias [N] is added to the scores "
           "for selecting alone, which then gives the order.",
    .sample = "randn(4, 5), 2 | randn(3, 4), 3, 'all' | randn(3, 4), 2, 'sigmoid' "
              "| randn(3, 4), 1, 'sigmoid' | randn(4, 5), 3, 'selected', randn(5) "
              "| randn(4, 5), 2, 'all', randn(5)",
    .saves = MOE_OUT(0) | MOE_OUT(1),
    .infer = infer, .forward = forward, .backward = backward);
