/* capacity_route.c -- which slots of a routing remain when an expert takes no more than `capacity`
 * of them.
 *
 * The slots come in an order, and each expert takes the first that want it:
 * policy "position":    token by token, the slots of each in turn. With one slot, tokens depend on
 *                       earlier ones alone.
 * policy "choice":      the first slots of all tokens, then the second ones, ... (GShard, and
 *                       programs for Switch): whether a second slot remains depends on the first
 *                       choices of later tokens.
 * policy "probability": the largest gates first, of equal ones the earlier slot (Megatron's
 *                       "probs"; with one slot V-MoE's batch-prioritised routing).
 */
#include "ops/routing.h"

enum { GATES, EXPERTS };
enum { CAPACITY, POLICY, SEGMENTS };
enum { POSITION, CHOICE, PROBABILITY };

typedef struct queue {
    moe_call *c;
    int64_t tokens, slots;              /* tokens of a segment */
    const moe_real *gate;
    const int32_t *expert;
    moe_scratch order;                  /* "probability": of the slots, and as many to sort */
} queue;

static moe_status infer(moe_call *c) {
    const moe_tensor *gates = c->in[GATES], *experts = c->in[EXPERTS];
    if (moe__routing_alike(c, gates, experts)) return MOE_ESHAPE;
    if (c->arg[CAPACITY].i < 0)
        return MOE_REJECT(c, MOE_EARG, "capacity must not be negative: %lld",
                          (long long)c->arg[CAPACITY].i);
    moe_status s = moe__equal_segments(c, experts->shape[0], c->arg[SEGMENTS].i);
    if (!s) s = moe__product_sizes(c, 1, &experts->count);      /* slots are numbered in i32 */
    if (!s) s = moe__ids_below(c, experts, MOE_MAX_EXPERTS, -1, "experts");
    if (s) return s;
    moe__out(c, 0, MOE_I32, 2, experts->shape);
    moe__out(c, 1, MOE_F32, 2, experts->shape);
    return MOE_OK;
}

/* Merges two sorted runs of slots; of equal gates that of the first run comes first. */
static void merge(const moe_real *gate, const int32_t *a, int64_t na, const int32_t *b, int64_t nb,
                  int32_t *to) {
    const int32_t *end_a = a + na, *end_b = b + nb;
    while (a < end_a || b < end_b)
        *to++ = a == end_a || (b < end_b && gate[*b] > gate[*a]) ? *b++ : *a++;
}

/* The slots 0 .. n-1 by falling gate, in `order` or behind it: runs of 1, 2, 4, ... are merged. */
static const int32_t *sort(const moe_real *gate, int64_t n, int32_t *order) {
    int32_t *from = order, *to = order + n;
    for (int64_t i = 0; i < n; i++) from[i] = (int32_t)i;
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t i = 0; i < n; i += 2 * run) {
            int64_t na = n - i < run ? n - i : run, nb = n - i - na < run ? n - i - na : run;
            merge(gate, from + i, na, from + i + na, nb, to + i);
        }
        int32_t *sorted = to;
        to = from;
        from = sorted;
    }
    return from;
}

/* The slot whose turn it is. */
static int64_t next_slot(const queue *q, const int32_t *order, int64_t turn) {
    if (order) return order[turn];
    if (q->c->arg[POLICY].i == POSITION) return turn;
    return turn % q->tokens * q->slots + turn / q->tokens;
}

static void fill(void *arg, int64_t segment, int worker) {
    const queue *q = arg;
    int64_t n = q->tokens * q->slots, first = segment * n;
    const int32_t *expert = q->expert + first, *order = NULL;
    int32_t *left = moe__int(q->c->out[0]) + first;
    moe_real *kept = moe__real(q->c->out[1]) + first;
    int64_t used[MOE_MAX_EXPERTS] = {0};
    if (q->c->arg[POLICY].i == PROBABILITY)
        order = sort(q->gate + first, n, (int32_t *)(void *)moe__scratch_of(&q->order, worker));
    for (int64_t turn = 0; turn < n; turn++) {
        int64_t i = next_slot(q, order, turn);
        kept[i] = expert[i] >= 0 && used[expert[i]]++ < q->c->arg[CAPACITY].i;
        left[i] = kept[i] > 0 ? expert[i] : -1;
    }
}

static moe_status forward(moe_call *c) {
    const moe_tensor *experts = c->in[EXPERTS];
    if (experts->count == 0) return MOE_OK;         /* in any number of segments */
    queue q = {.c = c, .tokens = experts->shape[0] / c->arg[SEGMENTS].i,
               .slots = experts->shape[1], .gate = moe__real(c->in[GATES]),
               .expert = moe__int(experts)};
    size_t pairs = (size_t)(q.tokens * q.slots);
    moe_status s = MOE_OK;
    if (c->arg[POLICY].i == PROBABILITY)
        s = moe__scratch(c->ctx, 2 * pairs * sizeof(int32_t), &q.order);
    if (!s) moe__parallel(c->ctx, c->arg[SEGMENTS].i, fill, &q);
    return s;
}

MOE_OP(capacity_route,
    .sig = "gates:tensor, experts:itensor, capacity:int, "
           "policy:{position|choice|probability}=position, segments:int=1 -> itensor, tensor",
    .doc = "Experts [T x k] of a routing with -1 for the slots beyond `capacity` of an expert in "
           "each of so many segments of the tokens, and 1 for the slots that remain, otherwise 0. "
           "First come earlier tokens (\"position\"), all first choices (\"choice\"), or the "
           "largest gates (\"probability\").",
    .infer = infer, .forward = forward);
