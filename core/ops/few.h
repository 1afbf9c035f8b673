/* few.h -- products of few rows with weights as they are stored: decoding.
 *
 * Packing a weight pays when many rows use it. For a few, the weight itself is read once, in order,
 * and memory sets the pace.
 */
#ifndef MOE_OPS_FEW_H
#define MOE_OPS_FEW_H

#include "tape/op.h"

/* Up to that many rows a weight is not packed. */
#define MOE_FEW_ROWS 16

/* y [m x n] = x W^T with x [m x k] and W [n x k], rows side by side, of type `type`. */
typedef struct moe_few {
    int64_t m, n, k;
    const moe_real *x;
    moe_dtype type;
    const void *w;
    moe_real *y;
} moe_few;

/* Rows of W that make a task, from its shape alone, and how many tasks there are. */
int64_t moe__few_rows(const moe_few *f);
int64_t moe__few_tasks(const moe_few *f);

/* Task number `task` of a product, on this thread. */
struct moe_kernels;
void moe__few_multiply(const struct moe_kernels *kernels, const moe_few *f, int64_t task);

/* Several products in one region. */
void moe__few_products(moe_ctx *ctx, int64_t count, const moe_few *list);

#endif
