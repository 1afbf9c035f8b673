/* along.h -- row kernels applied along any dimension: what softmax and log_softmax share. */
#ifndef MOE_OPS_ALONG_H
#define MOE_OPS_ALONG_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* "x, dim": checks the dimension; the output looks like x. */
moe_status moe__along_infer(moe_call *c);
moe_status moe__along_forward(moe_call *c, moe_softmax_fn *f);
/* din += from the saved output and dout. */
moe_status moe__along_backward(moe_call *c, moe_softmax_grad_fn *f);

#endif
