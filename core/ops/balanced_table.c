/* balanced_table.c -- a table for hash routing that loads all experts alike (Roller et al. 2021,
 * "balanced assignment"): ids from the most to the least frequent, each to the expert that has the
 * fewest tokens so far.
 *
 * Column j of k chooses among the experts j N/k .. (j+1) N/k - 1. If all columns took the ids in
 * the same order they would all divide them the same way; so the columns after the first know
 * frequencies up to a power of two only, and shuffle what is equal.
 */
#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "ops/routing.h"

enum { EXPERTS, K, SEED };

/* In the order of sort keys, the first of which is the largest. */
typedef struct entry {
    double weight;          /* how often it occurs, and once more: absent ids spread as well */
    double first;
    uint64_t second;
    int64_t id;
} entry;

static moe_status infer(moe_call *c) {
    const moe_tensor *counts = c->in[0];
    if (moe__rank(c, counts, "counts", 1)) return MOE_ESHAPE;
    if (moe__dealt_evenly(c, c->arg[EXPERTS].i, c->arg[K].i)) return MOE_EARG;
    for (int64_t i = 0; i < counts->count; i++) {
        const moe_real n = moe__real(counts)[i];
        if (!(n >= 0) || isinf(n))
            return MOE_REJECT(c, MOE_EARG, "the count of id %lld is %g", (long long)i, (double)n);
    }
    const int64_t shape[2] = {counts->count, c->arg[K].i};
    moe__out(c, 0, MOE_I32, 2, shape);
    return MOE_OK;
}

static int order(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->first != y->first) return x->first > y->first ? -1 : 1;
    if (x->second != y->second) return x->second < y->second ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void sort_ids(const moe_call *c, int64_t column, entry *list) {
    const uint64_t stream = moe__stream("balanced_table") + (uint64_t)column;
    const int64_t V = c->in[0]->count;
    for (int64_t i = 0; i < V; i++) {
        const double weight = (double)moe__real(c->in[0])[i] + 1;
        list[i] = (entry){.weight = weight, .first = weight, .id = i};
        if (column == 0) continue;
        list[i].first = ilogb(weight);
        list[i].second = moe__below((uint64_t)c->arg[SEED].i, stream, (uint64_t)i, UINT64_MAX);
    }
    qsort(list, (size_t)V, sizeof *list, order);
}

static void deal_out(const moe_call *c, int64_t column, const entry *list, double *load) {
    const int64_t V = c->in[0]->count, k = c->arg[K].i, each = c->arg[EXPERTS].i / k;
    for (int64_t e = 0; e < each; e++) load[e] = 0;
    for (int64_t i = 0; i < V && !moe__stopping(c->ctx); i++) {
        int64_t least = 0;
        for (int64_t e = 1; e < each; e++)
            if (load[e] < load[least]) least = e;
        load[least] += list[i].weight;
        moe__int(c->out[0])[list[i].id * k + column] = (int32_t)(column * each + least);
    }
}

static moe_status forward(moe_call *c) {
    const int64_t V = c->in[0]->count, k = c->arg[K].i;
    const size_t ids = sizeof(entry) * (size_t)V;
    const size_t bytes = ids + sizeof(double) * (size_t)(c->arg[EXPERTS].i / k);
    char *block = moe__alloc(c->ctx, bytes);
    if (!block) return moe__no_memory(c->ctx, bytes, "a balanced table");
    entry *list = (entry *)(void *)block;
    for (int64_t column = 0; column < k && !moe__stopping(c->ctx); column++) {
        sort_ids(c, column, list);
        deal_out(c, column, list, (double *)(void *)(block + ids));
    }
    moe__free(c->ctx, block, bytes);
    return MOE_OK;
}

MOE_OP(balanced_table,
    .sig = "counts:tensor, experts:int, k:int=1, seed:int=1 -> itensor",
    .doc = "A table [V x k] for table_route: ids in the order of how often they occur, counts [V], "
           "each to the least loaded expert; column j of k has the experts of slice j.",
    .infer = infer, .forward = forward);
