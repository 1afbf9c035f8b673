/* expert_choice_route.c -- routing in which the experts choose (Zhou et al. 2022).
 *
 * S = softmax of each token's logits over the experts. Of every group of tokens each expert takes
 * the C with the largest S[:, e]; their gates are that S, not renormalised, so that a token may
 * have from 0 to N experts. A group is a sequence, or the tokens that stand at the same position
 * of all sequences of the batch: then no token depends on later ones. Of equal tokens the first is
 * taken; those that `mask` has 0 for come after all others. The selection has no gradient:
 *
 *   dl_j = p_j ([j in S_t] a_j - sum_{i in S_t} p_i a_i),   a_i the gradient of gate i
 */
#include "kernels/kernels.h"
#include "ops/axis.h"
#include "ops/routing.h"

enum { LOGITS, MASK };
enum { CAPACITY, OVER };
enum { SEQUENCE, BATCH };

#define COLUMNS 16      /* experts whose results share a cache line are chosen for by one task */

/* Token `i` of group `g` is row g * step_group + i * step_token of gates and experts. */
typedef struct choice {
    moe_call *c;
    int64_t groups, tokens, step_group, step_token;
    int64_t experts, capacity;
    moe_real *p;            /* S, [T x N] */
    const moe_real *mask;   /* [T], NULL: all tokens count */
    moe_scratch heap;       /* of `capacity` token numbers for each worker */
    moe_real *dl;
} choice;

static choice choice_of(moe_call *c) {
    const int64_t *shape = c->in[LOGITS]->shape, B = shape[0], S = shape[1];
    choice q = {.c = c, .experts = shape[2], .capacity = c->arg[CAPACITY].i};
    if (c->arg[OVER].i == SEQUENCE)
        q.groups = B, q.tokens = S, q.step_group = S, q.step_token = 1;
    else
        q.groups = S, q.tokens = B, q.step_group = 1, q.step_token = S;
    return q;
}

static moe_status infer(moe_call *c) {
    const moe_tensor *l = c->in[LOGITS];
    if (moe__rank(c, l, "logits", 3)) return MOE_ESHAPE;
    const choice q = choice_of(c);
    if (q.capacity < 1 || q.capacity > q.tokens)
        return MOE_REJECT(c, MOE_EARG, "capacity must be 1 to the number of tokens of a %s: %lld "
                          "of %lld", c->arg[OVER].i == SEQUENCE ? "sequence" : "position",
                          (long long)q.capacity, (long long)q.tokens);
    moe_status s = moe__mask_fits(c, c->in[MASK], l->shape[0] * l->shape[1]);
    if (!s) s = moe__product_sizes(c, 1, &q.tokens);            /* numbered in i32 */
    if (!s) s = moe__logits_finite(c, l);
    if (s) return s;
    const int64_t shape[2] = {l->shape[0] * l->shape[1], l->shape[2]};
    moe__out(c, 0, MOE_F32, 2, shape);
    moe__out(c, 1, MOE_I32, 2, shape);
    moe__keep(c, 0, MOE_F32, 2, shape);
    return MOE_OK;
}

/* S, and nobody chosen yet. */
static void score_rows(void *arg, int64_t begin, int64_t end) {
    const choice *q = arg;
    const int64_t N = q->experts;
    for (int64_t t = begin; t < end; t++)
        q->c->ctx->kernels->softmax(N, moe__real(q->c->in[LOGITS]) + t * N, q->p + t * N);
    for (int64_t i = begin * N; i < end * N; i++) {
        moe__real(q->c->out[0])[i] = 0;
        moe__int(q->c->out[1])[i] = -1;
    }
}

/* The scores of one expert for the tokens of one group. */
typedef struct column {
    const moe_real *p, *mask;
    int64_t step, experts;      /* rows from one token to the next, and their length */
} column;

/* What does not count scores less than any probability. */
static inline moe_real at(column s, int64_t token) {
    const int64_t row = token * s.step;
    return s.mask && s.mask[row] == 0 ? -1 : s.p[row * s.experts];
}

/* Token a goes before token b does: it scores less, or the same and comes later. */
static inline bool goes_first(column s, int64_t a, int64_t b) {
    const moe_real x = at(s, a), y = at(s, b);
    return x < y || (x == y && a > b);
}

/* Puts `token` at place `i` of the heap or below, where it goes before its children do. */
static void sift_down(column s, int32_t *heap, int64_t n, int64_t i, int32_t token) {
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && goes_first(s, heap[child + 1], heap[child])) child++;
        if (!goes_first(s, heap[child], token)) break;
        heap[i] = heap[child];
    }
    heap[i] = token;
}

