/* rows.h -- what gather_rows, scatter_rows and embedding share: rows of n elements by number. */
#ifndef MOE_OPS_ROWS_H
#define MOE_OPS_ROWS_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* to[i] = from[ids[i]], or += */
void moe__rows_take(moe_ctx *ctx, const moe_tensor *ids, int64_t n, const moe_real *from,
                    moe_real *to, bool add);
/* to[ids[i]] += from[i], in the order of i for every row, whatever the number of threads. */
void moe__rows_add(moe_ctx *ctx, const moe_tensor *ids, int64_t n, const moe_real *from,
                   moe_real *to);

/* Elements of one row: all dimensions but the first. */
static inline int64_t moe__row_size(const moe_tensor *t) {
    int64_t n = 1;
    for (int d = 1; d < t->ndim; d++) n *= t->shape[d];
    return n;
}

#endif
