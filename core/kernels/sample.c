/* sample.c -- drawing a token. A vocabulary has tens of thousands, of which a draw looks at as few
 * as it can: all of them only in loops that run at the speed of memory, in order of likelihood only
 * those that top_k or top_p may keep. */
#include "kernels/sample.h"

#include <math.h>
#include <stdbool.h>

#define BLOCK 1024      /* logits whose probabilities are summed together */

typedef struct candidate {
    moe_real logit;
    int32_t id;
} candidate;

size_t moe__sample_room(int64_t n) {
    return (size_t)n * (sizeof(moe_real) + sizeof(candidate)) +
           (size_t)(n / BLOCK + 1) * sizeof(double);
}

/* The largest logit that is a number and its id, the lowest among equals; -1 without any. */
static int64_t most_likely(int64_t n, const moe_real *logits) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (logits[i] > (best < 0 ? -(moe_real)INFINITY : logits[best])) best = i;
    return best;
}

/* Probabilities times their sum, and the sums of blocks. The largest is exp(0) = 1, also that of an
 * infinite logit. */
typedef struct weights {
    moe_real *p;
    double *block, sum;
} weights;

static void weigh(const moe_kernels *kernels, int64_t n, const moe_real *logits, moe_real most,
                  double temperature, weights *w) {
    w->sum = 0;
    for (int64_t i = 0; i < n; i++) {
        moe_real x = (moe_real)((double)(logits[i] - most) / temperature);
        w->p[i] = logits[i] == most ? 0 : x == x ? x : -(moe_real)INFINITY;
    }
    for (int64_t b = 0; b * BLOCK < n; b++) {
        int64_t count = n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK;
        w->block[b] = (double)kernels->exp_sum(count, 0, w->p + b * BLOCK);
        w->sum += w->block[b];
    }
}

/* The id at which the running sum passes `left`, in the order of ids. */
static int64_t walk(int64_t n, const weights *w, double left) {
    int64_t b = 0, last = -1;
    for (; (b + 1) * BLOCK < n && left >= w->block[b]; b++) left -= w->block[b];
    for (int64_t i = b * BLOCK; i < n; i++) {
        if (w->p[i] > 0) last = i;
        if ((left -= (double)w->p[i]) < 0) return i;
    }
    for (int64_t i = b * BLOCK - 1; last < 0; i--)      /* rounding left nothing in this block */
        if (w->p[i] > 0) last = i;
    return last;
}

/* ---- in order of likelihood ----------------------------------------------------------------- */

/* Most likely first, the lower id first among equals: a total order. */
static bool before(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Lets the candidate at `i` of a heap sink to its place. */
static void sink(candidate *heap, int64_t n, int64_t i) {
    candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], moving)) break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

static int64_t make_heap(int64_t n, const moe_real *logits, candidate *heap) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (logits[i] > -(moe_real)INFINITY) heap[count++] = (candidate){logits[i], (int32_t)i};
    for (int64_t i = count / 2 - 1; i >= 0; i--) sink(heap, count, i);
    return count;
}

/* Takes the first `most` out of the heap, or fewer that have `mass`; they end up in reverse order
 * from the end of the heap's memory on. Returns how many; *mass becomes theirs. */
static int64_t keep(candidate *heap, int64_t count, int64_t most, const weights *w, double *mass) {
    double sum = 0;
    int64_t kept = 0;
    do {
        candidate next = heap[0];
        heap[0] = heap[count - 1 - kept];
        heap[count - 1 - kept] = next;
        kept++;
        sink(heap, count - kept, 0);
        sum += (double)w->p[next.id];
    } while (kept < most && sum < *mass);
    *mass = sum;
    return kept;
}

/* The mass that top_p speaks of is that of the top_k. */
static double mass_of(candidate *heap, int64_t count, int64_t most, const weights *w) {
    double mass = INFINITY;
    if (most == count) return w->sum;
    keep(heap, count, most, w, &mass);
    for (int64_t i = count / 2 - 1; i >= 0; i--) sink(heap, count, i);
    return mass;
}

static int64_t draw_sorted(int64_t n, const moe_real *logits, const moe_sampling *how,
                           const weights *w, candidate *heap) {
    int64_t count = make_heap(n, logits, heap);
    int64_t most = how->top_k > 0 && how->top_k < count ? how->top_k : count;
    double mass = how->top_p * mass_of(heap, count, most, w);
    int64_t kept = keep(heap, count, most, w, &mass);
    double left = how->u * mass;
    for (int64_t i = 0; i < kept - 1; i++)
        if ((left -= (double)w->p[heap[count - 1 - i].id]) < 0) return heap[count - 1 - i].id;
    return heap[count - kept].id;
}

int64_t moe__sample(const moe_kernels *kernels, int64_t n, const moe_real *logits,
                    const moe_sampling *how, void *room) {
    int64_t best = most_likely(n, logits);
    if (best < 0 || how->temperature <= 0) return best;
    weights w = {.block = room};
    candidate *heap = (void *)(w.block + n / BLOCK + 1);
    w.p = (void *)(heap + n);
    weigh(kernels, n, logits, logits[best], how->temperature, &w);
    bool all = how->top_p >= 1 && (how->top_k <= 0 || how->top_k >= n);
    return all ? walk(n, &w, how->u * w.sum) : draw_sorted(n, logits, how, &w, heap);
}
