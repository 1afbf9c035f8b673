/* routing_shares.c -- the two factors of every balance loss, N sum_i u_i p_i: what share of the
 * tokens each expert has, u, and the mean score that it got, p.
 *
 *     p_i = mean over tokens of score_ti
 * form "btx":      u_i = mean gate, differentiable (Sukhbaatar et al. 2024, section 3.3)
 * form "switch":   u_i = share of tokens that have i in one of their slots (Fedus et al. 2022,
 *                  eq. 5, extended to k > 1): the sum is k
 * form "gshard":   the same for the first slots alone (Lepikhin et al. 2021, algorithm 1)
 * form "deepseek": u_i = that of "switch" divided by k (Dai et al. 2024, eq. 13)
 *
 * The means are taken over each of `segments` equal runs of tokens, over those that mask counts.
 * A segment without any has the shares 0. An expert of -1 is a slot that is not used.
 */
#include <string.h>

#include "kernels/kernels.h"
#include "ops/routing.h"

enum { SCORES, GATES, EXPERTS, MASK };
enum { BTX, SWITCH, GSHARD, DEEPSEEK };
enum { U, P };

#define ROWS 256        /* tokens that one task sums up */

typedef struct shares {
    const moe_call *c;
    int64_t tokens, experts, slots, segments, length, blocks;       /* blocks of a segment */
    const int32_t *expert;
    const moe_real *mask;               /* NULL: all tokens count */
    moe_real *sum;                      /* forward: [segments x blocks x 2 x experts] */
    const moe_real *inverse;            /* backward: 1 / tokens that count, of each segment */
    moe_real *dscores, *dgates;
} shares;

static shares shares_of(const moe_call *c) {
    shares s = {.c = c, .tokens = c->in[SCORES]->shape[0], .experts = c->in[SCORES]->shape[1],
                .slots = c->in[EXPERTS]->shape[1], .segments = c->arg[1].i,
                .expert = moe__int(c->in[EXPERTS])};
    s.length = s.tokens / s.segments;
    s.blocks = (s.length + ROWS - 1) / ROWS;
    s.mask = c->in[MASK] ? moe__real(c->in[MASK]) : NULL;
    return s;
}

static bool counts(const shares *s, int64_t t) { return !s->mask || s->mask[t] != 0; }

static moe_status infer(moe_call *c) {
    const moe_tensor *p = c->in[SCORES], *gates = c->in[GATES], *experts = c->in[EXPERTS];
    if (moe__rank(c, p, "scores", 2) || moe__routing_alike(c, gates, experts)) return MOE_ESHAPE;
    if (gates->shape[0] != p->shape[0])
        return MOE_REJECT(c, MOE_ESHAPE, "one row of gates per row of scores is needed: %s and %s",
                          MOE_SHAPE(gates), MOE_SHAPE(p));
    if (gates->shape[1] == 0)
        return MOE_REJECT(c, MOE_ESHAPE, "at least one slot is needed: %s", MOE_SHAPE(gates));
    moe_status s = moe__equal_segments(c, p->shape[0], c->arg[1].i);
    if (!s) s = moe__mask_fits(c, c->in[MASK], p->shape[0]);
    if (!s) s = moe__ids_below(c, experts, p->shape[1], -1, "experts");
    if (s) return s;
    int64_t shape[2] = {c->arg[1].i, p->shape[1]};
    moe__out(c, U, MOE_F32, 2, shape);
    moe__out(c, P, MOE_F32, 2, shape);
    moe__keep(c, 0, MOE_F32, 1, shape);
    return MOE_OK;
}

static void add_slots(const shares *s, int64_t t, moe_real *u) {
    int64_t first = t * s->slots, slots = s->c->arg[0].i == GSHARD ? 1 : s->slots;
    const moe_real *gate = s->c->arg[0].i == BTX ? moe__real(s->c->in[GATES]) : NULL;
    for (int64_t i = first; i < first + slots; i++)
        if (s->expert[i] >= 0) u[s->expert[i]] += gate ? gate[i] : 1;
}

static void sum_block(void *arg, int64_t task, int worker) {
    const shares *s = arg;
    int64_t N = s->experts, segment = task / s->blocks, end = (segment + 1) * s->length;
    int64_t t = segment * s->length + task % s->blocks * ROWS;
    moe_real *u = s->sum + 2 * N * task, *p = u + N;
    (void)worker;
    memset(u, 0, sizeof *u * (size_t)(2 * N));
    if (end > t + ROWS) end = t + ROWS;
    for (; t < end; t++) {
        if (!counts(s, t)) continue;
        add_slots(s, t, u);
        s->c->ctx->kernels->accumulate(N, moe__real(s->c->in[SCORES]) + t * N, p);
    }
}

