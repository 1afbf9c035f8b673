/* routing.h -- what the ops that route tokens, or read a routing, ask of their inputs. */
#ifndef MOE_OPS_ROUTING_H
#define MOE_OPS_ROUTING_H

#include "tape/op.h"

/* So many experts have room on the stack of a task. */
#define MOE_MAX_EXPERTS 4096

/* Refuses NaN and +inf among logits [.. x N]; -inf is fine, it rules an expert out. */
moe_status moe__logits_finite(moe_call *c, const moe_tensor *logits);
/* Refuses gates and experts that are not both [T x s]. */
moe_status moe__routing_alike(moe_call *c, const moe_tensor *gates, const moe_tensor *experts);
/* Refuses tokens that do not make so many runs of equal length. */
moe_status moe__equal_segments(moe_call *c, int64_t tokens, int64_t segments);
/* Refuses a mask without a number for each token; it may be NULL, when all of them count. */
moe_status moe__mask_fits(moe_call *c, const moe_tensor *mask, int64_t tokens);
/* Refuses experts that cannot be dealt out evenly to k hashes. */
moe_status moe__dealt_evenly(moe_call *c, int64_t experts, int64_t k);

/* The k largest of N numbers, in falling order; of equal ones the lowest first. */
void moe__select_top(const moe_real *x, int64_t N, int64_t k, int32_t *best);

#endif
