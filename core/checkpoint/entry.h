/* entry.h -- what a checkpoint file says of one tensor, whatever its format. */
#ifndef MOE_CHECKPOINT_ENTRY_H
#define MOE_CHECKPOINT_ENTRY_H

#include "checkpoint/stored.h"

/* All that it points to lives as long as the file is open. */
typedef struct moe_entry {
    moe_slice name;
    moe_stored type;
    uint32_t rank;
    const uint64_t *shape;      /* row-major as in PyTorch: the last dimension is the densest */
    const void *data;           /* at any alignment */
    uint64_t bytes, at;         /* at: offset of the data in the file */
} moe_entry;

/* Byte order of the names, for qsort and bsearch. */
int moe__entry_by_name(const void *a, const void *b);

/* A tensor with these elements. `as` is MOE_F32 for any float or quantised type, MOE_I32 for
 * integers and booleans, or MOE_BF16 or MOE_F16 for any of the former. Data of that very type that
 * is aligned becomes a read-only view of the mapping (which may be NULL: then nothing does);
 * everything else is converted. `what` names the file in messages. MOE_EUNSUPPORTED for types that
 * no tensor can hold, more than 8 dimensions, integers beyond i32; MOE_ENOMEM, MOE_EINTR. */
moe_status moe__entry_tensor(moe_ctx *ctx, const char *what, moe_mapping *map, const moe_entry *e,
                             moe_dtype as, moe_tensor **out);

#define MOE_SHOWN 120
/* A name as it may be shown: not too long, and without what a terminal would obey. */
const char *moe__shown(moe_slice name, char text[MOE_SHOWN + 4]);
#define MOE_SHOWN_NAME(name) moe__shown((name), (char[MOE_SHOWN + 4]){0})

#endif
