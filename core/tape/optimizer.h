/* optimizer.h -- what happens to parameters between two steps, in place. */
#ifndef MOE_TAPE_OPTIMIZER_H
#define MOE_TAPE_OPTIMIZER_H

#include "kernels/kernels.h"
#include "tensor/tensor.h"

/* Sum of squares of a contiguous f32 tensor, in double, in an order fixed by the shape alone. */
double moe__sum_of_squares(moe_tensor *t);

/* One AdamW step of `w` [any shape] with gradient w->grad and moments m, v of the same shape.
 * MOE_ESHAPE when they differ, MOE_EARG without a gradient. Bumps w's version. */
moe_status moe__adamw_step(moe_tensor *w, moe_tensor *m, moe_tensor *v, const moe_adamw_args *args);

#endif
