/* merges.h -- byte-pair merging: which pairs of symbols become one, in which order.
 *
 * Of the adjacent pairs of a word the one with the lowest rank is merged, the leftmost among
 * equals, until none can be. Source: Sennrich et al. 2016, "Neural Machine Translation of Rare
 * Words with Subword Units", algorithm 1, applied by rank.
 */
#ifndef MOE_TEXT_MERGES_H
#define MOE_TEXT_MERGES_H

#include "text/vocabulary.h"

typedef struct moe_merge {
    uint32_t left, right;
    uint32_t rank;              /* MOE_NO_ID in a free place */
    uint32_t into;
} moe_merge;

typedef struct moe_merges {
    moe_ctx *ctx;
    moe_merge *table;           /* by hash of the pair */
    uint64_t mask;
    size_t count;
    moe_buffer scratch;         /* of long words */
} moe_merges;

/* Room for `count` merges. */
moe_status moe__merges_open(moe_merges *m, moe_ctx *ctx, size_t count);
void moe__merges_close(moe_merges *m);
/* Adds one; the same pair again replaces what it was. No more than there is room for. */
void moe__merges_add(moe_merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t into);
/* The merge of a pair, or NULL. */
const moe_merge *moe__merges_find(const moe_merges *m, uint32_t left, uint32_t right);
/* Merges the n symbols of a word in place and stores how many are left. */
moe_status moe__merges_apply(moe_merges *m, uint32_t *symbols, size_t *n);

#endif
