/* sample.h -- drawing the next token from one row of logits. */
#ifndef MOE_KERNELS_SAMPLE_H
#define MOE_KERNELS_SAMPLE_H

#include "moe.h"

typedef struct moe_sampling {
    double temperature;     /* 0 = the largest logit, the lowest id on ties                       */
    int64_t top_k;          /* only the k most likely tokens, 0 = all                             */
    double top_p;           /* of those, the fewest whose probability reaches p (Holtzman 2020)   */
    double u;               /* the draw: uniform in [0, 1)                                        */
} moe_sampling;

typedef struct moe_candidate {
    double logit;
    int64_t id;
} moe_candidate;

/* The id drawn from n logits; `room` holds n candidates. -1 when no logit is finite. */
int64_t moe__sample(int64_t n, const moe_real *logits, const moe_sampling *how,
                    moe_candidate *room);

#endif
