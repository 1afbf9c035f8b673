/* moe_rows.h -- which rows an expert gets: the (token, slot) pairs sorted by expert, and cut.
 *
 * A pair whose expert is -1 is empty: it has no row, and costs nothing but the look at it. Row r
 * belongs to pair order[r] = t * slots + s; the rows of expert e are those from start[e] up to
 * start[e + 1], in the order of their tokens. Everything follows from the routing alone.
 */
#ifndef MOE_OPS_MOE_ROWS_H
#define MOE_OPS_MOE_ROWS_H

#include "kernels/product.h"
#include "tape/op.h"

/* Rows first .. first + rows of one expert: what one task takes on. */
typedef struct moe_block {
    int64_t expert, first, rows;
} moe_block;

typedef struct moe_rows {
    int64_t tokens, slots, count, experts;      /* count: rows, at most tokens * slots */
    int64_t *start;                             /* [experts + 1] */
    int64_t *padded;                            /* [experts + 1]: the same, filled up: room for at
                                                   least a multiple of `depth` rows each */
    int32_t *order, *token;                     /* [count] */
    int32_t *place;                             /* [tokens * slots]: order[place[i]] = i, or -1 */
    moe_block *block;
    int64_t blocks;
    char *memory;
    size_t bytes;
} moe_rows;

/* How many pairs are not empty: the rows that there will be. */
int64_t moe__rows_used(const moe_tensor *experts);
/* Sorts the pairs of `experts` [T x k], -1 or below `count`. Blocks start at multiples of `depth`
 * rows from the start of the expert. MOE_ENOMEM. */
moe_status moe__rows_sort(moe_ctx *ctx, const moe_tensor *experts, int64_t count, int64_t depth,
                          moe_rows *out);
void moe__rows_free(moe_ctx *ctx, moe_rows *r);

/* The most rows a block of such a call may have. */
int64_t moe__block_rows(int64_t count, int64_t depth);
/* At least padded[experts], whatever the routing. */
int64_t moe__rows_bound(int64_t count, int64_t experts, int64_t depth);

/* to[t] = beta to[t] + sum_s gate[t, s] from[row of (t, s)], rows of n elements; gate NULL means 1.
 * The slots of a token that are not empty are added in their order. */
void moe__rows_combine(moe_ctx *ctx, const moe_rows *r, const moe_real *gate, const moe_real *from,
                       int64_t n, moe_real beta, moe_real *to);

#endif