static moe_real inverse_count(const shares *s, int64_t segment) {
    int64_t n = 0;
    for (int64_t t = segment * s->length; t < (segment + 1) * s->length; t++) n += counts(s, t);
    return n ? 1 / (moe_real)n : 0;
}

/* The blocks of a segment, in their order. */
static void finish(void *arg, int64_t segment, int worker) {
    const shares *s = arg;
    const moe_kernels *k = s->c->ctx->kernels;
    int64_t N = s->experts;
    moe_real *u = moe__real(s->c->out[U]) + segment * N, *p = moe__real(s->c->out[P]) + segment * N;
    moe_real inverse = inverse_count(s, segment);
    (void)worker;
    memset(u, 0, sizeof *u * (size_t)N);
    memset(p, 0, sizeof *p * (size_t)N);
    for (int64_t b = segment * s->blocks; b < (segment + 1) * s->blocks; b++) {
        k->accumulate(N, s->sum + 2 * N * b, u);
        k->accumulate(N, s->sum + 2 * N * b + N, p);
    }
    k->scale(N, s->c->arg[0].i == DEEPSEEK ? inverse / (moe_real)s->slots : inverse, u, u);
    k->scale(N, inverse, p, p);
    if (s->c->keep[0]) moe__real(s->c->keep[0])[segment] = inverse;
}

/* Without tokens there may be any number of segments: none of them is looked at. */
static moe_status nothing(moe_call *c) {
    for (int k = U; k <= P; k++)
        memset(moe__real(c->out[k]), 0, sizeof(moe_real) * (size_t)c->out[k]->count);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    shares s = shares_of(c);
    if (s.tokens == 0) return nothing(c);
    size_t bytes = sizeof *s.sum * (size_t)(2 * s.experts * s.segments * s.blocks);
    s.sum = moe__alloc(c->ctx, bytes);
    if (!s.sum) return moe__no_memory(c->ctx, bytes, "the shares of the experts");
    moe__parallel(c->ctx, s.segments * s.blocks, sum_block, &s);
    moe__parallel(c->ctx, s.segments, finish, &s);
    moe__free(c->ctx, s.sum, bytes);
    return MOE_OK;
}

/* With n tokens that count: dscore_ti = dp_i / n, and for btx dgate_ts = du_e / n, e its expert. */
static void backward_rows(void *arg, int64_t begin, int64_t end) {
    const shares *s = arg;
    const moe_call *c = s->c;
    for (int64_t t = begin; t < end; t++) {
        if (!counts(s, t)) continue;
        int64_t segment = t / s->length, first = segment * s->experts;
        moe_real inverse = s->inverse[segment];
        if (s->dscores)
            c->ctx->kernels->axpy(s->experts, inverse, moe__real(c->dout[P]) + first,
                                  s->dscores + t * s->experts);
        for (int64_t i = t * s->slots; i < (t + 1) * s->slots && s->dgates; i++)
            if (s->expert[i] >= 0)
                s->dgates[i] += inverse * moe__real(c->dout[U])[first + s->expert[i]];
    }
}

static moe_status backward(moe_call *c) {
    shares s = shares_of(c);
    s.inverse = moe__real(c->keep[0]);
    s.dscores = c->dout[P] ? moe__grad(c, SCORES) : NULL;
    s.dgates = c->dout[U] && c->arg[0].i == BTX ? moe__grad(c, GATES) : NULL;
    if (s.dscores || s.dgates) moe__parallel_range(c->ctx, s.tokens, ROWS, backward_rows, &s);
    return MOE_OK;
}

MOE_OP(routing_shares,
    .sig = "scores:tensor, gates:tensor, experts:itensor, form:{btx|switch|gshard|deepseek}=btx, "
           "segments:int=1, mask:tensor? -> tensor, tensor",
    .doc = "The factors u and p [segments x N] of a balance loss N sum(u p): scores [T x N], gates "
           "and 0-based experts [T x k], -1 for a slot that is not used. p is the mean score; u "
           "the mean gate (\"btx\"), the share of tokens with the expert (\"switch\", its sum is "
           "k), the share that has it first (\"gshard\"), that of \"switch\" over k "
           "(\"deepseek\"). mask, T numbers: 0 leaves a token out.",
    .sample = "rand(0.1, 1, 4, 3), rand(0.1, 1, 4, 2), ids{{0, 1}, {2, -1}, {1, 0}, {0, 2}}"
              " | rand(0.1, 1, 4, 3), rand(0.1, 1, 4, 2), ids{{0, 1}, {2, 1}, {-1, 0}, {0, 2}},"
              " 'switch', 2, mask{1, 0, 1, 1}"
              " | rand(0.1, 1, 4, 3), rand(0.1, 1, 4, 1), ids{{0}, {2}, {1}, {0}}, 'gshard', 4",
    .saves = MOE_IN(EXPERTS) | MOE_IN(MASK),
    .infer = infer, .forward = forward, .backward = backward);
