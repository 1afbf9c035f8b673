/* targets.h -- what the cross entropies share: one class per row, some of which do not count. */
#ifndef MOE_OPS_TARGETS_H
#define MOE_OPS_TARGETS_H

#include "tape/op.h"

/* Rejects `targets` [N] unless x [N x ..] has a row for each, they lie below `classes` or equal
 * `ignore`, and at least one of them counts. */
moe_status moe__targets_infer(moe_call *c, const moe_tensor *x, const moe_tensor *targets,
                              int64_t classes, int64_t ignore);
/* How many are not `ignore`. */
int64_t moe__targets_counted(const moe_tensor *targets, int64_t ignore);

#endif
