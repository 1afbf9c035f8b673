/* What merge.c adds to the table `checkpoint` and to its writers. */
#ifndef LMOE_MERGE_H
#define LMOE_MERGE_H

#include "checkpoint.h"
#include "checkpoint/merge.h"

/* core.checkpoint.merge(entry, options) -> Tensor, figures */
int lmoe_checkpoint_merge(lua_State *L);
/* core.checkpoint.methods() -> { NAME = { params, base, least, most } } */
int lmoe_checkpoint_methods(lua_State *L);

/* Makes the next item of a file by the entry at `entry`, with the options at `options`, and pushes
 * the figures. The status is that of the merge; MOE_EMISSING when a source does not exist: then
 * nil, message, "missing" are pushed. */
moe_status lmoe_merge_into(lua_State *L, int entry, int options, moe_body *body,
                           const moe_stored_item *item);

#endif
