/* sample.h -- drawing the next token from one row of logits. */
#ifndef MOE_KERNELS_SAMPLE_H
#define MOE_KERNELS_SAMPLE_H

#include "kernels/kernels.h"

typedef struct moe_sampling {
    double temperature;     /* 0 = the largest logit, the lowest id on ties                       */
    int64_t top_k;          /* only the k most likely tokens, 0 = all                             */
    double top_p;           /* of those, the fewest whose probability reaches p (Holtzman 2020)   */
    double u;               /* the draw: uniform in [0, 1)                                        */
} moe_sampling;

/* Bytes that a draw from n logits works in. */
size_t moe__sample_room(int64_t n);

/* The id drawn from n logits; `room` is aligned for doubles. -1 when no logit is finite. */
int64_t moe__sample(const moe_kernels *kernels, int64_t n, const moe_real *logits,
                    const moe_sampling *how, void *room);

#endif