/* The n best of all tokens: the heap's root is the first that a better one replaces. */
static void choose_best(column s, int64_t tokens, int64_t n, int32_t *heap) {
    for (int64_t i = 0; i < n; i++) heap[i] = (int32_t)i;
    for (int64_t i = n / 2; i-- > 0;) sift_down(s, heap, n, i, heap[i]);
    for (int64_t t = n; t < tokens; t++)
        if (at(s, t) > at(s, heap[0])) sift_down(s, heap, n, 0, (int32_t)t);
}

static void choose(const choice *q, int64_t group, int64_t e, int32_t *heap) {
    const int64_t N = q->experts, first = group * q->step_group;
    const column s = {q->p + first * N + e, q->mask ? q->mask + first : NULL, q->step_token, N};
    choose_best(s, q->tokens, q->capacity, heap);
    for (int64_t i = 0; i < q->capacity; i++) {
        const int64_t slot = (first + heap[i] * q->step_token) * N + e;
        moe__real(q->c->out[0])[slot] = q->p[slot];
        moe__int(q->c->out[1])[slot] = (int32_t)e;
    }
}

static int64_t blocks(const choice *q) { return (q->experts + COLUMNS - 1) / COLUMNS; }

static void choose_block(void *arg, int64_t task, int worker) {
    const choice *q = arg;
    int32_t *heap = (int32_t *)(void *)moe__scratch_of(&q->heap, worker);
    const int64_t first = task % blocks(q) * COLUMNS;
    for (int64_t e = first; e < first + COLUMNS && e < q->experts; e++)
        choose(q, task / blocks(q), e, heap);
}

static moe_status forward(moe_call *c) {
    choice q = choice_of(c);
    const int64_t rows = c->out[0]->shape[0];
    char *own = NULL;
    moe_status s = moe__scratch(c->ctx, sizeof(int32_t) * (size_t)q.capacity, &q.heap);
    if (!s && !c->keep[0])
        s = moe__shared(c->ctx, sizeof(moe_real) * (size_t)c->out[0]->count, &own);
    if (s) return s;
    q.p = c->keep[0] ? moe__real(c->keep[0]) : (moe_real *)(void *)own;
    q.mask = c->in[MASK] ? moe__real(c->in[MASK]) : NULL;
    moe__parallel_range(c->ctx, rows, moe__grain(q.experts), score_rows, &q);
    moe__parallel(c->ctx, q.groups * blocks(&q), choose_block, &q);
    return MOE_OK;
}

static void backward_rows(void *arg, int64_t begin, int64_t end) {
    const choice *q = arg;
    const int64_t N = q->experts;
    for (int64_t t = begin; t < end; t++) {
        const moe_real *a = moe__real(q->c->dout[0]) + t * N, *p = q->p + t * N;
        const int32_t *chosen = moe__int(q->c->out[1]) + t * N;
        moe_real *dl = q->dl + t * N, mean = 0;
        for (int64_t e = 0; e < N; e++)
            if (chosen[e] >= 0) mean += p[e] * a[e];
        for (int64_t e = 0; e < N; e++) dl[e] += p[e] * ((chosen[e] >= 0 ? a[e] : 0) - mean);
    }
}

static moe_status backward(moe_call *c) {
    choice q = choice_of(c);
    q.p = moe__real(c->keep[0]);
    q.dl = moe__grad(c, LOGITS);
    if (q.dl && c->dout[0])
        moe__parallel_range(c->ctx, c->keep[0]->shape[0], moe__grain(q.experts), backward_rows,
                            &q);
    return MOE_OK;
}

MOE_OP(expert_choice_route,
    .sig = "logits:tensor, capacity:int, over:{sequence|batch}=sequence, mask:tensor? "
           "-> tensor, itensor",
    .doc = "Expert choice: logits [B x S x N] -> gates and 0-based experts [B*S x N]. Of every "
           "group of tokens each expert takes `capacity`, those with the largest softmax over the "
           "experts, which is their gate; elsewhere the expert is -1 and the gate 0. A group is "
           "a \"sequence\", or a position of the whole \"batch\". mask, B*S numbers: tokens that "
           "it has 0 for are chosen when no others are left.",
    .sample = "randn(2, 5, 3), 2 | randn(5, 2, 3), 3, 'batch' | randn(3, 1, 4), 1"
              " | randn(2, 3, 3), 2, 'sequence', mask{1, 0, 1, 0, 1, 0}",
    .saves = MOE_OUT(1),
    .infer = infer, .forward = forward, .backward = backward);
