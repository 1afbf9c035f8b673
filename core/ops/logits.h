/* logits.h -- what all ops that read a router's logits ask of them. */
#ifndef MOE_OPS_LOGITS_H
#define MOE_OPS_LOGITS_H

#include "tape/op.h"

/* So many experts have room on the stack of a task. */
#define MOE_MAX_EXPERTS 4096

/* Refuses NaN and +inf among logits [.. x N]; -inf is fine, it rules an expert out. */
moe_status moe__logits_finite(moe_call *c, const moe_tensor *logits);

#endif
