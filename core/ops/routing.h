/* logits.h -- what all ops that read a router's logits ask of them. */
#ifndef MOE_OPS_LOGITS_H
#define MOE_OPS_LOGITS_H

#include "tape/op.h"

/* So many experts have room on the stack of a task. */
#define MOE_MAX_EXPERTS 4096

/* Refuses NaN and +inf among logits [.. x N]; -inf is fine, it rules an expert out. */
moe_status moe__logits_finite(moe_call *c, const moe_tensor *logits);

/* The k largest of N numbers, in falling order; of equal ones the lowest first. */
void moe__select_top(const moe_real *x, int64_t N, int64_t k, int32_t *best);

#endif
