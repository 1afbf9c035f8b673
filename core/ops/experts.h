/* experts.h -- what the ops with a bank of experts ask of its weights. */
#ifndef MOE_OPS_EXPERTS_H
#define MOE_OPS_EXPERTS_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* Refuses weights that do not fit together or to x [.. x d]: input `first` is w1 [E x I x d], then
 * come w3 like it, for SwiGLU and absent otherwise, and w2 [E x d x I]. All are stored alike. */
moe_status moe__experts_fit(moe_call *c, const moe_tensor *x, int first, moe_activation f);

#endif
