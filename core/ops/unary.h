/* unary.h -- what the ops with one kernel per element share. */
#ifndef MOE_OPS_UNARY_H
#define MOE_OPS_UNARY_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* The output looks like the input. */
moe_status moe__unary_infer(moe_call *c);
/* out = f(in) */
moe_status moe__unary_forward(moe_call *c, moe_map *f);
/* din += f'(saved) dout; `saved` is in[0] or out[0]. */
moe_status moe__unary_backward(moe_call *c, moe_map_grad *f, const moe_tensor *saved);

#endif
