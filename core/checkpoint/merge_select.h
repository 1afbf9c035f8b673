/* merge_select.h -- the largest numbers of a tensor, exactly, without sorting it.
 *
 * The bits of a float that is not negative are its key. One pass counts the upper halves of all
 * keys, a second the lower halves of those that share the upper half of what is looked for: then
 * the key of a rank is known, and how many are above it. Among equal keys the lower index is first.
 */
#ifndef MOE_CHECKPOINT_MERGE_SELECT_H
#define MOE_CHECKPOINT_MERGE_SELECT_H

#include "checkpoint/merge_job.h"

/* Puts what is ranked, numbers that are not negative or whose sign does not count, for a loaded
 * piece into x[0 .. streams-1] of the desk. */
typedef void moe_keys_fn(moe_desk *d, void *arg, int64_t first, int64_t n);

/* The number at a place in descending order, which counts from 0. */
typedef struct moe_rank {
    int stream;
    int64_t place;
    uint32_t key;
    int64_t above, equal;       /* how many have a larger key, and the same */
} moe_rank;

/* What a desk needs for it, and all desks together. */
size_t moe__select_each(int streams, int ranks);
size_t moe__select_shared(int streams, int ranks);
/* Fills in key, above and equal of all ranks. `shared` is the memory for all desks; each desk's own
 * memory begins with that for selecting. MOE_EUNSUPPORTED beyond 2^32 - 1 elements. */
moe_status moe__select(moe_job *j, int streams, moe_rank *ranks, int count, moe_keys_fn *keys,
                       void *arg, char *shared);

/* --- cuts ------------------------------------------------------------------------------------ */

/* Keeps the places first .. last - 1 of the descending order of one stream. */
typedef struct moe_cut {
    bool all, none;
    moe_rank top, bottom;       /* the first and the last that are kept */
    int64_t skip, keep;         /* of those equal to top the first `skip` go; of those equal to
                                   bottom the first `keep` stay */
    int64_t *before;            /* [spans x 2]: how many equal to top and to bottom are in earlier
                                   spans; NULL when it does not matter */
} moe_cut;

/* How far a desk is in a span. */
typedef struct moe_cut_state {
    int64_t top, bottom;        /* equal ones met so far */
} moe_cut_state;

/* Cuts for each stream, by their places; `all` and `none` are set by the caller. */
moe_status moe__cut(moe_job *j, int streams, moe_cut *cuts, moe_keys_fn *keys, void *arg,
                    char *shared);
size_t moe__cut_each(int streams);
size_t moe__cut_shared(const moe_job *j, int streams);

moe_cut_state moe__cut_begin(const moe_cut *c, int64_t span);
/* flags[i] = whether element i of a piece, ranked by x, is kept; returns how many are. */
int64_t moe__cut_flags(const moe_kernels *k, const moe_cut *c, moe_cut_state *s, int64_t n,
                       const float *x, uint8_t *flags);

#endif
