/* mem.h -- the caching allocator: aligned blocks by size class, kept for reuse, counted.
 *
 * A training step asks for the same sizes again and again. Freed blocks stay in the bin of their
 * class, so that a steady-state step neither calls malloc nor touches a fresh page. Sizes that
 * change all the time would fill the bins with blocks that nobody asks for again: hence these are
 * emptied before more is held than twice what was ever needed at once, and some.
 */
#ifndef MOE_BASE_MEM_H
#define MOE_BASE_MEM_H

#include "moe.h"

#define MOE_BINS 352            /* eight classes per power of two, 64 bytes to 2^50 */

typedef struct moe_heap {
    moe_alloc_fn alloc;
    void *alloc_ud;
    size_t limit;               /* 0 = none */
    size_t live, peak, cached;
    void *bin[MOE_BINS];        /* singly linked through the first word of each free block */
    uint64_t requests;          /* blocks handed out so far */
    uint64_t system_requests;   /* of them, those that the cache could not serve */
    uint64_t fail_from;         /* test builds: this request (counted from 1) fails ...        */
    uint64_t fail_count;        /* ... and this many from there on                             */
} moe_heap;

/* A block of at least `bytes`, aligned to 64 (large ones to 2 MB, advised to be huge pages), with
 * unspecified contents; NULL when there is none. Give the same `bytes` back to moe__free. */
void *moe__alloc(moe_ctx *ctx, size_t bytes);
void moe__free(moe_ctx *ctx, void *block, size_t bytes);

/* From the same source, but neither counted nor limited nor cached: for small records that are no
 * tensors. */
void *moe__record_alloc(moe_ctx *ctx, size_t bytes);
void moe__record_free(moe_ctx *ctx, void *record, size_t bytes);

/* Returns all cached blocks to the system. */
void moe__trim(moe_ctx *ctx);

#endif
