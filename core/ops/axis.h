/* axis.h -- a tensor seen along one dimension: outer x len x inner elements. */
#ifndef MOE_OPS_AXIS_H
#define MOE_OPS_AXIS_H

#include "tape/op.h"

typedef struct moe_axis {
    int64_t outer, len, inner;
} moe_axis;

static inline moe_axis moe__axis(const moe_tensor *x, int dim) {
    moe_axis a = {1, x->shape[dim], 1};
    for (int d = 0; d < dim; d++) a.outer *= x->shape[d];
    for (int d = dim + 1; d < x->ndim; d++) a.inner *= x->shape[d];
    return a;
}

/* A dimension that infer has accepted: from the end when negative. */
static inline int moe__known_dim(const moe_tensor *x, int64_t dim) {
    return (int)(dim < 0 ? dim + x->ndim : dim);
}

/* How many items of `work` elements make a task worth handing out. */
static inline int64_t moe__grain(int64_t work) {
    const int64_t enough = 1 << 13;
    return work >= enough ? 1 : enough / (work > 0 ? work : 1);
}

#endif
