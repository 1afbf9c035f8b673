/* reduce.h -- what sum, mean, max and argmax share: "x, dim?, keepdim", in this order. */
#ifndef MOE_OPS_REDUCE_H
#define MOE_OPS_REDUCE_H

#include "kernels/kernels.h"
#include "ops/axis.h"

/* The output without the dimension (or with size 1 there); without a dimension, 0-dimensional. */
moe_status moe__reduce_infer(moe_call *c, moe_dtype dtype);
/* The input along the dimension; without one, everything is one row. */
moe_axis moe__reduce_axis(const moe_call *c);
/* Rejects a row without elements: `what` says what cannot be had. */
moe_status moe__reduce_nonempty(moe_call *c, const char *what);

/* out = scale * sum, and the gradient: din += scale * dout. */
moe_status moe__sum_forward(moe_call *c, double scale);
moe_status moe__sum_backward(moe_call *c, double scale);

/* The first position of the largest value of each row, NaN being the largest; `best` and `value`
 * have one element per output, either may be NULL. */
void moe__argmax(moe_call *c, int32_t *best, moe_real *value);

#endif
