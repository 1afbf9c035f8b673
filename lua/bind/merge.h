/* What merge.c adds to the table `checkpoint` and to its writers. */
#ifndef LMOE_MERGE_H
#define LMOE_MERGE_H

#include "checkpoint.h"
#include "checkpoint/merge.h"

/* core.checkpoint.merge(entry, options) -> Tensor, figures */
int lmoe_checkpoint_merge(lua_State *L);
/* core.checkpoint.methods() -> { NAME = { params, base, least, most } } */
int lmoe_checkpoint_methods(lua_State *L);

/* A merge into a file in three steps: all memory is taken, and Lua may run, before the file is
 * touched and after it is whole again. */
typedef struct lmoe_merging lmoe_merging;

/* Reads the entry at `entry`, with the options at `options`, for the item, and leaves what it needs
 * on the stack. NULL when a source does not exist: then nil, message, "missing" are pushed. */
lmoe_merging *lmoe_plan_merge(lua_State *L, int entry, int options, const moe_stored_item *item);
/* Makes the item, the next one of the file. */
moe_status lmoe_run_merge(lmoe_merging *m, moe_body *body, const moe_stored_item *item);
/* Pushes what there is to tell of it. */
void lmoe_push_merged(lua_State *L, const lmoe_merging *m);

#endif
