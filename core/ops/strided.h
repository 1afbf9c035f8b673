/* strided.h -- what the views and `contiguous` share: elements behind strides. */
#ifndef MOE_OPS_STRIDED_H
#define MOE_OPS_STRIDED_H

#include "ops/axis.h"

/* How a view op changes strides: fills the shape, strides and offset of `view`, which comes as a
 * copy of the input's. Used for the input itself, and in backward for its gradient, which is
 * contiguous. */
typedef void moe_view_fn(const moe_call *c, moe_desc *view);

void moe__view_infer(moe_call *c, moe_view_fn *change);
/* din, seen through the view, += dout. */
moe_status moe__view_backward(moe_call *c, moe_view_fn *change);

/* Copies t (any strides, any type) to contiguous memory, in parallel. */
void moe__pack(const moe_tensor *t, void *to);

#endif
