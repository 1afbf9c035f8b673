/* merge_masks.h -- which elements of the differences from a base survive.
 *
 * by size: the largest, all but the smallest and the very largest (breadcrumbs), over a tensor.
 * by chance: all alike (DARE), or the larger ones of a row rather (DELLA). The numbers are Philox's
 * at the element's own place, so that a mask can be made again instead of being kept.
 */
#ifndef MOE_CHECKPOINT_MERGE_MASKS_H
#define MOE_CHECKPOINT_MERGE_MASKS_H

#include "checkpoint/merge_select.h"

typedef enum moe_thinning {
    MOE_KEEP_ALL,
    MOE_KEEP_LARGEST,
    MOE_KEEP_MIDDLE,
    MOE_KEEP_RANDOM,
    MOE_KEEP_RANDOM_BY_RANK
} moe_thinning;

typedef struct moe_masks {
    moe_job *job;
    moe_thinning how;
    moe_cut *cuts;              /* of each model, when they are by size */
    uint64_t *streams;          /* of each model, when they are by chance */
    char *shared;
} moe_masks;

/* Memory for a desk and for all of them. Before it spans have to be cut (moe__job_by_rows for
 * MOE_KEEP_RANDOM_BY_RANK). */
size_t moe__masks_each(const moe_job *j, moe_thinning how);
size_t moe__masks_shared(const moe_job *j, moe_thinning how);
/* Checks the parameters. MOE_EARG. */
moe_status moe__masks_check(const moe_job *j, moe_thinning how);
/* Finds out what has to be known of the whole tensor. `shared` is zeroed. */
moe_status moe__masks_open(moe_masks *o, moe_job *j, moe_thinning how, char *shared);

/* Prepares a desk for a span: by size, counts of equal elements. */
void moe__masks_begin(const moe_masks *o, moe_desk *d, int64_t span);
/* Prepares it for a row, where ranks are within rows. */
void moe__masks_row(const moe_masks *o, moe_desk *d, int64_t first);
/* Drops elements first .. first + n - 1 of the differences on the desk, and tells the figures how
 * many stay. */
void moe__masks_apply(const moe_masks *o, moe_desk *d, int64_t first, int64_t n);

#endif
