#include "kernels/sample.h"

#include <math.h>
#include <stdlib.h>

/* Most likely first, the lower id first among equals: a total order, so that any sort gives the
 * same list. */
static int by_likelihood(const void *a, const void *b) {
    const moe_candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

int64_t moe__sample(int64_t n, const moe_real *logits, const moe_sampling *how,
                    moe_candidate *room) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && logits[i] > -INFINITY)
            room[count++] = (moe_candidate){(double)logits[i], i};
    if (count == 0) return -1;
    qsort(room, (size_t)count, sizeof *room, by_likelihood);
    if (how->temperature <= 0) return room[0].id;
    if (how->top_k > 0 && how->top_k < count) count = how->top_k;
    double sum = 0, most = room[0].logit;
    for (int64_t i = 0; i < count; i++) {
        room[i].logit = exp((room[i].logit - most) / how->temperature);
        sum += room[i].logit;
    }
    int64_t kept = 0;
    double mass = 0;
    do mass += room[kept++].logit;
    while (kept < count && mass < how->top_p * sum);
    double left = how->u * mass;
    for (int64_t i = 0; i < kept - 1; i++)
        if ((left -= room[i].logit) < 0) return room[i].id;
    return room[kept - 1].id;
}
