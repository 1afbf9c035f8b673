/* load_balance.c -- the auxiliary loss that spreads tokens over experts, without its coefficient.
 *
 *     L = N sum_i u_i p_i,  p_i = mean over tokens of softmax_i(logits)
 *
 * form "btx":    u_i is the mean gate of expert i (Sukhbaatar et al. 2024, section 3.3). It sums to
 *                one and is differentiable: balanced routing gives 1, collapse gives N.
 * form "switch": u_i is the share of tokens that have expert i among their k (Fedus et al. 2021,
 *                eq. 4, extended to k > 1): balanced routing gives k; no gradient through u.
 */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/op.h"

enum { LOGITS, GATES, EXPERTS };
enum { P, U, MEAN };                    /* kept: softmax [T x N], u [N], p [N] */
enum { BTX, SWITCH };

static moe_status infer(moe_call *c) {
    const moe_tensor *l = c->in[LOGITS], *gates = c->in[GATES], *experts = c->in[EXPERTS];
    if (moe__rank(c, l, "logits", 2) || moe__rank(c, gates, "gates", 2)) return MOE_ESHAPE;
    if (experts->ndim != 2 || memcmp(experts->shape, gates->shape, 2 * sizeof *gates->shape) != 0)
        return MOE_REJECT(c, MOE_ESHAPE, "gates and experts differ: %s and %s", MOE_SHAPE(gates),
                          MOE_SHAPE(experts));
    if (gates->shape[0] != l->shape[0] || l->shape[0] == 0)
        return MOE_REJECT(c, MOE_ESHAPE, "one row of gates per row of logits is needed: %s and %s",
                          MOE_SHAPE(gates), MOE_SHAPE(l));
    moe_status s = moe__ids_below(c, experts, l->shape[1], INT64_MIN, "experts");
    if (s) return s;
    moe__out(c, 0, MOE_F32, 0, NULL);
    moe__keep(c, P, MOE_F32, 2, l->shape);
    moe__keep(c, U, MOE_F32, 1, &l->shape[1]);
    moe__keep(c, MEAN, MOE_F32, 1, &l->shape[1]);
    return MOE_OK;
}

static void share_of_experts(const moe_call *c, moe_real *u) {
    const moe_tensor *gates = c->in[GATES];
    int64_t T = gates->shape[0], N = c->in[LOGITS]->shape[1];
    memset(u, 0, sizeof *u * (size_t)N);
    for (int64_t i = 0; i < gates->count; i++)
        u[moe__int(c->in[EXPERTS])[i]] += c->arg[0].i == BTX ? moe__real(gates)[i] : 1;
    for (int64_t e = 0; e < N; e++) u[e] /= (moe_real)T;
}

static moe_status forward(moe_call *c) {
    int64_t T = c->in[LOGITS]->shape[0], N = c->in[LOGITS]->shape[1];
    size_t bytes = sizeof(moe_real) * (size_t)(3 * N);
    moe_real *block = moe__alloc(c->ctx, bytes);
    if (!block) return moe__no_memory(c->ctx, bytes, "a balance loss");
    moe_real *u = c->keep[U] ? moe__real(c->keep[U]) : block;
    moe_real *mean = c->keep[MEAN] ? moe__real(c->keep[MEAN]) : block + N;
    share_of_experts(c, u);
    memset(mean, 0, sizeof *mean * (size_t)N);
    for (int64_t t = 0; t < T; t++) {
        moe_real *p = c->keep[P] ? moe__real(c->keep[P]) + t * N : block + 2 * N;
        c->ctx->kernels->softmax(N, moe__real(c->in[LOGITS]) + t * N, p);
        c->ctx->kernels->accumulate(N, p, mean);
    }
    c->ctx->kernels->scale(N, 1 / (moe_real)T, mean, mean);
    *moe__real(c->out[0]) = (moe_real)N * c->ctx->kernels->dot(N, u, mean);
    moe__free(c->ctx, block, bytes);
    return MOE_OK;
}

/* dl_tj = (N/T) p_tj (u_j - sum_i u_i p_ti); btx also: dgate_ts = (N/T) p_e with e its expert */
static moe_status backward(moe_call *c) {
    int64_t T = c->in[LOGITS]->shape[0], N = c->in[LOGITS]->shape[1];
    moe_real factor = *moe__real(c->dout[0]) * (moe_real)N / (moe_real)T;
    const moe_real *u = moe__real(c->keep[U]), *mean = moe__real(c->keep[MEAN]);
    moe_real *dl = moe__grad(c, LOGITS), *dg = moe__grad(c, GATES);
    for (int64_t t = 0; t < T && dl; t++) {
        const moe_real *p = moe__real(c->keep[P]) + t * N;
        moe_real average = c->ctx->kernels->dot(N, u, p);
        for (int64_t j = 0; j < N; j++) dl[t * N + j] += factor * p[j] * (u[j] - average);
    }
    for (int64_t i = 0; i < c->in[GATES]->count && dg && c->arg[0].i == BTX; i++)
        dg[i] += factor * mean[moe__int(c->in[EXPERTS])[i]];
    return MOE_OK;
}

MOE_OP(load_balance,
    .sig = "logits:tensor, gates:tensor, experts:itensor, form:{btx|switch}=btx -> tensor",
    .doc = "Load-balancing loss N sum(u p) without its coefficient: logits [T x N], gates and "
           "0-based experts [T x k]. \"btx\": u is the mean gate (balanced = 1); \"switch\": the "
           "share of tokens (balanced = k).",
    .sample = "randn(4, 3), rand(0.1, 1, 4, 2), ids{{0, 1}, {2, 1}, {1, 0}, {0, 2}}"
              " | randn(4, 3), rand(0.1, 1, 4, 2), ids{{0, 1}, {2, 1}, {1, 0}, {0, 2}}, 'switch'",
    .saves = MOE_IN(EXPERTS),
    .infer = infer, .forward = forward, .backward = backward);
